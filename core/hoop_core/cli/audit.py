"""`hoop audit`: verify the log and its bundles, and prove single things of it."""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.text import Text

from hoop_core.audit.checkpoint import check_verifier_key
from hoop_core.audit.log import AuditLog
from hoop_core.audit.proving import consistency, inclusion
from hoop_core.audit.standalone import notes_of
from hoop_core.audit.verify import Report, adopt_log, verify_bundle, verify_store
from hoop_core.audit.witness import witnesses_of
from hoop_core.cli.evidence import evidence
from hoop_core.cli.export import export
from hoop_core.cli.output import AsJson, emit, failing, plain
from hoop_core.cli.query import query
from hoop_core.cli.reconcile import Config, reconcile
from hoop_core.cli.retention import holds, prune
from hoop_core.config import Settings, load_settings
from hoop_core.credentials.log_key import existing_signer, opened_log
from hoop_core.errors import ConfigError, StoreUnavailable
from hoop_core.store import Store

app = typer.Typer(help="The log and its evidence.", no_args_is_help=True, add_completion=False)
Heads = Annotated[
    Path | None,
    typer.Option(
        "--heads", help="Published checkpoints, which the log has to fit.", dir_okay=False
    ),
]


@app.command()
def verify(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[BUNDLE_OR_STORE]",
            help="A bundle, or a store's URL or file; else that of hoop.toml, and the log tells of it.",
        ),
    ] = None,
    *,
    key: Annotated[
        str | None,
        typer.Option("--key", help="The verifier key you trust (name+hash+key)."),
    ] = None,
    heads: Heads = None,
    recordings: Annotated[
        str | None,
        typer.Option("--recordings", help="Of a store: where its recordings are, to check them."),
    ] = None,
    story: Annotated[
        bool, typer.Option(help="Also whether what the entries tell could happen.")
    ] = True,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Check every entry, checkpoint and recording; exit 1 on any fault and name the first."""
    with failing(as_json):
        if key is not None:
            check_verifier_key(key)
        if source is not None and "://" not in source and not Path(source).exists():
            raise ConfigError(
                f"There is no file {source}.", "Name a bundle, or a store's URL or file."
            )
        notes = _notes(heads)
        stored = source is None or "://" in source or source.endswith(".db")
        if source is None:
            settings = load_settings(config)
            recordings = recordings or settings.store.recordings
            report = verified_here(settings, notes, key, recordings, story=story)
        elif stored:
            url = source if "://" in source else f"sqlite:///{source}"
            report = verify_store(
                url, verifier_key=key, heads=notes, recordings=recordings, story=story
            )
        else:
            report = verify_bundle(Path(source), verifier_key=key, heads=notes)
    emit(as_json, report.as_json(), _shown(report, unchecked=stored and recordings is None))
    raise typer.Exit(0 if report.ok else 1)


def verified_here(
    settings: Settings, heads: list[str], key: str | None, recordings: str, *, story: bool
) -> Report:
    """The log of a gateway's configuration. That it was looked at is in the log."""
    signer = existing_signer(settings)
    heads = heads + _published(settings, signer.verifier_key)
    report = verify_store(
        settings.store.url,
        verifier_key=key or signer.verifier_key,
        heads=heads,
        recordings=recordings,
        story=story,
    )
    told = report.as_json()
    first = [f"{f.place}: {f.what}" for f in report.faults[:20]]
    try:
        with opened_log(settings) as (_, log):
            entry = {"by": getpass.getuser(), "ok": report.ok, "faults": len(report.faults)}
            entry |= {"first": first, "entries": told["entries"], "root": told["root"]}
            log.append("log.verified", entry)
    except (StoreUnavailable, ConfigError):
        if report.ok:  # a log that does not verify may not take an entry either
            raise
    return report


def _published(settings: Settings, log_key: str) -> list[str]:
    """The newest checkpoint of each witness that can be asked. Raises ConfigError, StoreUnavailable."""
    newest = [w.newest() for w in witnesses_of(settings.audit.witnesses, log_key)]
    return [note for note in newest if note is not None]


def _notes(heads: Path | None) -> list[str]:
    if heads is None:
        return []
    try:
        notes = notes_of(heads.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{heads} cannot be read: {type(e).__name__}.") from None
    if not notes:
        raise ConfigError(f"There are no checkpoints in {heads}.", "Give the file of a witness.")
    return notes


def _shown(report: Report, *, unchecked: bool) -> Group:
    lines = [plain(f"{f.place}: {f.what}") for f in report.faults]
    if not report.ok:
        verdict = Text(f"NOT VERIFIED: {len(lines)} faults, the first one first", style="bold red")
    elif not report.verifier_key:
        verdict = Text("the entries fit each other and the checkpoints", style="bold green")
        verdict.append("\nsignatures were NOT checked: give --key", style="yellow")
    elif report.key_given:
        verdict = Text("verified: nothing was changed", style="bold green")
    else:
        verdict = Text("verified: nothing was changed since it was signed", style="bold green")
        warning = "by the key below, which came with it: compare it with the one you trust, or give that one by --key"
        verdict.append(f"\n{warning}", style="yellow")
    if report.ok and unchecked:
        verdict.append("\nrecordings were NOT checked: give --recordings", style="yellow")
    pruned = f" ({report.pruned} of them pruned)" if report.pruned else ""
    facts = plain(
        f"{report.entries} entries{pruned}, {report.recordings} recordings\n"
        f"root {report.root}\nkey  {report.verifier_key or 'none given'}"
    )
    return Group(verdict, *lines, facts)


@app.command()
def prove(
    seq: Annotated[
        int | None, typer.Argument(metavar="[SEQ]", help="Prove that this entry is in the log.")
    ] = None,
    since: Annotated[
        int | None,
        typer.Option("--since", metavar="SIZE", help="Prove that the log of this size was kept."),
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """A proof that fits the newest signed checkpoint, for any RFC 6962 verifier."""
    with failing(as_json):
        if (seq is None) == (since is None):
            raise ConfigError("Name one entry, or --since the size of an older checkpoint.")
        with opened_log(load_settings(config)) as (store, log):
            signed = log.checkpoint()
            if seq is not None:
                proof = inclusion(store, seq, signed)
            else:
                proof = consistency(store, since or 0, signed)
    emit(as_json, proof, plain(json.dumps(proof, indent=2, ensure_ascii=False)))


@app.command()
def adopt(
    heads: Heads = None,
    *,
    lost_head: Annotated[
        bool,
        typer.Option(
            "--unsafe-after-a-lost-head", help="Also a log whose head somebody took away."
        ),
    ] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Take over a log of an older Hoop, which has no signed head, after verifying it."""
    with failing(as_json):
        settings = load_settings(config)
        store = Store.of(settings.store)
        try:
            store.migrate()
            signer = existing_signer(settings)
            report = adopt_log(
                AuditLog(store, signer),
                store,
                getpass.getuser(),
                heads=_notes(heads) + _published(settings, signer.verifier_key),
                lost_head=lost_head,
            )
        finally:
            store.close()
    shown = plain(f"{report.entries} entries were verified, and are signed for from now on")
    emit(as_json, report.as_json(), shown)


app.command()(export)
app.command()(evidence)
app.command()(query)
app.command()(reconcile)
app.command()(prune)
app.add_typer(holds, name="hold")
