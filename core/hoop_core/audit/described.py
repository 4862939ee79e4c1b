"""What Hoop believed of tables and views when it decided: in the log, once for each thing believed.

An entry `catalog.described` stands before the first entry that rests on it. Its `sha256` is `CatalogObject.digest`:
over the JSON of columns, definition and refusal, in that order. Sizes are no part of it, for they change
with every insert: they stand with the statement.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from hoop_core.audit.log import AuditLog
from hoop_core.model import Json, TableName
from hoop_core.sql.catalog import CatalogObject

KIND = "catalog.described"
_MOST = 50_000
"""Descriptions that one process remembers to have logged; one that is forgotten is logged once more."""

_AGAIN_SECONDS = 86_400.0
"""After so long a description is logged once more: what is older may have been pruned (retention.py keeps two days)."""

Objects = Mapping[TableName, CatalogObject | None]
_Key = tuple[str, TableName, str]


@dataclass(slots=True)
class Described:
    """Of one process. `missing` is for its event loop, `describe` for any thread."""

    log: AuditLog
    _known: OrderedDict[_Key, float] = field(default_factory=OrderedDict, repr=False)

    def missing(self, account: str, objects: Objects) -> dict[TableName, CatalogObject]:
        """What of `objects` no entry of this process describes yet, or none of today."""
        old = time.monotonic() - _AGAIN_SECONDS
        return {
            t: o
            for t, o in objects.items()
            if o is not None and self._known.get((account, t, o.digest), -math.inf) < old
        }

    def describe(self, account: str, objects: Mapping[TableName, CatalogObject]) -> None:
        """Put them into the log. Raises StoreUnavailable."""
        for table, known in objects.items():
            self.log.append(KIND, described_json(account, table, known))
            self._known[account, table, known.digest] = time.monotonic()
            if len(self._known) > _MOST:
                self._known.popitem(last=False)


def described_json(account: str, table: TableName, known: CatalogObject) -> Json:
    """`columns` is a list, because their order counts and canonical JSON has none for names."""
    return {
        "account": account,
        "name": str(table),
        "sha256": known.digest,
        "object": {
            "columns": [[name, type_] for name, type_ in known.columns.items()],
            "definition": known.definition,
            "refused": known.refused,
            "temporary": known.temporary,
        },
    }


def described_object(told: Json) -> CatalogObject:
    """What an entry's `object` says. Raises ValueError, KeyError or TypeError for what is none."""
    pairs = [(str(name), str(type_)) for name, type_ in told["columns"]]
    columns = dict(pairs)
    if len(columns) != len(pairs):
        raise ValueError("a column is named twice")
    return CatalogObject(
        columns,
        definition=told["definition"],
        refused=told["refused"],
        temporary=told["temporary"] is True,
    )
