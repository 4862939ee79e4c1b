"""What Hoop's REST API answers, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from hoop_core.errors import GatewayUnavailable
from hoop_core.model import AnswerVerdict, ApprovalStatus, Reason, RunContext


@dataclass(frozen=True, slots=True)
class Person:
    """Who asked or answered, as the identity provider names them."""

    issuer: str
    subject: str
    name: str
    groups: tuple[str, ...] = ()
    actors: tuple[str, ...] = ()
    """Who acted for them, as `issuer#subject`: a token that was exchanged (RFC 8693)."""


@dataclass(frozen=True, slots=True)
class Answer:
    approver: Person
    verdict: AnswerVerdict
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class MaskedName:
    """A column of the statement's tables that is masked; `table` is fully qualified.

    `used` is False where the statement is known not to read the column, None where nobody knows.
    `exception` is the approved exception that shows it all the same.
    """

    table: str
    column: str
    mask: str
    used: bool | None = None
    exception: str | None = None


@dataclass(frozen=True, slots=True)
class Revocation:
    """Who took a request back, ended a standing grant or closed a review, and why."""

    by: Person
    reason: str
    at: datetime


MASKING_EXCEPTION, STANDING_APPROVAL = "masking_exception", "standing_approval"


@dataclass(frozen=True, slots=True)
class Impact:
    """What a statement would do, as it was counted. `rows` is None where `why` says that it was not."""

    what: str
    rows: int | None
    why: str
    restore: str
    """How it could be undone afterwards; empty: not at all."""
    sql: str = ""
    """The count that was run, under the caller's own masks."""
    partitions: int | None = None
    """Micro-partitions that it would scan, of so many that its tables have."""
    partitions_total: int | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Emergency:
    """Somebody broke the glass: one person let the statement run. `review` is None while nobody has looked at it."""

    by: Person
    reason: str
    at: datetime
    review: Revocation | None = None


@dataclass(frozen=True, slots=True)
class StagedName:
    """An uploaded file, with the SHA-256 (hex) and the size in bytes of its content."""

    file: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Approval:
    """A request for approval. `rewritten` is the exact text that will run; `parameters` are the values that the
    driver binds on the server's side: position, type, value, and why a value is `hidden`; `settings` change
    what the text means.

    A request of the kind `masking_exception` has no text: `columns` are to be shown unmasked for
    `seconds`, because of `reason`. It is `void` when the policy has changed since; `in_force` and `void`
    are None for statements.
    """

    id: str
    status: ApprovalStatus
    requester: Person
    kind: str
    sql: str
    rewritten: str | None
    parameters: Sequence[Mapping[str, Any]] | None
    reasons: tuple[Reason, ...]
    rules: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    masked: tuple[MaskedName, ...]
    approvers: tuple[str, ...]
    quorum: int
    answers: tuple[Answer, ...]
    created_at: datetime
    pending_until: datetime | None
    valid_until: datetime | None
    consumed_at: datetime | None
    run: RunContext
    session_id: str | None
    fingerprint: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    snowflake_role: str = ""
    columns: tuple[str, ...] = ()
    seconds: int | None = None
    reason: str = ""
    revocation: Revocation | None = None
    in_force: bool | None = None
    void: bool | None = None
    exposed: tuple[MaskedName, ...] = ()
    """Columns that are masked for others and will be shown as they are."""
    staged: tuple[StagedName, ...] = ()
    """The uploaded files that the statement reads: the grant is for these very contents."""
    impact: Impact | None = None
    """None until it is counted."""
    break_glass: tuple[str, ...] = ()
    """Groups of whom one person alone may let it run in an emergency."""
    emergency: Emergency | None = None
    windows: tuple[str, ...] = ()
    """When it may run, in words; none: at any time."""
    opens_at: datetime | None = None
    """Of what is approved: when that is next, where it is not now."""
    bounds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of a standing approval: what may stand in each gap of `sql`."""
    rows_at_most: int | None = None
    uses_at_most: int | None = None
    cut: bool = False
    """In a list: `sql`, or `rewritten`, is its beginning only."""
    schedule: Mapping[str, str] = field(default_factory=dict)
    uses: int = 0

    @property
    def missing(self) -> int:
        """How many more distinct approvers must say yes."""
        said_yes = {
            (a.approver.issuer, a.approver.subject)
            for a in self.answers
            if a.verdict is AnswerVerdict.APPROVE
        }
        return max(0, self.quorum - len(said_yes))


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _person(body: Mapping[str, Any]) -> Person:
    return Person(
        body.get("issuer", ""),
        body.get("subject", ""),
        body.get("name", ""),
        tuple(body.get("groups", ())),
        tuple(body.get("actors", ())),
    )


def _run(body: Mapping[str, Any] | None) -> RunContext:
    if not body:
        return RunContext()
    fields = {str(k): str(v) for k, v in (body.get("fields") or {}).items()}
    return RunContext(body.get("orchestrator") or "", fields)


def _columns(body: Sequence[Mapping[str, Any]] | None) -> tuple[MaskedName, ...]:
    return tuple(
        MaskedName(m["table"], m["column"], m["mask"], m.get("used"), m.get("exception"))
        for m in body or ()
    )


def _revocation(body: Mapping[str, Any] | None) -> Revocation | None:
    if not body:
        return None
    return Revocation(_person(body["by"]), body["reason"], datetime.fromisoformat(body["at"]))


def _impact(body: Mapping[str, Any] | None) -> Impact | None:
    if not body:
        return None
    rows = body.get("rows")
    return Impact(
        body.get("what") or "",
        None if rows is None else int(rows),
        body.get("why") or "",
        body.get("restore") or "",
        body.get("sql") or "",
        body.get("partitions"),
        body.get("partitions_total"),
        body.get("bytes"),
    )


def _emergency(body: Mapping[str, Any] | None) -> Emergency | None:
    if not body:
        return None
    at = datetime.fromisoformat(body["at"])
    return Emergency(_person(body["by"]), body["reason"], at, _revocation(body.get("review")))


def _window(body: Mapping[str, Any]) -> str:
    return f"{', '.join(body['days'])} {body['from']}-{body['to']} {body['timezone']}"


def parse_approval(body: Mapping[str, Any]) -> Approval:
    """Raises GatewayUnavailable when the answer is not an approval: another server is there."""
    try:
        return Approval(
            id=body["id"],
            status=ApprovalStatus(body["status"]),
            requester=_person(body["requester"]),
            kind=body["kind"],
            sql=body["sql"],
            rewritten=body.get("rewritten"),
            parameters=body.get("parameters"),
            reasons=tuple(Reason(r["code"], r["message"]) for r in body.get("reasons", ())),
            rules=tuple(body.get("rules", ())),
            reads=tuple(body.get("reads", ())),
            writes=tuple(body.get("writes", ())),
            masked=_columns(body.get("masked")),
            approvers=tuple(body["approvers"]),
            quorum=int(body["quorum"]),
            answers=tuple(
                Answer(
                    _person(a["approver"]),
                    AnswerVerdict(a["verdict"]),
                    a.get("reason") or "",
                    datetime.fromisoformat(a["at"]),
                )
                for a in body.get("answers", ())
            ),
            created_at=datetime.fromisoformat(body["created_at"]),
            pending_until=_moment(body.get("pending_until")),
            valid_until=_moment(body.get("valid_until")),
            consumed_at=_moment(body.get("consumed_at")),
            run=_run(body.get("run")),
            session_id=body.get("session_id"),
            fingerprint=body.get("fingerprint") or "",
            settings=dict(body.get("settings") or {}),
            snowflake_role=body.get("snowflake_role") or "",
            columns=tuple(body.get("columns") or ()),
            seconds=body.get("seconds"),
            reason=body.get("reason") or "",
            revocation=_revocation(body.get("revocation")),
            in_force=body.get("in_force"),
            void=body.get("void"),
            exposed=_columns(body.get("exposed")),
            staged=tuple(
                StagedName(f["file"], f["sha256"], int(f["bytes"]))
                for f in body.get("staged") or ()
            ),
            impact=_impact(body.get("impact")),
            break_glass=tuple((body.get("break_glass") or {}).get("groups", ())),
            emergency=_emergency(body.get("emergency")),
            windows=tuple(_window(w) for w in body.get("windows") or ()),
            opens_at=_moment(body.get("opens_at")),
            bounds=dict(body.get("bounds") or {}),
            rows_at_most=body.get("rows_at_most"),
            uses_at_most=body.get("uses_at_most"),
            cut=bool(body.get("cut")),
            schedule=dict(body.get("schedule") or {}),
            uses=int(body.get("uses") or 0),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise GatewayUnavailable(
            f"The answer is not an approval of Hoop ({type(e).__name__}: {e}).",
            "Check that the address is Hoop's and that client and gateway are of one version.",
        ) from None
