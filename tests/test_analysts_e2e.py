"""A worker that hangs under a statement: the driver gets an ordinary error, the log has the refusal."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from snowflake.connector import SnowflakeConnection
from snowflake.connector.errors import ProgrammingError

from hoop_core.audit.stored import stored_entries
from hoop_core.store import Store

if TYPE_CHECKING:
    from hoop_core.devstack.stack import DevStack

pytestmark = pytest.mark.e2e


def _processes() -> Iterator[tuple[int, int, str]]:
    """Process id, parent's id and command line of everything that runs."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            yield int(folder.name), parent, (folder / "cmdline").read_bytes().decode()
        except OSError:
            continue


def _workers(stack: DevStack) -> list[int]:
    running = list(_processes())
    gateways = {
        pid
        for pid, _, command in running
        if str(stack.info.config_file) in command and "watchdog" not in command
    }
    return [p for p, parent, command in running if parent in gateways and "worker.py" in command]


@contextmanager
def _stopped(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            if Path(f"/proc/{pid}").exists():
                os.kill(pid, signal.SIGCONT)


def test_a_statement_whose_analysis_hangs_is_refused_and_the_session_goes_on(
    stack: DevStack, connect: Callable[..., SnowflakeConnection]
) -> None:
    connection = connect()
    connection.cursor().execute("SELECT COUNT(*) FROM ORDERS")
    workers = _workers(stack)
    assert workers
    hangs = "SELECT COUNT(*) AS HANGS FROM ORDERS"
    with _stopped(workers), pytest.raises(ProgrammingError) as caught:
        connection.cursor().execute(hangs)
    assert "could not be analysed within" in str(caught.value)
    refused: list[dict[str, Any]] = [
        d for kind, d in _log(stack) if kind == "statement.refused" and d["sql"] == hangs
    ]
    assert [r["reason"] for r in refused] == ["ANALYSIS_TIMEOUT"]
    assert connection.cursor().execute(hangs).fetchall()
    assert set(workers) - set(_workers(stack))


def _log(stack: DevStack) -> Iterator[tuple[str, dict[str, Any]]]:
    store = Store(stack.store_url)
    store.attach()
    try:
        yield from ((e.kind, json.loads(e.text)["data"]) for e in stored_entries(store))
    finally:
        store.close()
