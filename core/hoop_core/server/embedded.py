"""The same gateway inside the caller's own process, on loopback: for one host and for trying out.

A process cannot guard itself: code beside it can reach its memory. Production runs `hoop serve` apart
from the workers.
"""

from __future__ import annotations

import asyncio
import atexit
import secrets
import socket
import threading
import time
from dataclasses import dataclass

import uvicorn

from hoop_core.config import Settings
from hoop_core.errors import GatewayUnavailable
from hoop_core.server.served import Served, build
from hoop_core.server.serving import Listener, uvicorn_config

_START_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class EmbeddedGateway:
    """A running gateway; `stop` ends its sessions and users, and runs at exit by itself."""

    url: str
    _server: uvicorn.Server
    _thread: threading.Thread

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=60)


async def _serve(served: Served, server: Listener, listener: socket.socket) -> None:
    try:
        await served.start()
        await server.serve(sockets=[listener])
    finally:
        await served.stop()


def start_embedded(settings: Settings) -> EmbeddedGateway:
    """Start on a free loopback port. Raises ConfigError, StoreUnavailable or GatewayUnavailable."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    # Several on one host may share a store; each serves its own process, and so the others need no address.
    own = settings.gateway.model_copy(
        update={
            "host": "127.0.0.1",
            "port": port,
            "public_url": url,
            "replica": f"embedded-{secrets.token_hex(8)}",
            "replica_url": "",
            "tls_certificate": None,
            "tls_key": None,
            "tls_client_ca": None,
            "access_log": False,
        }
    )
    # A job's own process pays for one analysis worker at first; more come when they are needed.
    analysis = settings.analysis.model_copy(update={"started": settings.analysis.started or 1})
    served = build(settings.model_copy(update={"gateway": own, "analysis": analysis}))
    config = uvicorn_config(served.app, own, served.connections)
    server = Listener(config, served.connections)
    # asyncio's own loop: uvloop's signal and fork handling is for a process that is ours alone
    thread = threading.Thread(
        target=lambda: asyncio.run(_serve(served, server, listener)),
        name="hoop-gateway",
        daemon=True,
    )
    thread.start()
    deadline = time.monotonic() + _START_SECONDS
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise GatewayUnavailable("The embedded gateway did not start.", "See its error above.")
        time.sleep(0.02)
    gateway = EmbeddedGateway(url, server, thread)
    atexit.register(gateway.stop)
    return gateway
