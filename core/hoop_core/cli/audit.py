"""`hoop audit`: export the evidence, and verify what was exported."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.text import Text

from hoop_core.audit.checkpoint import check_verifier_key
from hoop_core.audit.evidence import export_bundle
from hoop_core.audit.verify import Report, verify_bundle, verify_store
from hoop_core.cli.output import AsJson, emit, failing, plain
from hoop_core.config import load_settings
from hoop_core.errors import ConfigError

app = typer.Typer(help="The log and its evidence.", no_args_is_help=True, add_completion=False)


@app.command()
def verify(
    source: Annotated[
        str, typer.Argument(metavar="BUNDLE_OR_STORE", help="A bundle, or a store's URL or file.")
    ],
    key: Annotated[
        str | None,
        typer.Option("--key", help="The verifier key you trust (name+hash+key)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check every entry, checkpoint and recording; exit 1 on any fault and name the first."""
    with failing(as_json):
        if key is not None:
            check_verifier_key(key)
        if "://" not in source and not Path(source).exists():
            raise ConfigError(
                f"There is no file {source}.", "Name a bundle, or a store's URL or file."
            )
        stored = "://" in source or source.endswith(".db")
        if stored:
            url = source if "://" in source else f"sqlite:///{source}"
            report = verify_store(url, verifier_key=key)
        else:
            report = verify_bundle(Path(source), verifier_key=key)
    emit(as_json, report.as_json(), _shown(report, stored))
    raise typer.Exit(0 if report.ok else 1)


def _shown(report: Report, stored: bool) -> Group:
    lines = [plain(f"{f.place}: {f.what}") for f in report.faults]
    if not report.ok:
        verdict = Text(f"NOT VERIFIED: {len(lines)} faults, the first one first", style="bold red")
    elif not report.verifier_key:
        verdict = Text("the entries fit each other and the checkpoints", style="bold green")
        verdict.append(
            "\nsignatures and recordings were NOT checked: give --key, or verify a bundle",
            style="yellow",
        )
    elif report.key_given:
        verdict = Text("verified: nothing was changed", style="bold green")
        if stored:
            verdict = Text("verified: no entry was changed", style="bold green")
            verdict.append("\nrecordings were NOT checked: verify a bundle", style="yellow")
    else:
        verdict = Text("verified: nothing was changed since it was signed", style="bold green")
        warning = "by the key below, which came with it: compare it with the one you trust, or give that one by --key"
        verdict.append(f"\n{warning}", style="yellow")
    facts = plain(
        f"{report.entries} entries, {report.recordings} recordings\n"
        f"root {report.root}\nkey  {report.verifier_key or 'none given'}"
    )
    return Group(verdict, *lines, facts)


@app.command()
def export(
    out: Annotated[Path, typer.Option("--out", help="Where to write the bundle.")] = Path(
        "evidence.zip"
    ),
    config: Annotated[
        Path | None, typer.Option("--config", help="The gateway's hoop.toml.", dir_okay=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the evidence bundle of the whole log."""
    with failing(as_json):
        bundle = export_bundle(load_settings(config), out, requester=getpass.getuser())
    value = {
        "path": str(bundle.path),
        "entries": bundle.entries,
        "recordings": bundle.recordings,
        "root": bundle.root,
        "verifier_key": bundle.verifier_key,
    }
    text = (
        f"{bundle.path}: {bundle.entries} entries, {bundle.recordings} recordings\n"
        f"root {bundle.root}\nkey  {bundle.verifier_key}"
    )
    emit(as_json, value, plain(text))
