"""Which of the protected columns a statement reads: the others of its tables change nothing for it."""

from __future__ import annotations

from hoop_core.model import MaskedColumn, TableName, Verdict, quote_part
from hoop_core.sql.relations import ALL


def masked_read(verdict: Verdict) -> tuple[MaskedColumn, ...]:
    """The masked columns that the statement reads anywhere, predicates and joins included.

    Of a table whose columns could not be told apart, all of them.
    """
    read = dict(verdict.columns)
    return tuple(m for m in verdict.decision.masked if _reads(read, m.table, m.column))


def reads_name(verdict: Verdict, name: str) -> bool:
    """The same for a column's full name as a log writes it."""
    return any(
        name == f"{table}.{quote_part(column)}" if column != ALL else name.startswith(f"{table}.")
        for table, columns in verdict.columns
        for column in columns
    )


def _reads(read: dict[TableName, tuple[str, ...]], table: TableName, column: str) -> bool:
    names = read.get(table, ())
    return column in names or ALL in names
