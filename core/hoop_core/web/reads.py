"""Who looked at what of others, over REST and on the pages: in the log before it is shown.

The first look at a thing has an entry of its own. Looks that follow within a quarter of an hour, and those of
somebody who looks at very much, are counted, a minute and a person in one entry.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import structlog

from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.errors import StoreUnavailable
from hoop_core.model import Identity, Json
from hoop_core.records import person_json

_log = structlog.get_logger(__name__)
What = Literal["approval", "approvals", "session", "sessions"]
By = Literal["rest", "pages"]
_WINDOW_SECONDS = 60.0
_AGAIN_SECONDS = 900.0
_MOST_ALONE = 30
"""Entries of their own that one person's looks have in a minute."""
_MOST_NAMED = 100
_MOST_REMEMBERED = 20_000
_Look = tuple[str, What, str]


@dataclass(slots=True)
class _Counted:
    """One person's looks that have no entry of their own."""

    person: Json
    since: datetime
    kinds: Counter[str] = field(default_factory=Counter)
    about: dict[str, None] = field(default_factory=dict)


class Reads:
    """Of one process. All on its event loop."""

    def __init__(self, log: AuditLog, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self._clock = log, clock
        self._began = clock()
        self._looked: OrderedDict[_Look, float] = OrderedDict()
        self._alone: Counter[str] = Counter()
        self._counted: dict[str, _Counted] = {}

    async def looked(self, caller: Identity, what: What, about: str, by: By) -> None:
        """Before it is shown. `about` is the id of what is looked at, or which list.

        Raises StoreUnavailable: what cannot be put on record is not shown.
        """
        await self.flush()
        look: _Look = (caller.key, what, about)
        before = self._looked.get(look)
        again = before is not None and self._clock() - before < _AGAIN_SECONDS
        if again or self._alone[caller.key] >= _MOST_ALONE:
            self._count(caller, what, about)
            return
        self._alone[caller.key] += 1
        entry = {"person": person_json(caller), "about": about, "by": by}
        await asyncio.to_thread(self._log.append, f"read.{what}", entry)
        self._looked[look] = self._clock()
        while len(self._looked) > _MOST_REMEMBERED:
            self._looked.popitem(last=False)

    def _count(self, caller: Identity, what: What, about: str) -> None:
        counted = self._counted.get(caller.key)
        if counted is None:
            counted = self._counted[caller.key] = _Counted(person_json(caller), utc_now())
        counted.kinds[what] += 1
        if len(counted.about) < _MOST_NAMED:
            counted.about[about] = None

    async def run(self) -> None:
        """Write the counts also when nobody looks any more, for ever."""
        while True:
            await asyncio.sleep(_WINDOW_SECONDS / 4)
            await self.flush()

    async def flush(self, *, now: bool = False) -> None:
        """When the minute is over, or `now`: what was counted."""
        if not now and self._clock() - self._began < _WINDOW_SECONDS:
            return
        counted, self._counted = self._counted, {}
        self._began, self._alone = self._clock(), Counter()
        for one in counted.values():
            entry = {
                "person": one.person,
                "since": one.since.isoformat(),
                "count": one.kinds.total(),
                "looks": dict(one.kinds),
                "about": list(one.about),
            }
            try:
                await asyncio.to_thread(self._log.append, "read.counted", entry)
            except StoreUnavailable as e:
                _log.error("looks are not on record", count=entry["count"], log=e.text)
