"""What the demo shows of itself: its progress, the question to an approver, and the report."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.prompt import Confirm, Prompt
from rich.status import Status
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from hoop_core.cli.output import plain
from hoop_core.client import AnswerVerdict, Approval, ApprovalStatus
from hoop_core.demo.answers import Decision
from hoop_core.demo.checks import PROTECTED
from hoop_core.demo.job import DemoReport

INTRO = (
    "An AI agent's Airflow DAG wants churn features out of Snowflake, through Hoop.\n"
    "Airflow, Vault (OpenBao) and Hoop are real; Snowflake is a local stand-in."
)

_SHOWN_ROWS = 5
# What a task's state means to somebody who waits; the others pass too quickly to be read.
_STATES: Mapping[str, tuple[str, str]] = {
    "success": ("green", "done"),
    "failed": ("red", "failed"),
    "upstream_failed": ("red", "not run: a task before it failed"),
    "up_for_reschedule": ("yellow", "waits for an answer, without a worker slot"),
}


class Screen:
    """Progress: a spinner with the step, and lines that stay."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status = console.status("Starting")
        self._step, self._since = "", time.monotonic()

    def __enter__(self) -> Screen:
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def step(self, text: str) -> None:
        self._close_step()
        self._step, self._since = text, time.monotonic()
        self._status.update(f"{escape(text)} …")

    def task(self, task_id: str, state: str) -> None:
        if state == "running":
            self._status.update(f"{escape(self._step)}: {escape(task_id)} …")
        if state in _STATES:
            colour, text = _STATES[state]
            self._console.print(f"    {escape(task_id):<22}[{colour}]{escape(text)}[/{colour}]")

    def answered(self, text: str) -> None:
        line = plain(f"      {text}")
        line.stylize("magenta")
        self._console.print(line)

    def done(self) -> None:
        self._close_step()
        self._status.stop()

    def ask(self, person: str, approval: Approval) -> Decision:
        """Show a request to the person at the terminal and take the answer."""
        self._status.stop()
        try:
            self._console.print(_request(approval))
            who = f"You are [bold]{escape(person)}[/bold]. Approve this statement?"
            yes = Confirm.ask(who, console=self._console)
            verdict = AnswerVerdict.APPROVE if yes else AnswerVerdict.REJECT
            reason = ""
            while not reason.strip():
                reason = Prompt.ask("Your reason, for the record", console=self._console)
            return Decision(verdict, reason.strip())
        finally:
            self._status.start()

    def _close_step(self) -> None:
        if self._step:
            took = time.monotonic() - self._since
            self._console.print(
                f"[green]✓[/green] {escape(self._step)} [dim]{took:.1f} s[/dim]", highlight=False
            )
        self._step = ""


def _request(approval: Approval) -> Panel:
    """One request as an approver reads it: who, why, and what exactly would run."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    run = approval.run.fields
    # The others say what was granted and masked: the statement below shows it.
    asking = [r for r in approval.reasons if r.code == "APPROVAL_REQUIRED"]
    bound = "" if approval.parameters is None else json.dumps(approval.parameters, default=str)
    rows = {
        "Asked by": f"{approval.requester.name} ({', '.join(approval.requester.groups)})",
        "Task": f"{run.get('dag_id', '')}.{run.get('task_id', '')}",
        "Purpose": run.get("purpose", ""),
        "Why it waits": "; ".join(r.message for r in asking or approval.reasons),
        "Reads": ", ".join(approval.reads),
        "Writes": ", ".join(approval.writes),
        "Masked": ", ".join(f"{m.table}.{m.column} ({m.mask})" for m in approval.masked),
        "Parameters": bound,
        "Answers so far": "; ".join(
            [
                f"{len(approval.answers)} of {approval.quorum}",
                *(f"{a.approver.name}: {a.verdict} ({a.reason})" for a in approval.answers),
            ]
        ),
    }
    for name, value in rows.items():
        if value:
            facts.add_row(name, plain(value))
    parts: list[RenderableType] = [facts, "", Text("Asked for", style="dim"), _sql(approval.sql)]
    if approval.rewritten and approval.rewritten.strip() != approval.sql.strip():
        parts += [
            "",
            Text("What will run, with the masks in it", style="dim"),
            _sql(approval.rewritten),
        ]
    return Panel(Group(*parts), title=f"Approval {approval.id}", border_style="yellow")


def _sql(text: str) -> Syntax:
    lines = [line for line in plain(text).plain.splitlines() if line.strip()]
    # The first line of a statement has lost its indentation on the way.
    indent = min((len(x) - len(x.lstrip()) for x in lines[1:]), default=0)
    shown = [x[min(indent, len(x) - len(x.lstrip())) :] for x in lines]
    return Syntax(
        "\n".join(shown), "sql", word_wrap=True, theme="ansi_dark", background_color="default"
    )


def show(report: DemoReport, console: Console) -> None:
    """Print the whole report."""
    for title, body in (
        ("What the agent saw, beside what the table holds", _comparison(report)),
        ("Approvals", _approvals(report)),
        (f"Snowflake users minted for it: {len(report.users)}", _users(report)),
        ("Checked", _verdict(report)),
        ("Evidence", _evidence(report)),
    ):
        console.print()
        console.print(Text(title, style="bold"))
        console.print(body, soft_wrap=isinstance(body, Text))
    console.print()
    console.print(_summary(report))


def _summary(report: DemoReport) -> Text:
    if report.ok:
        return Text(f"Every claim was seen to hold, in {report.seconds:.0f} s.", style="bold green")
    failed = sum(not c.passed for c in report.checks)
    rejected = [a for a in report.approvals if a.status is ApprovalStatus.REJECTED]
    if not rejected:
        return Text(f"{failed} of {len(report.checks)} claims did not hold.", style="bold red")
    no = next(x for x in rejected[0].answers if x.verdict is AnswerVerdict.REJECT)
    text = Text(style="bold yellow")
    text.append(
        f"{no.approver.name} rejected {_first_line(rejected[0].sql)!r}: {no.reason}\n"
        "Hoop did not run it, its task failed and the DAG ended there. "
        f"So {failed} of {len(report.checks)} claims could not be seen."
    )
    return text


def _comparison(report: DemoReport) -> RenderableType:
    if not report.seen:
        return Text("  The agent saw no rows.", style="red")
    table = _table("Customer", "")
    table.columns[0].justify = "right"
    for name in PROTECTED:
        table.add_column(name, overflow="fold")
    for seen in report.seen[:_SHOWN_ROWS]:
        agent = [_cell(seen.agent[n]) for n in PROTECTED]
        held = [_cell(seen.table[n]) for n in PROTECTED]
        table.add_row(_cell(seen.agent["CUSTOMER_ID"]), "agent", *agent, style="green")
        table.add_row("", "table", *held, style="dim")
    return table


def _approvals(report: DemoReport) -> RenderableType:
    if not report.approvals:
        return Text("  None was asked for.", style="red")
    table = _table("Request", "Statement and answers", "Needs", "Status")
    for a in report.approvals:
        answers = [f"{x.approver.name}: {x.verdict}, {x.reason!r}" for x in a.answers]
        what = "\n".join([f"{a.requester.name} asked for {_first_line(a.sql)}", *answers])
        status = "used" if a.status is ApprovalStatus.CONSUMED else str(a.status)
        table.add_row(*(plain(c) for c in (a.id, what, a.quorum, status)))
    return table


def _users(report: DemoReport) -> Text:
    """One line each, unwrapped: the names are as long as a terminal is wide."""
    lines = []
    for user in report.users:
        left = user in report.left
        state = Text("still there", style="red") if left else Text("gone", style="green")
        lines.append(Text(" ").append_text(state).append("  ").append_text(plain(user)))
    return Text("\n").join(lines)


def _verdict(report: DemoReport) -> Table:
    table = _table("", "Claim", "Seen")
    for c in report.checks:
        mark = Text("✓", style="green") if c.passed else Text("✗", style="red")
        table.add_row(mark, c.claim, plain(c.detail))
    return table


def _evidence(report: DemoReport) -> Text:
    """Without wrapping: root and path are there to be copied."""
    return plain(
        f" Log root  {report.bundle.root} ({report.bundle.entries} entries)\n"
        f" Bundle    {report.bundle.path}\n"
        f" Check it  hoop audit verify {report.bundle.path}"
    )


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim")
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def _cell(value: object) -> Text:
    return plain("NULL" if value is None else value)


def _first_line(sql: str) -> str:
    """The statement's first words; ` …` says that there is more."""
    lines = [line.strip() for line in plain(sql).plain.splitlines() if line.strip()]
    first = lines[0] if lines else ""
    return first if len(lines) < 2 and len(first) <= 80 else f"{first[:80]} …"
