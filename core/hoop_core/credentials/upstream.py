"""A guarded session's own Snowflake session: minted and signed in, then closed and revoked."""

from __future__ import annotations

import httpx

from hoop_core.config import SnowflakeSettings
from hoop_core.credentials.leases import LeaseKeeper
from hoop_core.model import Lease
from hoop_core.session import GuardedSession
from hoop_core.snowflake.session import SnowflakeSession, open_session

Upstream = tuple[Lease, SnowflakeSession]


class Upstreams:
    """What the session book uses to begin and end the work at Snowflake."""

    def __init__(
        self, keeper: LeaseKeeper, http: httpx.AsyncClient, settings: SnowflakeSettings
    ) -> None:
        self._keeper, self._http, self._settings = keeper, http, settings

    async def open(self, session: GuardedSession) -> Upstream:
        """Mint the session's user and sign in; a user that cannot sign in is taken back at once."""
        lease = await self._keeper.acquire(session.role, session.id)
        try:
            upstream = await open_session(
                self._http,
                self._settings,
                lease,
                names=session.names,
                parameters=session.parameters,
            )
        except BaseException:
            await self._keeper.release(lease)
            raise
        return lease, upstream

    async def end(self, upstream: Upstream) -> None:
        lease, session = upstream
        await session.close()
        await self._keeper.release(lease)
