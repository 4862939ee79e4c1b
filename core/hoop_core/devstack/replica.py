"""A further gateway on the stack: another process with the same hoop.toml, and a few settings of its own."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from hoop_core.devstack.processes import LOOPBACK, Part, free_port

_START_SECONDS = 30.0
_STOP_SECONDS = 30.0
"""A gateway revokes the users that it minted before it ends."""


class Replica:
    """One of several gateways. `settings` are environment variables (`HOOP_STORE__URL`, ...)."""

    def __init__(
        self,
        name: str,
        config: Path,
        *,
        log: Path,
        settings: Mapping[str, str] | None = None,
        port: int | None = None,
    ) -> None:
        self.name, self.port = name, port or free_port()
        self.part = Part(
            f"The gateway {name}",
            # -P: the working directory is not a place to import code from.
            [sys.executable, "-P", "-m", "hoop_core.cli", "serve", "--config", str(config)],
            log=log,
            directory=config.parent,
            environment={
                "HOOP_GATEWAY__PORT": str(self.port),
                "HOOP_GATEWAY__METRICS_PORT": "0",
                "HOOP_GATEWAY__REPLICA": name,
                "HOOP_GATEWAY__REPLICA_URL": self.url,
                **(settings or {}),
            },
            stop_seconds=_STOP_SECONDS,
        )

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def start(self) -> None:
        """Start and wait until it serves. Raises PartFailed."""
        self.part.start()
        self.ready()

    def ready(self) -> None:
        """Wait until it serves. Raises PartFailed."""
        url = f"{self.url}/healthz"
        self.part.wait_healthy(url, seconds=_START_SECONDS, accept=frozenset({200}))
