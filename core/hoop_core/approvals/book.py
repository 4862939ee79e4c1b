"""What is read of questions and answers: one by one, as lists, and by what is due.

What is late counts as expired from that moment on, also where its row does not say so yet: `now` is when it is read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    Row,
    Select,
    Text,
    and_,
    cast,
    exists,
    false,
    func,
    or_,
    select,
)

from hoop_core.approvals.approval import OPEN, Approval, NoSuchApproval
from hoop_core.model import ApprovalStatus, Identity, Json
from hoop_core.store.tables import answers, approvals

_AT_ONCE = 500
"""Ids in one query."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which questions a list is to have; what is None does not matter."""

    status: ApprovalStatus | None = None
    standing: bool | None = None
    """Standing grants only, or those for one use only."""
    kind: str | None = None
    seen_by: Identity | None = None
    """What this person asked for, or may answer."""
    asked_by: Identity | None = None
    undecided_by: Identity | None = None
    """What waits for this person's answer."""
    decided: bool = False
    """What does not wait for an answer any more."""
    review_open: bool = False
    run: Mapping[str, str] | None = None
    """Fields of the run."""
    before: tuple[datetime, str] | None = None
    """Where the list before this one ended: `created_at` and `id` of its last."""
    limit: int = 200

    @property
    def oldest_first(self) -> bool:
        """Of those that wait for an answer none is to be forgotten."""
        return self.status is ApprovalStatus.PENDING or self.undecided_by is not None


def load(
    connection: Connection, identifier: str, now: datetime, *, to_change: bool = False
) -> Approval:
    """Nobody else changes what is loaded `to_change` before the transaction ends. Raises NoSuchApproval."""
    query = select(approvals).where(approvals.c.id == identifier)
    row = connection.execute(query.with_for_update() if to_change else query).one_or_none()
    if row is None:
        raise NoSuchApproval(
            f"There is no approval {identifier!r}.", "List them with `hoop approvals list`."
        )
    return with_answers(connection, [row], now)[0]


def open_one(connection: Connection, binding: str, now: datetime) -> Approval | None:
    """It may be one that is late: then it stands in the way of another until it is closed."""
    row = connection.execute(
        select(approvals).where(approvals.c.binding == binding).where(approvals.c.status.in_(OPEN))
    ).one_or_none()
    return None if row is None else with_answers(connection, [row], now)[0]


def found(connection: Connection, wanted: Wanted, now: datetime) -> list[Approval]:
    """The newest first; of those that wait for an answer the oldest. All filters count before the limit."""
    dialect = connection.dialect.name
    created, identifier = approvals.c.created_at, approvals.c.id
    oldest = wanted.oldest_first
    order = (created.asc(), identifier.asc()) if oldest else (created.desc(), identifier.desc())
    query = select(approvals).order_by(*order).limit(wanted.limit)
    for condition in _conditions(wanted, dialect, now):
        query = query.where(condition)
    if wanted.before is not None:
        at, last = wanted.before
        beyond = created > at if oldest else created < at
        same = identifier > last if oldest else identifier < last
        query = query.where(or_(beyond, and_(created == at, same)))
    return with_answers(connection, connection.execute(query).all(), now)


def count(connection: Connection, wanted: Wanted, now: datetime) -> int:
    """How many there are, without a limit."""
    query = select(func.count()).select_from(approvals)
    for condition in _conditions(wanted, connection.dialect.name, now):
        query = query.where(condition)
    return connection.scalar(query) or 0


def statuses(
    connection: Connection, identifiers: Iterable[str], now: datetime
) -> dict[str, ApprovalStatus]:
    """The current status of many questions, for those who wait."""
    known: dict[str, ApprovalStatus] = {}
    columns = (approvals.c.id, approvals.c.status, approvals.c.pending_until)
    for some in _batches(identifiers):
        query = select(*columns, approvals.c.valid_until).where(approvals.c.id.in_(some))
        known |= {r.id: _status(r, now) for r in connection.execute(query)}
    return known


def due(
    connection: Connection, now: datetime, most: int, *, only: str | None = None
) -> Sequence[str]:
    """Ids of what nobody answered, or nobody used, in time: the oldest, or `only` this one."""
    query = select(approvals.c.id).where(late(now)).order_by(approvals.c.created_at)
    if only is not None:
        query = query.where(approvals.c.id == only)
    return connection.scalars(query.limit(most)).all()


def late(now: datetime) -> ColumnElement[bool]:
    """Rows that are open, but not in time any more: `_status` of rows."""
    return or_(
        (approvals.c.status == ApprovalStatus.PENDING) & (approvals.c.pending_until <= now),
        (approvals.c.status == ApprovalStatus.APPROVED) & (approvals.c.valid_until <= now),
    )


def _status(row: Row[Any], now: datetime) -> ApprovalStatus:
    """`late` for one row that was read."""
    status = ApprovalStatus(row.status)
    until = row.pending_until if status is ApprovalStatus.PENDING else row.valid_until
    over = status in OPEN and until is not None and until <= now
    return ApprovalStatus.EXPIRED if over else status


def _stands_as(status: ApprovalStatus, now: datetime) -> ColumnElement[bool]:
    """`_status` of rows is this one."""
    stored = approvals.c.status == status
    match status:
        case ApprovalStatus.PENDING:
            return stored & (approvals.c.pending_until > now)
        case ApprovalStatus.APPROVED:
            return stored & (approvals.c.valid_until > now)
        case ApprovalStatus.EXPIRED:
            return or_(stored, late(now))
        case _:
            return stored


def holding(identifiers: Collection[str], now: datetime) -> Select[tuple[str]]:
    """Those of the standing grants that hold."""
    return (
        select(approvals.c.id)
        .where(approvals.c.id.in_(identifiers))
        .where(approvals.c.scope.is_not(None))
        .where(approvals.c.status == ApprovalStatus.APPROVED)
        .where(approvals.c.valid_until > now)
    )


def with_answers(connection: Connection, rows: Sequence[Row[Any]], now: datetime) -> list[Approval]:
    given: defaultdict[str, list[Json]] = defaultdict(list)
    for some in _batches(r.id for r in rows):
        query = select(answers).where(answers.c.approval_id.in_(some)).order_by(answers.c.id)
        for a in connection.execute(query):
            answer = {
                "approver": a.approver,
                "verdict": a.verdict,
                "reason": a.reason,
                "at": a.answered_at.isoformat(),
            }
            given[a.approval_id].append(answer)
    return [_approval(row, tuple(given[row.id]), now) for row in rows]


def _approval(row: Row[Any], given: tuple[Json, ...], now: datetime) -> Approval:
    return Approval(
        id=row.id,
        binding=row.binding,
        scope=row.scope,
        requester_key=row.requester_key,
        status=_status(row, now),
        approvers=tuple(row.approvers),
        quorum=row.quorum,
        body=row.body,
        answers=given,
        created_at=row.created_at,
        pending_until=row.pending_until,
        valid_until=row.valid_until,
        consumed_at=row.consumed_at,
        revocation=row.revocation,
        impact=row.impact,
        break_glass=row.break_glass,
        emergency=row.emergency,
        review_open=row.review_open,
        uses=row.uses,
    )


def _batches(identifiers: Iterable[str]) -> Iterator[list[str]]:
    every = list(identifiers)
    for start in range(0, len(every), _AT_ONCE):
        yield every[start : start + _AT_ONCE]


def _conditions(wanted: Wanted, dialect: str, now: datetime) -> list[ColumnElement[bool]]:
    columns = approvals.c
    given: list[ColumnElement[bool]] = []
    if wanted.status is not None:
        given.append(_stands_as(wanted.status, now))
    if wanted.decided:
        given.append(~_stands_as(ApprovalStatus.PENDING, now))
    if wanted.standing is not None:
        scope = columns.scope
        given.append(scope.is_not(None) if wanted.standing else scope.is_(None))
    if wanted.kind is not None:
        given.append(columns.kind == wanted.kind)
    if wanted.review_open:
        given.append(columns.review_open.is_(True))
    for key, value in (wanted.run or {}).items():
        given.append(_body(dialect)["run", "fields", key].as_string() == value)
    if wanted.asked_by is not None:
        given.append(columns.requester_key == wanted.asked_by.key)
    if wanted.seen_by is not None:
        own = columns.requester_key == wanted.seen_by.key
        # what acts for somebody is not called upon to answer by their groups
        groups = () if wanted.seen_by.actors else wanted.seen_by.groups
        glass = _one_of(groups, dialect, columns.break_glass["groups"])
        given.append(or_(own, _one_of(groups, dialect, columns.approvers), glass))
    if wanted.undecided_by is not None:
        given += _waits_for(wanted.undecided_by, dialect, now)
    return given


def _waits_for(who: Identity, dialect: str, now: datetime) -> list[ColumnElement[bool]]:
    """Pending, to be answered by a group of theirs, and neither asked nor answered by them."""
    if who.actors:
        return [false()]  # an answer has to come from the person
    answered = exists(
        select(1)
        .where(answers.c.approval_id == approvals.c.id)
        .where(answers.c.approver_key == who.key)
    )
    return [
        _stands_as(ApprovalStatus.PENDING, now),
        approvals.c.requester_key != who.key,
        _one_of(who.groups, dialect, approvals.c.approvers),
        ~answered,
    ]


def _one_of(groups: Sequence[str], dialect: str, listed: ColumnElement[Any]) -> ColumnElement[bool]:
    unpacked = func.json_each if dialect == "sqlite" else func.json_array_elements_text
    group = unpacked(listed).table_valued("value")
    return exists(select(1).select_from(group).where(group.c.value.in_(groups)))


def _body(dialect: str) -> ColumnElement[Any]:
    """The body as a query can look into it.

    PostgreSQL looks into no JSON with an escaped NUL anywhere, and statements may hold one
    (https://www.postgresql.org/docs/current/datatype-json.html).
    """
    if dialect == "sqlite":
        return approvals.c.body
    return cast(func.replace(cast(approvals.c.body, Text), r"\u0000", r"\u0001"), JSON)
