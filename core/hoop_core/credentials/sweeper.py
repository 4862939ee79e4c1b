"""Works off the list of users whose end is not confirmed yet, at start-up and ever after."""

from __future__ import annotations

import asyncio

import structlog

from hoop_core.credentials.leases import LeaseKeeper
from hoop_core.errors import StoreUnavailable

_log = structlog.get_logger(__name__)


class Sweeper:
    """One background task per gateway."""

    def __init__(self, keeper: LeaseKeeper, *, every_seconds: float = 15.0) -> None:
        self._keeper, self._every = keeper, every_seconds

    async def sweep(self, *, after_restart: bool = False) -> int:
        """Try to end every unfinished lease once; returns how many were looked at.

        `after_restart` also ends leases that an earlier process left active: their sessions died
        with it.
        """
        found = await asyncio.to_thread(self._keeper.unfinished, include_active=after_restart)
        for lease in found:
            await self._keeper.release(lease)
        return len(found)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            try:
                await self.sweep()
            except StoreUnavailable as e:
                _log.error("the sweep could not run", error=e.text)
