"""Whether an answer in Airflow counts, for whom, and for what. Nothing here talks to Airflow."""

from __future__ import annotations

from dataclasses import dataclass

from hoop_core.approvals.approval import OPEN, has_said
from hoop_core.approvals.desk import ApprovalDesk
from hoop_core.audit.log import AuditLog
from hoop_core.bridges.airflow.ledger import Action
from hoop_core.bridges.airflow.values import VERDICTS, Row
from hoop_core.config import AirflowSettings
from hoop_core.errors import ApprovalRefused
from hoop_core.model import AnswerVerdict, ApprovalStatus, Identity, Json

_LONGEST_REASON = 4000


class DoesNotCount(Exception):
    """Why an answer is not heard."""


@dataclass(frozen=True, slots=True)
class Counting:
    """Synchronous. Raises StoreUnavailable."""

    desk: ApprovalDesk
    log: AuditLog

    def count(self, settings: AirflowSettings, action: Action, row: Row) -> str:
        """Give the answer in the name of the mapped person. What came of it, in words for the task's log.

        Counting the same answer again changes nothing: a process may die in the middle of it.
        """
        way = _by_way_of(action, row)
        try:
            person, verdict, reason = _read(settings, action, row)
        except DoesNotCount as e:
            self._refuse(action, row, way, str(e))
            return f"The answer given in Airflow does not count: {e}"
        refused = [r for i in action.approvals if (r := self._one(i, person, verdict, reason, way))]
        if refused:
            return f"The answer of {person.name} in Airflow does not count: {' '.join(refused)}"
        return f"{person.name} answered in Airflow: {verdict}."

    def _one(
        self, identifier: str, person: Identity, verdict: AnswerVerdict, reason: str, way: Json
    ) -> str | None:
        """Why it was refused; None: it is counted, was already, or is not needed any more."""
        approval = self.desk.get(identifier)
        approving = verdict is AnswerVerdict.APPROVE
        if has_said(approval, person, verdict):
            return None
        if approving and approval.status in {ApprovalStatus.APPROVED, ApprovalStatus.CONSUMED}:
            return None
        if not approving and approval.status not in {*OPEN, ApprovalStatus.CONSUMED}:
            return None  # it has ended without this no
        try:
            self.desk.answer(identifier, person, verdict, reason, by_way_of=way)
        except ApprovalRefused as e:
            return e.message
        return None

    def _refuse(self, action: Action, row: Row, way: Json, why: str) -> None:
        """For each request: this is where its reader looks for it."""
        entry = {"approver": None, "verdict": list(row.chosen)[:2], "why": why, "by_way_of": way}
        for identifier in action.approvals:
            self.log.append("approval.answer_refused", {"approval": identifier, **entry})


def _read(
    settings: AirflowSettings, action: Action, row: Row
) -> tuple[Identity, AnswerVerdict, str]:
    """Who says what, and why. Raises DoesNotCount."""
    altered = row.altered(action.shown)
    if altered is not None:
        raise DoesNotCount(f"what Airflow showed is not what Hoop had written ({altered}).")
    if row.user_id is None:
        raise DoesNotCount("nobody gave it (a timeout or a default of Airflow).")
    known = settings.users.get(row.user_id)
    if known is None:
        raise DoesNotCount(f"the Airflow user {row.user_id[:200]!r} is nobody that Hoop knows.")
    verdict = VERDICTS.get(row.chosen[0]) if len(row.chosen) == 1 else None
    if verdict is None or row.chosen[0] not in action.shown.options:
        raise DoesNotCount("it is neither a yes nor a no.")
    if not row.reason.strip():
        raise DoesNotCount("it has no reason.")
    person = Identity(
        issuer=known.issuer,
        subject=known.subject,
        name=known.name or known.subject,
        groups=known.groups,
        method="airflow",
        token_digest="",
    )
    return person, verdict, row.reason.strip()[:_LONGEST_REASON]


def _by_way_of(action: Action, row: Row) -> Json:
    return {
        "bridge": "airflow",
        "instance": action.instance,
        **action.place.as_json(),
        "user": None if row.user_id is None else {"id": row.user_id[:200], "name": row.user_name},
        "responded_at": row.responded_at,
        "shown_sha256": row.shown.digest,
    }
