"""Running the gateway as a process: listeners, signals, and an orderly end.

SIGTERM: /readyz says no, nobody opens a session any more, sessions in use go on for `drain_seconds`. Then
what still runs is cancelled, every session and its user is ended, and the process exits with 0. A second
signal skips the wait; it does not skip the ending of users.
"""

from __future__ import annotations

import asyncio
import errno
import resource
import signal
import socket
import time
from collections.abc import Generator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field

import structlog
import uvicorn
from starlette.types import ASGIApp

from hoop_core.config import GatewaySettings
from hoop_core.errors import ConfigError
from hoop_core.server.connections import Connections
from hoop_core.server.logs import watch_loop
from hoop_core.server.served import Served
from hoop_core.server.tls import Certificates, certificates_of

_log = structlog.get_logger(__name__)
_REST_SECONDS = 2.0
"""A session that nothing was asked of for so long has come to rest: its client has all it wanted."""
_LOOK_SECONDS = 0.1
_CLOSING_SECONDS = 5
_BACKLOG = 2048


def uvicorn_config(
    app: ASGIApp, settings: GatewaySettings, connections: Connections
) -> uvicorn.Config:
    """How all listeners speak HTTP. What must start and end with them is not uvicorn's to run."""
    return uvicorn.Config(
        app,
        http=connections.protocol(),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,  # our own has no addresses of results in it
        server_header=False,
        proxy_headers=False,  # believed by settings only: `server/addresses.py`
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=_CLOSING_SECONDS,
        backlog=_BACKLOG,
    )


class Listener(uvicorn.Server):
    """uvicorn without its signal handlers, with our time limits."""

    def __init__(
        self,
        config: uvicorn.Config,
        connections: Connections,
        certificates: Certificates | None = None,
    ) -> None:
        super().__init__(config)
        self._connections, self._certificates = connections, certificates

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield  # they are the process's, not one listener's

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's, with a time limit for the TLS handshake."""
        if self._certificates is None:
            await super().startup(sockets)
            return
        await super().startup([])
        loop, state = asyncio.get_running_loop(), self.lifespan.state
        for one in sockets or []:
            server = await loop.create_server(
                lambda: self._connections.protocol()(
                    config=self.config, server_state=self.server_state, app_state=state
                ),
                sock=one,
                ssl=self._certificates.context,
                ssl_handshake_timeout=self._connections.settings.header_seconds,
                backlog=_BACKLOG,
            )
            self.servers.append(server)

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second."""
        if counter % 10 == 0:
            self._connections.look()
        if self._certificates is not None and counter % 50 == 0:
            await asyncio.to_thread(self._certificates.look)
        return await super().on_tick(counter)


@dataclass(slots=True)
class _Signals:
    """What the outside has asked for."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)

    def received(self, number: int) -> None:
        if self.stop.is_set():
            self.hurry.set()
            _log.warning("a second signal: what runs is cancelled now", signal=number)
        else:
            self.stop.set()
            _log.warning("asked to stop: sessions in use may go on for a while", signal=number)


def serve(served: Served) -> None:
    """Serve until SIGTERM or SIGINT, and end in order. Raises ConfigError, Unavailable."""
    import uvloop  # noqa: PLC0415 - not there on Windows

    _raise_file_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(served))


async def _serve(served: Served) -> None:
    settings = served.gateway.settings.gateway
    loop = asyncio.get_running_loop()
    watch_loop(loop)
    await served.probe()
    certificates = certificates_of(settings)
    signals = _Signals()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.received, number)
    async with AsyncExitStack() as stack:
        public = _listening(settings.host, settings.port, "gateway.host and gateway.port")
        stack.callback(public.close)
        connections = served.connections
        main = Listener(
            uvicorn_config(served.app, settings, connections), connections, certificates
        )
        stack.push_async_callback(served.stop)
        await served.start()
        tasks = [asyncio.create_task(main.serve(sockets=[public]))]
        if settings.metrics_port:
            tasks.append(await _admin(served, settings, stack))
        await _until(signals.stop, tasks[0])
        await drain(served, settings.drain_seconds, signals.hurry)
        main.should_exit = True
        await tasks[0]
    _log.warning("ended in order")


async def _admin(
    served: Served, settings: GatewaySettings, stack: AsyncExitStack
) -> asyncio.Task[None]:
    """The listener for probes and metrics; it ends last."""
    own = _listening(
        settings.metrics_host,
        settings.metrics_port,
        "gateway.metrics_host and gateway.metrics_port",
    )
    connections = Connections(settings, served.connections.proxies)
    listener = Listener(uvicorn_config(served.admin, settings, connections), connections)
    task = asyncio.create_task(listener.serve(sockets=[own]))

    async def end() -> None:
        listener.should_exit = True
        await task

    stack.push_async_callback(end)
    return task


async def _until(asked: asyncio.Event, serving: asyncio.Task[None]) -> None:
    """Wait for a signal. Raises what ended the server before one came."""
    waiting = asyncio.create_task(asked.wait())
    try:
        await asyncio.wait({waiting, serving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    if serving.done() and not asked.is_set():
        await serving
        raise ConfigError("The gateway ended by itself.", "Its log says why.")


async def drain(served: Served, seconds: float, hurry: asyncio.Event) -> None:
    """Let clients finish, for at most `seconds`; then cancel what runs and end every session."""
    served.health.draining = served.limits.draining = True
    book = served.gateway.book
    until = time.monotonic() + seconds
    while time.monotonic() < until and not book.at_rest(_REST_SECONDS):
        with suppress(TimeoutError):
            await asyncio.wait_for(hurry.wait(), _LOOK_SECONDS)
            break
    if served.limits.statements:
        _log.warning("statements are cancelled to stop", under_way=served.limits.statements)
    await book.close_all()


def _listening(host: str, port: int, where: str) -> socket.socket:
    """Raises ConfigError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as e:
        why = errno.errorcode.get(e.errno or 0, "") or type(e).__name__
        raise ConfigError(
            f"Hoop cannot listen on {host} port {port} ({why}).", f"Change {where}."
        ) from None


def _raise_file_limit() -> None:
    """Each connection is an open file; the usual soft limit of 1,024 is for programs that use select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
