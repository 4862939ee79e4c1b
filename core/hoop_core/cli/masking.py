"""`hoop masking`: ask to see masked columns for a while, see what was granted, end it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from hoop_core.cli.approvals import Identifier, as_plain, state, wanted, whole
from hoop_core.cli.output import AsJson, detailed, emit, failing
from hoop_core.cli.remote import TokenEnv, Url, client
from hoop_core.client import Approval, ApprovalStatus
from hoop_core.policy.exceptions import parse_column
from hoop_core.spans import parse_span

app = typer.Typer(
    help="Masking exceptions: masked columns, shown to one caller for a while.",
    no_args_is_help=True,
    add_completion=False,
)


@app.command()
def request(  # noqa: PLR0917 - typer's own order
    columns: Annotated[
        str, typer.Option("--columns", help="DATABASE.SCHEMA.TABLE.COLUMN, several with commas.")
    ],
    span: Annotated[str, typer.Option("--for", help="How long, once approved: 30m, 2h, 1d.")],
    reason: Annotated[str, typer.Option("--reason", help="What it is for: approvers read it.")],
    role: Annotated[
        str | None, typer.Option("--role", help="The Snowflake role, where you have several.")
    ] = None,
    url: Url = None,
    token_env: TokenEnv = None,
    as_json: AsJson = False,
) -> None:
    """Ask the approvers of the policy to show columns to you."""
    length = parse_span(span)
    if length is None:
        raise typer.BadParameter(
            "must be a number and s, m, h or d: 30m, 2h, 1d.", param_hint="--for"
        )
    if not length:
        raise typer.BadParameter("must be above 0.", param_hint="--for")
    names = split_names(columns)
    for name in names:
        if parse_column(name) is None:
            raise typer.BadParameter(
                f"`{name}` is not DATABASE.SCHEMA.TABLE.COLUMN.", param_hint="--columns"
            )
    if not names:
        raise typer.BadParameter("names no column.", param_hint="--columns")
    with failing(as_json), client(url, token_env) as hoop:
        asked = hoop.request_masking_exception(names, length, reason, role=role)
    emit(as_json, as_plain(asked), Text(_asked(asked)))


@app.command("list")
def list_(
    status: Annotated[ApprovalStatus | None, typer.Option("--status", help="Only these.")] = None,
    url: Url = None,
    token_env: TokenEnv = None,
    as_json: AsJson = False,
) -> None:
    """The exceptions that you asked for or may answer, newest first; those that wait oldest first."""
    with failing(as_json), client(url, token_env) as hoop:
        found = hoop.masking_exceptions(status)
    shown = detailed(
        ("id", "status", "who", "until (UTC)"),
        [
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
        ],
        empty="There is no masking exception." if status is None else f"No exception is {status}.",
    )
    emit(as_json, {"masking_exceptions": [as_plain(a) for a in found]}, whole(shown, found))


@app.command()
def revoke(
    exception_id: Identifier,
    reason: Annotated[str, typer.Option("--reason", help="Why it ends.")] = "",
    url: Url = None,
    token_env: TokenEnv = None,
    as_json: AsJson = False,
) -> None:
    """End an exception at once; its requester and its approvers may."""
    with failing(as_json), client(url, token_env) as hoop:
        ended = hoop.revoke_masking_exception(exception_id, reason)
    emit(
        as_json, as_plain(ended), Text(f"{ended.id} is {ended.status}: it shows nothing any more.")
    )


def split_names(text: str) -> list[str]:
    """The names between commas; a comma inside double quotes belongs to its name."""
    names, quoted = [""], False
    for c in text:
        quoted ^= c == '"'
        if c == "," and not quoted:
            names.append("")
        else:
            names[-1] += c
    return [n.strip() for n in names if n.strip()]


def _asked(approval: Approval) -> str:
    if approval.status is ApprovalStatus.APPROVED:
        return (
            f"{approval.id} is approved already, until {approval.valid_until:%Y-%m-%d %H:%M} UTC."
        )
    groups = ", ".join(approval.approvers)
    return f"Asked: {approval.id}. {approval.missing} of {groups} must approve it."
