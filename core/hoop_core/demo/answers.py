"""Who answers the demo's requests for approval, and what is tried against the rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from hoop_core.client import AnswerVerdict, Approval, ApprovalStatus, HoopClient
from hoop_core.errors import ApprovalRefused, HoopError


@dataclass(frozen=True, slots=True)
class Decision:
    verdict: AnswerVerdict
    reason: str


class Approver(Protocol):
    """Decides for one person. The terminal is one of them, `automatic` another."""

    def __call__(self, person: str, approval: Approval, /) -> Decision: ...


def automatic(_person: str, _approval: Approval) -> Decision:
    """Says yes in that person's name, and says in the record that no person did."""
    return Decision(AnswerVerdict.APPROVE, "answered by the demo (--auto-approve)")


@dataclass(frozen=True, slots=True)
class OwnAnswer:
    """What happened when the requester tried to approve its own request."""

    approval_id: str
    refused: bool
    text: str


class Desk:
    """Finds what is pending, and answers it as the persons whose clients it was given."""

    def __init__(
        self,
        persons: Mapping[str, HoopClient],
        agent: HoopClient,
        decide: Approver,
        *,
        heard: Callable[[str], None],
    ) -> None:
        self._persons, self._agent, self._decide, self._heard = persons, agent, decide, heard
        self._asked: set[tuple[str, str]] = set()
        self.own_answers: list[OwnAnswer] = []

    def look(self) -> None:
        """Answer what waits now, one person after the other. Raises HoopError."""
        reader = next(iter(self._persons.values()))
        for approval in reader.approvals(ApprovalStatus.PENDING):
            self._try_own_answer(approval)
            self._answer(approval)

    def _try_own_answer(self, approval: Approval) -> None:
        if any(o.approval_id == approval.id for o in self.own_answers):
            return
        try:
            self._agent.answer(approval.id, AnswerVerdict.APPROVE, "I need it.")
        except ApprovalRefused as e:
            self.own_answers.append(OwnAnswer(approval.id, True, str(e)))
            self._heard(f"{approval.requester.name} tried to approve it by itself: refused")
            return
        except HoopError as e:
            self.own_answers.append(OwnAnswer(approval.id, False, f"another error: {e}"))
            return
        self.own_answers.append(OwnAnswer(approval.id, False, "the answer was taken"))

    def _answer(self, approval: Approval) -> None:
        for name, client in self._persons.items():
            if approval.status is not ApprovalStatus.PENDING or (approval.id, name) in self._asked:
                continue
            self._asked.add((approval.id, name))
            decision = self._decide(name, approval)
            approval = client.answer(approval.id, decision.verdict, decision.reason)
            what = approval.kind.replace("_", " ").upper()
            stands = (
                f"needs {approval.missing} more"
                if approval.status is ApprovalStatus.PENDING
                else str(approval.status)
            )
            self._heard(f"{name}: {decision.verdict} the {what} ({stands})")
