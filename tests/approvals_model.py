"""The rules of approvals, told a second time from the log alone, without any of Hoop's own code for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass
class Told:
    """What the log has said so far of one question."""

    binding: str
    quorum: int
    groups: set[str]
    requester: str
    standing: bool
    pending_until: datetime
    yes: set[str] = field(default_factory=set)
    broken: bool = False
    valid_until: datetime | None = None
    over: str = ""
    uses: int = 0


class Broken(AssertionError):
    """A statement ran that must not have run."""


def checked(entries: Iterable[tuple[str, dict[str, Any]]]) -> dict[str, Told]:
    """Follow the log; raises Broken at the first entry that breaks a rule."""
    questions: dict[str, Told] = {}
    for kind, data in entries:
        if kind == "approval.requested":
            asked = data["question"]
            if any(q.binding == data["binding"] and not q.over for q in questions.values()):
                raise Broken("two open questions of one binding")
            questions[data["approval"]] = Told(
                data["binding"],
                data["quorum"],
                set(data["approvers"]),
                asked["requester"],
                bool(asked.get("standing")),
                datetime.fromisoformat(data["pending_until"]),
            )
        elif kind == "statement.intent":
            _used(questions[data["approval"]], data)
        elif "approval" in data and data["approval"] in questions:
            _moved(questions[data["approval"]], kind, data)
    return questions


def _moved(question: Told, kind: str, data: dict[str, Any]) -> None:
    if kind.endswith("_refused") or kind == "approval.impact":
        return
    if kind == "approval.reviewed":
        return
    if question.over:
        raise Broken(f"{kind} after {question.over}")
    match kind:
        case "approval.answered":
            who = f"{data['approver']['issuer']}#{data['approver']['subject']}"
            if who == question.requester:
                raise Broken("the requester counted")
            if not set(data["approver"]["groups"]) & question.groups:
                raise Broken("somebody of no group answered")
            if data["verdict"] == "reject":
                question.over = "a no"
            else:
                if who in question.yes:
                    raise Broken("one person counted twice")
                question.yes.add(who)
                if len(question.yes) >= question.quorum:
                    question.valid_until = datetime.fromisoformat(data["valid_until"])
        case "approval.broken_glass":
            who = f"{data['by']['issuer']}#{data['by']['subject']}"
            if who == question.requester:
                raise Broken("the requester broke the glass")
            question.broken = True
            question.valid_until = datetime.fromisoformat(data["valid_until"])
        case "approval.expired" | "approval.withdrawn" | "approval.revoked" | "approval.drifted":
            question.over = kind
        case _:
            raise Broken(f"an unknown move: {kind}")


def _used(question: Told, data: dict[str, Any]) -> None:
    if question.over:
        raise Broken(f"used after {question.over}")
    if len(question.yes) < question.quorum and not question.broken:
        raise Broken("used without a quorum")
    if question.valid_until is None or datetime.fromisoformat(data["now"]) >= question.valid_until:
        raise Broken("used after its time")
    if data["binding"] != question.binding:
        raise Broken("used for something else than was approved")
    question.uses += 1
    if not question.standing:
        question.over = "its use"
