"""A question as approvers see it, and the rules of who may answer it, take it back or end what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from hoop_core.errors import ApprovalRefused, Refused
from hoop_core.model import AnswerVerdict, ApprovalStatus, Identity, Json
from hoop_core.windows import Window, are_open, next_opening

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
    """Who took it back or ended it, and why."""
    impact: Json | None = None
    """What it would do, as far as that could be counted (impact.py)."""
    break_glass: Json | None = None
    """`groups` of whom one person alone may let it run in an emergency."""
    emergency: Json | None = None
    """Who did, why and when; `review` says who looked at that afterwards."""
    review_open: bool = False
    uses: int = 0
    """Of a standing approval."""

    @property
    def kind(self) -> str | None:
        """The kind of the statement, or `masking_exception` or `standing_approval`."""
        return self.body.get("kind")

    @property
    def actors(self) -> tuple[str, ...]:
        """Keys of those who acted for the requester when the question was asked."""
        return tuple(self.body.get("actors", ()))

    def _opens_at(self) -> str | None:
        """When the windows of what is approved open, where they are not open now: to run it before is in vain."""
        windows = [Window.from_json(w) for w in self.body.get("windows") or ()]
        now = datetime.now(UTC)
        if self.status is not ApprovalStatus.APPROVED or are_open(windows, now):
            return None
        opening = next_opening(windows, now)
        return opening.isoformat() if opening else None

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
            "impact": self.impact,
            "break_glass": self.break_glass,
            "emergency": self.emergency,
            "uses": self.uses,
            "opens_at": self._opens_at(),
            **{k: v.isoformat() if v else None for k, v in times.items()},
        }


class NoSuchApproval(Refused):
    reason = "NO_SUCH_APPROVAL"


def same_actors(caller: Identity, actors: Sequence[str]) -> bool:
    """What was done for a person is theirs; of who acts for them, what came by the same way only."""
    return not caller.actors or caller.actors == tuple(actors)


def key_of(who: Json) -> str:
    """`Identity.key` of a person as an answer names them."""
    return f"{who['issuer']}#{who['subject']}"


def check_answer(
    approval: Approval, approver: Identity, verdict: AnswerVerdict, reason: str
) -> None:
    """Raises ApprovalRefused unless this person may give this answer now."""
    _check_other_person(approval, approver)
    _check_group(approver, approval.approvers)
    _check_reason(reason, "An answer")
    if approval.status not in OPEN:
        raise ApprovalRefused(f"This request is {approval.status} already.")
    rejecting = verdict is AnswerVerdict.REJECT
    if approval.status is ApprovalStatus.APPROVED and not rejecting:
        raise ApprovalRefused("This request is approved already.")
    if any(key_of(a["approver"]) == approver.key for a in approval.answers) and not rejecting:
        raise ApprovalRefused("You have answered this request already.")


def has_said(approval: Approval, who: Identity, verdict: AnswerVerdict) -> bool:
    """Whether this is that person's answer to it already."""
    return any(
        key_of(a["approver"]) == who.key and a["verdict"] == verdict for a in approval.answers
    )


def check_break_glass(approval: Approval, who: Identity, reason: str) -> None:
    """Raises ApprovalRefused unless this person alone may let it run now."""
    groups = tuple((approval.break_glass or {}).get("groups", ()))
    if not groups:
        raise ApprovalRefused(
            "The policy lets nobody break the glass for this request.",
            f"Ask somebody of: {', '.join(approval.approvers)}.",
        )
    _check_other_person(approval, who)
    _check_group(who, groups)
    _check_reason(reason, "Breaking the glass")
    if approval.status is not ApprovalStatus.PENDING:
        raise ApprovalRefused(f"This request is {approval.status} already.")


def check_review(approval: Approval, who: Identity, reason: str) -> None:
    """Raises ApprovalRefused unless this person may close the review of an emergency now."""
    if approval.emergency is None:
        raise ApprovalRefused("Nobody broke the glass for this request.")
    if not approval.review_open:
        raise ApprovalRefused("This emergency was reviewed already.")
    if who.key == key_of(approval.emergency["by"]):
        raise ApprovalRefused(
            "Who broke the glass cannot review that.", "Another person of the group must."
        )
    _check_other_person(approval, who)
    _check_group(who, approval.approvers)
    _check_reason(reason, "A review")


def check_withdrawal(approval: Approval, who: Identity, reason: str) -> None:
    """Raises ApprovalRefused unless this person may take the request back now."""
    if who.key != approval.requester_key:
        raise ApprovalRefused(
            f"{who.name} did not ask for {approval.id}.",
            "Who asked may withdraw a request; an approver may reject it.",
        )
    if not same_actors(who, approval.actors):
        raise ApprovalRefused(
            f"{approval.id} was not asked for by who acts for {who.name} now.",
            "Withdraw it yourself, or by the program that asked for it.",
        )
    _check_reason(reason, "A withdrawal")
    if approval.status not in OPEN:
        raise ApprovalRefused(f"This request is {approval.status} already.")


def check_revocation(approval: Approval, who: Identity, reason: str) -> None:
    """Raises ApprovalRefused unless this person may end this standing grant now."""
    if approval.scope is None:
        raise ApprovalRefused(
            f"{approval.id} is a request for one statement, which cannot be revoked.",
            "Who asked can withdraw it, and an approver reject it, as long as it has not run.",
        )
    own = who.key == approval.requester_key
    if who.actors and not (own and same_actors(who, approval.actors)):
        raise ApprovalRefused(
            f"{approval.id} was not asked for by who acts for {who.name} now.",
            "Revoke it yourself, without a token that was exchanged (its claim `act`).",
        )
    if not own and not set(who.groups) & set(approval.approvers):
        raise ApprovalRefused(
            f"{who.name} neither asked for {approval.id} nor may answer it.",
            f"Ask somebody of: {', '.join(approval.approvers)}.",
        )
    _check_reason(reason, "A revocation")
    if approval.status not in OPEN:
        raise ApprovalRefused(f"{approval.id} is {approval.status} already.")


def _check_other_person(approval: Approval, who: Identity) -> None:
    """Four eyes: neither who asked, nor who acted for them, nor a program in somebody's name."""
    if who.key == approval.requester_key:
        raise ApprovalRefused(
            "Nobody may answer their own request.", "Another person of the group must answer."
        )
    if who.key in approval.actors:
        raise ApprovalRefused(
            "Nobody may answer what they asked for on behalf of somebody else.",
            "Another person of the group must answer.",
        )
    if who.actors:
        raise ApprovalRefused(
            "An answer has to come from the person, and not from somebody who acts for them.",
            "Sign in yourself, without a token that was exchanged (its claim `act`).",
        )


def _check_group(who: Identity, groups: tuple[str, ...]) -> None:
    if not set(who.groups) & set(groups):
        raise ApprovalRefused(
            f"{who.name} is in none of the groups that may answer.",
            f"Ask somebody of: {', '.join(groups)}.",
        )


def _check_reason(reason: str, what: str) -> None:
    if not reason.strip():
        raise ApprovalRefused(f"{what} needs a reason.", "Say in a sentence why.")
