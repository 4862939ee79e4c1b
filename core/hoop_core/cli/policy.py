"""`hoop policy`: check a policy file, print its schema, explain what it decides, try it out."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

from hoop_core.cli.output import AsJson, emit, failing
from hoop_core.cli.policy_check import check
from hoop_core.cli.policy_inputs import CatalogOption, Trial, caller, demo_trial, names, trial
from hoop_core.cli.policy_rehearsal import simulate, test
from hoop_core.cli.policy_shown import verdict_panel
from hoop_core.cli.policy_verdict import as_plain
from hoop_core.errors import ConfigError
from hoop_core.judge import judge_text
from hoop_core.masking.masks import MaskName
from hoop_core.model import Identity, RunContext, Verdict
from hoop_core.policy.schema import json_schema


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
    account: Annotated[
        str, typer.Option("--account", help="The account; without it, what holds in all of them.")
    ] = "",
    subject: Annotated[str, typer.Option("--subject", help="The caller's subject.")] = "explain",
    claim: Annotated[
        list[str] | None,
        typer.Option("--claim", help="A claim of the caller: NAME=VALUE. Repeat it for a list."),
    ] = None,
    mask_override: Annotated[
        MaskName | None,
        typer.Option(
            "--mask-override",
            metavar="MASK",
            help=f"In place of every mask: {', '.join(MaskName)}.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a policy decides, why, and what would run.

    Try it: hoop policy explain --sql "select email from customers"

    Without --sql, read {"id": ..., "sql": ...} lines from standard input and write one decision a line;
    that output is always JSON lines. A line may give its own "groups", "subject", "account",
    "database" and "schema".
    """
    demo = policy is None and sql is not None
    with failing(as_json):
        if policy is None and not demo:
            raise ConfigError(
                "Which policy? Give --policy FILE.",
                "Or try the demo's: hoop policy explain --sql 'select email from customers'.",
            )
        tried = demo_trial(catalog) if policy is None else trial(policy, catalog)
        if demo:
            groups = "ml-agents" if groups is None else groups
            database, schema_ = database or "PROD", schema_ or "CRM"
        given = _Request(
            sql=sql or "",
            subject=subject,
            groups=tuple(g for g in (groups or "").split(",") if g.strip()),
            account=account,
            database=database,
            schema=schema_,
        )
        asker = _Asker(tried, claim or [], mask_override)
        if sql is None:
            for number, line in enumerate(sys.stdin, 1):
                if line.strip():
                    request = _request(line, number, given)
                    typer.echo(json.dumps({"id": request.id, **asker.answer(request)[0]}))
            return
        plain_verdict, verdict, identity = asker.answer(given)
    panel = verdict_panel(sql, verdict, identity, tried.policy, account)
    tables = "policy" if catalog else "policy and tables"
    note = Text(f"The demo's {tables}. Give --policy and --catalog for your own.", "dim")
    value = {"id": None, **plain_verdict}
    emit(as_json, value, Group(panel, note) if demo else panel)


@dataclass(frozen=True, slots=True)
class _Request:
    """One statement, and who asks it from where."""

    sql: str
    subject: str
    groups: tuple[str, ...]
    account: str
    database: str | None
    schema: str | None
    id: Any = None


class _Asker:
    """Asks one policy."""

    def __init__(self, tried: Trial, claims: list[str], override: MaskName | None) -> None:
        self._tried, self._claims, self._override = tried, claims, override

    def answer(self, asked: _Request) -> tuple[dict[str, Any], Verdict, Identity]:
        identity = caller(asked.subject, asked.groups, self._claims)
        verdict = judge_text(
            asked.sql,
            names(asked.database, asked.schema),
            identity=identity,
            policy=self._tried.policy.for_account(asked.account),
            catalog=self._tried.catalog,
            run=RunContext(),
            now=datetime.now(UTC),
            mask_override=self._override,
        )
        return as_plain(verdict, self._tried.policy, identity), verdict, identity


def _request(line: str, number: int, given: _Request) -> _Request:
    """What a line asks; what it does not say of the caller is `given`. Other keys are the corpus's own."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("sql"), str):
        raise ConfigError(
            f"Line {number} of the input is not an object with a text `sql`.",
            'Write {"id": 1, "sql": "SELECT 1"}.',
        )
    own: dict[str, Any] = {
        k: found[k] for k in ("subject", "account", "database", "schema") if k in found
    }
    for key, value in own.items():
        if not isinstance(value, str) and (value is not None or key in {"subject", "account"}):
            raise ConfigError(f"Line {number} of the input: `{key}` is no text.")
    if "groups" in found:
        groups = found["groups"]
        if not isinstance(groups, list) or not all(isinstance(g, str) for g in groups):
            raise ConfigError(
                f"Line {number} of the input: `groups` is no list of texts.",
                'Write "groups": ["agents"].',
            )
        own["groups"] = tuple(groups)
    return replace(given, sql=found["sql"], id=found.get("id"), **own)


def schema(as_json: AsJson = False) -> None:
    """The JSON Schema of the policy file, for editors."""
    typer.echo(json.dumps(json_schema(), indent=None if as_json else 2))


app = typer.Typer(
    help="Check, describe and try out a policy.", no_args_is_help=True, add_completion=False
)
for _command in (check, explain, test, simulate, schema):
    app.command()(_command)
