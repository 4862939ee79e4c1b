"""EXPLAIN USING JSON: the statement is compiled and authorised, and not run.

Of the plan only what it says of the whole is modelled: micro-partitions and bytes of the tables that are scanned.
The other formats, and the operations, are not.

https://docs.snowflake.com/en/sql-reference/sql/explain
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from sqlglot import exp

from hoop_core.devstack.emulator.errors import not_modelled
from hoop_core.devstack.emulator.results import Table, text_table

# The tokenizer makes one opaque token of all that stands behind the first word.
_EXPLAIN = re.compile(r"\s*EXPLAIN\b", re.IGNORECASE)
_USING_JSON = re.compile(r"\s*EXPLAIN\s+USING\s+JSON\s+", re.IGNORECASE)
_ROWS_OF_A_PARTITION, _BYTES_OF_A_ROW = 50_000, 100
_EXPLAINED = (exp.Query, exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Create)


def explained(sql: str) -> str | None:
    """The statement behind EXPLAIN USING JSON; None for any other statement. Raises SqlError."""
    if not _EXPLAIN.match(sql):
        return None
    found = _USING_JSON.match(sql)
    if found is None:
        raise not_modelled("EXPLAIN in any form but USING JSON")
    return sql[found.end() :]


def check(tree: exp.Expr) -> None:
    """Raises SqlError for a statement that is not explained here."""
    if not isinstance(tree, _EXPLAINED):
        raise not_modelled("EXPLAIN of this kind of statement")


def plan_of(
    scanned: Iterable[tuple[str, str, str]], sizes: Mapping[tuple[str, str, str], int]
) -> Table:
    """One row with the plan. Nothing is pruned here: all partitions are assigned."""
    rows = [sizes[name] for name in set(scanned) if name in sizes]
    partitions = sum(-(-n // _ROWS_OF_A_PARTITION) for n in rows)
    stats = {
        "partitionsTotal": partitions,
        "partitionsAssigned": partitions,
        "bytesAssigned": sum(rows) * _BYTES_OF_A_ROW,
    }
    plan = {"GlobalStats": stats, "Operations": [[{"id": 0, "operation": "Result"}]]}
    return text_table(["content"], [[json.dumps(plan)]])
