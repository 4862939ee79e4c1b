"""`hoop policy`: check a policy file, print its schema, explain what it decides, try it out."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

from hoop_core.cli.output import AsJson, emit, failing, plain
from hoop_core.cli.policy_inputs import CatalogOption, Trial, caller, demo_trial, names, trial
from hoop_core.cli.policy_rehearsal import simulate, test
from hoop_core.cli.policy_shown import verdict_panel
from hoop_core.errors import ConfigError
from hoop_core.judge import judge_text
from hoop_core.masking.masks import MaskName
from hoop_core.model import Identity, NameContext, Outcome, RunContext, Verdict
from hoop_core.policy.advice import Advice, advice
from hoop_core.policy.file import parse_policy
from hoop_core.policy.schema import json_schema

app = typer.Typer(help="Check, describe and try out a policy.", no_args_is_help=True)
app.command()(test)
app.command()(simulate)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The policy file.")],
    strict: Annotated[bool, typer.Option("--strict", help="Warnings are failures.")] = False,
    as_json: AsJson = False,
) -> None:
    """Whether a policy file is right; a mistake is named with its line and the nearest valid word.

    Exit code 1 when it is wrong (with --strict also when there are warnings), 2 when it cannot be read.
    """
    with failing(as_json):
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise ConfigError(f"The policy {file} cannot be read: {e}.") from None
        try:
            policy = parse_policy(text, str(file))
        except ConfigError as e:
            e.exit_code = 1  # the check itself was done: it failed
            raise
    warnings = advice(policy)
    counts = {
        what: len(getattr(policy, what))
        for what in ("roles", "masks", "row_filters", "rules", "cases")
    }
    ok = not (strict and warnings)
    value = {
        "ok": ok,
        "digest": policy.digest,
        **counts,
        "warnings": [{"line": w.line, "message": w.message} for w in warnings],
    }
    emit(as_json, value, Group(*_checked(file, counts, warnings), Text(policy.digest)))
    raise typer.Exit(0 if ok else 1)


def _checked(file: Path, counts: dict[str, int], warnings: tuple[Advice, ...]) -> list[Text]:
    held = ", ".join(_counted(n, what.replace("_", " ")) for what, n in counts.items() if n)
    lines = [plain(f"{file} is right: {held or 'nothing is granted'}")]
    for warning in warnings:
        line = Text("warning ", style="yellow")
        lines.append(line.append_text(plain(f"{file}:{warning.line}: {warning.message}")))
    return lines


def _counted(number: int, what: str) -> str:
    return f"{number} {what.removesuffix('s') if number == 1 else what}"


@app.command()
def schema(as_json: AsJson = False) -> None:
    """The JSON Schema of the policy file, for editors."""
    typer.echo(json.dumps(json_schema(), indent=None if as_json else 2))


@app.command()
def explain(  # noqa: PLR0917  options of a command
    policy: Annotated[
        Path | None,
        typer.Option("--policy", help="The policy file. With --sql default: the demo's policy."),
    ] = None,
    catalog: CatalogOption = None,
    sql: Annotated[
        str | None, typer.Option("--sql", help="Explain this one statement to a person.")
    ] = None,
    groups: Annotated[
        str | None, typer.Option("--groups", help="The caller's groups, with commas.")
    ] = None,
    database: Annotated[str | None, typer.Option("--database", help="Current database.")] = None,
    schema_: Annotated[str | None, typer.Option("--schema", help="Current schema.")] = None,
    subject: Annotated[str, typer.Option("--subject", help="The caller's subject.")] = "explain",
    claim: Annotated[
        list[str] | None,
        typer.Option("--claim", help="A claim of the caller: NAME=VALUE. Repeat it for a list."),
    ] = None,
    mask_override: Annotated[
        MaskName | None, typer.Option("--mask-override", help="This mask in place of every mask.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a policy decides, why, and what would run.

    Try it: hoop policy explain --sql "select email from customers"

    Without --sql, read {"id": ..., "sql": ...} lines from standard input and write one decision a line;
    that output is always JSON lines.
    """
    demo = policy is None and sql is not None
    with failing(as_json):
        if policy is None and not demo:
            raise ConfigError(
                "Which policy? Give --policy FILE.",
                "Or try the demo's: hoop policy explain --sql 'select email from customers'.",
            )
        tried = demo_trial() if policy is None else trial(policy, catalog)
        if demo:
            groups = "ml-agents" if groups is None else groups
            database, schema_ = database or "PROD", schema_ or "CRM"
        asker = _Asker(
            tried,
            caller(subject, groups or "", claim or []),
            names(database, schema_),
            mask_override,
        )
        if sql is None:
            for number, line in enumerate(sys.stdin, 1):
                if line.strip():
                    request = _request(line, number)
                    verdict = asker.verdict(request["sql"])
                    typer.echo(json.dumps({"id": request.get("id"), **as_plain(verdict)}))
            return
        verdict = asker.verdict(sql)
    panel = verdict_panel(sql, verdict, asker.identity)
    note = Text("The demo's policy and tables. Give --policy and --catalog for your own.", "dim")
    value = {"id": None, **as_plain(verdict)}
    emit(as_json, value, Group(panel, note) if demo else panel)


class _Asker:
    """One caller who asks one policy."""

    def __init__(
        self, tried: Trial, identity: Identity, names: NameContext, override: MaskName | None
    ) -> None:
        self._tried, self.identity, self._names, self._override = tried, identity, names, override

    def verdict(self, sql: str) -> Verdict:
        return judge_text(
            sql,
            self._names,
            identity=self.identity,
            policy=self._tried.policy,
            catalog=self._tried.catalog,
            run=RunContext(),
            now=datetime.now(UTC),
            mask_override=self._override,
        )


def _request(line: str, number: int) -> dict[str, Any]:
    try:
        request = json.loads(line)
    except ValueError:
        request = None
    if not isinstance(request, dict) or not isinstance(request.get("sql"), str):
        raise ConfigError(
            f"Line {number} of the input is not an object with a text `sql`.",
            'Write {"id": 1, "sql": "SELECT 1"}.',
        )
    return request


def as_plain(verdict: Verdict) -> dict[str, Any]:
    """The keys of `explain`: a contract with other programs."""
    decision, statement = verdict.decision, verdict.statement
    runs = decision.outcome is not Outcome.DENY
    return {
        "decision": decision.outcome.value,
        "reasons": [{"code": r.code, "message": r.message} for r in decision.reasons],
        "rules": list(decision.rules),
        "kind": None if statement is None else statement.kind.value,
        "reads": [] if statement is None else [str(t) for t in statement.reads],
        "writes": [] if statement is None else [str(t) for t in statement.writes],
        "masked": [
            {"table": str(m.table), "column": m.column, "mask": m.mask} for m in decision.masked
        ],
        "rewritten": verdict.rewritten if runs else None,
        "fingerprint": None if statement is None else statement.fingerprint,
        "elapsed_us": verdict.elapsed_us,
    }
