"""The catalog of a running gateway: an object is asked for on first use and kept for a while."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from hoop_core.model import TableName
from hoop_core.sql.catalog import Catalog, CatalogObject
from hoop_core.sql.lookups import Lookup, LookupTurns

Describe = Callable[[TableName], Awaitable[CatalogObject | None]]

ABSENT_SECONDS = 1.0
"""How long it is believed that there is no such object."""


@dataclass(frozen=True, slots=True)
class _Key:
    """`role` is the caller's Snowflake role: what one role makes of a name is nothing to another."""

    account: str
    role: str
    table: TableName


class Catalogs(Protocol):
    """The catalogs of all accounts."""

    def of(self, account: str) -> LiveCatalog:
        """The one of an account, by its key; without a key that of the default account."""


class LiveCatalog:
    """Bounded. Statements that need an object at the same time share one question about it; callers take
    turns at asking (lookups.py).

    That there is no such object is believed for a moment only, so that a table that appears is seen soon;
    refused objects are never kept: a view that stops being secure is seen at the next statement.
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
        # apart from what there is, so that names which anybody can think of push nothing out
        self._absent: OrderedDict[_Key, float] = OrderedDict()
        self._asking: dict[_Key, Lookup] = {}
        self._turns = LookupTurns()

    def of(self, account: str) -> LiveCatalog:
        """Itself: where there is one account, its catalog is the one of all."""
        return self

    async def snapshot(
        self, tables: Iterable[TableName], role: str = "", caller: str = ""
    ) -> Catalog:
        """What there is of `tables`, as one frozen value. Raises what `describe` raises.

        `role` is the caller's Snowflake role, `caller` its `Identity.key`, by which turns are taken. What
        is still to be looked up when this is cancelled is dropped, unless others wait for it.
        """
        keys = {t: _Key(self._account, role, t) for t in dict.fromkeys(tables)}
        found = {t: o for t, k in keys.items() if (o := self._fresh_one(k)) is not None}
        open_ = {t: k for t, k in keys.items() if t not in found and not self._absent_now(k)}
        if open_:
            answers = await self._asked(open_, caller)
            found |= {t: o for t, o in answers.items() if o is not None}
        return Catalog.of(found)

    def forget(self, tables: Iterable[TableName]) -> None:
        """Ask anew about these objects, for every role; answers under way are not kept either."""
        gone = set(tables)
        for kept in (self._known, self._absent, self._asking):
            for key in [k for k in kept if k.table in gone]:
                del kept[key]

    def _fresh_one(self, key: _Key) -> CatalogObject | None:
        """What is known of an object and not too old; a decision from the cache asks only this."""
        known = self._known.get(key)
        if known is not None:
            if self._clock() - known[0] < self._fresh:
                self._known.move_to_end(key)
                return known[1]
            del self._known[key]
        return None

    def _absent_now(self, key: _Key) -> bool:
        asked = self._absent.get(key)
        return asked is not None and self._clock() - asked < min(self._fresh, ABSENT_SECONDS)

    async def _asked(
        self, keys: Mapping[TableName, _Key], caller: str
    ) -> dict[TableName, CatalogObject | None]:
        lookups = {t: (k, self._lookup(k)) for t, k in keys.items()}
        for _, lookup in lookups.values():
            self._turns.join(lookup, caller)
        try:
            # a statement that is given up must not take the answer away from the others
            return {t: await asyncio.shield(one.answer) for t, (_, one) in lookups.items()}
        finally:
            for key, lookup in lookups.values():
                self._turns.leave(lookup, caller)
                if lookup.dropped:
                    self._answered(key, lookup)

    def _lookup(self, key: _Key) -> Lookup:
        lookup = self._asking.get(key)
        if lookup is None:
            lookup = self._asking[key] = Lookup(partial(self._ask, key))
        return lookup

    async def _ask(self, key: _Key, lookup: Lookup) -> CatalogObject | None:
        asked = self._clock()
        try:
            found = await self._describe(key.table)
            if self._asking.get(key) is lookup:
                self._keep(key, asked, found)
            return found
        finally:
            self._answered(key, lookup)

    def _keep(self, key: _Key, asked: float, found: CatalogObject | None) -> None:
        if found is None:
            self._absent.pop(key, None)
            self._absent[key] = asked
            return self._bound()
        self._absent.pop(key, None)
        if found.refused is None:
            self._known[key] = asked, found
            self._known.move_to_end(key)
        return self._bound()

    def _bound(self) -> None:
        for kept in (self._known, self._absent):
            while len(kept) > self._most:
                kept.popitem(last=False)

    def _answered(self, key: _Key, lookup: Lookup) -> None:
        if self._asking.get(key) is lookup:
            del self._asking[key]
