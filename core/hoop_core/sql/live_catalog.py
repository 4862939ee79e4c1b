"""The catalog of a running gateway: an object is asked for on first use and kept for a while."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from hoop_core.model import TableName
from hoop_core.sql.catalog import Catalog, CatalogObject

Describe = Callable[[TableName], Awaitable[CatalogObject | None]]


@dataclass(frozen=True, slots=True)
class _Key:
    """`role` is the caller's Snowflake role: what one role makes of a name is nothing to another."""

    account: str
    role: str
    table: TableName


class LiveCatalog:
    """Bounded. Statements that need an object at the same time share one question about it.

    Unknown and refused objects are never kept: a table that appears, or a view that stops being secure, is
    seen at the next statement.
    """

    def __init__(
        self,
        describe: Describe,
        *,
        account: str = "",
        fresh_seconds: float = 300.0,
        max_objects: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._describe, self._account, self._clock = describe, account, clock
        self._fresh, self._most = fresh_seconds, max_objects
        self._known: OrderedDict[_Key, tuple[float, CatalogObject]] = OrderedDict()
        self._asking: dict[_Key, asyncio.Task[CatalogObject | None]] = {}

    async def snapshot(self, tables: Iterable[TableName], role: str = "") -> Catalog:
        """What there is of `tables`, as one frozen value. Raises what `describe` raises."""
        wanted = list(dict.fromkeys(tables))
        keys = [_Key(self._account, role, t) for t in wanted]
        found = [self._fresh_one(k) for k in keys]
        if None in found:
            found = await asyncio.gather(*(self._object(k) for k in keys))
        return Catalog.of({t: o for t, o in zip(wanted, found, strict=True) if o is not None})

    def forget(self, tables: Iterable[TableName]) -> None:
        """Ask anew about these objects, for every role; answers under way are not kept either."""
        gone = set(tables)
        for key in [k for k in self._known if k.table in gone]:
            del self._known[key]
        for key in [k for k in self._asking if k.table in gone]:
            del self._asking[key]

    def _fresh_one(self, key: _Key) -> CatalogObject | None:
        """What is known of an object and not too old; a decision from the cache asks only this."""
        known = self._known.get(key)
        if known is not None:
            if self._clock() - known[0] < self._fresh:
                self._known.move_to_end(key)
                return known[1]
            del self._known[key]
        return None

    async def _object(self, key: _Key) -> CatalogObject | None:
        if (known := self._fresh_one(key)) is not None:
            return known
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = asyncio.create_task(self._ask(key))
            asking.add_done_callback(lambda done: self._answered(key, done))
        # a statement that is given up must not take the answer away from the others
        return await asyncio.shield(asking)

    async def _ask(self, key: _Key) -> CatalogObject | None:
        asked = self._clock()
        found = await self._describe(key.table)
        current = self._asking.get(key) is asyncio.current_task()
        if current and found is not None and found.refused is None:
            self._known[key] = (asked, found)
            self._known.move_to_end(key)
            while len(self._known) > self._most:
                self._known.popitem(last=False)
        return found

    def _answered(self, key: _Key, done: asyncio.Task[CatalogObject | None]) -> None:
        if self._asking.get(key) is done:
            del self._asking[key]
        if not done.cancelled():
            done.exception()  # taken note of here, for nobody may be left to wait for it
