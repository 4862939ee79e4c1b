"""A question as approvers see it, and the rules of who may answer it or take it back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from hoop_core.errors import ApprovalRefused, Refused
from hoop_core.model import AnswerVerdict, ApprovalStatus, Identity, Json

OPEN = (ApprovalStatus.PENDING, ApprovalStatus.APPROVED)


@dataclass(frozen=True, slots=True)
class Approval:
    """A question with its answers, as approvers, orchestrators and evidence see it."""

    id: str
    binding: str
    scope: str | None
    """What a standing grant holds for, until its time is over; None: the grant is for one use."""
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
    revocation: Json | None = None

    @property
    def kind(self) -> str | None:
        """The kind of the statement, or `masking_exception`."""
        return self.body.get("kind")

    @property
    def actors(self) -> tuple[str, ...]:
        """Keys of those who acted for the requester when the question was asked."""
        return tuple(self.body.get("actors", ()))

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
            "revocation": self.revocation,
            **{k: v.isoformat() if v else None for k, v in times.items()},
        }


class NoSuchApproval(Refused):
    reason = "NO_SUCH_APPROVAL"


def key_of(who: Json) -> str:
    """`Identity.key` of a person as an answer names them."""
    return f"{who['issuer']}#{who['subject']}"


def check_answer(
    approval: Approval, approver: Identity, verdict: AnswerVerdict, reason: str
) -> None:
    """Raises ApprovalRefused unless this person may give this answer now."""
    if approver.key == approval.requester_key:
        raise ApprovalRefused(
            "Nobody may answer their own request.", "Another person of the group must answer."
        )
    if approver.key in approval.actors:
        raise ApprovalRefused(
            "Nobody may answer what they asked for on behalf of somebody else.",
            "Another person of the group must answer.",
        )
    if approver.actors:
        raise ApprovalRefused(
            "An answer has to come from the person, and not from somebody who acts for them.",
            "Sign in yourself, without a token that was exchanged (its claim `act`).",
        )
    if not set(approver.groups) & set(approval.approvers):
        raise ApprovalRefused(
            f"{approver.name} is in none of the groups that may answer.",
            f"Ask somebody of: {', '.join(approval.approvers)}.",
        )
    if not reason.strip():
        raise ApprovalRefused("An answer needs a reason.", "Say in a sentence why.")
    if approval.status not in OPEN:
        raise ApprovalRefused(f"This request is {approval.status} already.")
    rejecting = verdict is AnswerVerdict.REJECT
    if approval.status is ApprovalStatus.APPROVED and not rejecting:
        raise ApprovalRefused("This request is approved already.")
    if any(key_of(a["approver"]) == approver.key for a in approval.answers) and not rejecting:
        raise ApprovalRefused("You have answered this request already.")


def check_revocation(approval: Approval, who: Identity, reason: str) -> None:
    """Raises ApprovalRefused unless this person may end this standing grant now."""
    if approval.scope is None:
        raise ApprovalRefused(
            f"{approval.id} is a request for one statement, which cannot be revoked.",
            "An approver can reject it as long as the statement has not run.",
        )
    if who.key != approval.requester_key and not set(who.groups) & set(approval.approvers):
        raise ApprovalRefused(
            f"{who.name} neither asked for {approval.id} nor may answer it.",
            f"Ask somebody of: {', '.join(approval.approvers)}.",
        )
    if not reason.strip():
        raise ApprovalRefused("A revocation needs a reason.", "Say in a sentence why.")
    if approval.status not in OPEN:
        raise ApprovalRefused(f"{approval.id} is {approval.status} already.")
