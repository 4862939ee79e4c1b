"""Commits that do not wait for the disk: what they survive, and what they leave to others."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
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

    monkeypatch.setattr(os, "fsync", watched)
    log.append_at_once("a", {})
    assert synced.wait(20)


def test_a_closed_store_has_settled(store: Store, log: AuditLog) -> None:
    log.append_at_once("a", {})
    store.close()
    assert not [t for t in threading.enumerate() if t.name == "settle" and t.is_alive()]
    assert [e.kind for e in log.entries()] == ["a"]


def test_an_entry_may_be_durable_at_once(
    store: Store, log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "_SLOW_SECONDS", 60)  # whatever the disk does
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
        assert log.append_at_once("a", {"n": n, "text": "x" * 2000}) == n
    deadline = threading.Event()
    for _ in range(200):
        copied = (tmp_path / "hoop.db").stat().st_size
        if copied > 100_000:
            break
        deadline.wait(0.05)
    assert copied > 100_000
    store.close()
    assert len(list(log.entries())) == 50


def test_a_wal_that_was_long_is_not_moved_after_every_entry(
    store: Store, log: AuditLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LONGEST_WAL", 100_000)
    wal = tmp_path / "hoop.db-wal"
    log.append_at_once("long", {"text": "x" * 500_000})
    for n in range(400):
        if wal.stat().st_size <= 100_000:
            break
        log.append_at_once("short", {"n": n})
        threading.Event().wait(0.05)
    assert wal.stat().st_size <= 100_000


def test_a_disk_that_failed_to_sync_takes_nothing_until_all_is_there(
    store: Store, log: AuditLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the failed sync dropped would cut off every later entry, however well that was synced."""
    monkeypatch.setattr(module, "_REPAIR_SECONDS", 0.01)
    whole, failed = os.fsync, threading.Event()

    def failing(descriptor: int) -> None:
        if threading.current_thread().name != "settle" or failed.is_set():
            return whole(descriptor)
        failed.set()
        raise OSError(5, "I/O error")

    reader = sqlite3.connect(tmp_path / "hoop.db", isolation_level=None)
    monkeypatch.setattr(os, "fsync", failing)
    log.append("statement.intent", {})
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM log_entries").fetchall()  # nothing can be repaired meanwhile
    log.append_at_once("statement.outcome", {})
    assert failed.wait(20)
    _until(lambda: store._at_once is not None and store._at_once.doubtful)
    with pytest.raises(StoreUnavailable, match="failed to keep"):
        log.append_at_once("statement.intent", {}, synced=True)
    with pytest.raises(StoreUnavailable, match="failed to keep"):
        log.append("statement.intent", {})
    with pytest.raises(StoreUnavailable, match="failed to keep"):
        log.append("statement.intent", lambda _: {})
    reader.execute("COMMIT")
    _until(lambda: store._at_once is not None and not store._at_once.doubtful)
    assert (tmp_path / "hoop.db-wal").stat().st_size == 0  # all of it is in the database
    assert log.append("statement.intent", {}) == 2


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_WRITE])
def test_an_io_error_of_the_database_is_a_disk_that_failed(
    store: Store, log: AuditLog, tmp_path: Path, code: int
) -> None:
    broken = sqlite3.OperationalError("disk I/O error")
    broken.sqlite_errorcode = code
    reader = sqlite3.connect(tmp_path / "hoop.db", isolation_level=None)
    log.append_at_once("a", {})
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM log_entries").fetchall()
    with pytest.raises(StoreUnavailable), store.write_at_once(synced=True):
        raise broken
    with pytest.raises(StoreUnavailable, match="failed to keep"):
        log.append("b", {})
    reader.close()
    _until(lambda: store._at_once is not None and not store._at_once.doubtful)
    assert log.append("b", {}) == 1


def test_a_store_that_is_locked_when_it_is_first_opened_is_waited_for_elsewhere(
    store: Store, log: AuditLog, tmp_path: Path
) -> None:
    store.engine.dispose()
    other = sqlite3.connect(tmp_path / "hoop.db", isolation_level=None)
    other.execute("PRAGMA locking_mode=EXCLUSIVE")
    other.execute("BEGIN IMMEDIATE")
    assert log.append_at_once("a", {}) is None
    other.close()
    assert log.append_at_once("a", {}) == 0


def _until(done: Callable[[], bool]) -> None:
    for _ in range(400):
        if done():
            return
        threading.Event().wait(0.05)
    raise AssertionError("it did not come to that")
