"""A request in the words of somebody who is not in the codebase: who wants what, why it was stopped, what it does."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from markupsafe import Markup

from hoop_core.approvals.approval import (
    Approval,
    check_answer,
    check_break_glass,
    check_review,
    check_revocation,
    check_withdrawal,
)
from hoop_core.approvals.bound import Bound
from hoop_core.errors import ApprovalRefused
from hoop_core.model import AnswerVerdict, ApprovalStatus, Identity, Json, Kind
from hoop_core.records import sha256
from hoop_core.spans import in_words
from hoop_core.web.pages.plain import OddOnes, odd_characters
from hoop_core.web.pages.statements import Difference, coloured, compared
from hoop_core.windows import Window

EXCEPTION, STANDING = "masking_exception", "standing_approval"
_DOES: dict[str, str] = {
    Kind.SELECT: "read {reads}",
    Kind.INSERT: "INSERT rows into {writes}",
    Kind.INSERT_OVERWRITE: "REPLACE all rows of {writes}",
    Kind.UPDATE: "UPDATE {writes}",
    Kind.DELETE: "DELETE from {writes}",
    Kind.MERGE: "MERGE into {writes}",
    Kind.TRUNCATE: "TRUNCATE {writes} (remove every row)",
    Kind.CREATE_TABLE: "CREATE the table {writes}",
    Kind.CREATE_TABLE_AS: "CREATE the table {writes}",
    Kind.ALTER_TABLE: "ALTER the table {writes}",
    Kind.DROP_TABLE: "DROP the table {writes}",
    Kind.COPY_INTO_TABLE: "COPY files into {writes}",
    Kind.PUT: "upload files",
}
_CHANGES = frozenset(
    {Kind.INSERT_OVERWRITE, Kind.UPDATE, Kind.DELETE, Kind.MERGE, Kind.TRUNCATE, Kind.DROP_TABLE}
)
_RUN_LABELS = {
    "dag_id": "DAG",
    "run_id": "Run",
    "task_id": "Task",
    "map_index": "Map index",
    "try_number": "Try",
    "job_name": "Job",
    "step_key": "Step",
    "asset_key": "Asset",
    "partition_key": "Partition",
    "purpose": "Purpose",
}
_STATES: dict[ApprovalStatus, tuple[str, str]] = {
    ApprovalStatus.PENDING: ("Waiting", "wait"),
    ApprovalStatus.APPROVED: ("Approved", "yes"),
    ApprovalStatus.REJECTED: ("Rejected", "no"),
    ApprovalStatus.EXPIRED: ("Expired", "over"),
    ApprovalStatus.CONSUMED: ("Approved and run", "done"),
    ApprovalStatus.REVOKED: ("Revoked", "no"),
    ApprovalStatus.WITHDRAWN: ("Withdrawn", "over"),
}
_DIGESTS = {
    "policy_digest": "Policy (SHA-256)",
    "catalog_digest": "Tables and columns (SHA-256)",
    "terms_digest": "Approvers and terms (SHA-256)",
    "shown_digest": "Masks and row filters (SHA-256)",
}
ACTIONS = ("approve", "reject", "withdraw", "revoke", "break_glass", "review")


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the timeline."""

    at: str | None
    what: str
    who: str = ""
    reason: str = ""
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Text:
    """A statement as a page shows it."""

    exact: str
    sha256: str
    odd: OddOnes

    @property
    def html(self) -> Markup:
        """Made when it is asked for: a page that compares two texts shows neither by itself."""
        return coloured(self.exact)

    @classmethod
    def of(cls, sql: str) -> Text:
        return cls(sql, sha256(sql), odd_characters(sql))


@dataclass(frozen=True, slots=True)
class Limit:
    """What a gap of a template may hold: all of it, for it is what an approver signs."""

    slot: str
    words: str
    choices: list[tuple[str, list[str]]]
    """What a list is called, and the list."""


@dataclass(frozen=True, slots=True)
class Line:
    """A request in a list."""

    id: str
    state: str
    tone: str
    who: str
    does: str
    warning: str
    where: str
    created_at: datetime
    left: timedelta | None
    answered: int
    quorum: int
    review_open: bool
    until: datetime | None
    uses: int
    kind: str


@dataclass(frozen=True, slots=True)
class Asked:
    """Everything that the page of one request shows."""

    approval: Approval
    question: Json
    line: Line
    why: list[str]
    notes: list[str]
    changes: bool
    """Whether rows that are there would be changed or lost."""
    run: list[tuple[str, str]]
    orchestrator: str
    sent: Text | None
    runs: Text | None
    difference: Difference | None
    bound: list[Bound]
    bound_left_out: int
    example: Text | None
    """Of a standing approval: one of its statements as it would run."""
    bounds: list[Limit]
    rests_on: list[tuple[str, str]]
    """By what else the grant is bound: digests, and where names are looked up."""
    staged: list[Json]
    windows: list[str]
    approved_by: list[Json]
    events: list[Event]
    stamp: str
    can: dict[str, str | None]
    """What this visitor may do; where they may not, why."""


def state_of(approval: Approval) -> str:
    """What a form was made from: a later answer, or another end, makes it stale."""
    parts = (approval.binding, approval.status, len(approval.answers), approval.review_open)
    mark = hashlib.sha256(repr(tuple(map(str, parts))).encode()).hexdigest()[:24]
    return f"{approval.status}.{len(approval.answers)}.{mark}"


def line_of(approval: Approval, now: datetime) -> Line:
    question = approval.body
    state, tone = _STATES[approval.status]
    pending = approval.status is ApprovalStatus.PENDING
    yes = [a for a in approval.answers if a["verdict"] == AnswerVerdict.APPROVE]
    return Line(
        id=approval.id,
        state=state if approval.emergency is None else f"{state}, glass broken",
        tone=tone if approval.emergency is None else "alarm",
        who=_name(question.get("requester")),
        does=_does(question),
        warning=_warning(question),
        where=_where(question.get("run") or {}),
        created_at=approval.created_at,
        left=approval.pending_until - now if pending else None,
        answered=len(yes),
        quorum=approval.quorum,
        review_open=approval.review_open,
        until=approval.valid_until,
        uses=approval.uses,
        kind=approval.kind or "",
    )


def asked(approval: Approval, visitor: Identity, now: datetime) -> Asked:
    """Costs milliseconds for long statements: not for the event loop."""
    question = approval.as_json()
    sent, runs = _texts(question)
    run = question.get("run") or {}
    fields = run.get("fields") or {}
    bound = [Bound.from_json(v) for v in question.get("parameters") or ()]
    left_out = int(question.get("parameters_left_out") or 0)
    return Asked(
        approval=approval,
        question=question,
        line=line_of(approval, now),
        why=_told(question, stopped=True),
        notes=_told(question, stopped=False),
        changes=question.get("kind") in _CHANGES,
        run=[(_RUN_LABELS.get(k, k), str(v)) for k, v in fields.items() if str(v)],
        orchestrator=str(run.get("orchestrator") or "").capitalize(),
        sent=sent,
        runs=runs,
        difference=_difference(sent, runs),
        bound=bound,
        bound_left_out=left_out,
        example=_example(question),
        bounds=[_limit(str(k), v) for k, v in (question.get("bounds") or {}).items()],
        rests_on=_rests_on(question),
        staged=question.get("staged") or [],
        windows=[str(Window.from_json(w)) for w in question.get("windows") or ()],
        approved_by=[a for a in approval.answers if a["verdict"] == AnswerVerdict.APPROVE],
        events=events_of(approval),
        stamp=state_of(approval),
        can=_can(approval, visitor),
    )


# ---------------------------------------------------------------------- what it is about


def _does(question: Json) -> str:
    if question.get("kind") == EXCEPTION:
        columns = question.get("columns") or []
        span = in_words(timedelta(seconds=question.get("seconds") or 0))
        return f"see {_some(columns)} unmasked for {span}"
    if question.get("kind") == STANDING:
        span = in_words(timedelta(seconds=question.get("seconds") or 0))
        tables = question.get("writes") or question.get("reads") or []
        return f"run one statement on {_some(tables)} again and again for {span}"
    told = _DOES.get(question.get("kind") or "", "run a statement on {writes}")
    reads, writes = question.get("reads") or [], question.get("writes") or []
    does = told.format(reads=_some(reads), writes=_some(writes))
    if question.get("kind") == Kind.CREATE_TABLE_AS and reads:
        does += f" from {_some(reads)}"
    return does


def _warning(question: Json) -> str:
    facts = question.get("facts") or {}
    if question.get("kind") in {Kind.UPDATE, Kind.DELETE}:
        if facts.get("has_where") is False:
            return "no WHERE clause"
        if facts.get("is_unbounded"):
            return "a WHERE clause that excludes nothing"
    if facts.get("replaces"):
        return "replaces it if it is there"
    return ""


def _told(question: Json, *, stopped: bool) -> list[str]:
    """What the policy says: why it was stopped, or what else."""
    given = question.get("reasons") or []
    asking = [r for r in given if (r.get("code") == "APPROVAL_REQUIRED") is stopped]
    return [m[:1].upper() + m[1:] for m in (str(r.get("message", "")) for r in asking) if m]


def _some(names: Sequence[str]) -> str:
    if not names:
        return "no table"
    first = ", ".join(names[:2])
    return first if len(names) <= 2 else f"{first} and {len(names) - 2} more"


def _where(run: Json) -> str:
    fields = run.get("fields") or {}
    job = fields.get("dag_id") or fields.get("job_name") or ""
    step = fields.get("task_id") or fields.get("step_key") or fields.get("asset_key") or ""
    return " / ".join(str(p) for p in (job, step) if p)


def _texts(question: Json) -> tuple[Text | None, Text | None]:
    """What was sent, and what will run."""
    if question.get("kind") == STANDING:
        template = question.get("template")
        return None, Text.of(template) if isinstance(template, str) else None
    sql, rewritten = question.get("sql"), question.get("rewritten")
    return Text.of(sql) if sql else None, Text.of(rewritten) if rewritten else None


def _example(question: Json) -> Text | None:
    text = question.get("rewritten")
    return Text.of(text) if question.get("kind") == STANDING and isinstance(text, str) else None


def _limit(slot: str, limit: Any) -> Limit:
    """Of a gap: `date, days before 7`, and the texts that it may hold."""
    if not isinstance(limit, dict):
        return Limit(slot, str(limit), [])
    kind = [str(limit["type"])] if "type" in limit else []
    rest = {k.replace("_", " "): v for k, v in limit.items() if k != "type"}
    single = [f"{k} {v}" for k, v in rest.items() if not isinstance(v, list)]
    several = [(k, [str(one) for one in v]) for k, v in rest.items() if isinstance(v, list)]
    return Limit(slot, ", ".join(kind + single), several)


def _rests_on(question: Json) -> list[tuple[str, str]]:
    names = [n for n in question.get("names") or () if n]
    found = [("Names are looked up in", ".".join(map(str, names)))] if names else []
    return found + [(label, str(question[k])) for k, label in _DIGESTS.items() if question.get(k)]


def _difference(sent: Text | None, runs: Text | None) -> Difference | None:
    if sent is None or runs is None or sent.exact == runs.exact:
        return None
    return compared(sent.exact, runs.exact)


# ---------------------------------------------------------------------- what has happened


def events_of(approval: Approval) -> list[Event]:
    """Everything that happened to a request, in order."""
    question = approval.body
    found = [Event(approval.created_at.isoformat(), "Asked", _name(question.get("requester")))]
    for answer in approval.answers:
        yes = answer["verdict"] == AnswerVerdict.APPROVE
        found.append(
            Event(
                answer["at"],
                "Approved" if yes else "Rejected",
                _name(answer["approver"]),
                answer["reason"],
                "yes" if yes else "no",
            )
        )
    if approval.emergency is not None:
        act = approval.emergency
        found.append(Event(act["at"], "Broke the glass", _name(act["by"]), act["reason"], "alarm"))
        if act.get("review"):
            seen = act["review"]
            found.append(Event(seen["at"], "Reviewed", _name(seen["by"]), seen["reason"], "yes"))
    if approval.revocation is not None:
        end = approval.revocation
        withdrawn = approval.status is ApprovalStatus.WITHDRAWN
        what = "Withdrawn" if withdrawn else "Revoked"
        found.append(Event(end.get("at"), what, _name(end.get("by")), end.get("reason", ""), "no"))
    if approval.consumed_at is not None:
        found.append(Event(approval.consumed_at.isoformat(), "Run with this approval", tone="done"))
    if approval.status is ApprovalStatus.EXPIRED:
        late = approval.valid_until or approval.pending_until
        what = "Not used in time" if approval.valid_until else "Nobody answered in time"
        found.append(Event(late.isoformat(), what, tone="over"))
    return sorted(found, key=_time)


def _time(event: Event) -> datetime:
    return datetime.fromisoformat(event.at) if event.at else datetime.max.replace(tzinfo=UTC)


def _name(who: Any) -> str:
    if not isinstance(who, dict):
        return str(who or "somebody")
    return str(who.get("name") or who.get("subject") or "somebody")


# ---------------------------------------------------------------------- what may be done


def _can(approval: Approval, visitor: Identity) -> dict[str, str | None]:
    """By the rules of the desk itself, as of the sign-in; a fresh proof decides when it comes to it."""
    asked_of_desk: dict[str, Callable[[], None]] = {
        "approve": lambda: check_answer(approval, visitor, AnswerVerdict.APPROVE, "."),
        "reject": lambda: check_answer(approval, visitor, AnswerVerdict.REJECT, "."),
        "withdraw": lambda: check_withdrawal(approval, visitor, "."),
        "revoke": lambda: check_revocation(approval, visitor, "."),
        "break_glass": lambda: check_break_glass(approval, visitor, "."),
        "review": lambda: check_review(approval, visitor, "."),
    }
    found: dict[str, str | None] = {}
    for name, check in asked_of_desk.items():
        try:
            check()
            found[name] = None
        except ApprovalRefused as e:
            found[name] = e.message
    return found
