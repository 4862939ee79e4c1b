"""The columns of DESCRIBE RESULT, from what a result's own description says to drivers.

https://docs.snowflake.com/en/sql-reference/sql/desc-result
"""

from __future__ import annotations

from collections.abc import Sequence

from hoop_core.model import Json

COLUMNS = (
    "name", "type", "kind", "null?", "default", "primary key", "unique key", "check", "expression",
    "comment", "policy name", "privacy domain",
)  # fmt: skip
Row = tuple[str | None, ...]


def described(rowtype: Sequence[Json]) -> list[Row]:
    """One row for each column of a result."""
    return [_row(column) for column in rowtype]


def _row(column: Json) -> Row:
    null = "Y" if column.get("nullable", True) else "N"
    known = (str(column.get("name", "")), _type_of(column), "COLUMN", null, None, "N", "N")
    return known + (None,) * (len(COLUMNS) - len(known))


def _type_of(column: Json) -> str:
    """As DESCRIBE writes it: `NUMBER(12,2)`, `VARCHAR(16777216)`, `TIMESTAMP_NTZ(9)`."""
    kind = str(column.get("type", "text")).lower()
    match kind:
        case "fixed":
            return f"NUMBER({_number(column, 'precision', 38)},{_number(column, 'scale', 0)})"
        case "real":
            return "FLOAT"
        case "text":
            return f"VARCHAR({_number(column, 'length', 16_777_216)})"
        case "binary":
            return f"BINARY({_number(column, 'length', 8_388_608)})"
        case "time" | "timestamp_ntz" | "timestamp_ltz" | "timestamp_tz":
            return f"{kind.upper()}({_number(column, 'scale', 9)})"
        case _:
            return kind.upper()


def _number(column: Json, key: str, default: int) -> int:
    value = column.get(key)
    return value if isinstance(value, int) else default
