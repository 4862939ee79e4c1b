"""`hoop notifications`: which channels there are, and whether they can be reached."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from hoop_core.cli.output import AsJson, emit, failing, listing, plain
from hoop_core.config import Settings, load_settings
from hoop_core.errors import ConfigError, Unavailable

app = typer.Typer(
    help="Who is told of approvals, by hoop.toml.", no_args_is_help=True, add_completion=False
)
Config = Annotated[
    Path | None, typer.Option("--config", help="The hoop.toml to use.", dir_okay=False)
]


@app.command("list")
def list_(config: Config = None, as_json: AsJson = False) -> None:
    """The channels, without their addresses."""
    with failing(as_json):
        channels = load_settings(config).notifications
    table = listing("channel", "kind", "events", "approvers", "accounts", "SQL")
    for c in channels:
        table.add_row(
            c.name,
            c.kind,
            ", ".join(c.events),
            plain(", ".join(c.approvers) or "all"),
            plain(", ".join(c.accounts) or "all"),
            "shown" if c.show_sql else "-",
        )
    told = [
        c.model_dump(
            mode="json", include={"name", "kind", "events", "approvers", "accounts", "show_sql"}
        )
        for c in channels
    ]
    emit(as_json, {"channels": told}, table if channels else Text("There are no channels."))


@app.command()
def test(
    channel: Annotated[str, typer.Argument(metavar="CHANNEL")],
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Send a message that says nothing but that it came."""
    with failing(as_json):
        asyncio.run(_try(load_settings(config), channel))
    emit(as_json, {"channel": channel, "sent": True}, Text(f"{channel} has taken the message."))


async def _try(settings: Settings, name: str) -> None:
    """Raises ConfigError, Unavailable."""
    # slow imports that other commands need not wait for
    from hoop_core.audit.log import utc_now  # noqa: PLC0415
    from hoop_core.notifications.channels import NotSent  # noqa: PLC0415
    from hoop_core.notifications.messages import trial  # noqa: PLC0415
    from hoop_core.notifications.notifier import channel_of, sender_of  # noqa: PLC0415

    found = next((c for c in settings.notifications if c.name == name), None)
    if found is None:
        names = ", ".join(c.name for c in settings.notifications) or "none"
        raise ConfigError(f"There is no channel {name!r}.", f"Those of hoop.toml: {names}.")
    page = settings.gateway.public_url or "gateway.public_url is not set"
    message = trial(name, page=page, sender=sender_of(settings.audit.origin), at=utc_now())
    try:
        await channel_of(found).send(message)
    except NotSent as e:
        raise Unavailable(
            f"The channel {name} did not take the message: {e.why}.",
            "Check its address, and the way there from this host.",
        ) from None
