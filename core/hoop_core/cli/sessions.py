"""`hoop sessions`: who was connected, and what happened in a session."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from hoop_core.cli.output import AsJson, emit, failing, listing, plain
from hoop_core.cli.remote import TokenEnv, Url, client
from hoop_core.cli.replay import replay

app = typer.Typer(
    help="Sessions and what happened in them.", no_args_is_help=True, add_completion=False
)
app.command("replay")(replay)


@app.command("list")
def list_(url: Url = None, token_env: TokenEnv = None, as_json: AsJson = False) -> None:
    """The sessions that you may see, newest first."""
    with failing(as_json), client(url, token_env) as hoop:
        found = list(hoop.sessions())
    table = listing("id", "who", "as", "opened (UTC)", "closed (UTC)")
    for s in found:
        table.add_row(
            s["id"], plain(s["identity"]["name"]), s["snowflake_role"], _minute(s["opened_at"]),
            _minute(s["closed_at"]) if s["closed_at"] else "open",
        )  # fmt: skip
    emit(as_json, {"sessions": found}, table)


@app.command()
def show(
    session_id: Annotated[str, typer.Argument(metavar="ID")],
    url: Url = None,
    token_env: TokenEnv = None,
    as_json: AsJson = False,
) -> None:
    """One session with its entries in the log."""
    with failing(as_json), client(url, token_env) as hoop:
        found = hoop.session(session_id)
    table = Table("seq", "at", "what", "details", title=f"{found['id']} of {_name(found)}")
    for entry in found["entries"]:
        table.add_row(
            str(entry["seq"]), entry["at"][11:23], entry["kind"], plain(_details(entry["data"]))
        )
    if not found.get("whole", True):
        table.caption = "The first entries only; hoop audit export has all."
    emit(as_json, found, table)


def _minute(at: str) -> str:
    return at[5:16].replace("T", " ")


def _name(session: dict[str, Any]) -> str:
    return plain(session["identity"]["name"]).plain


def _details(data: dict[str, Any]) -> str:
    for key in ("message", "sql", "snowflake_user", "status", "reason"):
        if data.get(key):
            return " ".join(str(data[key]).split())[:120]
    return ""
