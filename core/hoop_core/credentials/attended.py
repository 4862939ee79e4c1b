"""What a person asks for, in a process of its own, beside gateways that run or in place of them: a sweep, and
whatever else works with users.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

from hoop_core.audit.log import AuditLog
from hoop_core.config import Settings
from hoop_core.credentials.accounts import Accounts, build_accounts
from hoop_core.credentials.ledger import Standing, standing_everywhere
from hoop_core.credentials.log_key import opened_log
from hoop_core.credentials.sweeper import Swept
from hoop_core.errors import StoreUnavailable
from hoop_core.model import Json, LeaseState
from hoop_core.replicas import Replicas
from hoop_core.store import Store


@dataclass(frozen=True, slots=True)
class Listed:
    """A lease that is not gone, and whether the process that holds it lives."""

    standing: Standing
    held: bool

    def as_json(self) -> Json:
        lease = self.standing.lease
        return {
            "snowflake_user": lease.snowflake_user,
            "state": str(self.standing.state),
            "held": self.held,
            "account": lease.account,
            "session_id": lease.session_id or None,
            "snowflake_role": lease.role.snowflake_role or None,
            "lease_id": lease.lease_id,
            "created_at": lease.created_at.isoformat(),
            "expires_at": lease.expires_at.isoformat(),
            "owner": self.standing.owner,
            "last_error": self.standing.last_error,
        }


def list_leases(settings: Settings) -> list[Listed]:
    """All leases that are not gone. Raises StoreUnavailable."""
    with _opened(settings) as store:
        standing = standing_everywhere(store)
        alive = Replicas(store, name="").alive()
    return [Listed(s, s.state is not LeaseState.PENDING and s.owner in alive) for s in standing]


def sweep_now(settings: Settings) -> dict[str, Swept]:
    """End everything that no living process uses; by the account's name. Raises HoopError."""
    return asyncio.run(_sweep(settings))


async def _sweep(settings: Settings) -> dict[str, Swept]:
    async with attending(settings, "sweep") as here:
        return {a.name: await a.sweeper.sweep(force=True) for a in here.accounts}


@dataclass(frozen=True, slots=True)
class Attending:
    """What a process beside the gateways works with. `owner` is its id among them."""

    store: Store
    log: AuditLog
    accounts: Accounts
    owner: str


@asynccontextmanager
async def attending(settings: Settings, what: str) -> AsyncIterator[Attending]:
    """Raises ConfigError, StoreUnavailable."""
    with opened_log(settings) as (store, log):
        name = f"{what}:{socket.gethostname()}:{os.getpid()}"[:255]
        # A heartbeat, so that running gateways see that somebody is at work.
        me = Replicas(store, name=name, beat_seconds=settings.gateway.replica_beat_seconds)
        me.join()
        heart = asyncio.create_task(me.run())
        try:
            accounts = build_accounts(settings, store, log, owner=me.id, alive=me.alive)
            try:
                yield Attending(store, log, accounts, me.id)
            finally:
                await accounts.close()
        finally:
            heart.cancel()
            await asyncio.wait({heart})
            with suppress(StoreUnavailable):
                await asyncio.to_thread(me.leave)


@contextmanager
def _opened(settings: Settings) -> Iterator[Store]:
    store = Store.of(settings.store)
    try:
        store.attach()
        yield store
    finally:
        store.close()
