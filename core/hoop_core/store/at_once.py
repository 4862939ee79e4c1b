"""One more way into an SQLite store, for a thread that may not be held up: commits that never wait for other writers.

With synchronous=NORMAL they do not wait for the disk either. Such a commit is in the WAL file when it returns: it
survives the end of the process, not that of the machine, and is never half there
(https://sqlite.org/pragma.html#pragma_synchronous). The next commit with synchronous=FULL takes it along to the
disk, or a thread here, SETTLE_SECONDS later at most.

A disk that failed to sync may have dropped what was written, and say of the next sync that all is well
(https://wiki.postgresql.org/wiki/Fsync_Errors). A commit behind such a gap is lost with it, however well it was
synced itself. So nothing is written from then on until the WAL's content is in the database.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import structlog

_log = structlog.get_logger(__name__)
_LONGEST_WAL = 4 << 20
"""Bytes; a longer WAL file is moved into the database."""
SETTLE_SECONDS, _REPAIR_SECONDS = 0.05, 1.0


class Busy(Exception):
    """Somebody else writes: ask in the ordinary way, and wait."""


class AtOnce:
    """One connection, for one writer at a time."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._connection: sqlite3.Connection | None = None
        self._mine = threading.Lock()
        self._due, self._closed = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._synced = False
        self.doubtful = False
        """Whether something that counts as written may not be on the disk, nor ever come there by itself."""

    @contextmanager
    def write(self, *, synced: bool) -> Iterator[sqlite3.Cursor]:
        """A transaction; when it is `synced`, its end is durable. Raises Busy before it has begun, and sqlite3.Error."""
        if not self._mine.acquire(blocking=False):
            raise Busy
        try:
            cursor = self._opened().cursor()
            if synced is not self._synced:
                cursor.execute(f"PRAGMA synchronous={'FULL' if synced else 'NORMAL'}")
                self._synced = synced
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
            self._connection, self._synced = _for_writing(self._file), False
            self._thread = threading.Thread(target=self._settle, name="settle", daemon=True)
            self._thread.start()
        return self._connection

    def _settle(self) -> None:
        while True:
            self._due.wait()
            ending = self._closed.wait(_REPAIR_SECONDS if self.doubtful else SETTLE_SECONDS)
            self._due.clear()
            try:
                if self.doubtful:
                    self._repair()
                else:
                    self.settle()
            except (OSError, sqlite3.Error) as e:
                self.doubt(e)
            if ending:
                return

    def doubt(self, error: Exception) -> None:
        """Let nothing more be written, after an I/O error, until the thread has repaired it."""
        if self._thread is None:
            return  # all that counts as written was synced
        if not self.doubtful:
            _log.error("entries of the log may not be on the disk", why=type(error).__name__)
        self.doubtful = True
        self._due.set()

    def _repair(self) -> None:
        """Write everything anew, into the database, and begin the WAL from its start. Raises sqlite3.Error."""
        with closing(_connect(self._file)) as connection:
            (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:  # somebody reads: again in a moment
            self._due.set()
            return
        self.doubtful = False
        _log.warning("the entries of the log are on the disk again")

    def settle(self) -> None:
        """Return when everything that was written is on the disk. Raises OSError, sqlite3.Error."""
        try:
            descriptor = os.open(f"{self._file}-wal", os.O_RDWR)
        except FileNotFoundError:  # moved into the database, which is synced
            return
        try:
            os.fsync(descriptor)
            long = os.fstat(descriptor).st_size > _LONGEST_WAL
        finally:
            os.close(descriptor)
        if long:
            with closing(_connect(self._file)) as connection:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        self._closed.set()
        self._due.set()
        if self._thread is not None:
            self._thread.join()
        with self._mine:
            if self._connection is not None:
                self._connection.close()
            self._connection = None


def _connect(file: Path) -> sqlite3.Connection:
    # mode=rw: a store that is gone is not made anew.
    uri = f"{file.absolute().as_uri()}?mode=rw"
    return sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False)


def _for_writing(file: Path) -> sqlite3.Connection:
    connection = _connect(file)
    try:
        with _at_once():
            # Moving the WAL's pages into the database takes long, and is left to the thread. A WAL that was long is
            # cut when it begins anew, or it would be moved after each entry.
            for pragma in (
                "journal_mode=WAL",
                "synchronous=NORMAL",
                "wal_autocheckpoint=0",
                f"journal_size_limit={_LONGEST_WAL}",
            ):
                connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def _begin(cursor: sqlite3.Cursor) -> None:
    with _at_once():
        cursor.execute("BEGIN IMMEDIATE")


@contextmanager
def _at_once() -> Iterator[None]:
    """Raises Busy where SQLite would wait."""
    try:
        yield
    except sqlite3.OperationalError as e:
        if e.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            raise Busy from None
        raise
