"""All sub-commands in one place. Each is imported when it is called: the whole takes seconds."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hoop_core import __version__

# name: (module, what it holds there)
_COMMANDS = {
    "demo": ("hoop_core.cli.demo", "demo"),
    "dev": ("hoop_core.cli.dev", "app"),
    "serve": ("hoop_core.cli.serve", "serve"),
    "policy": ("hoop_core.cli.policy", "app"),
    "approvals": ("hoop_core.cli.approvals", "app"),
    "standing": ("hoop_core.cli.standing", "app"),
    "masking": ("hoop_core.cli.masking", "app"),
    "notifications": ("hoop_core.cli.notifications", "app"),
    "sessions": ("hoop_core.cli.sessions", "app"),
    "credentials": ("hoop_core.cli.credentials", "app"),
    "vault": ("hoop_core.cli.vault", "app"),
    "snowflake": ("hoop_core.cli.snowflake", "app"),
    "audit": ("hoop_core.cli.audit", "app"),
    "bench": ("hoop_core.cli.bench", "bench"),
}


class _Lazy(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute = _COMMANDS[cmd_name]
        found = getattr(import_module(module), attribute)
        if not isinstance(found, typer.Typer):
            function, found = found, _app()
            found.command(cmd_name)(function)
        command = typer.main.get_command(found)
        command.name = cmd_name
        return command


def _app(**options: Any) -> typer.Typer:
    return typer.Typer(pretty_exceptions_show_locals=False, **options)  # locals hold tokens


app = _app(
    cls=_Lazy,
    name="hoop",
    help="Identity, policy, approval, minted users, masking and evidence in front of Snowflake.",
    no_args_is_help=True,
)


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
