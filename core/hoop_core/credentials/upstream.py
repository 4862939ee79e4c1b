"""A guarded session's own Snowflake session: minted and signed in, then closed and revoked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from hoop_core.config import SnowflakeSettings
from hoop_core.credentials.leases import LeaseKeeper
from hoop_core.credentials.pool import WarmPool
from hoop_core.model import Lease, RoleBinding
from hoop_core.session.guarded import GuardedSession
from hoop_core.session.serving import Upstream
from hoop_core.snowflake.client_kinds import signs_in_as
from hoop_core.snowflake.http import SnowflakeHttp
from hoop_core.snowflake.session import SnowflakeSession, open_session

_LOOK_SECONDS = 1.0


class Upstreams:
    """What the session book uses to begin and end the work at one account."""

    def __init__(
        self,
        keeper: LeaseKeeper,
        http: SnowflakeHttp,
        settings: SnowflakeSettings,
        roles: Callable[[], Iterable[RoleBinding]] = tuple,
    ) -> None:
        self._keeper, self._http, self._settings = keeper, http, settings
        self.pool = WarmPool(keeper, roles)
        self._serving: dict[str, GuardedSession] = {}

    async def open(self, session: GuardedSession) -> Upstream:
        """Mint the session's user and sign in; a user that cannot sign in is taken back at once."""
        session.serving.end = self.end
        session.serving.result_seconds = self._keeper.limits.result_seconds
        lease = await self.pool.take(session.role, session.id)
        if lease is None:
            lease = await self._keeper.acquire(session.role, session.id)
        try:
            upstream = await self._sign_in(session, lease)
        except BaseException:
            await self._keeper.release(lease)
            raise
        self._serving[session.id] = session
        return lease, upstream

    async def _sign_in(self, session: GuardedSession, lease: Lease) -> SnowflakeSession:
        """Where an earlier Snowflake session of the same client left off."""
        warehouse = session.serving.warehouse or session.role.warehouse
        return await open_session(
            self._http,
            self._settings,
            replace(lease, role=replace(lease.role, warehouse=warehouse)),
            names=session.names,
            parameters=session.parameters,
            client=signs_in_as(session.client),
        )

    async def end(self, upstream: Upstream) -> None:
        lease, session = upstream
        await session.close()
        await self._keeper.release(lease)

    async def end_idle(self) -> None:
        """End the users that nothing was run with for `idle_seconds`, where nothing is lost with them."""
        before = time.monotonic() - self._keeper.limits.idle_seconds
        for session in list(self._serving.values()):
            if session.closed:
                del self._serving[session.id]
            elif session.serving.used_at < before:
                upstream = session.let_go()
                if upstream is not None:
                    del self._serving[session.id]
                    await self.end(upstream)

    async def run(self) -> None:
        """Keep users ready, and end idle ones, for ever."""
        await asyncio.gather(self.pool.run(), self._watch())

    async def _watch(self) -> None:
        idle = self._keeper.limits.idle_seconds
        while True:
            await asyncio.sleep(min(_LOOK_SECONDS, idle / 4) if idle else 60.0)
            if idle:
                await self.end_idle()
            else:
                self._serving = {k: s for k, s in self._serving.items() if not s.closed}
