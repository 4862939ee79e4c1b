"""`hoop policy`: check a policy file, print its schema, explain what it decides."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from hoop_core.cli.output import AsJson, emit, failing
from hoop_core.errors import ConfigError
from hoop_core.judge import judge_text
from hoop_core.masking.masks import MaskName
from hoop_core.model import Identity, NameContext, Outcome, RunContext, Verdict
from hoop_core.policy.file import load_policy, parse_policy
from hoop_core.policy.schema import json_schema
from hoop_core.sql.catalog import load_catalog
from hoop_core.sql.names import stored

app = typer.Typer(help="Check, describe and try out a policy.", no_args_is_help=True)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The policy file.")],
    as_json: AsJson = False,
) -> None:
    """Whether a policy file is right; a mistake is named with its line and the nearest valid word.

    Exit code 1 when it is wrong, 2 when it cannot be read.
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
    counts = {"roles": len(policy.roles), "masks": len(policy.masks), "rules": len(policy.rules)}
    shown = f"{file} is right: " + ", ".join(f"{n} {what}" for what, n in counts.items())
    emit(
        as_json, {"ok": True, "digest": policy.digest, **counts}, Text(f"{shown}\n{policy.digest}")
    )


@app.command()
def schema(as_json: AsJson = False) -> None:
    """The JSON Schema of the policy file, for editors."""
    typer.echo(json.dumps(json_schema(), indent=None if as_json else 2))


@app.command()
def explain(  # noqa: PLR0917  options of a command
    policy: Annotated[Path, typer.Option("--policy", help="The policy file.")],
    catalog: Annotated[
        Path, typer.Option("--catalog", help="tables: {DB.SCHEMA.TABLE: {COL: TYPE}}")
    ],
    groups: Annotated[str, typer.Option("--groups", help="The caller's groups, with commas.")] = "",
    database: Annotated[str | None, typer.Option("--database", help="Current database.")] = None,
    schema_: Annotated[str | None, typer.Option("--schema", help="Current schema.")] = None,
    subject: Annotated[str, typer.Option("--subject", help="The caller's subject.")] = "explain",
    mask_override: Annotated[
        MaskName | None, typer.Option("--mask-override", help="This mask in place of every mask.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read {"id": ..., "sql": ...} lines from standard input, write one decision a line.

    The output is always JSON lines; --json is accepted like everywhere.
    """
    with failing(as_json):
        rules, known = load_policy(policy), load_catalog(catalog)
        names = NameContext(
            None if database is None else stored(database),
            None if schema_ is None else stored(schema_),
        )
        identity = Identity(
            issuer="cli",
            subject=subject,
            name=subject,
            groups=tuple(g.strip() for g in groups.split(",") if g.strip()),
            method="cli",
            token_digest="",
        )
        for number, line in enumerate(sys.stdin, 1):
            if not line.strip():
                continue
            request = _request(line, number)
            verdict = judge_text(
                request["sql"],
                names,
                identity=identity,
                policy=rules,
                catalog=known,
                run=RunContext(),
                now=datetime.now(UTC),
                mask_override=mask_override,
            )
            typer.echo(json.dumps({"id": request.get("id"), **as_plain(verdict)}))


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
