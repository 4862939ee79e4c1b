"""The desk where questions are put, answered and used up.

    pending ──quorum──▶ approved ──used──▶ consumed
       │                   │
       ├─reject──▶ rejected ◀─reject (before use: deny wins)
       └─time────▶ expired  ◀─time

A standing grant (a masking exception) is not used up: it holds until its time is over or somebody
revokes it, and a question for one can be revoked too. Every move is one transaction with its log entry,
so moves come one after another, also those of several replicas.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    Row,
    Select,
    Text,
    cast,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)

from hoop_core.approvals.approval import (
    OPEN,
    Approval,
    NoSuchApproval,
    check_answer,
    check_revocation,
    key_of,
)
from hoop_core.approvals.binding import Binding, Bound
from hoop_core.approvals.standing import StandingGrants
from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.errors import ApprovalRefused
from hoop_core.model import AnswerVerdict, ApprovalStatus, ApprovalTerms, Identity, Json
from hoop_core.store import Store
from hoop_core.store.tables import answers, approvals

MOST_PENDING = 200
"""Unanswered requests for one use that one requester may have: who is asked without end says yes without
reading."""
MOST_STANDING = 20
"""The same of requests for masking exceptions."""


class ApprovalDesk:
    """Synchronous; every method is one short transaction."""

    def __init__(self, store: Store, log: AuditLog) -> None:
        self._store, self._log = store, log
        self.standing = StandingGrants(self._standing)

    def ask(
        self, binding: Bound, terms: ApprovalTerms, body: Json, *, session_id: str | None
    ) -> Approval:
        """The open question of this binding, or a new one.

        Raises ApprovalRefused when too many of the requester's wait for an answer.
        """
        self.expire_due()
        with self._store.read() as connection:
            known = self._open_one(connection, binding.digest)
        if known is not None:
            return known
        # whatever else the question says: who acted for the requester may not answer it
        body = {**body, "actors": list(binding.identity.actors)}
        now = utc_now()
        identifier = "apr_" + secrets.token_hex(10)

        def write(connection: Connection) -> Json:
            if self._open_one(connection, binding.digest) is not None:
                raise _AskedMeanwhile
            _check_pending(connection, binding)
            connection.execute(
                insert(approvals).values(
                    id=identifier,
                    binding=binding.digest,
                    scope=binding.scope,
                    requester_key=binding.identity.key,
                    status=ApprovalStatus.PENDING,
                    approvers=list(terms.approvers),
                    quorum=terms.quorum,
                    body=body,
                    created_at=now,
                    pending_until=now + terms.pending_for,
                    valid_seconds=int(terms.valid_for.total_seconds()),
                )
            )
            return {
                "approval": identifier,
                "binding": binding.digest,
                "approvers": list(terms.approvers),
                "quorum": terms.quorum,
                "pending_until": (now + terms.pending_for).isoformat(),
                "question": body,
            }

        try:
            self._log.append("approval.requested", write, session_id=session_id)
        except _AskedMeanwhile:
            return self.ask(binding, terms, body, session_id=session_id)
        return self.get(identifier)

    def answer(
        self, identifier: str, approver: Identity, verdict: AnswerVerdict, reason: str
    ) -> Approval:
        """Record one person's answer. Raises ApprovalRefused, which is in the log too."""
        self.expire_due()
        try:
            self._log.append(
                "approval.answered",
                lambda c: self._answer(c, identifier, approver, verdict, reason),
            )
        except ApprovalRefused as e:
            entry = {"approver": _person(approver), "verdict": verdict, "why": e.message}
            self._log.append("approval.answer_refused", {"approval": identifier, **entry})
            raise
        finally:
            self.standing.forget()
        return self.get(identifier)

    def _answer(
        self,
        connection: Connection,
        identifier: str,
        approver: Identity,
        verdict: AnswerVerdict,
        reason: str,
    ) -> Json:
        approval = self._load(connection, identifier, to_change=True)
        check_answer(approval, approver, verdict, reason)
        now = utc_now()
        groups = sorted(set(approver.groups) & set(approval.approvers))
        who = {**_person(approver), "groups": groups}
        values = {
            "approver": who,
            "verdict": verdict,
            "reason": reason.strip(),
            "answered_at": now,
        }
        earlier = [a for a in approval.answers if key_of(a["approver"]) == approver.key]
        if earlier:  # only a change from yes to no comes this far
            connection.execute(
                update(answers)
                .where(answers.c.approval_id == identifier)
                .where(answers.c.approver_key == approver.key)
                .values(**values)
            )
        else:
            connection.execute(
                insert(answers).values(approval_id=identifier, approver_key=approver.key, **values)
            )
        status, valid_until = approval.status, approval.valid_until
        if verdict is AnswerVerdict.REJECT:
            status = ApprovalStatus.REJECTED
        elif len(approval.answers) + 1 >= approval.quorum:
            status = ApprovalStatus.APPROVED
        if status is not approval.status:
            changed: dict[str, Any] = {"status": status}
            if status is ApprovalStatus.APPROVED:
                seconds = connection.scalar(
                    select(approvals.c.valid_seconds).where(approvals.c.id == identifier)
                )
                valid_until = now + timedelta(seconds=int(seconds or 0))
                changed["valid_until"] = valid_until
            connection.execute(
                update(approvals).where(approvals.c.id == identifier).values(**changed)
            )
        return {
            "approval": identifier,
            "kind": approval.kind,
            "binding": approval.binding,
            "approver": who,
            "verdict": verdict,
            "reason": reason.strip(),
            "status": status,
            "quorum": approval.quorum,
            "valid_until": valid_until.isoformat() if valid_until else None,
        }

    def consume(self, connection: Connection, identifier: str, binding: Binding) -> None:
        """Use a grant up, inside the transaction of the intent entry. Raises ApprovalRefused."""
        now = utc_now()
        used = connection.execute(
            update(approvals)
            .where(approvals.c.id == identifier)
            .where(approvals.c.binding == binding.digest)
            .where(approvals.c.status == ApprovalStatus.APPROVED)
            .where(approvals.c.valid_until > now)
            .values(status=ApprovalStatus.CONSUMED, consumed_at=now)
        )
        if used.rowcount != 1:
            raise ApprovalRefused(
                f"The approval {identifier} was used, withdrawn or has expired in the meantime.",
                "Run the statement again: it will be asked for anew.",
            )

    def _standing(self, scope: str) -> list[Approval]:
        """The standing grants of this scope that hold now. Raises StoreUnavailable."""
        query = (
            select(approvals)
            .where(approvals.c.scope == scope)
            .where(approvals.c.status == ApprovalStatus.APPROVED)
            .where(approvals.c.valid_until > utc_now())
        )
        with self._store.read() as connection:
            return [self._with_answers(connection, r) for r in connection.execute(query).all()]

    def check_standing(self, connection: Connection, identifiers: Collection[str]) -> None:
        """Standing grants still hold, inside the transaction of the intent entry that rests on them.

        The rows are locked against a revocation until then. Raises ApprovalRefused.
        """
        holding = connection.scalars(_holding(identifiers).with_for_update(read=True))
        _check_all_of(identifiers, holding)

    def still_standing(self, identifiers: Collection[str]) -> None:
        """Standing grants hold at this moment. Raises ApprovalRefused, StoreUnavailable."""
        with self._store.read() as connection:
            _check_all_of(identifiers, connection.scalars(_holding(identifiers)))

    def revoke(self, identifier: str, who: Identity, reason: str) -> Approval:
        """End a standing grant, or its question, at once. Raises ApprovalRefused, which is logged."""
        self.expire_due()

        def write(connection: Connection) -> Json:
            approval = self._load(connection, identifier, to_change=True)
            check_revocation(approval, who, reason)
            revocation = {"by": _person(who), "reason": reason.strip()}
            connection.execute(
                update(approvals)
                .where(approvals.c.id == identifier)
                .values(
                    status=ApprovalStatus.REVOKED,
                    revocation={**revocation, "at": utc_now().isoformat()},
                )
            )
            return {
                "approval": identifier,
                "kind": approval.kind,
                "binding": approval.binding,
                "was": approval.status,
                **revocation,
            }

        try:
            self._log.append("approval.revoked", write)
        except ApprovalRefused as e:
            entry = {"approval": identifier, "by": _person(who), "why": e.message}
            self._log.append("approval.revoke_refused", entry)
            raise
        finally:
            self.standing.forget()
        return self.get(identifier)

    def get(self, identifier: str) -> Approval:
        """Raises NoSuchApproval."""
        self.expire_due()
        with self._store.read() as connection:
            return self._load(connection, identifier)

    def list(
        self,
        status: ApprovalStatus | None = None,
        *,
        standing: bool | None = None,
        seen_by: Identity | None = None,
        run: Mapping[str, str] | None = None,
        limit: int = 5000,
    ) -> list[Approval]:
        """The newest first; of those that wait for an answer the oldest, so that none is forgotten.

        `standing` asks for standing grants only, or for those of one use only; `seen_by` for what this
        person asked for or may answer; `run` for these fields of the run. All count before `limit` does.
        """
        self.expire_due()
        created = approvals.c.created_at
        order = created.asc() if status is ApprovalStatus.PENDING else created.desc()
        query = select(approvals).order_by(order).limit(limit)
        if status is not None:
            query = query.where(approvals.c.status == status)
        if standing is not None:
            scope = approvals.c.scope
            query = query.where(scope.is_not(None) if standing else scope.is_(None))
        with self._store.read() as connection:
            dialect = connection.dialect.name
            for key, value in (run or {}).items():
                query = query.where(_body(dialect)["run", "fields", key].as_string() == value)
            if seen_by is not None:
                query = query.where(_visible_to(seen_by, dialect))
            return [self._with_answers(connection, r) for r in connection.execute(query).all()]

    def statuses(self, identifiers: set[str]) -> dict[str, ApprovalStatus]:
        """The current status of many questions in one query, for those who wait."""
        self.expire_due()
        query = select(approvals.c.id, approvals.c.status)
        with self._store.read() as connection:
            rows = connection.execute(query.where(approvals.c.id.in_(identifiers)))
            return {r.id: ApprovalStatus(r.status) for r in rows}

    def expire_due(self) -> None:
        """Close what nobody answered, and void what nobody used, in time."""
        now = utc_now()
        due = or_(
            (approvals.c.status == ApprovalStatus.PENDING) & (approvals.c.pending_until <= now),
            (approvals.c.status == ApprovalStatus.APPROVED) & (approvals.c.valid_until <= now),
        )
        columns = (approvals.c.id, approvals.c.status, approvals.c.body)
        with self._store.read() as connection:
            rows = connection.execute(select(*columns).where(due)).all()
        for row in rows:

            def write(connection: Connection, row: Row[Any] = row) -> Json:
                closed = connection.execute(
                    update(approvals)
                    .where(approvals.c.id == row.id)
                    .where(approvals.c.status == row.status)
                    .values(status=ApprovalStatus.EXPIRED)
                )
                if closed.rowcount != 1:
                    raise _AskedMeanwhile
                return {"approval": row.id, "kind": row.body.get("kind"), "was": row.status}

            try:
                self._log.append("approval.expired", write)
            except _AskedMeanwhile:
                continue
            finally:
                self.standing.forget()

    def _open_one(self, connection: Connection, binding: str) -> Approval | None:
        row = connection.execute(
            select(approvals)
            .where(approvals.c.binding == binding)
            .where(approvals.c.status.in_(OPEN))
        ).one_or_none()
        return None if row is None else self._with_answers(connection, row)

    def _load(
        self, connection: Connection, identifier: str, *, to_change: bool = False
    ) -> Approval:
        """Nobody else changes what is loaded `to_change` before the transaction ends."""
        query = select(approvals).where(approvals.c.id == identifier)
        row = connection.execute(query.with_for_update() if to_change else query).one_or_none()
        if row is None:
            raise NoSuchApproval(
                f"There is no approval {identifier!r}.", "List them with `hoop approvals list`."
            )
        return self._with_answers(connection, row)

    def _with_answers(self, connection: Connection, row: Row[Any]) -> Approval:
        given = connection.execute(
            select(answers).where(answers.c.approval_id == row.id).order_by(answers.c.id)
        ).all()
        return Approval(
            id=row.id,
            binding=row.binding,
            scope=row.scope,
            requester_key=row.requester_key,
            status=ApprovalStatus(row.status),
            approvers=tuple(row.approvers),
            quorum=row.quorum,
            body=row.body,
            answers=tuple(
                {
                    "approver": a.approver,
                    "verdict": a.verdict,
                    "reason": a.reason,
                    "at": a.answered_at.isoformat(),
                }
                for a in given
            ),
            created_at=row.created_at,
            pending_until=row.pending_until,
            valid_until=row.valid_until,
            consumed_at=row.consumed_at,
            revocation=row.revocation,
        )


def _body(dialect: str) -> ColumnElement[Any]:
    """The body as a query can look into it.

    PostgreSQL looks into no JSON with an escaped NUL anywhere, and statements may hold one
    (https://www.postgresql.org/docs/current/datatype-json.html).
    """
    if dialect == "sqlite":
        return approvals.c.body
    return cast(func.replace(cast(approvals.c.body, Text), r"\u0000", r"\u0001"), JSON)


def _visible_to(who: Identity, dialect: str) -> ColumnElement[bool]:
    """Asked by `who`, or to be answered by a group of theirs."""
    unpacked = func.json_each if dialect == "sqlite" else func.json_array_elements_text
    group = unpacked(approvals.c.approvers).table_valued("value")
    may_answer = exists(select(1).select_from(group).where(group.c.value.in_(who.groups)))
    return or_(approvals.c.requester_key == who.key, may_answer)


def _holding(identifiers: Collection[str]) -> Select[tuple[str]]:
    return (
        select(approvals.c.id)
        .where(approvals.c.id.in_(identifiers))
        .where(approvals.c.scope.is_not(None))
        .where(approvals.c.status == ApprovalStatus.APPROVED)
        .where(approvals.c.valid_until > utc_now())
    )


def _check_all_of(identifiers: Collection[str], holding: Iterable[str]) -> None:
    ended = sorted(set(identifiers) - set(holding))
    if ended:
        raise ApprovalRefused(
            f"The masking exception {', '.join(ended)} has ended.",
            "Run the statement again: it will show the columns masked.",
        )


def _check_pending(connection: Connection, binding: Bound) -> None:
    """In the transaction that adds one more. Raises ApprovalRefused."""
    scope, standing = approvals.c.scope, binding.scope is not None
    most = MOST_STANDING if standing else MOST_PENDING
    waiting = connection.scalar(
        select(func.count())
        .select_from(approvals)
        .where(approvals.c.requester_key == binding.identity.key)
        .where(approvals.c.status == ApprovalStatus.PENDING)
        .where(scope.is_not(None) if standing else scope.is_(None))
    )
    if (waiting or 0) < most:
        return
    if standing:
        raise ApprovalRefused(
            f"You have {most} unanswered requests for masking exceptions.",
            "Wait for an answer, or take some back with `hoop masking revoke`.",
        )
    raise ApprovalRefused(
        f"You have {most} unanswered requests for approval.",
        "Wait until some are answered or have expired; then run the statement again.",
    )


class _AskedMeanwhile(Exception):
    """Another writer was faster; the transaction is rolled back."""


def _person(who: Identity) -> Json:
    return {"issuer": who.issuer, "subject": who.subject, "name": who.name}
