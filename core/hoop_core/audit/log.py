"""The append-only log. `append` returns a durable sequence number or raises; there is no third way.

An entry is one canonical JSON object (RFC 8785): {"seq", "at", "kind", "session", "data"}. Its leaf
hash (RFC 6962) is stored beside it. With every commit the log's head is signed anew (audit/head.py), and
now and then a checkpoint, which is for others. The sequence is gap-free because the head is read under the
same lock under which it is written, of which there is one for all replicas. Entries that wait for it at the
same time are written in one transaction. Times never go back: a clock that was set back is an entry of its own.

So everything that is changed together with an entry is changed by one writer at a time.
"""

from __future__ import annotations

import copy
import dataclasses
import sqlite3
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import reduce

from sqlalchemy import Connection, func, insert, select, update

from hoop_core.audit.canonical import canonical
from hoop_core.audit.checkpoint import Checkpoint, Signer, open_note
from hoop_core.audit.head import NO_HEAD, VERIFY, FarBehind, Head, KnownTree, chained
from hoop_core.audit.merkle import EMPTY_ROOT, Frontier, leaf_hash
from hoop_core.audit.stored import Entry, never_used, stored_checkpoints, stored_entries
from hoop_core.errors import ConfigError, EvidenceError, StoreUnavailable
from hoop_core.model import Json
from hoop_core.store import Busy, Lock, Store
from hoop_core.store.tables import log_checkpoints, log_entries, log_head
from hoop_core.telemetry import log_append


def utc_now() -> datetime:
    return datetime.now(UTC)


_MOST_AT_ONCE = 256
_SLOW_SECONDS, _SLOW_FOR_SECONDS = 0.005, 10.0
"""What waits longer for the disk is left to a thread for a while."""
_CLOCK_SET_BACK = timedelta(minutes=5)
"""What is told of; less is how clocks are kept right."""
_INSERT = insert(log_entries)
_PLAIN_INSERT = (
    "INSERT INTO log_entries (seq, kind, session_id, entry, leaf, at) "
    "VALUES (:seq, :kind, :session_id, :entry, :leaf, :at)"
)
_HEAD = select(*(log_head.c[name] for name in Head.__slots__))
_PLAIN_HEAD = "SELECT size, subtrees, at, checkpoints, note, writer FROM log_head"
_PLAIN_SET_HEAD = (
    "INSERT OR REPLACE INTO log_head (id, size, subtrees, at, checkpoints, note, writer) "
    "VALUES (1, ?, ?, ?, ?, ?, ?)"
)
_COUNT = select(func.count()).select_from(log_entries)
_LAST_AT = select(log_entries.c.at).order_by(log_entries.c.seq.desc()).limit(1)
_LAST_NOTE = select(log_checkpoints.c.note).order_by(log_checkpoints.c.size.desc()).limit(1)


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

    def row(self, connection: Connection | None, seq: int, at: str) -> Json:
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
                "at": at,
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
            "leaf": leaf_hash(text),
            "at": at,
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

    def __init__(self, store: Store, key: Signer) -> None:
        self._store = store
        self.key = key
        self._tree = KnownTree(key)
        self._writing = threading.Lock()
        self._waiting: deque[_Pending] = deque()
        self._slow_until = float("-inf")
        self._clock_is_back = self._tells_of_clock = False
        self.signed: Checkpoint | None = None
        """The last one that this process has signed."""
        self._signed_at = float("-inf")

    @property
    def size(self) -> int:
        """Entries, as this process knows it."""
        return self._tree.size

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

    def append_all(self, kind: str, entries: Sequence[Json]) -> range:
        """Write entries of one kind, some hundreds at most, in one transaction: all of them or none.

        Returns their numbers. Raises StoreUnavailable.
        """
        if not entries:
            return range(0)
        batch = [_Pending(kind, data, None) for data in entries]
        with log_append(kind), self._writing:
            self._write(batch)
        first = batch[0].outcome()
        return range(first, first + len(batch))

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
            with log_append(kind):
                with self._store.write_at_once(synced=synced) as cursor:
                    grown = self._insert(cursor, [pending])
                self._wrote(*grown)
            if time.monotonic() - began > _SLOW_SECONDS:
                self._slow_until = time.monotonic() + _SLOW_FOR_SECONDS
            return pending.seq
        except (Busy, FarBehind):
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
        while True:
            try:
                with self._store.write() as connection:
                    self._store.lock(connection, Lock.LOG)
                    now = self._store.now(connection) if self._store.shared else utc_now()
                    tree, last = self._tree.of(connection, _head(connection))
                    at, timed = self._timed(batch, now, last.at)
                    rows = self._rows(connection, timed, tree.size, at)
                    connection.execute(_INSERT, rows)
                    head = _set_head(connection, self._tree.grown(tree, rows, at, last.checkpoints))
                self._wrote(tree, head)
                return
            except FarBehind:
                self.follow()

    def _write_alone(self, batch: list[_Pending]) -> None:
        """The same where nothing else changes, which is what every statement waits for twice."""
        while True:
            try:
                with self._store.write_plainly() as cursor:
                    grown = self._insert(cursor, batch)
                self._wrote(*grown)
                return
            except FarBehind:
                self.follow()

    def _insert(self, cursor: sqlite3.Cursor, batch: list[_Pending]) -> tuple[Frontier, Head]:
        row = cursor.execute(_PLAIN_HEAD).fetchone()
        tree, last = self._tree.of(cursor, Head(*row) if row else None)
        at, timed = self._timed(batch, utc_now(), last.at)
        rows = self._rows(None, timed, tree.size, at)
        cursor.executemany(_PLAIN_INSERT, rows)
        head = self._tree.grown(tree, rows, at, last.checkpoints)
        cursor.execute(_PLAIN_SET_HEAD, [getattr(head, name) for name in Head.__slots__])
        return tree, head

    def _timed(self, batch: list[_Pending], now: datetime, last: str) -> tuple[str, list[_Pending]]:
        """When the batch is written: never before the last entry. Ahead of it, once, that the clock was set back."""
        at = _time_of(now)
        self._tells_of_clock = False
        if at >= last:
            self._clock_is_back = False
            return at, batch
        if not self._clock_is_back and _time_of(now + _CLOCK_SET_BACK) < last:
            self._tells_of_clock = True
            batch = [_Pending("clock.set_back", {"clock": at, "last": last}, None), *batch]
        return last, batch

    def _wrote(self, tree: Frontier, head: Head) -> None:
        self._tree.became(tree, head)
        self._clock_is_back |= self._tells_of_clock

    def follow(self) -> None:
        """Read what others have written, so that nobody has to wait for that later. Raises StoreUnavailable."""
        before = self._tree.last  # what is written meanwhile is not in what is read here
        with self._store.read() as connection:
            head = _head(connection)
            if head is not None:
                tree, _ = self._tree.of(connection, head, most=sys.maxsize, last=before)
                self._tree.became(tree, head)

    def _rows(
        self, connection: Connection | None, batch: list[_Pending], start: int, at: str
    ) -> list[Json]:
        rows = []
        for seq, pending in enumerate(batch, start):
            try:
                rows.append(pending.row(connection, seq, at))
            except Exception as e:
                if len(batch) - self._tells_of_clock == 1:
                    raise
                raise _Spoiled from e
        return rows

    def entries(self, *, session_id: str | None = None) -> Iterator[Entry]:
        return stored_entries(self._store, session_id=session_id)

    def claim(self) -> None:
        """Make sure that this log is signed by our key, before anything is written to it.

        The first one to come signs the empty log. Raises ConfigError for a log of another key or origin, and
        StoreUnavailable.
        """
        self._tree.vouch()
        empty = self.key.sign(0, EMPTY_ROOT)
        with self._store.write() as connection:
            self._store.lock(connection, Lock.LOG)
            head = _head(connection)
            if head is None and never_used(connection):
                grown = self._tree.grown(Frontier(), [], _time_of(utc_now()), "")
                head = _set_head(connection, grown)
                self._keep(connection, empty)
            signed = connection.scalar(_LAST_NOTE)
        if head is None:
            raise StoreUnavailable("The log's signed head is not there.", NO_HEAD)
        try:
            open_note(signed or head.writer, self.key.verifier_key)
        except EvidenceError:
            raise ConfigError(
                "The log in the store is signed by another key, or under another origin.",
                "Give this gateway the audit.key_file and the audit.origin that the log began with.",
            ) from None
        self.follow()

    def adopt(self, tree: Frontier) -> None:
        """Sign for a log that has no head, such as one of an older Hoop, whose entries somebody has verified.

        Raises StoreUnavailable where there is a head, or where other entries came meanwhile.
        """
        with self._store.write() as connection:
            self._store.lock(connection, Lock.LOG)
            if _head(connection) is not None or connection.scalar(_COUNT) != tree.size:
                raise StoreUnavailable("The log has a signed head, or changes at this moment.")
            at = connection.scalar(_LAST_AT) or ""
            notes = connection.scalars(
                select(log_checkpoints.c.note).order_by(log_checkpoints.c.size)
            )
            checkpoints = reduce(chained, notes, "")
            head = _set_head(connection, self._tree.grown(tree, [], at, checkpoints))
        self._tree.became(tree, head)

    def checkpoint(self) -> Checkpoint:
        """Sign the tree as it stands now and keep the signed note in the store.

        Raises StoreUnavailable, also when another tree of this size was signed.
        """
        before = self._tree.last
        with self._store.read() as connection:
            tree, _ = self._tree.of(connection, _head(connection), most=sys.maxsize, last=before)
        signed = self.key.sign(tree.size, tree.root())  # perhaps in Vault: nobody waits for that
        with self._store.write() as connection:
            self._store.lock(connection, Lock.LOG)
            self._keep(connection, signed)
        self.signed, self._signed_at = signed, time.monotonic()
        return signed

    def checkpoint_unless_within(self, seconds: float) -> None:
        """Sign, unless this process has done so less than so many seconds ago, or nothing was written since.

        What the store says of that could be anybody's. Raises StoreUnavailable.
        """
        self.follow()
        if self.signed is not None:
            within = time.monotonic() - self._signed_at < seconds
            if within or self.signed.size == self.size:
                return
        self.checkpoint()

    def _keep(self, connection: Connection, signed: Checkpoint) -> None:
        known = connection.scalar(
            select(log_checkpoints.c.note).where(log_checkpoints.c.size == signed.size)
        )
        if known is None:
            row = {"size": signed.size, "note": signed.note, "signed_at": utc_now()}
            connection.execute(insert(log_checkpoints).values(**row))
            tree, last = self._tree.of(connection, _head(connection), most=sys.maxsize)
            checkpoints = chained(last.checkpoints, signed.note)
            _set_head(connection, self._tree.grown(tree, [], last.at, checkpoints))
        elif known != signed.note:
            # One key signs one tree in one way only (ed25519), so it was another tree or another key.
            raise StoreUnavailable(
                f"Another log of {signed.size} entries was signed before.", VERIFY
            )

    def checkpoints(self) -> list[str]:
        return stored_checkpoints(self._store)


def _head(connection: Connection) -> Head | None:
    row = connection.execute(_HEAD).one_or_none()
    return None if row is None else Head(*row)


def _set_head(connection: Connection, head: Head) -> Head:
    told = dataclasses.asdict(head)
    if connection.execute(update(log_head).values(**told)).rowcount == 0:
        connection.execute(insert(log_head).values(id=1, **told))
    return head


def _time_of(now: datetime) -> str:
    return now.isoformat(timespec="microseconds").replace("+00:00", "Z")
