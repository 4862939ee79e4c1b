"""Commits that do not wait for the disk: what they survive, and what they leave to others."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hoop_core.audit import log as log_module
from hoop_core.audit.checkpoint import load_or_create_key
from hoop_core.audit.log import AuditLog, _Pending
from hoop_core.errors import StoreUnavailable
from hoop_core.store import Busy, Store
from hoop_core.store import at_once as module


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(f"sqlite:///{tmp_path / 'hoop.db'}")
    made.migrate()
    yield made
    made.close()


@pytest.fixture
def log(store: Store, tmp_path: Path) -> AuditLog:
    return AuditLog(store, load_or_create_key(tmp_path / "key", "test/log"))


def test_an_entry_written_at_once_takes_its_place_among_the_others(log: AuditLog) -> None:
    assert log.append("a", {}) == 0
    assert log.append_at_once("b", {"n": 1}, session_id="s") == 1
    assert log.append("c", {}) == 2
    assert [(e.seq, e.kind) for e in log.entries()] == [(0, "a"), (1, "b"), (2, "c")]


_WRITE_AND_DIE = """
import os, pathlib, signal, sys
from hoop_core.audit.checkpoint import load_or_create_key
from hoop_core.audit import log as log_module
from hoop_core.audit.log import AuditLog, _Pending
from hoop_core.store import Store
store = Store(sys.argv[1]); store.attach()
log = AuditLog(store, load_or_create_key(pathlib.Path(sys.argv[2]), "test/log"))
assert log.append_at_once("last", {}) == 1
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_entry_written_at_once_survives_the_end_of_its_process(
    log: AuditLog, store: Store, tmp_path: Path
) -> None:
    log.append("first", {})
    url, key = f"sqlite:///{tmp_path / 'hoop.db'}", str(tmp_path / "key")
    child = subprocess.run([sys.executable, "-c", _WRITE_AND_DIE, url, key], check=False)
    assert child.returncode == -signal.SIGKILL
    assert [e.kind for e in log.entries()] == ["first", "last"]


def test_nothing_waits_for_another_process_that_writes(log: AuditLog, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "hoop.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert log.append_at_once("a", {}) is None
    other.execute("ROLLBACK")
    assert log.append_at_once("a", {}) == 0


def test_nothing_waits_for_a_thread_that_writes(log: AuditLog) -> None:
    with log._writing:
        assert log.append_at_once("a", {}) is None


def test_whoever_waits_already_is_first(log: AuditLog) -> None:
    log._waiting.append(_Pending("waited", {}, None))
    assert log.append_at_once("late", {}) is None
    log.append("last", {})
    assert [e.kind for e in log.entries()] == ["waited", "last"]


def test_what_fails_leaves_nothing_behind(store: Store, log: AuditLog) -> None:
    with pytest.raises(StoreUnavailable), store.write_at_once(synced=False) as cursor:
        cursor.execute(
            "INSERT INTO log_entries (seq, kind, entry, leaf) VALUES (0, 'k', 'e', x'00')"
        )
        cursor.execute("SELECT wrong FROM nowhere")
    with pytest.raises(ZeroDivisionError), store.write_at_once(synced=False) as cursor:
        cursor.execute(
            "INSERT INTO log_entries (seq, kind, entry, leaf) VALUES (0, 'k', 'e', x'00')"
        )
        _ = 1 / 0
    assert list(log.entries()) == []
    assert log.append_at_once("a", {}) == 0


def test_one_writer_at_a_time(store: Store) -> None:
    with store.write_at_once(synced=False), pytest.raises(Busy), store.write_at_once(synced=False):
        pass


def test_a_store_that_was_replaced_takes_no_entry(log: AuditLog, tmp_path: Path) -> None:
    log.append_at_once("a", {})
    (tmp_path / "hoop.db").rename(tmp_path / "elsewhere.db")
    (tmp_path / "hoop.db").touch()
    with pytest.raises(StoreUnavailable, match="replaced"):
        log.append_at_once("b", {})


def test_what_was_written_is_brought_to_the_disk_soon(
    log: AuditLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = threading.Event()
    whole = os.fsync

    def watched(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().name == "hoop.db-wal":
            synced.set()
        whole(descriptor)

    monkeypatch.setattr(module.os, "fsync", watched)
    log.append_at_once("a", {})
    assert synced.wait(20)


def test_a_closed_store_has_settled(store: Store, log: AuditLog) -> None:
    log.append_at_once("a", {})
    store.close()
    assert not [t for t in threading.enumerate() if t.name == "settle" and t.is_alive()]
    assert [e.kind for e in log.entries()] == ["a"]


def test_an_entry_may_be_durable_at_once(store: Store, log: AuditLog) -> None:
    log.append_at_once("a", {})
    log.append_at_once("b", {}, synced=True)
    with store.write_at_once(synced=True) as cursor:
        assert cursor.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    with store.write_at_once(synced=False) as cursor:
        assert cursor.execute("PRAGMA synchronous").fetchone() == (1,)  # NORMAL
    assert [e.kind for e in log.entries()] == ["a", "b"]


def test_a_slow_disk_is_waited_for_elsewhere(
    log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "_SLOW_SECONDS", 0.0)
    assert log.append_at_once("a", {}, synced=True) == 0
    assert log.append_at_once("b", {}, synced=True) is None
    assert log.append_at_once("c", {}) == 1


def test_a_long_wal_is_moved_into_the_database(
    store: Store, log: AuditLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LONGEST_WAL", 0)
    for n in range(50):
        log.append_at_once("a", {"n": n, "text": "x" * 2000}, synced=True)
    deadline = threading.Event()
    for _ in range(200):
        copied = (tmp_path / "hoop.db").stat().st_size
        if copied > 100_000:
            break
        deadline.wait(0.05)
    assert copied > 100_000
    store.close()
    assert len(list(log.entries())) == 50
