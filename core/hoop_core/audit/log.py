"""The append-only log. `append` returns a durable sequence number or raises; there is no third way.

An entry is one canonical JSON object (RFC 8785): {"seq", "at", "kind", "session", "data"}. Its leaf
hash (RFC 6962) is stored beside it, and signed checkpoints commit to all leaves before them. The
sequence is gap-free because the next number is read under the same lock that inserts it, of which there
is one for all replicas. Entries that wait for it at the same time are written in one transaction.

So everything that is changed together with an entry is changed by one writer at a time.
"""

from __future__ import annotations

import copy
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, func, insert, select

from hoop_core.audit import merkle
from hoop_core.audit.canonical import canonical
from hoop_core.audit.checkpoint import Checkpoint, LogKey, open_note
from hoop_core.errors import ConfigError, EvidenceError, StoreUnavailable
from hoop_core.model import Json
from hoop_core.store import Busy, Lock, Store
from hoop_core.store.tables import log_checkpoints, log_entries
from hoop_core.telemetry import log_append


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the log as it is stored: `text` is exactly what the leaf hash covers."""

    seq: int
    kind: str
    session_id: str | None
    text: str
    leaf: bytes


def utc_now() -> datetime:
    return datetime.now(UTC)


_MOST_AT_ONCE = 256
_SLOW_SECONDS, _SLOW_FOR_SECONDS = 0.005, 10.0
"""What waits longer for the disk is left to a thread for a while."""
_PAGE = 2000
_PAGE_SHOWN = 200
"""For those who stop when they have seen enough: entries can be long."""
_LAST = select(func.max(log_entries.c.seq))
_INSERT = insert(log_entries)
_PLAIN_INSERT = (
    "INSERT INTO log_entries (seq, kind, session_id, entry, leaf) "
    "VALUES (:seq, :kind, :session_id, :entry, :leaf)"
)
_LAST_NOTE = select(log_checkpoints.c.note).order_by(log_checkpoints.c.size.desc()).limit(1)
_LAST_SIGNED = select(func.max(log_checkpoints.c.signed_at))


class _Spoiled(Exception):
    """One entry cannot be made, and others wait in the same transaction."""


@dataclass(slots=True, eq=False)
class _Pending:
    """An entry on its way into the log. `data` may be called twice: it changes nothing but the store."""

    kind: str
    data: Json | Callable[[Connection], Json]
    session_id: str | None
    seq: int | None = None
    failed: BaseException | None = None
    ended: bool = False

    def row(self, connection: Connection | None, seq: int) -> Json:
        """Make the changes that come with the entry, and write down what goes into the log."""
        if not callable(self.data):
            content = self.data
        elif connection is None:
            raise AssertionError("changes need a transaction")
        else:
            content = self.data(connection)
        text = canonical(
            {
                "seq": seq,
                "at": utc_now().isoformat(timespec="microseconds").replace("+00:00", "Z"),
                "kind": self.kind,
                "session": self.session_id,
                "data": content,
            }
        )
        self.seq = seq
        return {
            "seq": seq,
            "kind": self.kind,
            "session_id": self.session_id,
            "entry": text.decode(),
            "leaf": merkle.leaf_hash(text),
        }

    def end(self, failed: BaseException | None) -> None:
        self.failed, self.ended = failed, True

    def outcome(self) -> int:
        """Raises what became of it."""
        if self.failed is not None:
            raise self.failed
        if self.seq is None:
            raise AssertionError("an entry has a number or has failed")
        return self.seq


class AuditLog:
    """The one writer's view of the log; several may work on the same store."""

    def __init__(self, store: Store, key: LogKey) -> None:
        self._store = store
        self.key = key
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._waiting: deque[_Pending] = deque()
        self._frontier = merkle.Frontier()
        self._last_leaf = b""
        self._slow_until = float("-inf")

    def append(
        self,
        kind: str,
        data: Json | Callable[[Connection], Json],
        *,
        session_id: str | None = None,
    ) -> int:
        """Write one entry and return its sequence number once it is durable.

        `data` may be a function that gets the open transaction, changes other tables in it and returns
        what to log: both become durable together, or neither does. Raises StoreUnavailable; whatever
        the function raises passes through.
        """
        pending = _Pending(kind, data, session_id)
        with log_append(kind):
            self._waiting.append(pending)
            with self._writing:
                # Whoever writes takes along what others queued meanwhile: one commit for all of them.
                while not pending.ended:
                    self._write_waiting()
            return pending.outcome()

    def append_at_once(
        self, kind: str, data: Json, *, session_id: str | None = None, synced: bool = False
    ) -> int | None:
        """`append`, without a wait for others; None when there would be one. Raises StoreUnavailable.

        Without `synced`, which is for what follows an entry that is durable, such as a statement's end, the entry
        is where the end of this process cannot undo it, and durable SETTLE_SECONDS later. With it the entry is
        durable, and None also where the disk was slow a moment ago.
        """
        if self._store.shared or (synced and time.monotonic() < self._slow_until):
            return None
        if not self._writing.acquire(blocking=False):
            return None
        began = time.monotonic()
        pending = _Pending(kind, data, session_id)
        try:
            if self._waiting:  # they were first
                return None
            with log_append(kind), self._store.write_at_once(synced=synced) as cursor:
                self._insert(cursor, [pending])
            if time.monotonic() - began > _SLOW_SECONDS:
                self._slow_until = time.monotonic() + _SLOW_FOR_SECONDS
            return pending.seq
        except Busy:
            return None
        finally:
            self._writing.release()

    def _write_waiting(self) -> None:
        """Write what is queued, oldest first. What is wrong with one of them is that one's fault alone."""
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MOST_AT_ONCE))]
        try:
            self._write(batch)
        except _Spoiled:
            for pending in batch:
                self._write([pending])
        finally:
            for pending in batch:
                if not pending.ended:  # whoever wrote was interrupted
                    pending.end(StoreUnavailable("The entry could not be written.", "Try again."))

    def _write(self, batch: list[_Pending]) -> None:
        """One transaction. Raises _Spoiled, and then nothing is written, for a batch of several only."""
        try:
            if self._store.shared or any(callable(p.data) for p in batch):
                self._write_with_changes(batch)
            else:
                self._write_alone(batch)
        except _Spoiled:
            raise
        except Exception as e:
            for pending in batch:
                # Each thread raises an error of its own.
                pending.end(e if len(batch) == 1 else copy.copy(e))
        else:
            for pending in batch:
                pending.end(None)

    def _write_with_changes(self, batch: list[_Pending]) -> None:
        with self._store.write() as connection:
            self._store.lock(connection, Lock.LOG)
            last = connection.scalar(_LAST)
            connection.execute(_INSERT, self._rows(connection, batch, last))

    def _write_alone(self, batch: list[_Pending]) -> None:
        """The same where nothing else changes, which is what every statement waits for twice."""
        with self._store.write_plainly() as cursor:
            self._insert(cursor, batch)

    def _insert(self, cursor: sqlite3.Cursor, batch: list[_Pending]) -> None:
        (last,) = cursor.execute("SELECT max(seq) FROM log_entries").fetchone()
        cursor.executemany(_PLAIN_INSERT, self._rows(None, batch, last))

    def _rows(
        self, connection: Connection | None, batch: list[_Pending], last: int | None
    ) -> list[Json]:
        start = 0 if last is None else last + 1
        rows = []
        for seq, pending in enumerate(batch, start):
            try:
                rows.append(pending.row(connection, seq))
            except Exception as e:
                if len(batch) == 1:
                    raise
                raise _Spoiled from e
        return rows

    def entries(self, *, session_id: str | None = None) -> Iterator[Entry]:
        return stored_entries(self._store, session_id=session_id)

    def claim(self) -> None:
        """Make sure that this log is signed by our key, before anything is written to it.

        What signed its last checkpoint counts; the first one to come signs the empty log. Raises ConfigError
        for a log of another key or origin, and StoreUnavailable.
        """
        with self._store.write() as connection:
            self._store.lock(connection, Lock.LOG)
            last = connection.scalar(_LAST_NOTE)
            if last is None and connection.scalar(_LAST) is None:
                last = self._keep(connection, self.key.sign(0, merkle.Frontier().root())).note
        if last is None:  # entries, and nobody has signed them yet
            last = self.checkpoint().note
        try:
            open_note(last, self.key.verifier_key)
        except EvidenceError:
            raise ConfigError(
                "The log in the store is signed by another key, or under another origin.",
                "Give this gateway the audit.key_file and the audit.origin that the log began with.",
            ) from None

    def checkpoint(self) -> Checkpoint:
        """Sign the tree as it stands now and keep the signed note in the store.

        Raises StoreUnavailable, also when another tree of this size was signed.
        """
        with self._lock:
            self._catch_up()
            signed = self.key.sign(self._frontier.size, self._frontier.root())
        with self._store.write() as connection:
            self._store.lock(connection, Lock.LOG)
            return self._keep(connection, signed)

    def checkpoint_unless_within(self, seconds: float) -> None:
        """Sign, unless some replica has done so less than so many seconds ago. Raises StoreUnavailable."""
        with self._store.read() as connection:
            last = connection.scalar(_LAST_SIGNED)
        if last is None or (utc_now() - last).total_seconds() >= seconds:
            self.checkpoint()

    def _keep(self, connection: Connection, signed: Checkpoint) -> Checkpoint:
        known = connection.scalar(
            select(log_checkpoints.c.note).where(log_checkpoints.c.size == signed.size)
        )
        if known is None:
            row = {"size": signed.size, "note": signed.note, "signed_at": utc_now()}
            connection.execute(insert(log_checkpoints).values(**row))
        elif known != signed.note:
            # One key signs one tree in one way only (ed25519), so it was another tree or another key.
            raise StoreUnavailable(
                f"Another log of {signed.size} entries was signed before.",
                "Run `hoop audit verify` on the store; do not write to it any more.",
            )
        return signed

    def _catch_up(self) -> None:
        """Add what was written since to the tree. Raises StoreUnavailable for a log that lost entries."""
        query = select(log_entries.c.seq, log_entries.c.leaf).order_by(log_entries.c.seq)
        while True:
            known = self._frontier.size
            with self._store.read() as connection:
                # From the last known entry on: a store that was set back must not go unnoticed.
                since = query.where(log_entries.c.seq >= max(known - 1, 0)).limit(_PAGE)
                rows = connection.execute(since).all()
            if known and (not rows or rows[0].seq != known - 1 or rows[0].leaf != self._last_leaf):
                raise StoreUnavailable(
                    f"The log no longer holds entry {known - 1} as it was.",
                    "Was the store set back to an earlier state? Run `hoop audit verify` on it.",
                )
            for row in rows[1:] if known else rows:
                if row.seq != self._frontier.size:
                    raise StoreUnavailable(
                        f"The log has a gap before entry {row.seq}.",
                        "Run `hoop audit verify` on the store; do not write to it any more.",
                    )
                self._last_leaf = bytes(row.leaf)
                self._frontier.append(self._last_leaf)
            if len(rows) < _PAGE:
                return

    def checkpoints(self) -> list[str]:
        return stored_checkpoints(self._store)


def stored_entries(store: Store, *, session_id: str | None = None) -> Iterator[Entry]:
    """The stored entries in order, read in pages so that memory stays flat."""
    start, page = 0, _PAGE if session_id is None else _PAGE_SHOWN
    while True:
        query = select(log_entries).where(log_entries.c.seq >= start)
        if session_id is not None:
            query = query.where(log_entries.c.session_id == session_id)
        with store.read() as connection:
            rows = connection.execute(query.order_by(log_entries.c.seq).limit(page)).all()
        for row in rows:
            yield Entry(row.seq, row.kind, row.session_id, row.entry, bytes(row.leaf))
        if len(rows) < page:
            return
        start = rows[-1].seq + 1


def store_has_entries(store: Store) -> bool:
    with store.read() as connection:
        return connection.scalar(select(log_entries.c.seq).limit(1)) is not None


def stored_checkpoints(store: Store) -> list[str]:
    """Every signed tree head, smallest tree first."""
    with store.read() as connection:
        query = select(log_checkpoints.c.note).order_by(log_checkpoints.c.size)
        return list(connection.scalars(query))
