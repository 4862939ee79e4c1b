"""The desk where questions are put, answered and used up.

    pending ──quorum──▶ approved ──used──▶ consumed
       │                   │
       ├─reject──▶ rejected ◀─reject (before use: deny wins)
       └─time────▶ expired  ◀─time

Every move is one transaction with its log entry.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, insert, or_, select, update

from hoop_core.approvals.binding import Binding
from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.errors import ApprovalRefused, Refused
from hoop_core.model import AnswerVerdict, ApprovalStatus, ApprovalTerms, Identity, Json
from hoop_core.store import Store
from hoop_core.store.tables import answers, approvals

_OPEN = ("pending", "approved")


@dataclass(frozen=True, slots=True)
class Approval:
    """A question with its answers, as approvers, orchestrators and evidence see it."""

    id: str
    binding: str
    requester_key: str
    status: ApprovalStatus
    approvers: tuple[str, ...]
    quorum: int
    body: Json
    answers: tuple[Json, ...]
    created_at: datetime
    pending_until: datetime
    valid_until: datetime | None
    consumed_at: datetime | None

    def as_json(self) -> Json:
        times = {
            "created_at": self.created_at,
            "pending_until": self.pending_until,
            "valid_until": self.valid_until,
            "consumed_at": self.consumed_at,
        }
        return {
            "id": self.id,
            "status": str(self.status),
            **self.body,
            "approvers": list(self.approvers),
            "quorum": self.quorum,
            "answers": list(self.answers),
            **{k: v.isoformat() if v else None for k, v in times.items()},
        }


class NoSuchApproval(Refused):
    reason = "NO_SUCH_APPROVAL"


class ApprovalDesk:
    """Synchronous; every method is one short transaction."""

    def __init__(self, store: Store, log: AuditLog) -> None:
        self._store, self._log = store, log

    def ask(
        self, binding: Binding, terms: ApprovalTerms, body: Json, *, session_id: str | None
    ) -> Approval:
        """The open question of this binding, or a new one."""
        self.expire_due()
        with self._store.read() as connection:
            known = self._open_one(connection, binding.digest)
        if known is not None:
            return known
        now = utc_now()
        identifier = "apr_" + secrets.token_hex(10)

        def write(connection: Connection) -> Json:
            if self._open_one(connection, binding.digest) is not None:
                raise _AskedMeanwhile
            connection.execute(
                insert(approvals).values(
                    id=identifier,
                    binding=binding.digest,
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
            who = {"issuer": approver.issuer, "subject": approver.subject, "name": approver.name}
            self._log.append(
                "approval.answer_refused",
                {"approval": identifier, "approver": who, "verdict": verdict, "why": e.message},
            )
            raise
        return self.get(identifier)

    def _answer(
        self,
        connection: Connection,
        identifier: str,
        approver: Identity,
        verdict: AnswerVerdict,
        reason: str,
    ) -> Json:
        approval = self._load(connection, identifier)
        _check_answer(approval, approver, verdict, reason)
        now = utc_now()
        who = {
            "issuer": approver.issuer,
            "subject": approver.subject,
            "name": approver.name,
            "groups": sorted(set(approver.groups) & set(approval.approvers)),
        }
        values = {
            "approver": who,
            "verdict": verdict,
            "reason": reason.strip(),
            "answered_at": now,
        }
        earlier = [a for a in approval.answers if _key(a["approver"]) == approver.key]
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
        status = approval.status
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
                changed["valid_until"] = now + timedelta(seconds=int(seconds or 0))
            connection.execute(
                update(approvals).where(approvals.c.id == identifier).values(**changed)
            )
        return {
            "approval": identifier,
            "binding": approval.binding,
            "approver": who,
            "verdict": verdict,
            "reason": reason.strip(),
            "status": status,
            "quorum": approval.quorum,
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

    def get(self, identifier: str) -> Approval:
        """Raises NoSuchApproval."""
        self.expire_due()
        with self._store.read() as connection:
            return self._load(connection, identifier)

    def list(self, status: ApprovalStatus | None = None, *, limit: int = 5000) -> list[Approval]:
        self.expire_due()
        query = select(approvals).order_by(approvals.c.created_at.desc()).limit(limit)
        if status is not None:
            query = query.where(approvals.c.status == status)
        with self._store.read() as connection:
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
        with self._store.read() as connection:
            rows = connection.execute(select(approvals.c.id, approvals.c.status).where(due)).all()
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
                return {"approval": row.id, "was": row.status}

            try:
                self._log.append("approval.expired", write)
            except _AskedMeanwhile:
                continue

    def _open_one(self, connection: Connection, binding: str) -> Approval | None:
        row = connection.execute(
            select(approvals)
            .where(approvals.c.binding == binding)
            .where(approvals.c.status.in_(_OPEN))
        ).one_or_none()
        return None if row is None else self._with_answers(connection, row)

    def _load(self, connection: Connection, identifier: str) -> Approval:
        row = connection.execute(
            select(approvals).where(approvals.c.id == identifier)
        ).one_or_none()
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
        )


class _AskedMeanwhile(Exception):
    """Another writer was faster; the transaction is rolled back."""


def _key(who: Json) -> str:
    return f"{who['issuer']}#{who['subject']}"


def _check_answer(
    approval: Approval, approver: Identity, verdict: AnswerVerdict, reason: str
) -> None:
    """Raises ApprovalRefused unless this person may give this answer now."""
    if approver.key == approval.requester_key:
        raise ApprovalRefused(
            "Nobody may answer their own request.", "Another person of the group must answer."
        )
    if not set(approver.groups) & set(approval.approvers):
        raise ApprovalRefused(
            f"{approver.name} is in none of the groups that may answer.",
            f"Ask somebody of: {', '.join(approval.approvers)}.",
        )
    if not reason.strip():
        raise ApprovalRefused("An answer needs a reason.", "Say in a sentence why.")
    if approval.status not in _OPEN:
        raise ApprovalRefused(f"This request is {approval.status} already.")
    rejecting = verdict is AnswerVerdict.REJECT
    if approval.status is ApprovalStatus.APPROVED and not rejecting:
        raise ApprovalRefused("This request is approved already.")
    if any(_key(a["approver"]) == approver.key for a in approval.answers) and not rejecting:
        raise ApprovalRefused("You have answered this request already.")
