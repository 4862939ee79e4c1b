"""`hoop policy test` and `hoop policy simulate`: what a policy would do, before it does it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from hoop_core.cli.output import AsJson, emit, failing
from hoop_core.cli.policy_inputs import CatalogOption, catalog_of, trial
from hoop_core.cli.policy_shown import cases_table, report_shown
from hoop_core.errors import ConfigError
from hoop_core.policy.file import load_policy
from hoop_core.rehearsal.cases import CaseResult, run_case
from hoop_core.rehearsal.history import Asked, read_history
from hoop_core.rehearsal.simulate import Change, Difference, Report
from hoop_core.rehearsal.simulate import simulate as simulated
from hoop_core.sql.catalog import load_catalog

_SECONDS_WITHOUT_BAR = 2.0


def test(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The policy file.")],
    catalog: CatalogOption = None,
    as_json: AsJson = False,
) -> None:
    """Run the `cases` that are kept in a policy file.

    Exit code 1 when one fails, or when there is none; 2 when the files cannot be read.
    """
    with failing(as_json):
        tried = trial(file, catalog)
        if not tried.policy.cases:
            error = ConfigError(
                f"{file} has no `cases`, so nothing was tested.",
                "Add `cases: [{name: ..., sql: ..., groups: [...], expect: deny}]`.",
            )
            error.exit_code = 1
            raise error
        now = datetime.now(UTC)
        results = [run_case(c, tried.policy, tried.catalog, now) for c in tried.policy.cases]
    failed = sum(bool(r.faults) for r in results)
    verdict = f"{len(results) - failed} of {len(results)} cases hold"
    value = {
        "ok": not failed,
        "passed": len(results) - failed,
        "failed": failed,
        "digest": tried.policy.digest,
        "cases": [_case_json(r) for r in results],
    }
    style = "bold red" if failed else "bold green"
    emit(as_json, value, Group(cases_table(results), Text(verdict, style=style)))
    raise typer.Exit(1 if failed else 0)


def _case_json(result: CaseResult) -> dict[str, Any]:
    return {
        "name": result.case.name,
        "line": result.case.line,
        "ok": not result.faults,
        "expected": str(result.case.expected.outcome),
        "decision": str(result.verdict.decision.outcome),
        "reasons": [
            {"code": r.code, "message": r.message} for r in result.verdict.decision.reasons
        ],
        "faults": list(result.faults),
    }


def simulate(  # noqa: PLR0917  options of a command
    history: Annotated[
        Path,
        typer.Option(
            "--history",
            help='JSON lines of {"sql", "groups", "subject", "database", "schema", ...}, the entries of '
            "Hoop's log, or an evidence bundle.",
        ),
    ],
    against: Annotated[Path, typer.Option("--against", help="The new policy file.")],
    policy: Annotated[
        Path | None,
        typer.Option(
            "--policy", help="The old policy file. Default: the decisions on record in the log."
        ),
    ] = None,
    catalog: CatalogOption = None,
    fail_on: Annotated[
        str,
        typer.Option(
            "--fail-on",
            help="Exit 1 on these changes, with commas: newly-denied, newly-asked, newly-allowed, "
            "newly-masked, newly-unmasked.",
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Which statements of a history another policy would deny, ask for, allow or mask."""
    with failing(as_json):
        gates = _gates(fail_on)
        new = load_policy(against)
        old = None if policy is None else load_policy(policy)
        known = load_catalog(catalog or catalog_of(new, against))
        asked = list(read_history(history))
        if gates and not asked:
            error = ConfigError(
                f"{history} holds no statement, so --fail-on has nothing to look at.",
                "Give the history that the policy has to stand.",
            )
            error.exit_code = 1
            raise error
        if old is None and not any(a.was for a in asked):
            raise ConfigError(
                f"{history} has no decisions on record to compare with.",
                "Give the old policy with --policy.",
            )
        reports = simulated(asked, old=old, new=new, catalog=known, now=datetime.now(UTC))
        report = _with_bar(reports, len(asked))
    failed = [g for g in gates if report.count(g)]
    emit(as_json, _report_json(report, failed), report_shown(report, failed))
    raise typer.Exit(1 if failed else 0)


def _gates(text: str) -> list[Change]:
    valid = {c.value.replace("_", "-"): c for c in Change if c is not Change.EXCEPTION}
    words = [w.strip() for w in text.split(",") if w.strip()]
    for word in words:
        if word not in valid:
            raise ConfigError(f"--fail-on knows no `{word}`.", f"Valid: {', '.join(valid)}.")
    return [valid[w] for w in words]


def _with_bar(reports: Iterator[Report], total: int) -> Report:
    """The last report; a bar on standard error once it takes long, if somebody looks."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("deciding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    started, report, shown = time.monotonic(), Report(), False
    task = bar.add_task("deciding", total=total)
    try:
        for report in reports:
            if not shown and time.monotonic() - started > _SECONDS_WITHOUT_BAR:
                bar.start()
                shown = True
            if shown:
                bar.update(task, completed=report.statements)
    finally:
        bar.stop()
    return report


def _report_json(report: Report, failed: list[Change]) -> dict[str, Any]:
    return {
        "statements": report.statements,
        "incomparable": report.incomparable,
        "counts": {c.value: report.count(c) for c in Change},
        "failed_on": [c.value for c in failed],
        "changes": [_difference_json(d) for d in report.differences],
    }


def _difference_json(difference: Difference) -> dict[str, Any]:
    asked: Asked = difference.asked
    return {
        "changes": [c.value for c in difference.changes],
        "places": difference.places,
        "sql": asked.sql,
        "subject": asked.identity.subject,
        "name": asked.identity.name,
        "groups": list(asked.identity.groups),
        "before": difference.before.value,
        "after": difference.after.outcome.value,
        "why": difference.after.why,
        "newly_masked": [{"name": n, "mask": m} for n, m in difference.gained],
        "newly_unmasked": [{"name": n, "mask": m} for n, m in difference.lost],
        "exception": [{"name": n, "mask": m} for n, m in difference.excepted],
    }
