"""`hoop sessions replay`: a recorded session decided anew, or shown as it went."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.text import Text

from hoop_core.audit.recording import Recorder
from hoop_core.cli.output import AsJson, emit, failing, plain
from hoop_core.cli.playback import play
from hoop_core.config import Settings, load_settings
from hoop_core.credentials.transit import TransitDataKeys
from hoop_core.errors import ConfigError, EvidenceError
from hoop_core.policy.file import load_policy
from hoop_core.replay.evidence import BundleSource, Source, StoreSource
from hoop_core.replay.session import Otherwise, Replay, Replayed, Result
from hoop_core.replay.unsealing import Unsealer, Unwrap
from hoop_core.store import Store

_MOST_SHOWN = 200


def replay(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Sessions.", show_default=False)
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Every session of the log.")] = False,
    policy: Annotated[
        Path | None,
        typer.Option("--policy", help="List what this policy would have decided otherwise."),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Play the session back with its timing.")
    ] = False,
    speed: Annotated[
        float, typer.Option("--speed", min=0.01, help="With --show: times as fast as it was.")
    ] = 1.0,
    bundle: Annotated[
        Path | None, typer.Option("--from", help="An evidence bundle instead of a store.")
    ] = None,
    store: Annotated[
        str | None, typer.Option("--store", help="The store's URL; from hoop.toml if not given.")
    ] = None,
    recordings: Annotated[
        str | None,
        typer.Option("--recordings", help="Where recordings are; from hoop.toml if not given."),
    ] = None,
    decrypt: Annotated[
        bool, typer.Option("--decrypt", help="Open encrypted recordings: with VAULT_TOKEN, if set.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option("--config", help="The gateway's hoop.toml.", dir_okay=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Decide recorded statements anew and compare: exit 1 when anything differs from the record."""
    with failing(as_json):
        if bool(ids) == every:
            raise ConfigError("Which sessions?", "Name them, or give --all.")
        if show and (as_json or policy or every):
            raise ConfigError("--show goes alone, with the id of one session or several.")
        if bundle is not None and (store or recordings):
            raise ConfigError("A bundle has its own recordings.", "Give --from alone.")
        other = None if policy is None else load_policy(policy)
        settings = load_settings(config)
        with _source(settings, bundle, store, recordings) as source:
            replaying = Replay(source, Unsealer(_unwrap(settings) if decrypt else None))
            chosen = source.sessions() if every else _known(source, ids or [])
            if show:
                console = Console(highlight=False)
                for one in chosen:
                    play(one, replaying, console, speed=speed)
                return
            if other is not None:
                changed = {s: list(replaying.otherwise(s, other)) for s in chosen}
                emit(as_json, _changed_json(other.digest, changed), _changed_shown(changed))
                return
            found = {s: replaying.session(s) for s in chosen}
    emit(as_json, _json(found, replaying.faults), _shown(found, replaying.faults))
    if replaying.faults or any(r.result is Result.DIFFERS for of in found.values() for r in of):
        raise typer.Exit(1)


@contextmanager
def _source(
    settings: Settings, bundle: Path | None, url: str | None, recordings: str | None
) -> Iterator[Source]:
    if bundle is not None:
        yield BundleSource(bundle)
        return
    store = Store(url or settings.store.url)
    try:
        store.attach()
        yield StoreSource(store, Recorder(recordings or settings.store.recordings))
    finally:
        store.close()


def _unwrap(settings: Settings) -> Unwrap:
    token = os.environ.get("VAULT_TOKEN", "")
    return lambda name, wrapped: TransitDataKeys(settings.vault, name, token).unwrapped(wrapped)


def _known(source: Source, ids: list[str]) -> list[str]:
    for one in ids:
        if next(source.session(one), None) is None:
            raise EvidenceError(
                f"There is no session {one} in the log.", "`hoop sessions list` shows them."
            )
    return ids


def _json(found: dict[str, list[Replayed]], faults: list[str]) -> dict[str, Any]:
    sessions = [
        {
            "id": session,
            "ok": all(r.result is not Result.DIFFERS for r in of),
            "statements": [r.as_json() for r in of],
        }
        for session, of in found.items()
    ]
    return {
        "ok": not faults and all(s["ok"] for s in sessions),
        "sessions": sessions,
        "faults": faults,
    }


def _shown(found: dict[str, list[Replayed]], faults: list[str]) -> Group:
    lines: list[Text] = [Text.assemble(("✗ ", "bold red"), plain(f)) for f in faults]
    for session, of in found.items():
        wrong = [r for r in of if r.result is Result.DIFFERS]
        same = [r for r in of if r.result is Result.MATCHES]
        told = f"{len(same)} of {len(of)} statements decided anew"
        verdict = Text("differs", "bold red") if wrong else Text("matches", "bold green")
        lines.append(Text.assemble((session, "bold"), " ", verdict, f": {told}"))
        files, values = (sum(getattr(r.checked, n) for r in of) for n in ("files", "values"))
        lines.append(Text(f"  {files} recorded files, {values} masked values looked at", "dim"))
        for r in of[:_MOST_SHOWN] if len(of) > _MOST_SHOWN and not wrong else of:
            lines += _statement(r)
    return Group(*lines)


def _statement(replayed: Replayed) -> list[Text]:
    data = replayed.entry["data"] or {}
    mark = {Result.MATCHES: ("✓", "green"), Result.DIFFERS: ("✗", "bold red")}
    sign = mark.get(replayed.result, ("·", "dim"))
    sql = plain(" ".join(str(data.get("sql") or "").split())[:100])
    lines = [Text.assemble("  ", sign, f" {replayed.entry['seq']:>6}  ", sql)]
    if replayed.result is Result.NOT_DECIDED:
        lines.append(Text.assemble("           ", plain(replayed.why), style="dim"))
    for d in replayed.differences:
        lines.append(Text.assemble("           ", (plain(d.what).plain, "red")))
        lines.append(Text.assemble("             recorded ", plain(_brief(d.recorded))))
        lines.append(Text.assemble("             replayed ", plain(_brief(d.replayed))))
    return lines


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 400 else text[:400] + "…"


def _changed_json(digest: str, changed: dict[str, list[Otherwise]]) -> dict[str, Any]:
    return {
        "policy_digest": digest,
        "differences": [
            {"session": session, **o.as_json()} for session, of in changed.items() for o in of
        ],
    }


def _changed_shown(changed: dict[str, list[Otherwise]]) -> Group:
    lines: list[Text] = []
    for session, of in changed.items():
        for o in of:
            sql = plain(" ".join(str(o.entry["data"]["sql"]).split())[:100])
            lines.append(Text.assemble((f"{session} {o.entry['seq']}  ", "bold"), sql))
            step = "" if o.before is o.after else f", {o.before} → {o.after}: "
            lines.append(Text.assemble("  ", (", ".join(o.changes), "yellow"), step))
            if step:
                lines[-1].append_text(plain(o.why))
            for columns, what in ((o.gained, "masked"), (o.lost, "no longer masked")):
                if columns:
                    lines.append(plain(f"  {what}: " + ", ".join(f"{c} ({m})" for c, m in columns)))
    return Group(*lines or [Text("Nothing would have been different.")])
