"""The desk where questions are put, answered and used up.

    pending ──quorum, or broken glass──▶ approved ──used──▶ consumed
       │                                    │
       ├─reject────▶ rejected  ◀─reject (before use: deny wins)
       ├─withdraw──▶ withdrawn ◀─withdraw
       └─time──────▶ expired   ◀─time

A standing grant (a masking exception, a standing approval) is not used up: it holds until its time is over,
somebody revokes it, or what it was given for has changed. Every move is one transaction with its log entry, so
moves come one after another, also those of several replicas.

What is late counts as expired at once: whoever reads sees it so, and no move changes it. That this is put down, with
its entry, is the sweeper's work (waiting.py), or of who is refused for it or asks anew: reading writes nothing.
"""

from __future__ import annotations

import builtins
import secrets
from collections.abc import Callable, Collection
from datetime import timedelta

from sqlalchemy import Connection, select, update

from hoop_core.approvals import book, moves
from hoop_core.approvals.approval import (
    OPEN,
    Approval,
    check_answer,
    check_break_glass,
    check_review,
    check_revocation,
    check_withdrawal,
    has_said,
)
from hoop_core.approvals.binding import Binding, Bound
from hoop_core.approvals.book import Wanted
from hoop_core.approvals.standing import StandingGrants
from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.errors import ApprovalRefused
from hoop_core.model import AnswerVerdict, ApprovalStatus, ApprovalTerms, Identity, Json
from hoop_core.store import Store
from hoop_core.store.tables import approvals

_AT_ONCE = 100
"""What one turn of the sweeper closes: an entry each, and others want to write theirs."""


class ApprovalDesk:
    """Synchronous; every method is one short transaction."""

    def __init__(self, store: Store, log: AuditLog) -> None:
        self._store, self._log = store, log
        self.standing = StandingGrants(self._standing)

    # ------------------------------------------------------------------ asking

    def ask(
        self, binding: Bound, terms: ApprovalTerms, body: Json, *, session_id: str | None
    ) -> Approval:
        """The open question of this binding, or a new one.

        Raises ApprovalRefused when too many of the requester's wait for an answer, or too much is asked.
        """
        with self._store.read() as connection:
            known = book.open_one(connection, binding.digest, utc_now())
        if known is not None and known.status in OPEN:
            return known
        if known is not None:  # at most one of a binding is open
            self._close(known.id)
        identifier = "apr_" + secrets.token_hex(10)
        # whatever else the question says: who acted for the requester may not answer it
        body = {**body, **moves.told(terms), "actors": list(binding.identity.actors)}
        moves.check_size(binding, body)

        def write(connection: Connection) -> Json:
            now = utc_now()
            if book.open_one(connection, binding.digest, now) is not None:
                raise moves.AskedMeanwhile
            moves.check_room(connection, binding, now)
            return moves.asked(connection, identifier, binding, terms, body, now=now)

        try:
            self._log.append("approval.requested", write, session_id=session_id)
        except moves.AskedMeanwhile:
            return self.ask(binding, terms, body, session_id=session_id)
        return self.get(identifier)

    def foresee(self, identifier: str, impact: Json) -> None:
        """Put down what a question would do, as it was counted. A later count takes the place of an earlier."""

        def write(connection: Connection) -> Json:
            query = update(approvals).where(approvals.c.id == identifier)
            connection.execute(query.values(impact=impact))
            return {"approval": identifier, "impact": impact}

        self._log.append("approval.impact", write)

    def explaining(self, entry: Json, session_id: str) -> None:
        """Put down that Snowflake is about to be asked for the plan of a statement that waits."""
        self._log.append("approval.explaining", entry, session_id=session_id)

    # ------------------------------------------------------------------ answering

    def answer(
        self,
        identifier: str,
        approver: Identity,
        verdict: AnswerVerdict,
        reason: str,
        *,
        by_way_of: Json | None = None,
    ) -> Approval:
        """Record one person's answer. Raises ApprovalRefused, which is in the log too.

        `by_way_of` says where it was given when that was not Hoop itself. From there one answer may be brought by
        several replicas: what has been counted stands, and nothing is put down again.
        """

        def write(connection: Connection) -> Json:
            now = utc_now()
            approval = book.load(connection, identifier, now, to_change=True)
            if by_way_of is not None and has_said(approval, approver, verdict):
                raise moves.AskedMeanwhile
            check_answer(approval, approver, verdict, reason)
            entry = moves.answered(connection, approval, approver, verdict, reason, now=now)
            return entry if by_way_of is None else entry | {"by_way_of": by_way_of}

        refused = {"approver": moves.person(approver), "verdict": verdict, "by_way_of": by_way_of}
        try:
            return self._move(identifier, "answered", write, refused="answer_refused", told=refused)
        except moves.AskedMeanwhile:
            return self.get(identifier)

    def break_glass(self, identifier: str, who: Identity, reason: str) -> Approval:
        """Let a pending request run in an emergency, on the word of one person. Somebody else has to review it.

        Raises ApprovalRefused, which is in the log too.
        """

        def write(connection: Connection) -> Json:
            now = utc_now()
            approval = book.load(connection, identifier, now, to_change=True)
            check_break_glass(approval, who, reason)
            seconds = int((approval.break_glass or {}).get("seconds", 0))
            valid_until = moves.first_use(approval.body, now) + timedelta(seconds=seconds)
            act = {"by": moves.person(who), "reason": reason.strip(), "at": now.isoformat()}
            moves.change(
                connection,
                identifier,
                status=ApprovalStatus.APPROVED,
                valid_until=valid_until,
                emergency={**act, "review": None},
                review_open=True,
            )
            return {
                "approval": identifier,
                "binding": approval.binding,
                **act,
                "valid_until": valid_until.isoformat(),
            }

        told = {"by": moves.person(who)}
        return self._move(
            identifier, "broken_glass", write, refused="break_glass_refused", told=told
        )

    def review(self, identifier: str, who: Identity, reason: str) -> Approval:
        """Close the review of an emergency. Raises ApprovalRefused, which is in the log too."""

        def write(connection: Connection) -> Json:
            now = utc_now()
            approval = book.load(connection, identifier, now, to_change=True)
            check_review(approval, who, reason)
            review = {"by": moves.person(who), "reason": reason.strip(), "at": now.isoformat()}
            emergency = {**(approval.emergency or {}), "review": review}
            moves.change(connection, identifier, emergency=emergency, review_open=False)
            return {"approval": identifier, "binding": approval.binding, **review}

        told = {"by": moves.person(who)}
        return self._move(identifier, "reviewed", write, refused="review_refused", told=told)

    # ------------------------------------------------------------------ taking back

    def withdraw(self, identifier: str, who: Identity, reason: str) -> Approval:
        """Take back what one has asked for, as long as it is not used. Raises ApprovalRefused, which is logged."""
        return self._end(
            identifier,
            who,
            reason,
            check_withdrawal,
            ApprovalStatus.WITHDRAWN,
            refused="withdraw_refused",
        )

    def revoke(self, identifier: str, who: Identity, reason: str) -> Approval:
        """End a standing grant, or its question, at once. Raises ApprovalRefused, which is logged."""
        return self._end(
            identifier,
            who,
            reason,
            check_revocation,
            ApprovalStatus.REVOKED,
            refused="revoke_refused",
        )

    def _end(
        self,
        identifier: str,
        who: Identity,
        reason: str,
        check: Callable[[Approval, Identity, str], None],
        status: ApprovalStatus,
        *,
        refused: str,
    ) -> Approval:
        by = moves.person(who)

        def write(connection: Connection) -> Json:
            now = utc_now()
            approval = book.load(connection, identifier, now, to_change=True)
            check(approval, who, reason)
            return moves.ended(connection, approval, status, by, reason, now=now)

        return self._move(identifier, status, write, refused=refused, told={"by": by})

    def drifted(self, identifier: str, why: str) -> Approval:
        """End a standing approval whose text, tables or policy are not any more what was approved."""

        def write(connection: Connection) -> Json:
            now = utc_now()
            approval = book.load(connection, identifier, now, to_change=True)
            if approval.status is not ApprovalStatus.APPROVED:
                raise moves.AskedMeanwhile  # it has ended already
            return moves.ended(
                connection, approval, ApprovalStatus.REVOKED, moves.HOOP, why, now=now
            )

        try:
            self._log.append("approval.drifted", write)
        except moves.AskedMeanwhile:
            pass
        finally:
            self.standing.forget()
        return self.get(identifier)

    # ------------------------------------------------------------------ using

    def consume(self, connection: Connection, identifier: str, binding: Binding) -> None:
        """Use a grant up, inside the transaction of the intent entry. Raises ApprovalRefused."""
        now = utc_now()
        used = connection.execute(
            update(approvals)
            .where(approvals.c.id == identifier)
            .where(approvals.c.binding == binding.digest)
            .where(approvals.c.scope.is_(None))
            .where(approvals.c.status == ApprovalStatus.APPROVED)
            .where(approvals.c.valid_until > now)
            .values(status=ApprovalStatus.CONSUMED, consumed_at=now)
        )
        if used.rowcount != 1:
            raise ApprovalRefused(
                f"The grant {identifier} is used, expired, rejected, or not for this statement.",
                "Run the statement again to ask anew.",
            )
        moves.check_window(connection, identifier, now)

    def use_standing(self, connection: Connection, identifier: str, scope: str) -> None:
        """Count one use of a standing approval, inside the transaction of the intent entry.

        Raises ApprovalRefused.
        """
        now = utc_now()
        grant = book.load(connection, identifier, now, to_change=True)
        if grant.uses >= int(grant.body.get("uses_at_most", 0)):
            raise ApprovalRefused(
                f"The standing approval {identifier} was used as often as was approved.",
                "Run the statement again: it will be put before approvers.",
            )
        used = connection.execute(
            update(approvals)
            .where(approvals.c.id == identifier)
            .where(approvals.c.scope == scope)
            .where(approvals.c.status == ApprovalStatus.APPROVED)
            .where(approvals.c.valid_until > now)
            .values(uses=approvals.c.uses + 1)
        )
        if used.rowcount != 1:
            raise ApprovalRefused(
                f"The standing approval {identifier} has ended.",
                "Run the statement again: it will be put before approvers.",
            )
        moves.check_window(connection, identifier, now)

    def _standing(self, scope: str) -> builtins.list[Approval]:
        """The grants that hold for a scope at this moment."""
        now = utc_now()
        query = (
            select(approvals)
            .where(approvals.c.scope == scope)
            .where(approvals.c.status == ApprovalStatus.APPROVED)
            .where(approvals.c.valid_until > now)
        )
        with self._store.read() as connection:
            return book.with_answers(connection, connection.execute(query).all(), now)

    def check_standing(self, connection: Connection, identifiers: Collection[str]) -> None:
        """Standing grants still hold, inside the transaction of the intent entry that rests on them.

        The rows are locked against a revocation until then. Raises ApprovalRefused.
        """
        query = book.holding(identifiers, utc_now()).with_for_update(read=True)
        moves.check_all_of(identifiers, connection.scalars(query))

    def still_standing(self, identifiers: Collection[str]) -> None:
        """Standing grants hold at this moment. Raises ApprovalRefused, StoreUnavailable."""
        with self._store.read() as connection:
            moves.check_all_of(
                identifiers, connection.scalars(book.holding(identifiers, utc_now()))
            )

    # ------------------------------------------------------------------ reading

    def get(self, identifier: str) -> Approval:
        """Raises NoSuchApproval."""
        with self._store.read() as connection:
            return book.load(connection, identifier, utc_now())

    def list(self, wanted: Wanted | None = None) -> builtins.list[Approval]:
        """The newest first; of those that wait for an answer the oldest."""
        with self._store.read() as connection:
            return book.found(connection, wanted or Wanted(), utc_now())

    def count(self, wanted: Wanted) -> int:
        with self._store.read() as connection:
            return book.count(connection, wanted, utc_now())

    def statuses(self, identifiers: set[str]) -> dict[str, ApprovalStatus]:
        """The current status of many questions, for those who wait."""
        with self._store.read() as connection:
            return book.statuses(connection, identifiers, utc_now())

    # ------------------------------------------------------------------ time

    def expire_due(self) -> None:
        """Close what nobody answered, and void what nobody used, in time: the oldest, so many at once."""
        with self._store.read() as connection:
            due = book.due(connection, utc_now(), _AT_ONCE)
        for identifier in due:
            if not self._close(identifier):
                return  # another replica is at it

    def settled(self, identifier: str) -> Approval:
        """As `get`; that its time is over is in the log then. Raises NoSuchApproval."""
        with self._store.read() as connection:
            late = identifier in book.due(connection, utc_now(), 1, only=identifier)
        if late:
            self._close(identifier)
        return self.get(identifier)

    def _close(self, identifier: str) -> bool:
        """Put down that its time is over; False when that was done meanwhile."""

        def write(connection: Connection) -> Json:
            return moves.expired(connection, identifier, utc_now())

        try:
            self._log.append("approval.expired", write)
        except moves.AskedMeanwhile:
            return False
        return True

    def _move(
        self,
        identifier: str,
        moved: str,
        write: Callable[[Connection], Json],
        *,
        refused: str,
        told: Json,
    ) -> Approval:
        """One move of one person, with its entry; a refusal has an entry of its own."""
        try:
            self._log.append(f"approval.{moved}", write)
        except ApprovalRefused as e:
            self.settled(identifier)  # if that is why, it is in the log first
            entry = {"approval": identifier, **told, "why": e.message}
            self._log.append(f"approval.{refused}", entry)
            raise
        finally:
            self.standing.forget()
        return self.get(identifier)
