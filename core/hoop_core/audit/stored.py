"""What the store holds of the log, read without a lock: for those who show, prove and check it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select, text

from hoop_core.store import Store
from hoop_core.store.tables import log_checkpoints, log_entries

_PAGE = 2000
_PAGE_SHOWN = 200
"""For those who stop when they have seen enough: entries can be long."""
Source = Connection | sqlite3.Cursor
"""A transaction, with SQLAlchemy or without its layers."""
_LEAVES = "SELECT leaf FROM log_entries WHERE seq >= :begin AND seq < :end ORDER BY seq"
_ANYTHING = ("SELECT 1 FROM log_entries LIMIT 1",
             "SELECT 1 FROM log_checkpoints WHERE size > 0 LIMIT 1")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the log as it is stored: `text` is exactly what the leaf hash covers."""

    seq: int
    kind: str
    session_id: str | None
    text: str
    """Empty where its time to be kept is over."""
    leaf: bytes
    at: str
    """RFC 3339, UTC, microseconds."""


def never_used(source: Source) -> bool:
    """Whether there never was an entry in this store."""
    return not any(fetched(source, query) for query in _ANYTHING)


def leaves(source: Source, begin: int, end: int) -> Iterator[bytes]:
    """The leaves [begin, end), as far as they are there without a gap."""
    while begin < end:
        until = min(begin + _PAGE, end)
        found = fetched(source, _LEAVES, begin=begin, end=until)
        yield from (bytes(leaf) for (leaf,) in found)
        if len(found) < until - begin:
            return
        begin = until


def fetched(source: Source, query: str, **values: Any) -> Sequence[Any]:
    if isinstance(source, Connection):
        return source.execute(text(query), values).all()
    return source.execute(query, values).fetchall()


def stored_entries(
    store: Store, *, session_id: str | None = None, first: int = 0
) -> Iterator[Entry]:
    """The stored entries from `first` on in order, read in pages so that memory stays flat."""
    start, page = first, _PAGE if session_id is None else _PAGE_SHOWN
    while True:
        query = select(log_entries).where(log_entries.c.seq >= start)
        if session_id is not None:
            query = query.where(log_entries.c.session_id == session_id)
        with store.read() as connection:
            rows = connection.execute(query.order_by(log_entries.c.seq).limit(page)).all()
        for row in rows:
            yield Entry(row.seq, row.kind, row.session_id, row.entry, bytes(row.leaf), row.at)
        if len(rows) < page:
            return
        start = rows[-1].seq + 1


def store_has_entries(store: Store) -> bool:
    with store.read() as connection:
        return connection.scalar(select(log_entries.c.seq).limit(1)) is not None


def stored_checkpoints(store: Store) -> list[str]:
    """Every signed tree head, smallest tree first."""
    with store.read() as connection:
        return stored_checkpoints_in(connection)


def stored_checkpoints_in(connection: Connection) -> list[str]:
    query = select(log_checkpoints.c.note).order_by(log_checkpoints.c.size)
    return list(connection.scalars(query))


def bounds(store: Store, begin: str | None, end: str | None) -> tuple[int, int]:
    """The numbers [first, last + 1) of the entries of a time: from `begin` on and before `end` (RFC 3339 UTC as in
    the entries; None: from the first, up to the last). Times go up with the numbers.
    """
    with store.read() as connection:
        last = connection.scalar(select(func.max(log_entries.c.seq)))
        size = 0 if last is None else last + 1
        return (
            0 if begin is None else _first_at(connection, size, begin),
            size if end is None else _first_at(connection, size, end),
        )


def _first_at(connection: Connection, size: int, time: str) -> int:
    """The first entry that is not before `time`; `size` if there is none."""
    low, high = 0, size
    while low < high:
        middle = (low + high) // 2
        # The column is not vouched for; a pruned entry has no other time than those around it.
        there = select(log_entries.c.seq, log_entries.c.entry).where(log_entries.c.entry != "")
        row = connection.execute(
            there.where(log_entries.c.seq >= middle).order_by(log_entries.c.seq).limit(1)
        ).one_or_none()
        if row is None or row.seq >= high:
            high = middle
        elif json.loads(row.entry)["at"] < time:
            low = row.seq + 1
        else:
            high = middle
    return low


def unpruned_borders(store: Store, first: int, end: int, size: int) -> tuple[int, int]:
    """A period and the pruned entries around it, of which nobody can tell whether they belong to it."""
    with store.read() as connection:
        there = log_entries.c.entry != ""
        before = connection.scalar(
            select(func.max(log_entries.c.seq)).where(there, log_entries.c.seq < first)
        )
        after = connection.scalar(
            select(func.min(log_entries.c.seq)).where(there, log_entries.c.seq >= end)
        )
    return 0 if before is None else before + 1, size if after is None else min(after, size)
