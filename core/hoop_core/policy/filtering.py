"""Which rows of a table a caller sees: the policy's row filters as one condition."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from hoop_core.masking.masks import Family, sql_type
from hoop_core.model import FilteredTable, Identity, MaskedColumn, Reason, TableName
from hoop_core.policy.model import Policy, RowFilter
from hoop_core.policy.predicates import ClaimError
from hoop_core.sql.catalog import Catalog

ROW_FILTER = "row_filter"
"""Stands for a mask in `Decision.exposed`, with the column `*`: all rows are shown, by an exception."""


@dataclass(frozen=True, slots=True)
class Filtering:
    """`where` is None where no filter binds. `faults` are reasons to deny."""

    where: str | None = None
    filters: tuple[RowFilter, ...] = ()
    faults: tuple[Reason, ...] = ()


def filtering(
    policy: Policy, identity: Identity, table: TableName, columns: Collection[str]
) -> Filtering:
    """The filters that bind the caller on a table whose columns are known; all of them must hold."""
    binding = filters_binding(policy, identity, table)
    faults: list[Reason] = []
    conditions: list[str] = []
    for row_filter in binding:
        gone = sorted(row_filter.where.columns - set(columns))
        faults += [
            Reason(
                "POLICY_DRIFT",
                f"denied: a row filter of {table} asks for its column {column}, which it does not have; it may "
                "have been renamed",
            )
            for column in gone
        ]
        try:
            conditions.append(f"({row_filter.where.condition(identity)})")
        except ClaimError as e:
            faults.append(
                Reason(
                    "ROW_FILTER_CLAIM", f"denied: the rows of {table} depend on the caller, and {e}"
                )
            )
    if not binding or faults:
        return Filtering(filters=binding, faults=tuple(dict.fromkeys(faults)))
    return Filtering(" AND ".join(conditions), binding)


def filters_binding(policy: Policy, identity: Identity, table: TableName) -> tuple[RowFilter, ...]:
    return tuple(f for f in policy.row_filters if f.table.covers(table) and f.binds(identity))


def filtered_tables(
    policy: Policy, identity: Identity, tables: Iterable[TableName], catalog: Catalog
) -> tuple[FilteredTable, ...]:
    """What the decision says of the filters that bind, with the predicates as the policy writes them."""
    return tuple(
        FilteredTable(
            table,
            row_filter.where.source,
            by_session=_by_session(row_filter, catalog.columns(table) or {}),
        )
        for table in sorted(tables)
        for row_filter in filters_binding(policy, identity, table)
    )


_STEADY = {Family.TEXT, Family.NUMBER, Family.FLOAT, Family.BOOLEAN}


def _by_session(row_filter: RowFilter, columns: Mapping[str, str]) -> bool:
    """Whether a session parameter might change which rows the filter lets through."""
    types = [sql_type(columns.get(name, "")) for name in row_filter.where.columns]
    return not row_filter.where.plain or any(t.family not in _STEADY for t in types)


def unfiltered(
    policy: Policy, identity: Identity, tables: Iterable[TableName]
) -> tuple[MaskedColumn, ...]:
    """Tables of which the caller sees all rows because an exception frees it: on record."""
    return tuple(
        MaskedColumn(table, "*", ROW_FILTER)
        for table in sorted(tables)
        if any(
            f.table.covers(table) and f.meant_for(identity) and not f.binds(identity)
            for f in policy.row_filters
        )
    )
