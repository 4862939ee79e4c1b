"""What a SHOW lists, narrowed to what the policy lets the caller read.

Snowflake lists what the minted user's role may see, which is often more than one caller is granted: names of
tables and columns, how many rows a filter hides, the texts of views. A list cannot be narrowed in its own
statement, so its rows are. https://docs.snowflake.com/en/sql-reference/sql/show
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from hoop_core.errors import HoopError, SnowflakeUnavailable
from hoop_core.model import Json, Listing, Statement, TableName, Verdict

_SHOW = re.compile(
    r"SHOW (?:TERSE )?(TABLES|VIEWS|OBJECTS|COLUMNS|SCHEMAS|DATABASES|WAREHOUSES|PROCEDURES|FUNCTIONS|"
    r"(?:PRIMARY|UNIQUE|IMPORTED|EXPORTED) KEYS)\b",
    re.IGNORECASE,
)
_OBJECT = (("database_name", "schema_name", "name"),)
_TABLE = (("database_name", "schema_name", "table_name"),)
_BOTH = tuple(
    (f"{side}_database_name", f"{side}_schema_name", f"{side}_table_name") for side in ("pk", "fk")
)
_ROUTINE = (("catalog_name", "schema_name"),)
_NAMED_BY: dict[str, tuple[tuple[str, ...], ...]] = {
    "TABLES": _OBJECT,
    "VIEWS": _OBJECT,
    "OBJECTS": _OBJECT,
    "COLUMNS": _TABLE,
    "PRIMARY KEYS": _TABLE,
    "UNIQUE KEYS": _TABLE,
    "IMPORTED KEYS": _BOTH,
    "EXPORTED KEYS": _BOTH,
    "SCHEMAS": (("database_name", "name"),),
    "DATABASES": (("name",),),
    "PROCEDURES": _ROUTINE,
    "FUNCTIONS": _ROUTINE,
    "WAREHOUSES": (),
}
"""The columns that name what a row tells of; all of them must be shown to the caller."""
_SIZES = ("rows", "bytes")
_TEXT = "text"
"""Of a view: it names tables and values that no rule grants."""

Row = list[Any]


def narrowed(answer: Json, verdict: Verdict) -> Json:
    """The answer to a SHOW without what the caller may not know of. Raises SnowflakeUnavailable for a list that
    cannot be narrowed.
    """
    statement, listing = verdict.statement, verdict.decision.listing
    found = _SHOW.match(verdict.rewritten or "")
    if statement is None or listing is None or found is None:
        raise _unreadable("nobody knows what it lists")
    data = answer.get("data") or {}
    if data.get("chunks"):
        raise SnowflakeUnavailable(
            "The list is too long to be narrowed to what you may see.",
            "Ask for less of it: IN SCHEMA, LIKE, STARTS WITH.",
        )
    names = [str(c.get("name", "")).lower() for c in data.get("rowtype") or ()]
    told = _Told(names, _NAMED_BY[found[1].upper()], listing, statement)
    change = _of_arrow if data.get("queryResultFormat") == "arrow" else _of_json
    try:
        made, count = change(data, told)
    except HoopError:
        raise
    except Exception as e:  # whatever a strange answer does to a parser
        raise _unreadable(type(e).__name__) from None
    return {**answer, "data": {**data, **made, "total": count, "returned": count}}


def holds_rows(answer: Json) -> bool:
    data = answer.get("data") or {}
    return any(data.get(k) for k in ("rowset", "rowsetBase64", "chunks"))


class _Told:
    """What becomes of the rows of one list."""

    def __init__(
        self,
        names: Sequence[str],
        named_by: tuple[tuple[str, ...], ...],
        listing: Listing,
        statement: Statement,
    ) -> None:
        if any(names.count(column) != 1 for columns in named_by for column in columns):
            raise _unreadable("its rows have no names")
        self._listing, self._granted = listing, frozenset(statement.reads)
        self._at = [[names.index(c) for c in columns] for columns in named_by]
        self._sizes = [i for i, n in enumerate(names) if n in _SIZES and named_by == _OBJECT]
        self._texts = [i for i, n in enumerate(names) if n == _TEXT and named_by == _OBJECT]
        limited = bool(statement.facts.get("has_limit"))
        self._most = int(statement.facts["limit_rows"]) if limited else None

    def rows(self, rows: Sequence[Row]) -> list[Row]:
        """The rows that are told, without what is withheld of them."""
        return [self._row(row) for row in rows if self._shows(row)][: self._most]

    def _shows(self, row: Row) -> bool:
        return all(self._known([row[i] for i in at]) for at in self._at)

    def _known(self, given: Row) -> bool:
        if len(given) == 2 and not any(given):
            return True  # a built-in routine
        name = tuple(map(str, given))
        mine = len(name) == 3 and TableName(*name) in self._granted
        return mine or self._listing.shows(name)

    def _row(self, row: Row) -> Row:
        made = list(row)
        if self._sizes and not self._listing.counts(tuple(str(row[i]) for i in self._at[0])):
            for i in self._sizes:
                made[i] = None
        for i in self._texts:
            made[i] = ""
        return made


def _of_json(data: Json, told: _Told) -> tuple[Json, int]:
    rows = told.rows(data.get("rowset") or [])
    return {"rowset": rows}, len(rows)


def _of_arrow(data: Json, told: _Told) -> tuple[Json, int]:
    content = base64.b64decode(data.get("rowsetBase64") or "", validate=True)
    if not content:
        return {}, 0
    with pa.ipc.open_stream(content) as reader:
        table = reader.read_all()
    columns = [column.to_pylist() for column in table.columns]
    numbered = [[*row, at] for at, row in enumerate(zip(*columns, strict=True))]
    rows = told.rows(numbered)
    made = table.take([row[-1] for row in rows]) if rows else table.slice(0, 0)
    for at in range(table.num_columns):
        if any(row[at] != numbered[row[-1]][at] for row in rows):
            values = pa.array([row[at] for row in rows], table.schema.field(at).type)
            made = made.set_column(at, table.schema.field(at), values)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(made)
    return {"rowsetBase64": base64.b64encode(sink.getvalue()).decode()}, len(rows)


def _unreadable(why: str) -> SnowflakeUnavailable:
    return SnowflakeUnavailable(
        f"Snowflake's list cannot be narrowed to what you may see ({why}), so it is withheld.",
        "Query INFORMATION_SCHEMA instead.",
    )
