"""What stands in which Required Action, and how far Hoop has followed it. Synchronous, short transactions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row as DbRow
from sqlalchemy import and_, delete, exists, insert, or_, select, update

from hoop_core.approvals.binding import digest
from hoop_core.audit.log import utc_now
from hoop_core.bridges.airflow.values import Place, Shown
from hoop_core.model import ApprovalStatus
from hoop_core.store import Store
from hoop_core.store.tables import airflow_action_approvals as links
from hoop_core.store.tables import airflow_actions as actions
from hoop_core.store.tables import approvals

_CLAIM = timedelta(seconds=60)
"""A look that takes longer than this has died with its process."""


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


def key_of(instance: str, place: Place) -> str:
    return digest({"instance": instance, **place.as_json()})


class Ledger:
    def __init__(self, store: Store) -> None:
        self._store = store

    def park(
        self,
        instance: str,
        place: Place,
        requester_key: str,
        identifiers: Sequence[str],
        shown: Shown,
        *,
        first_look: timedelta,
    ) -> Action:
        """Write down what is about to be shown. What was shown for the same requests stays as it is: Airflow does
        not let a task that is parked a second time show another text.
        """
        key, now = key_of(instance, place), utc_now()
        state = {
            "open": True,
            "parked_at": now,
            "waiting_since": None,
            "next_at": now + first_look,
            "failures": 0,
        }
        with self._store.write() as connection:
            known = connection.execute(select(actions).where(actions.c.key == key)).one_or_none()
            if known is not None and self._links(connection, key) == tuple(identifiers):
                connection.execute(update(actions).where(actions.c.key == key).values(**state))
            else:
                connection.execute(delete(actions).where(actions.c.key == key))
                connection.execute(delete(links).where(links.c.action == key))
                row = {"instance": instance, "place": place.as_json(), "shown": shown.as_json()}
                connection.execute(
                    insert(actions).values(key=key, requester_key=requester_key, **row, **state)
                )
                for position, identifier in enumerate(identifiers):
                    connection.execute(
                        insert(links).values(
                            action=key, approval=identifier, position=position, noticed=False
                        )
                    )
        found = self.get(key)
        if found is None:
            raise RuntimeError("what was just written is not there")
        return found

    def get(self, key: str) -> Action | None:
        with self._store.read() as connection:
            row = connection.execute(select(actions).where(actions.c.key == key)).one_or_none()
            return None if row is None else _action(row, self._links(connection, key))

    @staticmethod
    def _links(connection: Any, key: str) -> tuple[str, ...]:
        query = select(links.c.approval).where(links.c.action == key).order_by(links.c.position)
        return tuple(connection.scalars(query))

    def due(self, instance: str, most: int) -> list[str]:
        """Those to be looked at now, claimed for this process: their time has come, or one of their requests was
        decided and nobody has looked since."""
        now = utc_now()
        decided = exists(
            select(1)
            .select_from(links.join(approvals, approvals.c.id == links.c.approval))
            .where(links.c.action == actions.c.key)
            .where(links.c.noticed.is_(False))
            .where(approvals.c.status != ApprovalStatus.PENDING)
        )
        query = (
            select(actions.c.key, actions.c.next_at)
            .where(actions.c.instance == instance)
            .where(actions.c.open.is_(True))
            .where(or_(actions.c.next_at <= now, decided))
            .order_by(actions.c.next_at)
            .limit(most)
        )
        with self._store.read() as connection:
            found = connection.execute(query).all()
        mine = []
        for key, next_at in found:
            claim = (
                update(actions)
                .where(and_(actions.c.key == key, actions.c.next_at == next_at))
                .values(next_at=now + _CLAIM)
            )
            with self._store.write() as connection:
                if connection.execute(claim).rowcount == 1:
                    mine.append(key)
        return mine

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
