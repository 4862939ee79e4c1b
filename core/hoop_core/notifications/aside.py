"""Approvals of which a message failed, set aside so that it holds up no other's.

Each has a cursor of its own beside its channel's, which follows that approval only, in order. The channel's cursor
goes on meanwhile and leaves the approval to it. When the own cursor has caught up it is removed, while nobody works
for the channel: so no entry is passed by both.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import ColumnElement, delete, exists, func, insert, or_, select, update

from hoop_core.audit.cursors import LeaseLost
from hoop_core.store import Store
from hoop_core.store.tables import TOLD_OF, log_entries, notification_cursors

MOST = 8
"""Of one channel. Where more fail the service is down, and the channel waits as a whole."""
_c = notification_cursors.c


def name_of(channel: str, group: str) -> str:
    """Of a group's own cursor; no channel's name has a space in it."""
    return f"{channel} {group}"


class Aside:
    """Synchronous; each method is one short transaction. Raises StoreUnavailable."""

    def __init__(self, store: Store, *, owner: str) -> None:
        self._store, self._owner = store, owner

    def groups(self, channel: str) -> frozenset[str]:
        """Those set aside. Whoever asks holds the channel's lease, or what it is told may be over."""
        with self._store.read() as connection:
            found = connection.scalars(select(_c.channel).where(_of(channel)))
            return frozenset(name.removeprefix(f"{channel} ") for name in found)

    def put(self, channel: str, group: str, seq: int, why: str, pause_seconds: float) -> bool:
        """Go on behind `seq`, and leave it and what follows of its group to a cursor of its own; False: there are
        too many already. Raises LeaseLost.
        """
        with self._store.write() as connection:
            many = select(func.count()).select_from(notification_cursors).where(_of(channel))
            if (connection.scalar(many) or 0) >= MOST:
                return False
            moved = connection.execute(
                update(notification_cursors)
                .where(_c.channel == channel, _c.owner == self._owner)
                .values(
                    owner=None,
                    claimed_until=None,
                    seq=seq,
                    tries=0,
                    next_at=None,
                    last_error=None,
                )
            )
            if moved.rowcount != 1:
                raise LeaseLost
            next_at = self._store.now(connection) + timedelta(seconds=pause_seconds)
            connection.execute(
                insert(notification_cursors).values(
                    channel=name_of(channel, group),
                    seq=seq - 1,
                    tries=1,
                    next_at=next_at,
                    last_error=why,
                )
            )
        return True

    def due(self, channel: str) -> str | None:
        """The group whose next try has waited longest."""
        with self._store.read() as connection:
            now = self._store.now(connection)
            query = (
                select(_c.channel)
                .where(_of(channel))
                .where(or_(_c.next_at.is_(None), _c.next_at <= now))
                .where(or_(_c.owner.is_(None), _c.owner == self._owner, _c.claimed_until <= now))
                .order_by(_c.next_at)
                .limit(1)
            )
            name = connection.scalar(query)
        return None if name is None else str(name).removeprefix(f"{channel} ")

    def reached(self, channel: str) -> int:
        """How far the channel itself is: no group goes beyond that."""
        return self._read(channel)[0]

    def is_down(self, channel: str) -> bool:
        """Whether so many are set aside that the channel waits itself: then it is not the messages."""
        return self._read(channel)[1] > 0

    def close(self, channel: str, group: str) -> bool:
        """Remove a group's cursor that has caught up; False: it has not, or somebody works for the channel now."""
        with self._store.write() as connection:
            now = self._store.now(connection)
            row = connection.execute(
                select(_c.seq, _c.owner, _c.claimed_until)
                .where(_c.channel == channel)
                .with_for_update()
            ).one_or_none()
            if row is None:
                return False
            if row.owner not in {None, self._owner} and row.claimed_until > now:
                return False
            # whoever was held up with it must not go on with what it knew of groups
            free = update(notification_cursors).where(_c.channel == channel)
            connection.execute(free.values(owner=None, claimed_until=None))
            own = _c.channel == name_of(channel, group)
            behind = (
                select(log_entries.c.seq)
                .where(TOLD_OF)
                .where(log_entries.c.seq > _c.seq, log_entries.c.seq <= row.seq)
            )
            gone = delete(notification_cursors).where(own).where(~exists(behind))
            return connection.execute(gone).rowcount == 1

    def _read(self, channel: str) -> tuple[int, int]:
        with self._store.read() as connection:
            query = select(_c.seq, _c.tries).where(_c.channel == channel)
            row = connection.execute(query).one_or_none()
            return (-1, 0) if row is None else (row.seq, row.tries)


def _of(channel: str) -> ColumnElement[bool]:
    """All cursors set aside for a channel; LIKE would take the _ of its name for any character."""
    return func.substr(_c.channel, 1, len(channel) + 1) == f"{channel} "
