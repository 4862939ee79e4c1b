"""How far each follower of the log has come. The replica that works for one holds its lease meanwhile.

A crash between a message and its cursor sends it once more, with the same id: at least once, in order.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, TextClause, case, func, insert, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from hoop_core.audit.log import AuditLog
from hoop_core.model import Json
from hoop_core.store import Store
from hoop_core.store.tables import log_entries, notification_cursors

_PAGE = 100
_LONGEST_PAUSE = 300.0
_c = notification_cursors.c


@dataclass(frozen=True, slots=True)
class Cursor:
    """`seq` is the last entry that is done with; `tries` counts those of the next one."""

    seq: int
    tries: int
    next_at: datetime | None


def pause(tries: int) -> float:
    """Seconds before the next try: doubling, up to five minutes, and never the same for all followers."""
    longest = min(2.0 ** min(tries + 1, 12), _LONGEST_PAUSE)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - no secret hangs on it


class LeaseLost(Exception):
    """Another replica took the channel meanwhile: this one was held up for too long."""


class Cursors:
    """Synchronous; each method is one short transaction. Raises StoreUnavailable."""

    def __init__(
        self,
        store: Store,
        log: AuditLog,
        *,
        owner: str,
        failed: str,
        only: TextClause | None = None,
        kinds: Collection[str] = (),
        page: int = _PAGE,
    ) -> None:
        """`failed` is what the entry about something given up is called. `only` tells which entries are read at
        all; without it every entry is passed, and of `kinds` the text is read.
        """
        self._store, self._log, self._owner = store, log, owner
        self._failed, self._only, self._kinds, self._page = failed, only, kinds, page

    def begin(self, channels: Sequence[str]) -> None:
        """Channels that were not there before start at the log's present end."""
        with self._store.read() as connection:
            known = set(connection.scalars(select(_c.channel)))
        for channel in channels:
            if channel in known:
                continue
            with self._store.write() as connection:
                there = select(_c.channel).where(_c.channel == channel)
                if connection.scalar(there) is not None:
                    continue
                last = connection.scalar(select(func.max(log_entries.c.seq)))
                seq = -1 if last is None else last
                connection.execute(insert(notification_cursors).values(channel=channel, seq=seq))

    def news(self, channel: str) -> tuple[Cursor | None, Sequence[Row[Any]]]:
        """Where the channel is, when it may be worked on now, and the entries after that. Changes nothing."""
        with self._store.read() as connection:
            row = connection.execute(self._free(connection, channel)).one_or_none()
            if row is None:
                return None, ()
            rows = connection.execute(
                self._read.where(log_entries.c.seq > row.seq)
                .order_by(log_entries.c.seq)
                .limit(self._page)
            ).all()
        return Cursor(row.seq, row.tries, row.next_at), rows

    @property
    def _read(self) -> Any:
        e = log_entries.c
        if self._only is not None:
            return select(e.seq, e.kind, e.entry, e.at).where(self._only)
        wanted = case((e.kind.in_(self._kinds), e.entry), else_="").label("entry")
        return select(e.seq, e.kind, wanted, e.at)

    def claim(self, channel: str, at: Cursor, seconds: float) -> bool:
        """Take the channel for so long, where it still is `at`."""
        with self._store.write() as connection:
            now = self._store.now(connection)
            taken = connection.execute(
                update(notification_cursors)
                .where(_c.channel == channel, _c.seq == at.seq, _c.tries == at.tries)
                .where(self._unclaimed(now))
                .values(owner=self._owner, claimed_until=now + timedelta(seconds=seconds))
            )
        return taken.rowcount == 1

    def advance(self, channel: str, seq: int) -> None:
        """Everything up to `seq` is done with. Raises LeaseLost."""
        with self._store.write() as connection:
            self._moved(connection, channel, seq)

    def give_up(self, channel: str, seq: int, entry: Json) -> None:
        """Put on record that one message is not sent, and go on behind it. Raises LeaseLost."""

        def write(connection: Connection) -> Json:
            self._moved(connection, channel, seq)
            return entry

        self._log.append(self._failed, write)

    def failed(
        self, channel: str, why: str, pause_seconds: float, *, done: int | None = None
    ) -> None:
        """Try the next message again after a pause, here or on another replica; `done` are those up to there that
        went out before it. Raises LeaseLost.
        """
        moved: dict[str, Any] = {"tries": _c.tries + 1}
        if done is not None:
            moved = {"seq": done, "tries": 1}
        with self._store.write() as connection:
            next_at = self._store.now(connection) + timedelta(seconds=pause_seconds)
            self._change(connection, channel, next_at=next_at, last_error=why, **moved)

    def _moved(self, connection: Connection, channel: str, seq: int) -> None:
        self._change(connection, channel, seq=seq, tries=0, next_at=None, last_error=None)

    def _change(self, connection: Connection, channel: str, **values: Any) -> None:
        changed = connection.execute(
            update(notification_cursors)
            .where(_c.channel == channel, _c.owner == self._owner)
            .values(owner=None, claimed_until=None, **values)
        )
        if changed.rowcount != 1:
            raise LeaseLost

    def _free(self, connection: Connection, channel: str) -> Any:
        now = self._store.now(connection)
        return (
            select(notification_cursors)
            .where(_c.channel == channel)
            .where(or_(_c.next_at.is_(None), _c.next_at <= now))
            .where(self._unclaimed(now))
        )

    def _unclaimed(self, now: datetime) -> ColumnElement[bool]:
        # An own claim is left of a send that broke off inside this process.
        return or_(_c.owner.is_(None), _c.owner == self._owner, _c.claimed_until <= now)
