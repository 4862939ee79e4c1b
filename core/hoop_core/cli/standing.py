"""`hoop standing`: approve a schedule's statement once, for all its runs within bounds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from hoop_core.cli.approvals import Identifier, Reason, as_plain, state, wanted, whole
from hoop_core.cli.output import AsJson, detailed, emit, failing
from hoop_core.cli.remote import TokenEnv, Url, client
from hoop_core.client import ApprovalStatus
from hoop_core.model import RunContext
from hoop_core.spans import parse_span

app = typer.Typer(
    help="Standing approvals: a schedule's statement, approved once for many runs.",
    no_args_is_help=True,
    add_completion=False,
)


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise typer.BadParameter("must be a JSON object.")
    return found


def _fields(given: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    if any(not name or not equals for name, equals, _ in pairs):
        raise typer.BadParameter("must be NAME=VALUE, as dag_id=nightly.", param_hint="--run")
    return {name: value for name, _, value in pairs}


@app.command()
def request(  # noqa: PLR0917 - typer's own order
    template: Annotated[
        Path, typer.Argument(help="A file with the SQL; a gap is {name}. `-`: standard input.")
    ],
    bounds: Annotated[
        str,
        typer.Option(
            "--bounds",
            help='What may stand in each gap: \'{"day": {"type": "date", "days_before": 7, "days_after": 0}}\'.',
        ),
    ],
    sample: Annotated[
        str, typer.Option("--sample", help='A value for each gap: \'{"day": "2026-11-01"}\'.')
    ],
    rows: Annotated[int, typer.Option("--rows-at-most", min=0, help="Rows that a run may touch.")],
    uses: Annotated[int, typer.Option("--uses-at-most", min=1, help="Runs altogether.")],
    span: Annotated[str, typer.Option("--for", help="How long, once approved: 12h, 30d.")],
    reason: Reason,
    orchestrator: Annotated[
        str, typer.Option("--orchestrator", help="airflow or dagster; empty for other programs.")
    ] = "",
    run: Annotated[
        list[str] | None,
        typer.Option(
            "--run", help="The schedule: dag_id=… and task_id=…, or job_name=… and step_key=…."
        ),
    ] = None,
    database: Annotated[str | None, typer.Option("--database")] = None,
    schema: Annotated[str | None, typer.Option("--schema")] = None,
    role: Annotated[
        str | None, typer.Option("--role", help="The Snowflake role, where you have several.")
    ] = None,
    url: Url = None,
    token_env: TokenEnv = None,
    as_json: AsJson = False,
) -> None:
    """Ask that every statement which fits the template may run, with the job's own token."""
    length = parse_span(span)
    if not length:
        raise typer.BadParameter("must be a number and m, h or d: 12h, 30d.", param_hint="--for")
    if str(template) == "-":
        text = sys.stdin.read()
    elif template.is_file():
        text = template.read_text()
    else:
        raise typer.BadParameter(f"{template} is not there.", param_hint="TEMPLATE")
    with failing(as_json), client(url, token_env) as hoop:
        asked = hoop.request_standing_approval(
            text,
            _object(bounds),
            _object(sample),
            rows_at_most=rows,
            uses_at_most=uses,
            span=length,
            reason=reason,
            database=database,
            schema=schema,
            role=role,
            run=RunContext(orchestrator, _fields(run or [])),
        )
    said = (
        f"{asked.id} is {asked.status}; {', '.join(asked.approvers)} must answer ({asked.quorum})."
    )
    emit(as_json, as_plain(asked), Text(said))


@app.command("list")
def list_(
    status: Annotated[ApprovalStatus | None, typer.Option("--status", help="Only these.")] = None,
    url: Url = None,
    token_env: TokenEnv = None,
    as_json: AsJson = False,
) -> None:
    """The standing approvals that you asked for or may answer, newest first."""
    with failing(as_json), client(url, token_env) as hoop:
        found = hoop.standing_approvals(status)
    rows = [
        (
            (
                a.id,
                state(a),
                a.requester.name,
                f"{a.valid_until:%m-%d %H:%M}" if a.valid_until else "-",
            ),
            wanted(a),
        )
        for a in found
    ]
    empty = "There is no standing approval." if status is None else f"None is {status}."
    shown = detailed(("id", "status", "who", "until (UTC)"), rows, empty=empty)
    emit(as_json, {"standing_approvals": [as_plain(a) for a in found]}, whole(shown, found))


@app.command()
def revoke(
    approval_id: Identifier,
    reason: Reason,
    url: Url = None,
    token_env: TokenEnv = None,
    as_json: AsJson = False,
) -> None:
    """End a standing approval at once; its requester and its approvers may."""
    with failing(as_json), client(url, token_env) as hoop:
        ended = hoop.revoke_standing_approval(approval_id, reason)
    emit(
        as_json,
        as_plain(ended),
        Text(f"{ended.id} is {ended.status}: every run is asked about again."),
    )
