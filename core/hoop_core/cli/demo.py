"""`hoop demo`: the main job on the embedded stack, with every claim checked.

Exit codes: 0 each claim was seen to hold, 1 one did not (also: somebody rejected a request), 2 usage
(nobody there to answer, or Airflow is not installed), 3 a part of the stack could not be started.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from hoop_core.cli.demo_report import INTRO, Screen, show
from hoop_core.demo.answers import Approver, automatic
from hoop_core.demo.job import REPORT, Demo, DemoReport, remove
from hoop_core.devstack.processes import PartFailed
from hoop_core.errors import HoopError


def demo(
    auto_approve: Annotated[
        bool, typer.Option("--auto-approve", help="Answer as alice and bob instead of asking.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Where the evidence bundle goes.", file_okay=False),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on standard output.")
    ] = False,
) -> None:
    """Run the main job end to end on this host: Airflow, Hoop, Vault and a Snowflake stand-in."""
    if not auto_approve and not sys.stdin.isatty():
        raise typer.BadParameter(
            "there is no terminal to ask at: let it answer by itself", param_hint="--auto-approve"
        )
    target = (out or Path(tempfile.mkdtemp(prefix="hoop-demo-"))).absolute()
    target.mkdir(parents=True, exist_ok=True)
    # All of it is on this machine, where no proxy of the user's can reach it.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*"
    home = Path(tempfile.mkdtemp(prefix="hoop-demo-home-"))
    progress = Console(stderr=True, highlight=False, quiet=as_json and auto_approve)
    progress.print(INTRO)
    if not auto_approve:
        progress.print("It will ask you to answer as the data owners alice and bob.")
    progress.print()
    try:
        with Screen(progress) as screen:
            decide: Approver = automatic if auto_approve else screen.ask
            report = Demo(home, target, decide, screen).run()
            screen.done()
    except HoopError as e:
        _fail(e, as_json, home)
        raise typer.Exit(e.exit_code) from None
    except (KeyboardInterrupt, EOFError):
        remove(home)
        raise
    _write(report, target / REPORT)
    if as_json:
        typer.echo(json.dumps(report.as_json()))
    else:
        show(report, Console(highlight=False))
    if not report.ok:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"The parts' logs are kept in {escape(str(home))}."
        )
        raise typer.Exit(1)
    remove(home)


def _write(report: DemoReport, path: Path) -> None:
    path.write_text(json.dumps(report.as_json(), indent=2) + "\n")


def _fail(error: HoopError, as_json: bool, home: Path) -> None:
    log_tail = error.log_tail if isinstance(error, PartFailed) else ""
    if as_json:
        body = {"reason": error.reason, "message": error.message, "hint": error.hint}
        told = {"ok": False, "error": body | ({"log_tail": log_tail} if log_tail else {})}
        typer.echo(json.dumps(told))
        return
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if log_tail:
        console.print(escape(log_tail), style="dim")
    console.print(f"[red]{escape(error.message)}[/red] {escape(error.hint)}".rstrip())
    console.print(f"The parts' logs are in {escape(str(home))}.")
