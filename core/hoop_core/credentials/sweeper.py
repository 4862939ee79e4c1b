"""Ends what nobody ends any more: at start-up and ever after."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass

import structlog

from hoop_core.credentials.leases import LeaseKeeper
from hoop_core.errors import HoopError, SnowflakeError, Unavailable, where
from hoop_core.model import Json, Lease

_log = structlog.get_logger(__name__)
_AT_ONCE = 4
_LONGEST_PAUSE = 600.0


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep came to. `orphans` are users that were in no entry; `given_up` is Vault's own list."""

    gone: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    orphans: tuple[str, ...] = ()
    given_up: int = 0
    faults: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        return not self.pending and not self.faults

    def as_json(self) -> Json:
        return {
            "gone": list(self.gone),
            "pending": list(self.pending),
            "orphans": list(self.orphans),
            "given_up": self.given_up,
            "faults": list(self.faults),
        }


class Sweeper:
    """One background task for each account of a process.

    A lease that resists is tried again after a pause that doubles, unless somebody asks for a sweep.
    """

    def __init__(self, keeper: LeaseKeeper) -> None:
        self._keeper = keeper
        self._tries: dict[str, tuple[int, float]] = {}
        self._orphans_at = 0.0

    async def sweep(self, *, force: bool = False) -> Swept:
        """End what is due once; look for orphans when it is time. Raises StoreUnavailable."""
        faults: list[str] = []
        orphans, given_up = await self._look_round(faults, force=force)
        due = [x for x in await self._keeper.due(force=force) if force or self._is_time(x)]
        alive = await self._keeper.living()
        room = asyncio.Semaphore(_AT_ONCE)

        async def end(lease: Lease) -> bool:
            async with room:
                return await self._end(lease, alive)

        ended = await asyncio.gather(*(end(lease) for lease in due))
        return Swept(
            gone=tuple(x.snowflake_user for x, gone in zip(due, ended, strict=True) if gone),
            pending=tuple(x.snowflake_user for x, gone in zip(due, ended, strict=True) if not gone),
            orphans=orphans,
            given_up=given_up,
            faults=tuple(faults),
        )

    async def _look_round(self, faults: list[str], *, force: bool) -> tuple[tuple[str, ...], int]:
        """Users without an entry, and leases that Vault gave up. What cannot be asked is a fault, no error."""
        if not force and time.monotonic() < self._orphans_at:
            return (), 0
        self._orphans_at = time.monotonic() + self._keeper.limits.orphan_seconds
        given_up = 0
        orphans: tuple[str, ...] = ()
        try:
            given_up = await self._keeper.minter.sweep()
        except (Unavailable, SnowflakeError) as e:
            faults.append(e.text)
        try:
            orphans = tuple(x.snowflake_user for x in await self._keeper.find_orphans())
        except (Unavailable, SnowflakeError) as e:
            faults.append(e.text)
        return orphans, given_up

    def _is_time(self, lease: Lease) -> bool:
        return time.monotonic() >= self._tries.get(lease.lease_id, (0, 0.0))[1]

    async def _end(self, lease: Lease, alive: Collection[str]) -> bool:
        """One that resists does not keep the others from it."""
        gone = False
        try:
            gone = await self._keeper.end(lease, alive=alive)
        except Exception as e:
            _log.error("a lease could not be ended", lease=lease.lease_id, where=where(e))
        if gone:
            self._tries.pop(lease.lease_id, None)
        else:
            tries = self._tries.get(lease.lease_id, (0, 0.0))[0] + 1
            pause = min(self._keeper.limits.sweep_seconds * 2 ** min(tries - 1, 8), _LONGEST_PAUSE)
            self._tries[lease.lease_id] = tries, time.monotonic() + pause
        return gone

    async def run(self) -> None:
        """Sweep for ever, the first time at once."""
        while True:
            try:
                swept = await self.sweep()
                for fault in swept.faults:
                    _log.warning("the sweep could not look everywhere", why=fault)
            except HoopError as e:
                _log.error("the sweep could not run", error=e.text)
            except Exception as e:  # the next one may find better
                _log.error("the sweep failed inside Hoop", where=where(e))
            await asyncio.sleep(self._keeper.limits.sweep_seconds)
