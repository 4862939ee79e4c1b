"""`python -m hoop_core.devstack.vault_plugin`: started by OpenBao, never by hand."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from grpclib.server import Server

from hoop_core.devstack.vault_plugin.connections import import_connector
from hoop_core.devstack.vault_plugin.handshake import Handshake, HandshakeRefused, negotiate
from hoop_core.devstack.vault_plugin.service import PluginService

_PARENT_CHECK_SECONDS = 2.0
_METADATA_MODE = ("BAO_PLUGIN_METADATA_MODE", "VAULT_PLUGIN_METADATA_MODE")
"""Set when the server only asks for type and version, as it does at registration."""


async def serve(handshake: Handshake) -> None:
    """Serve on a Unix socket until OpenBao says Shutdown or is gone."""
    parent = os.getppid()
    service = PluginService()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, service.shutdown.set)
    directory = Path(
        tempfile.mkdtemp(prefix="hoop-plugin-", dir=os.environ.get("PLUGIN_UNIX_SOCKET_DIR"))
    )
    try:
        socket_path = directory / "s"
        server = Server([service])
        await server.start(path=str(socket_path), ssl=handshake.tls)
        sys.stdout.write(handshake.line(socket_path) + "\n")
        sys.stdout.flush()
        # The pipe was for that one line: anything else on it would confuse OpenBao's reader.
        os.dup2(2, 1)
        if not any(os.environ.get(name) == "true" for name in _METADATA_MODE):
            # Seconds of imports, done while OpenBao has nothing for us to do yet.
            asyncio.get_running_loop().run_in_executor(None, import_connector)
        while os.getppid() == parent:
            try:
                async with asyncio.timeout(_PARENT_CHECK_SECONDS):
                    await service.shutdown.wait()
                break
            except TimeoutError:
                continue
        server.close()
    finally:
        service.close()
        shutil.rmtree(directory, ignore_errors=True)


def main() -> None:
    """Entry point. Exit code 1 when the handshake is refused."""
    # Data frames and cloud storage are never needed here; the connector does without them, and is
    # imported in half the time.
    sys.modules.update({"pandas": None, "boto3": None})  # type: ignore[dict-item]
    # Ctrl-C goes to the whole terminal group; OpenBao ends us when it has revoked what it must.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        handshake = negotiate(os.environ)
    except HandshakeRefused as e:
        sys.stderr.write(f"{e}\n")
        raise SystemExit(1) from None
    asyncio.run(serve(handshake))
    # Threads may still wait for Snowflake; nothing of theirs is worth waiting for.
    os._exit(0)


if __name__ == "__main__":
    main()
