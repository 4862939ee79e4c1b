"""What stands in which Required Action, and how far Hoop has followed it. Synchronous, short transactions.

A place is the client's word, so several identities may name the same one. Their actions stand beside each other
under keys of their own; which of them counts there is seen in Airflow, by the text.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    delete,
    distinct,
    exists,
    func,
    insert,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy import Row as DbRow

from hoop_core.approvals.binding import digest
from hoop_core.audit.log import utc_now
from hoop_core.bridges.airflow.values import Place, Shown
from hoop_core.http import BadRequest
from hoop_core.model import ApprovalStatus, Identity
from hoop_core.store import Store
from hoop_core.store.tables import airflow_action_approvals as links
from hoop_core.store.tables import airflow_actions as actions
from hoop_core.store.tables import approvals

_CLAIM = timedelta(seconds=60)
"""A look that takes longer than this has died with its process."""
_HALF = 32
"""Hexadecimal digits of a key that say whose it is and where; as many say what is shown."""
MOST_OPEN = 1000
"""Open actions of one requester, who has 200 requests waiting at most."""
MOST_PLACES = 4
"""Tasks that show one request: its own, and sensors that ask for it."""
MOST_THERE = 4
"""Open actions of one owner at one task."""
_MOST_READ = 20


@dataclass(frozen=True, slots=True)
class Action:
    """A Required Action as the store has it."""

    key: str
    instance: str
    place: Place
    requester_key: str
    shown: Shown
    approvals: tuple[str, ...]
    open: bool
    parked_at: datetime
    waiting_since: datetime | None
    seen: str | None
    said: str | None
    failures: int


@dataclass(frozen=True, slots=True)
class Owner:
    """Who shows something where."""

    instance: str
    place: Place
    requester_key: str
    actors: tuple[str, ...]

    @classmethod
    def of(cls, instance: str, place: Place, caller: Identity) -> Owner:
        return cls(instance, place, caller.key, caller.actors)

    @property
    def prefix(self) -> str:
        """Of the keys of all its actions."""
        who = {"requester": self.requester_key, "actors": list(self.actors)}
        return digest({"instance": self.instance, **self.place.as_json(), **who})[:_HALF]

    def key(self, shown: Shown) -> str:
        return self.prefix + shown.digest[:_HALF]


class Ledger:
    def __init__(self, store: Store) -> None:
        self._store = store

    def known(self, owner: Owner, identifiers: Sequence[str]) -> Action | None:
        """What this owner has shown for just these requests: it is shown again, as Airflow does not let a task that
        is parked a second time show another text.
        """
        return next((a for a in self.of(owner) if a.approvals == tuple(identifiers)), None)

    def of(self, owner: Owner) -> list[Action]:
        """What this owner has shown there, the newest first."""
        return self._all(owner.prefix)

    def beside(self, action: Action) -> list[Action]:
        """What its owner has shown at its task besides it."""
        return [a for a in self._all(action.key[:_HALF]) if a.key != action.key]

    def _all(self, prefix: str) -> list[Action]:
        query = select(actions).where(_begins(prefix)).order_by(actions.c.parked_at.desc())
        with self._store.read() as connection:
            rows = connection.execute(query.limit(_MOST_READ)).all()
            return [_action(row, self._links(connection, row.key)) for row in rows]

    def park(
        self, owner: Owner, identifiers: Sequence[str], shown: Shown, *, first_look: timedelta
    ) -> Action:
        """Write down what is about to be shown. Raises BadRequest for what is shown in too many places."""
        key, now = owner.key(shown), utc_now()
        state = {
            "open": True,
            "parked_at": now,
            "waiting_since": None,
            "next_at": now + first_look,
            "failures": 0,
        }
        with self._store.write() as connection:
            known = update(actions).where(actions.c.key == key).values(**state)
            if connection.execute(known).rowcount != 1:
                self._check_room(connection, owner, identifiers)
                row = {"place": owner.place.as_json(), "shown": shown.as_json()}
                connection.execute(
                    insert(actions).values(
                        key=key,
                        instance=owner.instance,
                        requester_key=owner.requester_key,
                        **row,
                        **state,
                    )
                )
                connection.execute(
                    insert(links),
                    [
                        {"action": key, "approval": a, "position": i, "noticed": False}
                        for i, a in enumerate(identifiers)
                    ],
                )
                self._close_oldest(connection, owner)
        found = self.get(key)
        if found is None:
            raise RuntimeError("what was just written is not there")
        return found

    def _check_room(self, connection: Connection, owner: Owner, identifiers: Sequence[str]) -> None:
        """Each that is open is looked at in Airflow now and then. Raises BadRequest."""
        mine = select(func.count()).select_from(actions).where(actions.c.open.is_(True))
        mine = mine.where(actions.c.requester_key == owner.requester_key)
        if (connection.scalar(mine) or 0) >= MOST_OPEN:
            raise BadRequest(
                f"You show {MOST_OPEN} Required Actions already, which is the limit.",
                "Wait until some are answered.",
                reason="TOO_MANY_ACTIONS",
            )
        place = func.substr(links.c.action, 1, _HALF)
        shown = (
            select(links.c.approval)
            .select_from(links.join(actions, actions.c.key == links.c.action))
            .where(links.c.approval.in_(identifiers))
            .where(actions.c.open.is_(True))
            .where(not_(_begins(owner.prefix)))
            .group_by(links.c.approval)
            .having(func.count(distinct(place)) >= MOST_PLACES)
        )
        if full := connection.scalars(shown).first():
            raise BadRequest(
                f"{full} is shown at {MOST_PLACES} tasks already, which is the limit.",
                "Show a request where its task waits, and nowhere else.",
            )

    @staticmethod
    def _close_oldest(connection: Connection, owner: Owner) -> None:
        """A task shows one text at a time; others are of its earlier tries."""
        mine = select(actions.c.key).where(_begins(owner.prefix)).where(actions.c.open.is_(True))
        newest = mine.order_by(actions.c.parked_at.desc())
        old = list(connection.scalars(newest))[MOST_THERE:]
        connection.execute(update(actions).where(actions.c.key.in_(old)).values(open=False))

    def get(self, key: str) -> Action | None:
        with self._store.read() as connection:
            row = connection.execute(select(actions).where(actions.c.key == key)).one_or_none()
            return None if row is None else _action(row, self._links(connection, key))

    @staticmethod
    def _links(connection: Any, key: str) -> tuple[str, ...]:
        query = select(links.c.approval).where(links.c.action == key).order_by(links.c.position)
        return tuple(connection.scalars(query))

    def due(self, instance: str, most: int) -> list[str]:
        """Those to be looked at now, claimed for this process: those first of which a request was decided, so that
        nobody's many others keep a task waiting, then those whose time has come."""
        now = utc_now()
        decided = (
            select(1)
            .select_from(links.join(approvals, approvals.c.id == links.c.approval))
            .where(links.c.action == actions.c.key)
            .where(approvals.c.status != ApprovalStatus.PENDING)
        )
        late = actions.c.next_at <= now
        unnoticed = exists(decided.where(links.c.noticed.is_(False)))
        with self._store.read() as connection:
            found = self._waiting(
                connection, instance, or_(unnoticed, late & exists(decided)), most
            )
            if len(found) < most:
                found |= self._waiting(connection, instance, late, most)
        return [k for k, next_at in list(found.items())[:most] if self._claimed(k, next_at, now)]

    @staticmethod
    def _waiting(
        connection: Connection, instance: str, which: ColumnElement[bool], most: int
    ) -> dict[str, datetime]:
        query = (
            select(actions.c.key, actions.c.next_at)
            .where(actions.c.instance == instance)
            .where(actions.c.open.is_(True))
            .where(which)
            .order_by(actions.c.next_at)
            .limit(most)
        )
        return {row.key: row.next_at for row in connection.execute(query)}

    def _claimed(self, key: str, next_at: datetime, now: datetime) -> bool:
        claim = (
            update(actions)
            .where(and_(actions.c.key == key, actions.c.next_at == next_at))
            .values(next_at=now + _CLAIM)
        )
        with self._store.write() as connection:
            return connection.execute(claim).rowcount == 1

    def elsewhere(self, action: Action) -> bool:
        """Whether one of its requests is shown by another action, too."""
        query = (
            select(links.c.approval)
            .select_from(links.join(actions, actions.c.key == links.c.action))
            .where(links.c.approval.in_(action.approvals))
            .where(actions.c.open.is_(True))
            .where(actions.c.key != action.key)
            .limit(1)
        )
        with self._store.read() as connection:
            return connection.scalar(query) is not None

    def notice(self, key: str, decided: Collection[str]) -> None:
        """These requests were seen decided: what follows from that goes by the action's own time."""
        if not decided:
            return
        query = update(links).where(links.c.action == key).where(links.c.approval.in_(decided))
        with self._store.write() as connection:
            connection.execute(query.where(links.c.noticed.is_(False)).values(noticed=True))

    def saw(self, action: Action, seen: str, said: str) -> None:
        """An answer was read, and this came of it."""
        self._set(action, seen=seen, said=said)

    def later(self, action: Action, wait: timedelta, **values: Any) -> None:
        self._set(action, next_at=utc_now() + wait, **values)

    def close(self, action: Action) -> None:
        self._set(action, open=False)

    def forget(self, age: timedelta) -> None:
        """What has ended so long ago is in the log."""
        old = (actions.c.open.is_(False)) & (actions.c.parked_at < utc_now() - age)
        with self._store.write() as connection:
            gone = select(actions.c.key).where(old)
            connection.execute(delete(links).where(links.c.action.in_(gone)))
            connection.execute(delete(actions).where(old))

    def _set(self, action: Action, **values: Any) -> None:
        """Nothing, if the task was parked anew meanwhile."""
        query = (
            update(actions)
            .where(actions.c.key == action.key)
            .where(actions.c.parked_at == action.parked_at)
        )
        with self._store.write() as connection:
            connection.execute(query.values(**values))


def _begins(prefix: str) -> ColumnElement[bool]:
    """Keys that begin with it: hexadecimal digits stand before `g` in every collation."""
    return actions.c.key.between(prefix, prefix + "g")


def _action(row: DbRow[Any], identifiers: tuple[str, ...]) -> Action:
    return Action(
        key=row.key,
        instance=row.instance,
        place=Place.of(row.place),
        requester_key=row.requester_key,
        shown=Shown.of(row.shown),
        approvals=identifiers,
        open=row.open,
        parked_at=row.parked_at,
        waiting_since=row.waiting_since,
        seen=row.seen,
        said=row.said,
        failures=row.failures,
    )
