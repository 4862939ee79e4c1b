"""`hoop approvals`: see what waits, and answer it, with the approver's own token."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from hoop_core.cli.output import AsJson, emit, failing, listing, plain
from hoop_core.cli.remote import TokenEnv, Url, client
from hoop_core.client import AnswerVerdict, Approval, ApprovalStatus

app = typer.Typer(help="Requests that wait for a human.", no_args_is_help=True)
Reason = Annotated[str, typer.Option("--reason", help="Why; an answer without one is refused.")]
Identifier = Annotated[str, typer.Argument(metavar="ID")]


@app.command("list")
def list_(
    status: Annotated[ApprovalStatus | None, typer.Option("--status", help="Only these.")] = None,
    url: Url = None,
    token_env: TokenEnv = None,
    as_json: AsJson = False,
) -> None:
    """The requests that you may see, newest first."""
    with failing(as_json), client(url, token_env) as hoop:
        found = hoop.approvals(status)
    table = listing("id", "status", "who", "wants", "yes", "asked (UTC)")
    for a in found:
        table.add_row(
            a.id, a.status, plain(a.requester.name), plain(f"{a.kind} {' '.join(a.writes)}"),
            f"{a.quorum - a.missing}/{a.quorum}", f"{a.created_at:%m-%d %H:%M}",
        )  # fmt: skip
    emit(as_json, {"approvals": [as_plain(a) for a in found]}, table)


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
    reason: Reason = "",
    url: Url = None,
    token_env: TokenEnv = None,
    as_json: AsJson = False,
) -> None:
    """Say yes to exactly the text that is shown."""
    _answer(approval_id, AnswerVerdict.APPROVE, reason, url, token_env, as_json)


@app.command()
def reject(
    approval_id: Identifier,
    reason: Reason = "",
    url: Url = None,
    token_env: TokenEnv = None,
    as_json: AsJson = False,
) -> None:
    """Say no; one no is enough."""
    _answer(approval_id, AnswerVerdict.REJECT, reason, url, token_env, as_json)


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


def card(approval: Approval) -> Panel:
    """The request as an approver wants to see it: who, why, what exactly."""
    facts = Table.grid(padding=(0, 2))
    run = " ".join(f"{k}={v}" for k, v in sorted(approval.run.fields.items()))
    rows = {
        "who": f"{approval.requester.name} ({', '.join(approval.requester.groups)})",
        "run (as the client says)": f"{approval.run.orchestrator} {run}".strip() or "-",
        "why it waits": "; ".join(
            r.message for r in approval.reasons if r.code == "APPROVAL_REQUIRED"
        ),
        "asked": f"{approval.created_at:%Y-%m-%d %H:%M} UTC, session {approval.session_id}",
        "reads": " ".join(approval.reads) or "-",
        "writes": " ".join(approval.writes) or "-",
        "masked": " ".join(f"{m.table}.{m.column} ({m.mask})" for m in approval.masked) or "-",
        "parameters": str(list(approval.parameters)) if approval.parameters else "-",
    }
    waits = approval.status is ApprovalStatus.PENDING
    if waits:
        rows["needs"] = f"{approval.missing} more of {', '.join(approval.approvers)}"
        rows["answer by"] = f"{approval.pending_until:%Y-%m-%d %H:%M} UTC"
    for name, value in rows.items():
        facts.add_row(Text(name, style="dim"), plain(value))
    for given in approval.answers:
        facts.add_row(
            Text(given.verdict, style="bold"), plain(f"{given.approver.name}: {given.reason}")
        )
    sql = Syntax(plain(approval.rewritten or "").plain, "sql", word_wrap=True, theme="ansi_dark")
    title = f"{approval.id} · {approval.kind} · {approval.status}"
    parts: list[RenderableType] = [facts, Text(), Text(_TEXT_IS[approval.status], style="dim"), sql]
    if waits:
        parts.append(Text(f'\nhoop approvals approve {approval.id} --reason "…"', style="dim"))
    return Panel(Group(*parts), title=title)


_TEXT_IS = {
    ApprovalStatus.PENDING: "what will run",
    ApprovalStatus.APPROVED: "what will run",
    ApprovalStatus.CONSUMED: "what ran",
    ApprovalStatus.REJECTED: "what would have run",
    ApprovalStatus.EXPIRED: "what would have run",
}
