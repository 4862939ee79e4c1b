"""What conditions may ask of a statement that costs a walk over it: columns, tags and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hoop_core.model import Kind, Statement, TableName, quote_part
from hoop_core.sql.catalog import Catalog
from hoop_core.sql.lineage import ColumnsRead
from hoop_core.sql.names import Pattern
from hoop_core.sql.relations import ALL
from hoop_core.sql.shape import UNBOUNDED

# Their rows are looked at, changed or lost, so they count for the sizes.
_CHANGING = frozenset(
    {
        Kind.UPDATE,
        Kind.DELETE,
        Kind.MERGE,
        Kind.TRUNCATE,
        Kind.INSERT_OVERWRITE,
        Kind.DROP_TABLE,
    }
)


def touched(
    statement: Statement,
    columns: ColumnsRead,
    tags: Mapping[str, tuple[Pattern, ...]],
    catalog: Catalog,
) -> dict[str, Any]:
    """The fields `columns`, `tags`, `estimated_rows` and `estimated_bytes` of `statement`.

    Each is an upper bound. A size that Snowflake did not report is 2^53 - 1: a rule that stops large
    statements stops those of unknown size, and one that lets small ones through does not let them.
    """
    return {
        "columns": [
            f"{t}.{c if c == ALL else quote_part(c)}" for t, names in columns for c in names
        ],
        "tags": tags_of(tags, columns),
        "estimated_rows": _size(statement, catalog, "rows"),
        "estimated_bytes": _size(statement, catalog, "bytes"),
    }


def tags_of(tags: Mapping[str, tuple[Pattern, ...]], columns: ColumnsRead) -> list[str]:
    """The tags that one of the columns bears, or may bear."""
    return sorted(tag for tag, of in tags.items() if _matches(of, columns))


def _matches(patterns: tuple[Pattern, ...], columns: ColumnsRead) -> bool:
    return any(
        p.covers(table, None if name == ALL else name)
        for table, names in columns
        for name in names
        for p in patterns
    )


def _size(statement: Statement, catalog: Catalog, what: str) -> int:
    total = 0
    for table in _sized(statement):
        known = catalog.get(table)
        if known is None:
            return UNBOUNDED
        if known.definition is not None:
            continue  # a view: the tables beneath it are among the reads
        size: int | None = getattr(known, what)
        if size is None:
            return UNBOUNDED
        total += size
    return min(total, UNBOUNDED)


def _sized(statement: Statement) -> set[TableName]:
    changed = statement.writes if statement.kind in _CHANGING else ()
    return {*statement.reads, *changed}
