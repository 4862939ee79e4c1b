"""The catalog of a running gateway: columns are asked for on first use and kept for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable

from hoop_core.model import TableName
from hoop_core.sql.catalog import Catalog

Describe = Callable[[TableName], Awaitable[dict[str, str] | None]]


class LiveCatalog:
    """Unknown objects are never kept: a table that appears is seen at the next statement."""

    def __init__(self, describe: Describe, *, fresh_seconds: float = 60.0) -> None:
        self._describe, self._fresh = describe, fresh_seconds
        self._known: dict[TableName, tuple[float, dict[str, str]]] = {}

    async def snapshot(self, tables: Iterable[TableName]) -> Catalog:
        """The columns of `tables` as one frozen value. Raises what `describe` raises."""
        wanted = list(dict.fromkeys(tables))
        found = await asyncio.gather(*(self._columns(t) for t in wanted))
        return Catalog.from_mapping(
            {t: c for t, c in zip(wanted, found, strict=True) if c is not None}
        )

    async def _columns(self, table: TableName) -> dict[str, str] | None:
        known = self._known.get(table)
        if known is not None and time.monotonic() - known[0] < self._fresh:
            return known[1]
        columns = await self._describe(table)
        if columns is None:
            self._known.pop(table, None)
        else:
            self._known[table] = (time.monotonic(), columns)
        return columns

    def forget(self, tables: Iterable[TableName]) -> None:
        for table in tables:
            self._known.pop(table, None)
