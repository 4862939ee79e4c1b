"""`hoop audit prune` and `hoop audit hold`: what is kept for how long, and what is kept in any case."""

from __future__ import annotations

import getpass
import secrets
from typing import Annotated

import typer
from rich.table import Table
from sqlalchemy import select

from hoop_core.audit.holds import Hold, Holds
from hoop_core.audit.prune import Pruned, Pruning, told
from hoop_core.audit.recording import Recorder
from hoop_core.audit.retention import stamp
from hoop_core.cli.output import AsJson, emit, failing, listing, plain
from hoop_core.cli.reconcile import Config, From, To, moment
from hoop_core.config import Settings, load_settings
from hoop_core.credentials.log_key import opened_log
from hoop_core.errors import ConfigError
from hoop_core.lake.writer import LakeWriter
from hoop_core.lineage.follower import FOLLOWER
from hoop_core.policy.file import load_policy
from hoop_core.store import Store
from hoop_core.store.tables import lake_progress, notification_cursors

holds = typer.Typer(
    help="Legal holds: what is kept until somebody lifts them.",
    no_args_is_help=True,
    add_completion=False,
)
_Many = Annotated[list[str] | None, typer.Option()]
_Reason = Annotated[str, typer.Option("--reason", help="Stands in the log.")]


def prune(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be removed.")
    ] = False,
    reason: _Reason = "its time to be kept is over",
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Remove recordings and bodies of entries whose time is over; the tree stays verifiable."""
    with failing(as_json):
        settings = load_settings(config)
        policy = load_policy(settings.policy.file)
        with opened_log(settings) as (store, log):
            pruning = Pruning(store, log, policy, settings.store.recordings)
            below = read_by_all(store, settings)
            if dry_run:
                pruned = told(pruning.look(below=below))
            else:
                pruned = pruning.run(by=getpass.getuser(), reason=reason, below=below)
                log.checkpoint()
                _pruned_in_lake(store, settings)
    emit(as_json, pruned.as_json() | {"dry_run": dry_run}, _pruned(pruned, dry_run))


def _pruned_in_lake(store: Store, settings: Settings) -> None:
    """Follow the log up to the purge records. Where a gateway is at it just now, that does it."""
    owner = f"prune-{secrets.token_hex(8)}"
    writer = LakeWriter(settings.lake, store, Recorder(settings.store.recordings), owner=owner)
    while writer.step():
        pass


def _pruned(pruned: Pruned, dry_run: bool) -> Table:
    verb = "would go" if dry_run else "gone"
    table = listing("class", f"entries {verb}", f"recordings {verb}")
    for name, counts in pruned.classes.items():
        table.add_row(plain(name), str(counts["entries"]), str(counts["recordings"]))
    kept = ", ".join(f"{count} {why}" for why, count in pruned.kept.items())
    if kept:
        table.caption = plain(f"kept although their time is over: {kept}")
    return table


@holds.command("place")
def place(
    *,
    reason: _Reason,
    session: _Many = None,
    person: _Many = None,
    group: _Many = None,
    account: _Many = None,
    kind: _Many = None,
    approval: _Many = None,
    table: _Many = None,
    begin: From = None,
    end: To = None,
    everything: Annotated[bool, typer.Option("--all", help="Hold the whole log.")] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Keep what fits all that is given. Each option may come several times: any of its values fits."""
    lists = {
        "sessions": session,
        "people": person,
        "groups": group,
        "accounts": account,
        "kinds": kind,
        "approvals": approval,
        "tables": table,
    }
    with failing(as_json):
        scope: dict[str, list[str] | str] = {name: list(v) for name, v in lists.items() if v}
        for name, text in (("from", begin), ("to", end)):
            if (at := moment(text, f"--{name}")) is not None:
                scope[name] = stamp(at)
        if not scope and not everything:
            raise ConfigError(
                "What is to be held?", "Give --session, --person and so on, or --all."
            )
        if scope and everything:
            raise ConfigError("--all is for a hold without any other option.")
        with opened_log(load_settings(config)) as (store, log):
            hold = Holds(store, log).place(reason, scope, by=getpass.getuser())
    emit(as_json, hold.as_json(), plain(f"{hold.id} is in force."))


@holds.command("lift")
def lift(
    hold_id: Annotated[str, typer.Argument(metavar="ID")],
    reason: _Reason,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """End a hold: what it kept follows its class again."""
    with failing(as_json), opened_log(load_settings(config)) as (store, log):
        Holds(store, log).lift(hold_id, reason, by=getpass.getuser())
    emit(as_json, {"hold": hold_id, "lifted": True}, plain(f"{hold_id} is lifted."))


@holds.command("list")
def list_(config: Config = None, as_json: AsJson = False) -> None:
    """All holds, the newest first."""
    with failing(as_json), opened_log(load_settings(config)) as (store, log):
        found = Holds(store, log).all()
    shown = listing("id", "since (UTC)", "until", "what", "why")
    for hold in found:
        shown.add_row(*_row(hold))
    emit(as_json, {"holds": [h.as_json() for h in found]}, shown)


def _row(hold: Hold) -> tuple[str, ...]:
    what = "; ".join(
        f"{k} {v if isinstance(v, str) else ', '.join(v)}" for k, v in hold.scope.items()
    )
    return (
        hold.id,
        f"{hold.placed_at:%Y-%m-%d %H:%M}",
        f"{hold.lifted_at:%Y-%m-%d %H:%M}" if hold.lifted_at else "in force",
        plain(what or "everything").plain,
        plain(hold.reason).plain,
    )


def read_by_all(store: Store, settings: Settings) -> int | None:
    """The first entry that some follower of the log has still to read: it must not be removed. None: nobody
    follows it. Channels that are not configured any more count for nothing. Raises StoreUnavailable.
    """
    following = {n.name for n in settings.notifications}
    if settings.lineage.file or settings.lineage.config_file:
        following.add(FOLLOWER)
    with store.read() as connection:
        c = notification_cursors.c
        known = {r.channel: r.seq for r in connection.execute(select(c.channel, c.seq))}
        seqs = [known.get(name, -1) for name in following]
        # What a channel has set aside follows by a row of its own.
        seqs += [s for channel, s in known.items() if channel.partition(" ")[0] in following]
        if settings.lake.root:
            lake = connection.scalar(select(lake_progress.c.seq))
            seqs.append(-1 if lake is None else lake)
    return min(seqs) + 1 if seqs else None
