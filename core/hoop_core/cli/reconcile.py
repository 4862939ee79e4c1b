"""`hoop audit reconcile`: Snowflake's own histories against the log."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from hoop_core.audit.reconcile import Compared
from hoop_core.cli.output import AsJson, detailed, emit, failing, plain
from hoop_core.config import Settings, load_settings
from hoop_core.credentials.attended import attending
from hoop_core.credentials.reconciling import reconciler_of
from hoop_core.errors import ConfigError

From = Annotated[
    str | None, typer.Option("--from", metavar="TIME", help="RFC 3339, or a day: 2026-01-31.")
]
To = Annotated[
    str | None, typer.Option("--to", metavar="TIME", help="Up to this time, it excluded.")
]
Config = Annotated[
    Path | None, typer.Option("--config", help="The gateway's hoop.toml.", dir_okay=False)
]


def reconcile(
    begin: From = None, end: To = None, config: Config = None, as_json: AsJson = False
) -> None:
    """Compare what ran and signed in at Snowflake with the log; exit 1 when anything is unexplained.

    Without --from it goes on where the last comparison ended.
    """
    with failing(as_json):
        compared = asyncio.run(
            _reconciled(load_settings(config), moment(begin, "--from"), moment(end, "--to"))
        )
    value = {"accounts": [c.as_json() for c in compared]}
    emit(as_json, value, Group(*(_shown(c) for c in compared)))
    raise typer.Exit(1 if any(c.findings for c in compared) else 0)


async def _reconciled(
    settings: Settings, begin: datetime | None, end: datetime | None
) -> list[Compared]:
    async with attending(settings, "reconcile") as here:
        reconciler = reconciler_of(settings, here.accounts, here.store, here.log, owner=here.owner)
        return [await reconciler.reconcile(account, begin, end) for account in here.accounts]


def moment(text: str | None, what: str) -> datetime | None:
    """A time as people give it; without a zone it is UTC. Raises ConfigError."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"{what} is no time: {text[:40]}.", "Write 2026-01-31 or 2026-01-31T12:00:00Z."
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _shown(compared: Compared) -> RenderableType:
    counts = compared.counts
    told = (
        f"{compared.account}: {compared.begin:%Y-%m-%d %H:%M} to {compared.end:%Y-%m-%d %H:%M} UTC, "
        f"{counts.get('queries', 0)} statements and {counts.get('logins', 0)} logins at Snowflake, "
        f"{counts.get('entries', 0)} statements that ran by the log"
    )
    parts: list[RenderableType] = [plain(told)]
    for one in compared.allowed:
        parts.append(
            plain(
                f"allowed: {one['user']}, {one.get('statements', 0)} statements, "
                f"{one.get('logins', 0)} logins ({one['reason']})"
            )
        )
    if not compared.settled:
        parts.append(
            Text(
                "Snowflake may not know the end of this span yet: what it lacks was not judged.",
                style="yellow",
            )
        )
    if not compared.findings:
        parts.append(Text("everything is explained", style="bold green"))
        return Group(*parts)
    rows = [
        (
            (f.kind, f.user or "-", str(f.count)),
            f"{f.why}; first {f.first:%Y-%m-%d %H:%M:%S} UTC: {', '.join(f.examples[:3])}",
        )
        for f in compared.findings
    ]
    parts += [
        Text("UNEXPLAINED", style="bold red"),
        detailed(("what", "user", "count"), rows, empty=""),
    ]
    return Group(*parts)
