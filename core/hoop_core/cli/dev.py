"""`hoop dev up` and `hoop dev down`: the embedded stack, alone.

Exit codes: 0 done (also `down` with nothing running), 1 refused (a stack is running already, or the
user broke off), 2 usage, 3 a part could not be started or stopped.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from hoop_core.cli.output import AsJson, emit, failing
from hoop_core.devstack import supervisor
from hoop_core.devstack.environment import default_home, format_env
from hoop_core.devstack.processes import write_private
from hoop_core.policy.file import load_policy

app = typer.Typer(
    help="The embedded stack: OpenBao, a Snowflake emulator and the gateway on this host.",
    no_args_is_help=True,
    add_completion=False,
)

Home = Annotated[
    Path | None,
    typer.Option("--home", help="Where the stack keeps its files.", file_okay=False),
]

_SECRET = ("TOKEN", "PASSWORD")


def _unwrapped(markup: str) -> Text:
    """Text whose lines stay whole, so that commands in it can be copied."""
    text = Text.from_markup(markup, overflow="ignore")
    text.no_wrap = True
    return text


class _Steps:
    """The steps on standard error: a spinner on a terminal, plain lines elsewhere."""

    def __init__(self, quiet: bool) -> None:
        self._console = Console(stderr=True, highlight=False, quiet=quiet)
        self._status = self._console.status("Starting")
        self._last = ""

    def __enter__(self) -> _Steps:
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def __call__(self, step: str) -> None:
        if self._last:
            self._console.print(f"[green]✓[/green] {escape(self._last)}")
        self._last = step
        self._status.update(step)

    def done(self) -> None:
        self._status.stop()
        if self._last:
            self._console.print(f"[green]✓[/green] {escape(self._last)}")


@app.command()
def up(
    env_file: Annotated[
        Path | None,
        typer.Option("--env-file", help="KEY=VALUE lines, mode 0600.", dir_okay=False),
    ] = None,
    home: Home = None,
    policy: Annotated[
        Path | None,
        typer.Option("--policy", help="Instead of the demo policy.", exists=True, dir_okay=False),
    ] = None,
    as_json: AsJson = False,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay until Ctrl-C instead of detaching.")
    ] = False,
) -> None:
    """Start the stack and write its addresses and demo tokens to the env file."""
    place = (home or default_home()).absolute()
    target = (env_file or place / "dev.env").absolute()
    if not target.parent.is_dir() and target.parent != place:
        raise typer.BadParameter(f"{target.parent} is not a directory", param_hint="--env-file")

    if policy is not None:
        with failing(as_json):  # before anything is started
            load_policy(policy)

    with _Steps(quiet=as_json) as steps:

        def ready(environment: dict[str, str]) -> None:
            write_private(target, format_env(environment))
            steps.done()
            shown = {k: v for k, v in environment.items() if not k.endswith(_SECRET)}
            shown = {k: v for k, v in shown.items() if "_TOKEN_" not in k}
            emit(
                as_json,
                {"status": "ready", "home": str(place), "env_file": str(target), **shown},
                _unwrapped(
                    "The stack is up. Use it with: "
                    f"[bold]set -a; . {escape(shlex.quote(str(target)))}; set +a[/bold]\n"
                    f"Stop it with: [bold]{escape(_down_command(home))}[/bold]"
                ),
            )

        with failing(as_json):
            if foreground:
                supervisor.hold(place, policy=policy, progress=steps, ready=ready)
            else:
                ready(supervisor.launch(place, policy=policy, progress=steps))


@app.command()
def down(home: Home = None, as_json: AsJson = False) -> None:
    """Stop the stack: the gateway first, so that it ends every user that it minted."""
    place = (home or default_home()).absolute()
    with failing(as_json):
        stopped = supervisor.stop(place)
    said = "The stack is stopped." if stopped else f"Nothing is running in {place}."
    emit(
        as_json,
        {"status": "stopped" if stopped else "not_running", "home": str(place)},
        _unwrapped(escape(said)),
    )


def _down_command(home: Path | None) -> str:
    if home is None:
        return "hoop dev down"
    return f"hoop dev down --home {shlex.quote(str(home))}"
