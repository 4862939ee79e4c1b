"""Works off the list of users whose end is not confirmed yet, at start-up and ever after."""

from __future__ import annotations

import asyncio

import structlog

from hoop_core.credentials.leases import LeaseKeeper
from hoop_core.errors import StoreUnavailable, where
from hoop_core.model import Lease

_log = structlog.get_logger(__name__)


class Sweeper:
    """One background task per gateway."""

    def __init__(self, keeper: LeaseKeeper, *, every_seconds: float = 15.0) -> None:
        self._keeper, self._every = keeper, every_seconds

    async def left_behind(self) -> list[Lease]:
        """Leases that an earlier process left active or unfinished: their sessions died with it.

        To be asked before the first client is served, for afterwards active leases are in use.
        """
        return await asyncio.to_thread(self._keeper.unfinished, include_active=True)

    async def end(self, leases: list[Lease]) -> None:
        """Try to end each once; one that resists does not keep the others from it."""
        for lease in leases:
            try:
                await self._keeper.release(lease)
            except Exception as e:
                # It stays on the list, and the next sweep comes back to it.
                _log.error("a lease could not be ended", lease=lease.lease_id, where=where(e))

    async def sweep(self) -> None:
        """Try to end every lease of the pending list once. Raises StoreUnavailable."""
        await self.end(await asyncio.to_thread(self._keeper.unfinished, include_active=False))

    async def run(self, left_behind: list[Lease]) -> None:
        await self.end(left_behind)
        while True:
            await asyncio.sleep(self._every)
            try:
                await self.sweep()
            except StoreUnavailable as e:
                _log.error("the sweep could not run", error=e.text)
