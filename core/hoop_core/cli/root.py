"""All sub-commands in one place."""

from __future__ import annotations

from typing import Annotated

import typer

from hoop_core import __version__
from hoop_core.cli import approvals, audit, demo, dev, policy, serve, sessions

app = typer.Typer(
    name="hoop",
    help="Identity, policy, approval, minted users, masking and evidence in front of Snowflake.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # locals hold tokens
)
app.add_typer(policy.app, name="policy")
app.add_typer(approvals.app, name="approvals")
app.add_typer(sessions.app, name="sessions")
app.add_typer(audit.app, name="audit")
app.add_typer(dev.app, name="dev")
app.command("serve")(serve.serve)
app.command("demo")(demo.demo)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hoop {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """The control surface between agents, scheduled jobs and Snowflake."""


def main() -> None:
    app()
