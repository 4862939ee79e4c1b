"""Columns and types of tables, as `catalog.described` entries tell them."""

from __future__ import annotations

import json
from collections import OrderedDict

from sqlalchemy import select

from hoop_core.model import Json
from hoop_core.store import Store
from hoop_core.store.tables import log_entries

Columns = list[tuple[str, str | None]]
_MOST = 2_000
_FAR = 50_000
"""Entries that are looked through backwards: a gateway describes anew what it meets after a start."""
_e = log_entries.c


class Descriptions:
    """By digest. What is not found is not looked for again."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: OrderedDict[str, Columns | None] = OrderedDict()

    def add(self, data: Json) -> None:
        columns = [(str(name), str(kind)) for name, kind in data["object"]["columns"]]
        self._keep(str(data["sha256"]), list(columns))

    def columns(self, before: int, digest: str | None) -> Columns | None:
        """None where nothing is known. Raises StoreUnavailable."""
        if digest is None:
            return None
        if digest not in self._known:
            self._look(before, digest)
        self._known.move_to_end(digest)
        return self._known[digest]

    def _look(self, before: int, digest: str) -> None:
        query = (
            select(_e.entry)
            .where(_e.seq < before, _e.seq >= before - _FAR)
            .where(_e.kind == "catalog.described", _e.entry != "")
            .order_by(_e.seq.desc())
        )
        self._keep(digest, None)
        with self._store.read() as connection:
            for text in connection.scalars(query.execution_options(yield_per=50)):
                data = json.loads(text)["data"]
                if data["sha256"] == digest:
                    self.add(data)
                    return

    def _keep(self, digest: str, columns: Columns | None) -> None:
        self._known[digest] = columns
        self._known.move_to_end(digest)
        while len(self._known) > _MOST:
            self._known.popitem(last=False)
