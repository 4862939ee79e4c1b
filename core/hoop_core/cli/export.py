"""`hoop audit export`: the whole log for an auditor, or a period of it for other tools."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Annotated

import typer

from hoop_core.audit.retention import stamp
from hoop_core.cli.evidence import shown_bundle, write_bundle
from hoop_core.cli.output import AsJson, emit, failing, plain
from hoop_core.cli.reconcile import Config, From, To, moment
from hoop_core.config import load_settings
from hoop_core.credentials.log_key import opened_log
from hoop_core.errors import ConfigError
from hoop_core.evidence.bundle import Population
from hoop_core.evidence.export import (
    Exported,
    Format,
    Period,
    file_in_full,
    write_manifest,
)
from hoop_core.evidence.export import export as export_period
from hoop_core.model import Json

_OUT = typer.Option("--out", metavar="FILE", help="Where to write; - for standard output.")


def export(
    *,
    form: Annotated[
        Format | None,
        typer.Option("--format", help="Without it: the evidence bundle of the whole log."),
    ] = None,
    begin: From = None,
    end: To = None,
    out: Annotated[str | None, _OUT] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Write the evidence bundle of the whole log, or, with --format, a period of it for other tools."""
    with failing(as_json):
        if form is None:
            if begin or end or out == "-":
                raise ConfigError(
                    "The bundle is of the whole log, and a file.",
                    "Give --format, or use `hoop audit evidence` for the bundle of a period.",
                )
            made = write_bundle(config, Path(out or "evidence.zip"), Population(getpass.getuser()))
            emit(as_json, made.as_json(), shown_bundle(made))
            return
        exported, path = _written(config, form, Period(_at(begin, "--from"), _at(end, "--to")), out)
    if path is not None:
        value = {**_told(exported), "path": str(path), "manifest": f"{path}.manifest.json"}
        text = (
            f"{path}: {exported.lines} lines of {exported.end - exported.first} entries\n"
            f"manifest {value['manifest']}\nroot {exported.root}"
        )
        emit(as_json, value, plain(text))


def _at(time: str | None, what: str) -> str | None:
    found = moment(time, what)
    return None if found is None else stamp(found)


def _written(
    config: Path | None, form: Format, period: Period, out: str | None
) -> tuple[Exported, Path | None]:
    """To standard output nothing but the export itself."""
    requester = getpass.getuser()
    with opened_log(load_settings(config)) as (store, log):
        if out == "-":
            sys.stdout.reconfigure(errors="backslashreplace", newline="")  # type: ignore[union-attr]
            exported, _ = export_period(store, log, sys.stdout, form, period, requester=requester)
            sys.stdout.flush()
            return exported, None
        path = Path(out or f"hoop-{form}.{'csv' if form is Format.CSV else 'jsonl'}")
        with file_in_full(path) as opened:
            exported, manifest = export_period(
                store, log, opened, form, period, requester=requester
            )
        write_manifest(log, manifest, path)
    return exported, path


def _told(exported: Exported) -> Json:
    return {
        "format": exported.format,
        "lines": exported.lines,
        "entries": exported.end - exported.first,
        "first_seq": exported.first,
        "last_seq": exported.end - 1,
        "sha256": exported.sha256,
        "root": exported.root,
    }
