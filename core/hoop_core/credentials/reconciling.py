"""Reconciling, carried out: Snowflake is asked by an observer of its own, and what was found goes into the log.

The histories are long, so it does not share the observer that confirms that users are gone.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Connection, insert, or_, select, update

from hoop_core.audit.explaining import LogSide, Minted, minted_users
from hoop_core.audit.histories import (
    MOST_NAMED,
    SignedIn,
    iso,
    logins_between,
    queries_ended,
    queries_named,
    read_login,
    read_query,
)
from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.audit.reconcile import Compared, Comparison, Finding
from hoop_core.config import ReconcileSettings, Settings
from hoop_core.credentials.accounts import Account, Accounts, configured, observer_role
from hoop_core.credentials.observer import Observer
from hoop_core.errors import ConfigError, HoopError, SnowflakeError, where
from hoop_core.model import Json, RoleBinding, account_key
from hoop_core.store import Store
from hoop_core.store.tables import log_entries, reconciled

_log = structlog.get_logger(__name__)
_PIECE = timedelta(hours=6)
"""What is looked at in one go, so that memory stays flat over months."""
_CLAIM = timedelta(minutes=30)
_TURN = timedelta(days=1)
"""What the schedule looks at under one claim; what is left comes with the next."""
_KEPT = timedelta(days=365)
"""How long ACCOUNT_USAGE keeps its rows."""
_MOST_ALERTS = 50
_NO_RIGHT = {2003, 2043, 3001}
_LOOK_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Span:
    """`settled`: far enough in the past for Snowflake to know all of it."""

    begin: datetime
    end: datetime
    settled: bool


class Reconciler:
    """For all accounts of a process."""

    def __init__(
        self,
        accounts: Accounts,
        store: Store,
        log: AuditLog,
        settings: ReconcileSettings,
        *,
        observer_role: Callable[[Account], RoleBinding],
        owner: str,
    ) -> None:
        self._accounts, self._store, self._log = accounts, store, log
        self._settings, self._owner = settings, owner
        self._observer_role = observer_role

    # ------------------------------------------------------------------ on a schedule

    async def run(self) -> None:
        """Compare for ever; of several replicas the one that claims an account does it."""
        while True:
            for account in self._accounts:
                try:
                    await self._next(account)
                except HoopError as e:
                    _log.error("an account cannot be reconciled", account=account.key, why=e.text)
                except Exception as e:  # the next try may find better
                    _log.error("reconciling failed", account=account.key, where=where(e))
            await asyncio.sleep(min(self._settings.every_seconds, _LOOK_SECONDS))

    async def _next(self, account: Account) -> None:
        known = await asyncio.to_thread(self._known, account.key)
        settled = utc_now() - timedelta(seconds=self._settings.delay_seconds)
        if known + timedelta(seconds=self._settings.every_seconds) > settled:
            return
        if not await asyncio.to_thread(self._claim, account.key):
            return
        try:
            await self.reconcile(account, end=min(known + _TURN, settled))
        finally:
            await asyncio.to_thread(self._release, account.key)

    def _claim(self, account: str) -> bool:
        c = reconciled.c
        with self._store.write() as connection:
            now = self._store.now(connection)
            _entered(connection, account)
            due = now - timedelta(
                seconds=self._settings.every_seconds + self._settings.delay_seconds
            )
            taken = connection.execute(
                update(reconciled)
                .where(c.account == account, or_(c.until.is_(None), c.until <= due))
                .where(or_(c.owner.is_(None), c.owner == self._owner, c.claimed_until <= now))
                .values(owner=self._owner, claimed_until=now + _CLAIM)
            )
        return taken.rowcount == 1

    def _release(self, account: str) -> None:
        with self._store.write() as connection:
            connection.execute(
                update(reconciled)
                .where(reconciled.c.account == account, reconciled.c.owner == self._owner)
                .values(owner=None, claimed_until=None)
            )

    # ------------------------------------------------------------------ one account

    async def reconcile(
        self, account: Account, begin: datetime | None = None, end: datetime | None = None
    ) -> Compared:
        """Compare a span, put on record what came of it, and remember how far it goes.

        Without `begin` from where the last one ended, without `end` up to what Snowflake surely knows. Raises
        ConfigError, SnowflakeError, Unavailable.
        """
        known = await asyncio.to_thread(self._known, account.key)
        span = self._span(begin or known, end)
        names = self._accounts.stored_names(account)
        pieces = []
        async with self._observer(account) as ask:
            for piece in _pieces(span):
                pieces.append(await self._compare(account, names, piece, ask))
        whole = _joined(pieces, span)
        await asyncio.to_thread(self._keep, whole, known)
        return whole

    def _span(self, begin: datetime, end: datetime | None) -> Span:
        settled = utc_now() - timedelta(seconds=self._settings.delay_seconds)
        # Snowflake is asked in whole milliseconds: so no row falls between two spans.
        begin = _whole(begin)
        until = _whole(settled if end is None else min(end, utc_now()))
        if begin < utc_now() - _KEPT:
            raise ConfigError(
                f"Snowflake keeps its histories for {_KEPT.days} days: {iso(begin)} is further back.",
                "Give a later --from.",
            )
        if begin >= until:
            raise ConfigError(
                f"Nothing is to be compared from {iso(begin)} to {iso(until)}.",
                "Snowflake's histories fill with delay: give --to, or wait (reconcile.delay_seconds).",
            )
        return Span(begin, until, until <= settled)

    def _known(self, account: str) -> datetime:
        """Up to when it was compared, else when the log began; not beyond what Snowflake keeps."""
        with self._store.read() as connection:
            until: datetime | None = connection.scalar(
                select(reconciled.c.until).where(reconciled.c.account == account)
            )
            first = connection.scalar(select(log_entries.c.at).order_by(log_entries.c.seq).limit(1))
        begin = until or (datetime.fromisoformat(first) if first else utc_now())
        return max(begin, utc_now() - _KEPT + timedelta(hours=1))

    async def _compare(
        self, account: Account, names: Sequence[str], span: Span, ask: _Ask
    ) -> Compared:
        log = LogSide(self._store, names, span.begin, span.end)
        await asyncio.to_thread(log.read)
        clocks = timedelta(seconds=self._settings.clocks_seconds)
        minted = await asyncio.to_thread(
            minted_users, self._store, names, span.begin - clocks, span.end + clocks
        )
        queries = [read_query(r) for r in await ask(queries_ended(span.begin, span.end))]
        logins = await _logins(ask, span, minted)
        ids = {q.query_id for q in queries}
        missing = sorted({e.query_id for e in log.endings} - ids)
        late = {
            read_query(row).query_id
            for some in _parts(missing)
            for row in await ask(queries_named(some))
        }
        comparison = Comparison(
            account.key,
            span.begin,
            span.end,
            log=log,
            minted=minted,
            settings=self._settings,
            prefix=account.keeper.minter.prefix,
        )
        return await asyncio.to_thread(
            lambda: comparison.run(queries, logins, late, settled=span.settled)
        )

    def _observer(self, account: Account) -> _Asking:
        keeper = account.keeper
        role = self._observer_role(account)
        return _Asking(
            Observer(account.http, account.settings, role, keeper.acquire, keeper.release)
        )

    def _keep(self, whole: Compared, known: datetime) -> None:
        """What was found, in the log; then how far it goes, where nothing was left out."""
        told = whole.as_json()
        run = self._log.append(
            "reconcile.run",
            {**told, "unexplained": sum(f.count for f in whole.findings), "by": self._owner},
        )
        alerts: list[Json] = [f.as_json() for f in whole.findings[:_MOST_ALERTS]]
        left = whole.findings[_MOST_ALERTS:]
        if left:
            why = f"{len(left)} further kinds of findings: hoop audit reconcile lists them"
            alerts.append(
                {
                    "what": "more",
                    "user": "",
                    "why": why,
                    "count": sum(f.count for f in left),
                    "first": iso(min(f.first for f in left)),
                    "last": iso(max(f.last for f in left)),
                    "examples": [],
                }
            )
        for finding in alerts:
            self._log.append(
                "reconcile.unexplained", {"account": whole.account, "run": run, **finding}
            )
        if whole.settled and whole.begin <= known < whole.end:
            with self._store.write() as connection:
                _entered(connection, whole.account)
                connection.execute(
                    update(reconciled)
                    .where(reconciled.c.account == whole.account)
                    .where(or_(reconciled.c.until.is_(None), reconciled.c.until < whole.end))
                    .values(until=whole.end)
                )


_Ask = Callable[[str], Awaitable[list[dict[str, Any]]]]


class _Asking:
    """An observer for the time of one comparison."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    async def __aenter__(self) -> _Ask:
        return self._ask

    async def _ask(self, sql: str) -> list[dict[str, Any]]:
        try:
            return await self._observer.history(sql)
        except SnowflakeError as e:
            if e.errno not in _NO_RIGHT:
                raise
            raise ConfigError(
                "Hoop's observer may not read Snowflake's histories (or has no warehouse).",
                "Grant its role the database roles SNOWFLAKE.GOVERNANCE_VIEWER and SECURITY_VIEWER: "
                "`hoop snowflake setup-sql` has the statements.",
            ) from None

    async def __aexit__(self, *_: object) -> None:
        await self._observer.close()


async def _logins(ask: _Ask, span: Span, minted: Sequence[Minted]) -> list[SignedIn]:
    """Those of the span, and earlier ones of users that there were in it already."""
    found = [read_login(r) for r in await ask(logins_between(span.begin, span.end))]
    before = [m for m in minted if m.created < span.begin]
    if before:
        since = min(m.created for m in before) - timedelta(hours=1)
        for some in _parts([m.user for m in before]):
            rows = await ask(logins_between(since, span.begin, some))
            found += [read_login(r) for r in rows]
    return found


def _whole(at: datetime) -> datetime:
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def _pieces(span: Span) -> Iterable[Span]:
    begin = span.begin
    while begin < span.end:
        end = min(begin + _PIECE, span.end)
        yield Span(begin, end, span.settled)
        begin = end


def _joined(pieces: Sequence[Compared], span: Span) -> Compared:
    counts: dict[str, int] = {}
    allowed: dict[tuple[str, str], Json] = {}
    for piece in pieces:
        for name, count in piece.counts.items():
            counts[name] = counts.get(name, 0) + count
        for one in piece.allowed:
            known = allowed.setdefault((one["user"], one["reason"]), {})
            for key, value in one.items():
                known[key] = known.get(key, 0) + value if isinstance(value, int) else value
    merged: dict[tuple[str, str, str], Finding] = {}
    for f in (f for piece in pieces for f in piece.findings):
        same = (f.kind, f.user, f.why)
        merged[same] = merged[same].with_more(f) if same in merged else f
    findings = tuple(merged.values())
    return Compared(
        pieces[0].account,
        span.begin,
        span.end,
        span.settled,
        counts,
        tuple(allowed.values()),
        findings,
    )


def _parts(items: Sequence[str]) -> Iterable[Sequence[str]]:
    for at in range(0, len(items), MOST_NAMED):
        yield items[at : at + MOST_NAMED]


def _entered(connection: Connection, account: str) -> None:
    there = select(reconciled.c.account).where(reconciled.c.account == account)
    if connection.scalar(there) is None:
        connection.execute(insert(reconciled).values(account=account))


def reconciler_of(
    settings: Settings, accounts: Accounts, store: Store, log: AuditLog, *, owner: str
) -> Reconciler:
    """Raises ConfigError for networks that are none."""
    for address in settings.reconcile.addresses:
        try:
            ipaddress.ip_network(address)
        except ValueError:
            raise ConfigError(
                f"reconcile.addresses: {address!r} is no network.", "Write 203.0.113.0/24."
            ) from None
    roles = {account_key(a.account): observer_role(settings, a) for a in configured(settings)}
    return Reconciler(
        accounts,
        store,
        log,
        settings.reconcile,
        observer_role=lambda account: roles[account.key],
        owner=owner,
    )
