"""Users that are minted ahead, so that a sign-in does not wait for CREATE USER. Each is used once.

They are leases like all others: on record, counted, and ended when they have waited too long, or when the
policy has no such role any more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta

import structlog

from hoop_core.audit.log import utc_now
from hoop_core.credentials.leases import LeaseKeeper
from hoop_core.credentials.ledger import NotOurs
from hoop_core.errors import HoopError
from hoop_core.model import Lease, RoleBinding

_log = structlog.get_logger(__name__)
POOL_SESSION = "pool"
_LOOK_SECONDS = 1.0
_PAUSE_SECONDS = 30.0
_Key = tuple[str, str, str | None]


class WarmPool:
    """Of one account. `roles` gives the roles of the policy that is in force now."""

    def __init__(self, keeper: LeaseKeeper, roles: Callable[[], Iterable[RoleBinding]]) -> None:
        self._keeper, self._roles = keeper, roles
        self._ready: dict[_Key, deque[Lease]] = {}
        self._taken = asyncio.Event()
        self._closed = False

    @property
    def size(self) -> int:
        return sum(map(len, self._ready.values()))

    async def take(self, role: RoleBinding, session_id: str) -> Lease | None:
        """A user for a session; None when none is ready. Raises StoreUnavailable; it is ended then."""
        ready = self._ready.get(_key(role))
        while ready:
            lease = ready.popleft()
            self._taken.set()
            if not self._fresh(lease):
                self._keeper.release_later(lease)
                continue
            with suppress(NotOurs):
                return await self._keeper.assign(lease, session_id)
        return None

    def _fresh(self, lease: Lease) -> bool:
        return utc_now() - lease.created_at < timedelta(seconds=self._keeper.limits.warm_seconds)

    async def run(self) -> None:
        """Keep it filled, for ever."""
        while self._keeper.limits.warm:
            pause = _LOOK_SECONDS
            try:
                await self.fill()
            except HoopError as e:
                _log.warning("no users could be minted ahead", why=e.text)
                pause = _PAUSE_SECONDS
            self._taken.clear()
            try:
                async with asyncio.timeout(pause):
                    await self._taken.wait()
            except TimeoutError:
                continue

    async def fill(self) -> None:
        """Once: end what is stale or not wanted any more, mint what is missing. Raises HoopError."""
        wanted = {_key(r): r for r in self._roles()}
        for key, ready in list(self._ready.items()):
            for lease in [x for x in ready if key not in wanted or not self._fresh(x)]:
                ready.remove(lease)
                self._keeper.release_later(lease)
            if not ready:
                del self._ready[key]
        for key, role in wanted.items():
            ready = self._ready.setdefault(key, deque())
            while len(ready) < self._keeper.limits.warm and not self._keeper.full:
                lease = await self._keeper.acquire(role, POOL_SESSION)
                if self._closed:
                    self._keeper.release_later(lease)
                    return
                ready.append(lease)

    async def close(self) -> None:
        """End all that wait."""
        self._closed = True
        waiting = [lease for ready in self._ready.values() for lease in ready]
        self._ready.clear()
        await asyncio.gather(*(self._keeper.release(x) for x in waiting))


def _key(role: RoleBinding) -> _Key:
    return role.vault_role, role.snowflake_role, role.warehouse
