"""How `hoop policy` shows a verdict, cases and changes to a person, in 80 columns."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from hoop_core.cli.output import plain
from hoop_core.cli.policy_verdict import screened
from hoop_core.model import Identity, Outcome, Verdict
from hoop_core.policy.model import Policy
from hoop_core.policy.touched import tags_of
from hoop_core.rehearsal.cases import CaseResult
from hoop_core.rehearsal.history import ROW_FILTER, Masked
from hoop_core.rehearsal.reading import masked_read
from hoop_core.rehearsal.simulate import Change, Difference, Report

_STYLES = {
    Outcome.ALLOW: "bold green",
    Outcome.REQUIRE_APPROVAL: "bold yellow",
    Outcome.DENY: "bold red",
}
_TITLES = {
    Change.NEWLY_DENIED: ("newly denied", "bold red"),
    Change.NEWLY_ASKED: ("newly asked for", "bold yellow"),
    Change.NEWLY_ALLOWED: ("newly allowed", "bold green"),
    Change.NEWLY_MASKED: ("newly masked", "bold cyan"),
    Change.NEWLY_UNMASKED: ("newly unmasked", "bold magenta"),
    Change.EXCEPTION: ("ran under a masking exception, which is not simulated", "bold"),
}
_SHOWN_OF_EACH = 20


def verdict_panel(
    sql: str, verdict: Verdict, who: Identity, policy: Policy, account: str = ""
) -> Panel:
    """One statement, what was decided and why, and the text that would run."""
    decision, statement = verdict.decision, verdict.statement
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("caller", plain(f"{who.subject} in {', '.join(who.groups) or 'no group'}"))
    if account:
        facts.add_row("account", plain(account))
    elif policy.for_account("") is not policy:
        facts.add_row("account", "none given: only what holds in every account counts (--account)")
    if statement is not None:
        facts.add_row("kind", plain(statement.kind))
        for what, tables in (("reads", statement.reads), ("writes", statement.writes)):
            if tables:
                facts.add_row(what, plain("\n".join(map(str, tables))))
    for reason in decision.reasons:
        if reason.code in {"MASKED", "ROW_FILTER"}:
            continue  # shown below, column by column
        facts.add_row("why", plain(reason.message))
    met = masked_read(verdict)
    if met:
        masked = "\n".join(f"{m.table}.{m.column}  {m.mask}" for m in met)
        facts.add_row("masked", plain(masked))
    if decision.filtered:
        rows = "\n".join(f"{f.table}  {f.where}" for f in decision.filtered)
        facts.add_row("rows", plain(rows))
    if decision.exposed:
        shown = "\n".join(f"{m.table}.{m.column}  {m.mask}" for m in decision.exposed)
        facts.add_row("exposed", plain(shown))
    if decision.outcome is not Outcome.DENY:
        _add_protection(facts, verdict, who, policy)
    parts: list[RenderableType] = [facts]
    if verdict.rewritten is not None and verdict.rewritten.strip() != sql.strip():
        parts += [Text("\nwhat would run", style="dim"), highlighted(verdict.rewritten)]
    title = Text(decision.outcome.replace("_", " "), style=_STYLES[decision.outcome])
    return Panel(
        Group(highlighted(sql), Text(), *parts),
        title=title,
        title_align="left",
        box=box.ROUNDED,
    )


_DONE = {"mask": "masks", "block": "withholds", "report": "reports"}


def _add_protection(facts: Table, verdict: Verdict, who: Identity, policy: Policy) -> None:
    tags = tags_of(policy.tags, verdict.columns)
    if tags:
        facts.add_row("tags", plain(", ".join(tags)))
    found = screened(policy, who)
    lines = [f"{_DONE[action]} {', '.join(kinds)}" for action, kinds in found.items() if kinds]
    if lines and verdict.statement is not None and verdict.statement.reads:
        facts.add_row("detectors", plain("\n".join(lines)))


def highlighted(sql: str) -> Syntax:
    """SQL in colour, to be read and not to be copied: control characters are replaced."""
    return Syntax(
        plain(sql.strip()).plain,
        "sql",
        theme="ansi_dark",
        background_color="default",
        word_wrap=True,
    )


def cases_table(results: Iterable[CaseResult]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("case", overflow="fold", ratio=1)
    table.add_column("decision", no_wrap=True)
    for result in results:
        outcome = result.verdict.decision.outcome
        name = plain(result.case.name)
        for fault in result.faults:
            name.append("\n").append_text(plain(fault).copy()).stylize(
                "red", len(name) - len(fault)
            )
        mark = Text("FAIL", style="bold red") if result.faults else Text("ok", style="green")
        table.add_row(mark, name, Text(outcome.replace("_", " "), style=_STYLES[outcome]))
    return table


def report_shown(report: Report, failed: Iterable[Change] = ()) -> Group:
    """The changes, grouped; of many only the first are shown. `failed` are those that a job stops at."""
    parts: list[RenderableType] = [_counts(report)]
    for change in Change:
        found = report.of(change)
        if not found:
            continue
        title, style = _TITLES[change]
        parts.append(Text(f"\n{title} ({report.count(change)})", style=style))
        parts.append(_differences(found[:_SHOWN_OF_EACH], change))
        if len(found) > _SHOWN_OF_EACH:
            parts.append(
                Text(f"and {len(found) - _SHOWN_OF_EACH} more: --json has all", style="dim")
            )
    fired = ", ".join(f"{c.replace('_', '-')} ({report.count(c)})" for c in failed)
    if fired:
        parts.append(Text(f"\nfailed by --fail-on: {fired}", style="bold red"))
    return Group(*parts)


def _counts(report: Report) -> Text:
    changed = sum(len(d.places) for d in report.differences if d.changes != (Change.EXCEPTION,))
    text = f"{report.statements:,} statements, {changed:,} of them change"
    if report.incomparable:
        text += f"; {report.incomparable:,} have no decision on record and were left out"
    return Text(text)


def _differences(found: list[Difference], change: Change) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_lines=False)
    table.add_column("where", no_wrap=True)
    table.add_column("times", justify="right", no_wrap=True)
    table.add_column("statement", overflow="fold", ratio=1)
    for difference in found:
        asked = difference.asked
        text = plain(_short(asked.sql))
        who = ", ".join(asked.identity.groups) or "no group"
        text.append(f"\n{asked.identity.name} ({who}): {_why(difference, change)}", style="dim")
        table.add_row(plain(difference.places[0]), f"{len(difference.places):,}", plain_copy(text))
    return table


def plain_copy(text: Text) -> Text:
    """The same with the control characters of appended parts replaced."""
    clean = plain(text.plain)
    clean.spans = text.spans
    return clean


def _why(difference: Difference, change: Change) -> str:
    if change is Change.NEWLY_MASKED:
        return "now " + ", ".join(map(_protected, difference.gained))
    if change is Change.NEWLY_UNMASKED:
        return "no longer " + ", ".join(map(_protected, difference.lost))
    if change is Change.EXCEPTION:
        return "masked without it: " + ", ".join(map(_protected, difference.excepted))
    steps = f"{difference.before.replace('_', ' ')} → {difference.after.outcome.replace('_', ' ')}"
    return f"{steps}; {difference.after.why}"


def _protected(item: Masked) -> str:
    name, mask = item
    return f"rows of {name} filtered" if mask == ROW_FILTER else f"{name} ({mask})"


def _short(sql: str, most: int = 300) -> str:
    text = " ".join(sql.split())
    return text if len(text) <= most else text[: most - 1] + "…"
