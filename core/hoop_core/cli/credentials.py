"""`hoop credentials`: the Snowflake users that Hoop has minted, and the end of those that nobody ends."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType

from hoop_core.cli.output import AsJson, detailed, emit, failing, plain
from hoop_core.config import load_settings
from hoop_core.credentials.attended import Listed, list_leases, sweep_now
from hoop_core.credentials.sweeper import Swept
from hoop_core.model import LeaseState, quote_part

app = typer.Typer(help="Minted Snowflake users.", no_args_is_help=True, add_completion=False)
_Config = Annotated[
    Path | None, typer.Option("--config", help="The gateway's hoop.toml.", dir_okay=False)
]


@app.command("list")
def list_(config: _Config = None, as_json: AsJson = False) -> None:
    """The users that are not confirmed gone; exit 1 if some should be gone already."""
    with failing(as_json):
        found = list_leases(load_settings(config))
    value = {"leases": [x.as_json() for x in found]}
    emit(as_json, value, _shown(found))
    raise typer.Exit(1 if any(not x.held for x in found) else 0)


@app.command()
def sweep(config: _Config = None, as_json: AsJson = False) -> None:
    """End every user that no living gateway uses; exit 1 if one is left, 3 if something cannot be reached."""
    with failing(as_json):
        swept = sweep_now(load_settings(config))
    value = {"accounts": {name: s.as_json() for name, s in swept.items()}}
    emit(as_json, value, Group(*(_told(name, s) for name, s in swept.items())))
    if any(s.faults for s in swept.values()):
        raise typer.Exit(3)
    raise typer.Exit(0 if all(s.clean for s in swept.values()) else 1)


def _shown(found: list[Listed]) -> RenderableType:
    rows = []
    for x in found:
        s = x.standing
        state = (
            str(s.state) if x.held or s.state is LeaseState.PENDING else f"{s.state}, left behind"
        )
        rows.append(((s.lease.snowflake_user, state, s.lease.account), _detail(x)))
    return detailed(("user", "state", "account"), rows, empty="Nobody.")


def _detail(x: Listed) -> str:
    s = x.standing
    told = f"session {s.lease.session_id}" if s.lease.session_id else "in no lease: an orphan"
    told = f"since {s.lease.created_at.isoformat(timespec='seconds')}, {told}"
    if s.state is LeaseState.PENDING:
        by_hand = f"DROP USER IF EXISTS {quote_part(s.lease.snowflake_user)}"
        told += f"; {s.last_error or 'not tried yet'} By hand: {by_hand}"
    return told


def _told(name: str, swept: Swept) -> RenderableType:
    lines = [f"{name}: {len(swept.gone)} ended, {len(swept.pending)} still there"]
    lines += [f"  ended {user}" for user in swept.gone]
    lines += [f"  still there {user}" for user in swept.pending]
    lines += [f"  was in no lease: {user}" for user in swept.orphans]
    if swept.given_up:
        lines.append(f"  {swept.given_up} that Vault had given up")
    lines += [f"  {fault}" for fault in swept.faults]
    return plain("\n".join(lines))
