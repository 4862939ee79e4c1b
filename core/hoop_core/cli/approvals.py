"""`hoop approvals`: see what waits, and answer it, with the approver's own token."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from hoop_core.cli.output import AsJson, detailed, emit, failing, plain
from hoop_core.cli.remote import TokenEnv, Url, client
from hoop_core.client import (
    MASKING_EXCEPTION,
    STANDING_APPROVAL,
    AnswerVerdict,
    Approval,
    ApprovalStatus,
    Person,
)
from hoop_core.client.rest import MOST_LISTED
from hoop_core.spans import in_words

app = typer.Typer(
    help="Requests that wait for a human.", no_args_is_help=True, add_completion=False
)


def _said(reason: str) -> str:
    if not reason.strip():
        raise typer.BadParameter("say in a sentence why.")
    return reason


Reason = Annotated[
    str, typer.Option("--reason", help="Why: it is kept with the answer.", callback=_said)
]
Identifier = Annotated[str, typer.Argument(metavar="ID")]


@app.command("list")
def list_(
    status: Annotated[ApprovalStatus | None, typer.Option("--status", help="Only these.")] = None,
    url: Url = None,
    token_env: TokenEnv = None,
    as_json: AsJson = False,
) -> None:
    """The requests that you may see, newest first; with `--status pending` the oldest first."""
    with failing(as_json), client(url, token_env) as hoop:
        found = hoop.approvals(status)
    table = detailed(
        ("id", "status", "who", "yes", "asked (UTC)"),
        [
            (
                (
                    a.id,
                    state(a),
                    a.requester.name,
                    f"{a.quorum - a.missing}/{a.quorum}",
                    f"{a.created_at:%m-%d %H:%M}",
                ),
                wanted(a),
            )
            for a in found
        ],
        empty=_nothing(status),
    )
    emit(as_json, {"approvals": [as_plain(a) for a in found]}, whole(table, found))


def whole(table: RenderableType, found: Sequence[Approval]) -> RenderableType:
    """No list ends without a word where there may be more."""
    if len(found) < MOST_LISTED:
        return table
    return Group(table, Text(f"These are the first {MOST_LISTED}: name a --status to see others."))


def _nothing(status: ApprovalStatus | None) -> str:
    if status is None:
        return "Nothing was asked yet."
    return "Nothing is waiting." if status is ApprovalStatus.PENDING else f"No request is {status}."


@app.command()
def show(
    approval_id: Identifier, url: Url = None, token_env: TokenEnv = None, as_json: AsJson = False
) -> None:
    """One request: who wants what, why it was stopped, and what would run."""
    with failing(as_json), client(url, token_env) as hoop:
        found = hoop.approval(approval_id)
    emit(as_json, as_plain(found), card(found))


@app.command()
def approve(
    approval_id: Identifier,
    reason: Reason,
    url: Url = None,
    token_env: TokenEnv = None,
    as_json: AsJson = False,
) -> None:
    """Say yes to exactly what is shown."""
    _answer(approval_id, AnswerVerdict.APPROVE, reason, url, token_env, as_json)


@app.command()
def reject(
    approval_id: Identifier,
    reason: Reason,
    url: Url = None,
    token_env: TokenEnv = None,
    as_json: AsJson = False,
) -> None:
    """Say no; one no is enough."""
    _answer(approval_id, AnswerVerdict.REJECT, reason, url, token_env, as_json)


@app.command()
def withdraw(
    approval_id: Identifier,
    reason: Reason,
    url: Url = None,
    token_env: TokenEnv = None,
    as_json: AsJson = False,
) -> None:
    """Take back what you asked for."""
    with failing(as_json), client(url, token_env) as hoop:
        moved = hoop.withdraw(approval_id, reason)
    emit(as_json, as_plain(moved), Text(f"{moved.id} is {moved.status}."))


@app.command("break-glass")
def break_glass(
    approval_id: Identifier,
    reason: Reason,
    url: Url = None,
    token_env: TokenEnv = None,
    as_json: AsJson = False,
) -> None:
    """Let a request run in an emergency, alone. It is flagged until somebody else has reviewed it."""
    with failing(as_json), client(url, token_env) as hoop:
        moved = hoop.break_glass(approval_id, reason)
    said = f"{moved.id} is {moved.status} in an emergency, until {moved.valid_until:%H:%M} UTC. Its review is open."
    emit(as_json, as_plain(moved), Text(said))


@app.command()
def review(
    approval_id: Identifier,
    reason: Reason,
    url: Url = None,
    token_env: TokenEnv = None,
    as_json: AsJson = False,
) -> None:
    """Close the review of an emergency that somebody else declared."""
    with failing(as_json), client(url, token_env) as hoop:
        moved = hoop.review(approval_id, reason)
    emit(as_json, as_plain(moved), Text(f"The review of {moved.id} is closed."))


def _answer(  # noqa: PLR0917 - typer's own order
    approval_id: str,
    verdict: AnswerVerdict,
    reason: str,
    url: str | None,
    token_env: str | None,
    as_json: bool,
) -> None:
    with failing(as_json), client(url, token_env) as hoop:
        answered = hoop.answer(approval_id, verdict, reason)
    emit(as_json, as_plain(answered), Text(_after(answered)))


def _after(approval: Approval) -> str:
    if approval.status is ApprovalStatus.PENDING:
        given = approval.quorum - approval.missing
        groups = ", ".join(approval.approvers)
        return f"Recorded: {given} of {approval.quorum}. {approval.missing} more of {groups} must answer."
    return f"Recorded: {approval.id} is {approval.status}."


def as_plain(approval: Approval) -> dict[str, Any]:
    """The approval as JSON, under the names of the REST interface."""
    plain_values: dict[str, Any] = dataclasses.asdict(
        approval,
        dict_factory=lambda pairs: {
            k: v.isoformat() if isinstance(v, datetime) else v for k, v in pairs
        },
    )
    return plain_values


def state(approval: Approval) -> str:
    """An exception of an earlier policy shows nothing, and no list must say otherwise."""
    if approval.void:
        return f"{approval.status}, void: policy changed"
    broken = approval.emergency
    if broken is not None:
        return f"{approval.status}, {'reviewed' if broken.review else 'emergency, review open'}"
    return str(approval.status)


def wanted(approval: Approval) -> str:
    """What it is about, in a few words."""
    if approval.kind == MASKING_EXCEPTION:
        return f"see {', '.join(approval.columns)} for {_span(approval)}"
    what = f"{approval.kind} {' '.join(approval.writes)}".strip()
    if approval.kind == STANDING_APPROVAL:
        return f"{what}, used {approval.uses} times"
    rows = approval.impact.rows if approval.impact else None
    return what if rows is None else f"{what}, {rows:,} rows"


def _span(approval: Approval) -> str:
    return in_words(timedelta(seconds=approval.seconds or 0))


def _masked(approval: Approval) -> str:
    """The masks that the statement meets; those it is known not to touch are only counted."""
    met = [m for m in approval.masked if m.used is not False]
    shown = " ".join(f"{m.table}.{m.column} ({m.mask})" for m in met) or "-"
    others = len(approval.masked) - len(met)
    return f"{shown}; {others} more of its tables, which it does not read" if others else shown


def _exposed(approval: Approval) -> str:
    return (
        " ".join(
            f"{m.table}.{m.column}" + (f" (by {m.exception})" if m.exception else " (by group)")
            for m in approval.exposed
        )
        or "-"
    )


def _about(approval: Approval) -> dict[str, str]:
    """What exactly is wanted: a statement, or to see columns for a while."""
    if approval.kind == MASKING_EXCEPTION:
        return {
            "wants to see": " ".join(f"{m.table}.{m.column} ({m.mask})" for m in approval.masked),
            "for": f"{_span(approval)} from the last yes on, as {approval.snowflake_role}",
            "because": approval.reason,
        }
    run = " ".join(f"{k}={v}" for k, v in sorted(approval.run.fields.items()))
    settings = " ".join(f"{k}={v}" for k, v in sorted(approval.settings.items()))
    return {
        "run (as the client says)": f"{approval.run.orchestrator} {run}".strip() or "-",
        "reads": " ".join(approval.reads) or "-",
        "writes": " ".join(approval.writes) or "-",
        "masked": _masked(approval),
        "shown unmasked": _exposed(approval),
        "parameters": _parameters(approval) or "-",
        "settings": settings or "-",
        **({"files": _staged(approval)} if approval.staged else {}),
        **_foreseen(approval),
        **_bounded(approval),
    }


def _foreseen(approval: Approval) -> dict[str, str]:
    """What it would do, and how that could be undone."""
    impact = approval.impact
    if impact is None:
        return {}
    counted = (
        f"{impact.rows:,} {impact.what}"
        if impact.rows is not None
        else f"not counted: {impact.why}"
    )
    if impact.partitions is not None:
        counted += f"; scans {impact.partitions:,} of {impact.partitions_total or 0:,} partitions"
    return {"impact": counted, **({"could be undone by": impact.restore} if impact.restore else {})}


def _bounded(approval: Approval) -> dict[str, str]:
    """What a standing approval lets through."""
    rows: dict[str, str] = {}
    if approval.windows:
        rows["may run"] = " and ".join(approval.windows)
    if approval.kind == STANDING_APPROVAL:
        rows["for"] = f"{_span(approval)} from the last yes on, as {approval.snowflake_role}"
        rows["schedule (as the client says)"] = " ".join(
            f"{k}={v}" for k, v in approval.schedule.items()
        )
        rows["bounds"] = "\n".join(
            f"{name}: {' '.join(f'{k}={v}' for k, v in limit.items())}"
            for name, limit in approval.bounds.items()
        )
        rows["rows at most"] = f"{approval.rows_at_most:,}"
        rows["used"] = f"{approval.uses} of {approval.uses_at_most} times"
        rows["because"] = approval.reason
    return rows


def _parameters(approval: Approval) -> str:
    """Bound values, as far as they are told."""
    return "\n".join(
        f"{p.get('position')}: {p.get('value')}"
        if p.get("hidden") is None
        else f"{p.get('position')}: hidden ({p.get('type')}, {p.get('hidden')})"
        for p in approval.parameters or ()
    )


def _staged(approval: Approval) -> str:
    return "\n".join(f"{f.file} ({f.size} bytes, SHA-256 {f.sha256})" for f in approval.staged)


def _who(person: Person) -> str:
    """By name and groups, and through whom."""
    acting = f", through {' for '.join(person.actors)}" if person.actors else ""
    return f"{person.name} ({', '.join(person.groups)}){acting}"


def card(approval: Approval) -> Panel:
    """The request as an approver wants to see it: who, why, what exactly."""
    facts = Table.grid(padding=(0, 2))
    waits = approval.status is ApprovalStatus.PENDING
    session = f", session {approval.session_id}" if approval.session_id else ""
    rows = {
        "who": _who(approval.requester),
        "why it waits" if waits else "why it waited": "; ".join(
            r.message for r in approval.reasons if r.code == "APPROVAL_REQUIRED"
        ),
        "asked": f"{approval.created_at:%Y-%m-%d %H:%M} UTC{session}",
        **_about(approval),
    }
    if waits:
        rows["needs"] = f"{approval.missing} more of {', '.join(approval.approvers)}"
        rows["answer by"] = f"{approval.pending_until:%Y-%m-%d %H:%M} UTC"
    if approval.valid_until:
        rows["until"] = f"{approval.valid_until:%Y-%m-%d %H:%M} UTC"
    if approval.revocation:
        rows[str(approval.status)] = f"{approval.revocation.by.name}: {approval.revocation.reason}"
    if approval.emergency:
        broken, seen = approval.emergency, approval.emergency.review
        rows["broken glass"] = f"{broken.by.name}: {broken.reason}"
        rows["review"] = f"{seen.by.name}: {seen.reason}" if seen else "open"
    for name, value in rows.items():
        facts.add_row(Text(name, style="dim"), plain(value))
    for given in approval.answers:
        facts.add_row(
            Text(given.verdict, style="bold"), plain(f"{given.approver.name}: {given.reason}")
        )
    title = f"{approval.id} · {approval.kind} · {state(approval)}"
    parts: list[RenderableType] = [facts]
    if approval.rewritten is not None:
        text = plain(approval.rewritten).plain
        sql = Syntax(text, "sql", word_wrap=True, theme="ansi_dark")
        parts += [Text(), Text(_TEXT_IS[approval.status], style="dim"), sql]
    if waits:
        parts.append(Text(f'\nhoop approvals approve {approval.id} --reason "…"', style="dim"))
    return Panel(Group(*parts), title=title)


_TEXT_IS = {
    ApprovalStatus.PENDING: "what will run",
    ApprovalStatus.APPROVED: "what will run",
    ApprovalStatus.CONSUMED: "what ran",
    ApprovalStatus.REJECTED: "what would have run",
    ApprovalStatus.EXPIRED: "what would have run",
    ApprovalStatus.REVOKED: "what would have run",
    ApprovalStatus.WITHDRAWN: "what would have run",
}
