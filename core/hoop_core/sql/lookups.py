"""Whose object is looked up next: one who names hundreds of tables makes nobody else wait for them.

A few lookups are under way at once, fewer of one caller; callers take turns, each in its own order. Several
callers may wait for the same lookup: it stands in all their queues and begins when the first of them has
its turn. One that nobody waits for any more never begins.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from hoop_core.sql.catalog import CatalogObject

Answer = CatalogObject | None


@dataclass(slots=True, eq=False)
class Lookup:
    """A question about one object. `waiting`: how many statements of each caller wait for it."""

    ask: Callable[[Lookup], Awaitable[Answer]]
    answer: asyncio.Future[Answer] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    waiting: Counter[str] = field(default_factory=Counter)
    begun: bool = False

    @property
    def dropped(self) -> bool:
        """It will never be answered."""
        return not self.begun and not self.waiting


class LookupTurns:
    """For one event loop."""

    def __init__(self, *, at_once: int = 4, of_caller: int = 2) -> None:
        self._at_once, self._of_caller = at_once, of_caller
        self._queues: OrderedDict[str, OrderedDict[Lookup, None]] = OrderedDict()
        self._under_way: dict[asyncio.Task[None], str] = {}

    @property
    def queued(self) -> int:
        """Lookups in queues; one counts for every caller that waits for it."""
        return sum(map(len, self._queues.values()))

    def join(self, lookup: Lookup, caller: str) -> None:
        """Wait for `lookup.answer`, in the caller's own place; `leave` is due, whatever happens."""
        lookup.waiting[caller] += 1
        if not lookup.begun:
            self._queues.setdefault(caller, OrderedDict())[lookup] = None
            self._begin()

    def leave(self, lookup: Lookup, caller: str) -> None:
        """The statement has its answer, or does without; see `Lookup.dropped` afterwards."""
        lookup.waiting[caller] -= 1
        if not lookup.waiting[caller]:
            del lookup.waiting[caller]
            self._dequeue(lookup, caller)

    def _dequeue(self, lookup: Lookup, caller: str) -> None:
        queue = self._queues.get(caller)
        if queue is not None:
            queue.pop(lookup, None)
            if not queue:
                del self._queues[caller]

    def _begin(self) -> None:
        while (chosen := self._next()) is not None:
            caller, lookup = chosen
            for waiting in lookup.waiting:
                self._dequeue(lookup, waiting)
            if caller in self._queues:
                self._queues.move_to_end(caller)
            lookup.begun = True
            task = asyncio.create_task(self._run(lookup))
            self._under_way[task] = caller
            task.add_done_callback(self._ended)

    def _next(self) -> tuple[str, Lookup] | None:
        if len(self._under_way) >= self._at_once:
            return None
        held = Counter(self._under_way.values())
        for caller, queue in self._queues.items():
            if held[caller] < self._of_caller:
                return caller, next(iter(queue))
        return None

    async def _run(self, lookup: Lookup) -> None:
        try:
            found = await lookup.ask(lookup)
        except Exception as e:
            lookup.answer.set_exception(e)
            lookup.answer.exception()  # taken note of here, for nobody may be left to wait for it
        except BaseException:
            lookup.answer.cancel()
            raise
        else:
            lookup.answer.set_result(found)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._under_way[task]
        self._begin()
