"""One more way into an SQLite store: commits that wait neither for other writers nor for the disk.

With synchronous=NORMAL a commit is in the WAL file when it returns: it survives the end of the process, not
that of the machine, and is never half there (https://sqlite.org/pragma.html#pragma_synchronous). The next
commit with synchronous=FULL takes it along to the disk, or a thread here, SETTLE_SECONDS later at most.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

_log = structlog.get_logger(__name__)
SETTLE_SECONDS = 0.05


class Busy(Exception):
    """Somebody else writes: ask in the ordinary way, and wait."""


class Unsynced:
    """One connection, for one writer at a time."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._connection: sqlite3.Connection | None = None
        self._mine = threading.Lock()
        self._due, self._closed = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def write(self) -> Iterator[sqlite3.Cursor]:
        """A transaction. Raises Busy before it has begun, and sqlite3.Error."""
        if not self._mine.acquire(blocking=False):
            raise Busy
        try:
            cursor = self._opened().cursor()
            _begin(cursor)
            try:
                yield cursor
                cursor.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    cursor.execute("ROLLBACK")
                raise
        finally:
            self._mine.release()
        self._due.set()

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            # mode=rw: a store that is gone is not made anew.
            uri = f"{self._file.absolute().as_uri()}?mode=rw"
            connection = sqlite3.connect(
                uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False
            )
            # Moving the WAL's pages into the database is left to those who wait for the disk anyhow.
            for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "wal_autocheckpoint=0"):
                connection.execute(f"PRAGMA {pragma}")
            self._connection = connection
            self._thread = threading.Thread(target=self._settle, name="settle", daemon=True)
            self._thread.start()
        return self._connection

    def _settle(self) -> None:
        while True:
            self._due.wait()
            ending = self._closed.wait(SETTLE_SECONDS)
            self._due.clear()
            try:
                self.settle()
            except OSError as e:
                # What the next synced commit needs is the same disk: it fails too, and nothing runs then.
                _log.error("entries of the log may not be on the disk", why=type(e).__name__)
            if ending:
                return

    def settle(self) -> None:
        """Return when everything that was written is on the disk. Raises OSError."""
        with suppress(FileNotFoundError):  # moved into the database, which is synced
            descriptor = os.open(f"{self._file}-wal", os.O_RDWR)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def close(self) -> None:
        self._closed.set()
        self._due.set()
        if self._thread is not None:
            self._thread.join()
        with self._mine:
            if self._connection is not None:
                self._connection.close()
            self._connection = None


def _begin(cursor: sqlite3.Cursor) -> None:
    try:
        cursor.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as e:
        if e.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            raise Busy from None
        raise
