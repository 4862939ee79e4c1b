"""`hoop audit export` and `hoop audit evidence`: what is handed to an auditor."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from hoop_core.audit.retention import stamp
from hoop_core.cli.output import AsJson, emit, failing, listing, plain
from hoop_core.cli.reconcile import Config, From, To, moment
from hoop_core.config import load_settings
from hoop_core.credentials.log_key import opened_log
from hoop_core.evidence import bundle as bundles
from hoop_core.evidence.bundle import Bundle, Population, export_bundle
from hoop_core.evidence.criteria import chosen

Out = Annotated[Path, typer.Option("--out", help="Where to write the bundle.")]


def evidence(
    *,
    begin: From = None,
    end: To = None,
    controls: Annotated[
        str | None, typer.Option("--controls", metavar="CC6.1,…", help="Only these criteria.")
    ] = None,
    out: Out = Path("evidence.zip"),
    recordings: Annotated[
        bool, typer.Option(help="Add what clients were shown, not its digests alone.")
    ] = True,
    replay: Annotated[
        bool, typer.Option(help="Decide the period's statements anew, for PI1.")
    ] = True,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Write the evidence bundle of a period, with the program that verifies it."""
    with failing(as_json):
        wanted = Population(
            getpass.getuser(),
            _stamp(begin, "--from"),
            _stamp(end, "--to"),
            chosen(controls),
            recordings,
            replay,
        )
        made = write_bundle(config, out, wanted)
    emit(as_json, made.as_json(), shown_bundle(made))


def _stamp(time: str | None, what: str) -> str | None:
    found = moment(time, what)
    return None if found is None else stamp(found)


def write_bundle(config: Path | None, out: Path, wanted: Population) -> Bundle:
    settings = load_settings(config)
    with opened_log(settings) as (store, log), _progress() as progress:
        return export_bundle(settings, out, wanted, log=log, store=store, progress=progress)


@contextmanager
def _progress() -> Iterator[bundles.Progress]:
    """On the error stream of a terminal; for whoever reads the output there is nothing."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("")
        yield lambda what, done, of: bar.update(
            task, description=what, completed=done, total=max(of, 1)
        )


def shown_bundle(made: Bundle) -> RenderableType:
    table = listing("table", "rows")
    for name, rows in made.tables.items():
        table.add_row(name, str(rows))
    table.title = f"{made.path}: {made.entries} entries, {made.recordings} recordings"
    table.caption = plain(
        f"root {made.root}\nkey  {made.verifier_key}\nCheck it: python verify.py {made.path.name}"
    )
    return table
