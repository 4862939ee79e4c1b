"""The append-only log. `append` returns a durable sequence number or raises; there is no third way.

An entry is one canonical JSON object (RFC 8785): {"seq", "at", "kind", "session", "data"}. Its leaf
hash (RFC 6962) is stored beside it, and signed checkpoints commit to all leaves before them. The
sequence is gap-free because the next number is read under the same write lock that inserts it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import rfc8785
from sqlalchemy import Connection, func, insert, select

from hoop_core.audit import merkle
from hoop_core.audit.checkpoint import Checkpoint, LogKey
from hoop_core.errors import StoreUnavailable
from hoop_core.model import Json
from hoop_core.store import Store
from hoop_core.store.tables import log_checkpoints, log_entries


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the log as it is stored: `text` is exactly what the leaf hash covers."""

    seq: int
    kind: str
    session_id: str | None
    text: str
    leaf: bytes


def encodable(value: Any) -> Any:
    """`value` with what canonical JSON cannot hold written out: lone surrogates, huge numbers."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {encodable(str(k)): encodable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [encodable(v) for v in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 2**53 - 1:
        return str(value)
    return value


def utc_now() -> datetime:
    return datetime.now(UTC)


class AuditLog:
    """The one writer's view of the log; several may work on the same store."""

    def __init__(self, store: Store, key: LogKey) -> None:
        self._store = store
        self.key = key
        self._lock = threading.Lock()
        self._frontier = merkle.Frontier()

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
        with self._store.write() as connection:
            content = data(connection) if callable(data) else data
            last = connection.scalar(select(func.max(log_entries.c.seq)))
            seq = 0 if last is None else last + 1
            text = rfc8785.dumps(
                {
                    "seq": seq,
                    "at": utc_now().isoformat(timespec="microseconds").replace("+00:00", "Z"),
                    "kind": kind,
                    "session": session_id,
                    "data": encodable(content),
                }
            )
            leaf = merkle.leaf_hash(text)
            connection.execute(
                insert(log_entries).values(
                    seq=seq, kind=kind, session_id=session_id, entry=text.decode(), leaf=leaf
                )
            )
        return seq

    def entries(self, *, session_id: str | None = None) -> Iterator[Entry]:
        return stored_entries(self._store, session_id=session_id)

    def checkpoint(self) -> Checkpoint:
        """Sign the tree as it stands now and keep the signed note in the store."""
        with self._lock:
            self._catch_up()
            signed = self.key.sign(self._frontier.size, self._frontier.root())
        with self._store.write() as connection:
            known = connection.scalar(
                select(log_checkpoints.c.note).where(log_checkpoints.c.size == signed.size)
            )
            if known is None:
                connection.execute(
                    insert(log_checkpoints).values(
                        size=signed.size, note=signed.note, signed_at=utc_now()
                    )
                )
        return signed

    def _catch_up(self) -> None:
        query = select(log_entries.c.seq, log_entries.c.leaf).order_by(log_entries.c.seq)
        with self._store.read() as connection:
            rows = connection.execute(query.where(log_entries.c.seq >= self._frontier.size))
            for row in rows:
                if row.seq != self._frontier.size:
                    raise StoreUnavailable(
                        f"The log has a gap before entry {row.seq}.",
                        "Run `hoop audit verify` on the store; do not write to it any more.",
                    )
                self._frontier.append(bytes(row.leaf))

    def checkpoints(self) -> list[str]:
        return stored_checkpoints(self._store)


def stored_entries(store: Store, *, session_id: str | None = None) -> Iterator[Entry]:
    """The stored entries in order, read in pages so that memory stays flat."""
    page, start = 2000, 0
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
