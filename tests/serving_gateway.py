"""A `hoop serve` of a test's own, beside the shared stack: its own port, store, log and limits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from hoop_core.audit.stored import stored_entries
from hoop_core.client import HoopClient, token_source
from hoop_core.devstack.processes import free_port
from hoop_core.store import Store

if TYPE_CHECKING:
    from snowflake.connector import SnowflakeConnection

    from hoop_core.devstack.stack import DevStack

PATIENCE = 60.0
_START_PATIENCE = 240.0
"""Importing takes seconds of CPU, which on a machine that is busy otherwise may be minutes."""


def until(true: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """What `true` gives as soon as it gives something."""
    end = time.monotonic() + seconds
    while True:
        found = true()
        if found:
            return found
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.05)


@dataclass(slots=True)
class Serving:
    stack: DevStack
    process: subprocess.Popen[bytes]
    home: Path
    port: int
    admin_port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    @property
    def said(self) -> str:
        return (self.home / "stderr").read_text()

    def ready(self) -> httpx.Response:
        return httpx.get(f"{self.admin}/readyz", timeout=PATIENCE)

    def metrics(self) -> str:
        return httpx.get(f"{self.admin}/metrics", timeout=PATIENCE).text

    def client(self, who: str) -> HoopClient:
        return HoopClient(self.url, token_source(self.stack.token(who)))

    def connect(self, who: str = "churn-agent", **options: Any) -> SnowflakeConnection:
        import snowflake.connector

        given = {
            "host": "127.0.0.1",
            "port": self.port,
            "protocol": "http",
            "account": self.stack.info.snowflake_account,
            "user": "whoever",
            "authenticator": "oauth",
            "database": "PROD",
            "schema": "CRM",
            "login_timeout": 20,
        }
        if "token" not in options:
            given["token"] = self.stack.token(who)
        return snowflake.connector.connect(**{**given, **options})

    def logged(self) -> list[tuple[str, dict[str, Any]]]:
        """Kinds and contents of the log's entries; the process may have ended."""
        store = Store(f"sqlite:///{self.home / 'own.db'}")
        store.attach()
        try:
            return [(e.kind, json.loads(e.text)["data"]) for e in stored_entries(store)]
        finally:
            store.close()

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        return self.process.wait(PATIENCE)


@contextmanager
def serving(
    stack: DevStack, home: Path, *, ready: bool = True, **settings: str
) -> Iterator[Serving]:
    """`settings` are environment variables without `HOOP_`, as `GATEWAY__DRAIN_SECONDS="5"`."""
    port, admin_port = free_port(), free_port()
    home.mkdir(exist_ok=True)
    own = {
        "GATEWAY__PORT": str(port),
        "GATEWAY__METRICS_PORT": str(admin_port),
        "GATEWAY__HEALTH_SECONDS": "0.2",
        "STORE__URL": f"sqlite:///{home / 'own.db'}",
        "STORE__RECORDINGS": str(home / "recordings"),
        "AUDIT__KEY_FILE": str(home / "log.key"),
        "LINEAGE__FILE": str(home / "lineage.jsonl"),
        "ANALYSIS__STARTED": "1",
    } | settings
    command = [sys.executable, "-P", "-m", "hoop_core.cli", "serve", "--config"]
    with (home / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            [*command, str(stack.info.config_file)],
            env={**os.environ, **{f"HOOP_{k}": v for k, v in own.items()}},
            stdout=stderr,
            stderr=stderr,
        )
    made = Serving(stack, process, home, port, admin_port)
    try:
        try:
            until(lambda: _answers(made, ready=ready), _START_PATIENCE)
        except AssertionError:
            raise AssertionError(f"{_last(made)}\n{made.said[-4000:]}") from None
        yield made
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _last(made: Serving) -> str:
    try:
        return made.ready().text
    except httpx.TransportError as e:
        return type(e).__name__


def _answers(made: Serving, *, ready: bool) -> bool:
    assert made.process.poll() is None, made.said
    try:
        return made.ready().status_code == 200 or not ready
    except httpx.TransportError:
        return False
