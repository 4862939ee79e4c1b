"""Refusals in the log: each one, until there are too many in a minute; then how many more there were."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any

import structlog

from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.errors import HoopError, StoreUnavailable
from hoop_core.identity.throttle import neighbourhood
from hoop_core.model import Identity, Json
from hoop_core.records import error_json, identity_json

_log = structlog.get_logger(__name__)
_WINDOW_SECONDS = 60.0
_MOST_ADDRESSES = 20


class Refusals:
    """Nobody who is refused can fill the log, or slow down what others write to it."""

    def __init__(
        self,
        log: AuditLog,
        *,
        per_minute: int,
        kind: str = "signin.refused",
        counted: str = "signin.refusals_counted",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`kind` and `counted` are what the entries are called, of one refusal and of those left out."""
        self._log, self._per_minute, self._clock = log, per_minute, clock
        self._kind, self._counted = kind, counted
        self._since, self._began = clock(), utc_now()
        self._written = 0
        self._left_out: Counter[str] = Counter()
        self._addresses: Counter[str] = Counter()

    async def add(
        self, identity: Identity | None, client: Json, error: HoopError, **more: Any
    ) -> None:
        """Put a refusal on record. What the log cannot take is said on standard error."""
        await self.flush()
        if self._written >= self._per_minute:
            self._left_out[error.reason] += 1
            where = neighbourhood(client.get("address"))
            if where in self._addresses or len(self._addresses) < _MOST_ADDRESSES:
                self._addresses[where] += 1
            return
        self._written += 1
        who = identity_json(identity) if identity else None
        entry = {**error_json(error), "identity": who, "client": client, **more}
        await self._append(self._kind, entry)

    async def flush(self, *, now: bool = False) -> None:
        """When the minute is over, or `now`: how many refusals have no entry of their own."""
        if not now and self._clock() - self._since < _WINDOW_SECONDS:
            return
        left_out, addresses, began = self._left_out, self._addresses, self._began
        self._since, self._began, self._written = self._clock(), utc_now(), 0
        self._left_out, self._addresses = Counter(), Counter()
        if left_out:
            await self._append(self._counted, _counted(left_out, addresses, began))

    async def run(self) -> None:
        """Write the counts also when nobody comes any more, for ever."""
        while True:
            await asyncio.sleep(_WINDOW_SECONDS / 4)
            await self.flush()

    async def _append(self, kind: str, entry: Json) -> None:
        try:
            await asyncio.to_thread(self._log.append, kind, entry)
        except StoreUnavailable as e:
            _log.error("a refusal is not on record", kind=kind, why=entry.get("reason"), log=e.text)


def _counted(left_out: Counter[str], addresses: Counter[str], since: datetime) -> Json:
    return {
        "count": left_out.total(),
        "since": since.isoformat(),
        "reasons": dict(left_out),
        "addresses": dict(addresses.most_common(_MOST_ADDRESSES)),
    }
