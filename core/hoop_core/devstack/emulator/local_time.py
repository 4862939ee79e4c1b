"""Which columns are TIMESTAMP_LTZ: the engine has one type for it and TIMESTAMP_TZ, the account knows better."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Any

import pyarrow as pa
from sqlglot import exp

from hoop_core.devstack.emulator.results import Table

Known = Mapping[tuple[str, str, str], Set[str]]


def told(table: Table, tree: exp.Expr, tables: list[tuple[str, str, str]], known: Known) -> Table:
    """The answer of DESCRIBE TABLE or SHOW COLUMNS with the right type of these columns."""
    if isinstance(tree, exp.Describe):
        here = {name for table_name in tables for name in known.get(table_name, ())}
        return _corrected(table, "type", lambda row: row["name"] in here)
    if isinstance(tree, exp.Show) and str(tree.name).upper() == "COLUMNS":
        return _corrected(
            table,
            "data_type",
            lambda row: (
                row["column_name"]
                in known.get((row["database_name"], row["schema_name"], row["table_name"]), ())
            ),
        )
    return table


def _corrected(table: Table, column: str, local: Callable[[Mapping[str, Any]], bool]) -> Table:
    names = [c.name for c in table.columns]
    if column not in names:
        return table
    rows = table.data.to_pylist()
    texts = [
        str(row[column]).replace("TIMESTAMP_TZ", "TIMESTAMP_LTZ") if local(row) else row[column]
        for row in rows
    ]
    at = names.index(column)
    data = table.data.set_column(at, names[at], pa.array(texts, pa.string()))
    return Table(table.columns, data)
