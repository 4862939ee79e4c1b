"""`hoop demo`: the main job on the embedded stack, with every claim checked.

Exit codes: 0 each claim was seen to hold, 1 one did not, 2 usage (nobody there to answer, or Airflow
is not installed), 3 a part of the stack could not be started.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.prompt import Confirm, Prompt
from rich.status import Status
from rich.syntax import Syntax
from rich.table import Table

from hoop_core.cli.output import plain
from hoop_core.client import AnswerVerdict, Approval
from hoop_core.demo.answers import Approver, Decision, automatic
from hoop_core.demo.checks import PROTECTED
from hoop_core.demo.job import REPORT, Demo, DemoReport, remove
from hoop_core.devstack.processes import PartFailed
from hoop_core.errors import HoopError

_STATES = {"success": "green", "failed": "red", "upstream_failed": "red", "running": "cyan"}
_QUIET = frozenset({"scheduled", "queued", "None"})
_SHOWN_ROWS = 5


class _Screen:
    """Progress on standard error: a spinner with the step, and lines that stay."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status = console.status("Starting")
        self._step = ""

    def __enter__(self) -> _Screen:
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def step(self, text: str) -> None:
        self._close_step()
        self._step = text
        self._status.update(escape(text))

    def task(self, task_id: str, state: str) -> None:
        if state in _QUIET:
            return
        colour = _STATES.get(state, "yellow")
        self._console.print(f"    {escape(task_id)}: [{colour}]{escape(state)}[/{colour}]")

    def answered(self, text: str) -> None:
        self._console.print(f"    [magenta]{escape(text)}[/magenta]")

    def done(self) -> None:
        self._close_step()
        self._status.stop()

    def ask(self, person: str, approval: Approval) -> Decision:
        """Show a request to the person at the terminal and take the answer."""
        self._status.stop()
        try:
            self._console.print(_request(approval))
            yes = Confirm.ask(f"Approve as [bold]{escape(person)}[/bold]?", console=self._console)
            verdict = AnswerVerdict.APPROVE if yes else AnswerVerdict.REJECT
            reason = ""
            while not reason.strip():
                reason = Prompt.ask("Why", console=self._console)
            return Decision(verdict, reason)
        finally:
            self._status.start()

    def _close_step(self) -> None:
        if self._step:
            self._console.print(f"[green]✓[/green] {escape(self._step)}")
        self._step = ""


def demo(
    auto_approve: Annotated[
        bool, typer.Option("--auto-approve", help="Answer as alice and bob instead of asking.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Where the evidence bundle goes.", file_okay=False),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on standard output.")
    ] = False,
) -> None:
    """Run the main job end to end on this host: Airflow, Hoop, Vault and a Snowflake stand-in."""
    if not auto_approve and not sys.stdin.isatty():
        raise typer.BadParameter(
            "there is no terminal to ask at: let it answer by itself", param_hint="--auto-approve"
        )
    target = (out or Path(tempfile.mkdtemp(prefix="hoop-demo-"))).absolute()
    target.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="hoop-demo-home-"))
    progress = Console(stderr=True, highlight=False, quiet=as_json and auto_approve)
    try:
        with _Screen(progress) as screen:
            decide: Approver = automatic if auto_approve else screen.ask
            report = Demo(home, target, decide, screen).run()
            screen.done()
    except HoopError as e:
        _fail(e, as_json, home)
        raise typer.Exit(e.exit_code) from None
    (target / REPORT).write_text(json.dumps(report.as_json(), indent=2) + "\n")
    if as_json:
        Console(soft_wrap=True, highlight=False).print(
            json.dumps(report.as_json()), markup=False, soft_wrap=True
        )
    else:
        _show(report, Console(highlight=False))
    if not report.ok:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"The parts' logs are kept in {home}."
        )
        raise typer.Exit(1)
    remove(home)


def _request(approval: Approval) -> Panel:
    """One request as an approver reads it."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column()
    run = approval.run.fields
    rows = {
        "asked by": f"{approval.requester.name} ({', '.join(approval.requester.groups)})",
        "task": f"{run.get('dag_id', '')}.{run.get('task_id', '')}",
        "purpose": run.get("purpose", ""),
        "why it waits": "; ".join(r.message for r in approval.reasons),
        "writes": ", ".join(approval.writes),
        "masked": ", ".join(f"{m.table}.{m.column} ({m.mask})" for m in approval.masked),
        "answers": f"{len(approval.answers)} of {approval.quorum}",
    }
    for name, value in rows.items():
        if value:
            facts.add_row(name, plain(value))
    parts: list[RenderableType] = [facts, "", _sql(approval.sql)]
    if approval.rewritten and approval.rewritten.strip() != approval.sql.strip():
        parts += ["", "[dim]What will run:[/dim]", _sql(approval.rewritten)]
    return Panel(Group(*parts), title=f"Approval {approval.id}", border_style="yellow")


def _sql(text: str) -> Syntax:
    lines = [line for line in plain(text).plain.splitlines() if line.strip()]
    indent = min((len(x) - len(x.lstrip()) for x in lines), default=0)
    return Syntax("\n".join(x[indent:] for x in lines), "sql", word_wrap=True)


def _show(report: DemoReport, console: Console) -> None:
    console.print(_comparison(report))
    console.print(_approvals(report))
    left = ", ".join(report.left) or "none"
    console.print(
        f"[bold]Minted users[/bold] ({len(report.users)}): {escape(', '.join(report.users))}"
    )
    console.print(f"[bold]Still there at the end:[/bold] {escape(left)}\n")
    console.print(_verdict(report))
    console.print(
        f"[bold]Log root[/bold]  {report.bundle.root} ({report.bundle.entries} entries)\n"
        f"[bold]Evidence[/bold]  {escape(str(report.bundle.path))}\n"
        f"[bold]Check it[/bold]  hoop audit verify {escape(str(report.bundle.path))}\n"
        f"Took {report.seconds:.0f} s.",
        soft_wrap=True,
    )


def _comparison(report: DemoReport) -> Table:
    table = Table(title="What the agent saw │ what the table holds", title_justify="left")
    table.add_column("CUSTOMER_ID", justify="right")
    for name in PROTECTED:
        table.add_column(f"{name} seen", style="green", overflow="fold")
        table.add_column(f"{name} held", style="dim", overflow="fold")
    for seen in report.seen[:_SHOWN_ROWS]:
        cells = [str(seen.agent["CUSTOMER_ID"])]
        for name in PROTECTED:
            agent = seen.agent[name]
            cells += ["NULL" if agent is None else str(agent), str(seen.table[name])]
        table.add_row(*(plain(c) for c in cells))
    return table


def _approvals(report: DemoReport) -> Table:
    table = Table(title="Approvals", title_justify="left")
    for name in ("Id", "Statement", "Asked by", "Answered by", "Status"):
        table.add_column(name, overflow="fold")
    for a in report.approvals:
        answers = ", ".join(f"{x.approver.name}: {x.verdict}" for x in a.answers) or "nobody"
        cells = (a.id, " ".join(a.sql.split())[:60], a.requester.name, answers, str(a.status))
        table.add_row(*(plain(c) for c in cells))
    return table


def _verdict(report: DemoReport) -> Table:
    table = Table(title="Checked", title_justify="left")
    for name in ("", "Claim", "Seen"):
        table.add_column(name, overflow="fold")
    for c in report.checks:
        mark = "[green]✓[/green]" if c.passed else "[red]✗[/red]"
        table.add_row(mark, c.claim, plain(c.detail))
    return table


def _fail(error: HoopError, as_json: bool, home: Path) -> None:
    log_tail = error.log_tail if isinstance(error, PartFailed) else ""
    if as_json:
        body = {"reason": error.reason, "message": error.message, "hint": error.hint}
        Console(soft_wrap=True, highlight=False).print(
            json.dumps({"ok": False, "error": body | ({"log_tail": log_tail} if log_tail else {})}),
            markup=False,
        )
        return
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if log_tail:
        console.print(escape(log_tail), style="dim")
    console.print(f"[red]{escape(error.message)}[/red] {escape(error.hint)}".rstrip())
    console.print(f"The parts' logs are in {home}.")
