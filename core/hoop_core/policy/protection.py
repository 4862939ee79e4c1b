"""What each table of a statement shows to a caller: masked columns, filtered rows, or a reason to deny."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hoop_core.masking.masks import Mask, MaskName, TablePlan, plan_column
from hoop_core.model import FilteredTable, Kind, MaskedColumn, Reason, TableName
from hoop_core.policy.case import Case
from hoop_core.policy.filtering import (
    Filtering,
    filtered_tables,
    filtering,
    filters_binding,
    unfiltered,
)
from hoop_core.policy.model import MaskRule, describe_groups, names_table
from hoop_core.sql.metadata import metadata_view
from hoop_core.sql.names import Pattern

_STRICTNESS = {name: i for i, name in enumerate(MaskName)}


def protection(
    case: Case, metadata: Mapping[TableName, TablePlan]
) -> tuple[dict[TableName, TablePlan], list[Reason], list[Reason]]:
    """What each table shows; reasons to deny; notes for an allowing decision.

    `metadata` are the plans of the views of INFORMATION_SCHEMA that the statement reads: no mask is about them.
    """
    masks = case.policy.masks_binding(case.identity)
    # An exception shows values to its caller; it never lets them be written where others find them.
    shown = case.exceptions if case.statement.kind is Kind.SELECT else frozenset()
    plans: dict[TableName, TablePlan] = dict(metadata)
    faults: list[Reason] = []
    notes: list[Reason] = [_narrowed(t) for t in sorted(metadata)]
    for table in sorted({*case.statement.reads, *case.statement.writes} - metadata.keys()):
        columns = case.catalog.columns(table)
        if columns is None:
            faults += _unknown_object(case, table, masks)
        elif not columns:
            if names_table(masks, table) or filters_binding(case.policy, case.identity, table):
                faults.append(
                    Reason(
                        "COLUMNS_UNKNOWN",
                        f"denied: the columns of {table} are not known, and the policy masks some or filters "
                        "its rows",
                    )
                )
        else:
            faults += _drifted(table, columns, masks)
            rows = filtering(case.policy, case.identity, table, columns)
            faults += rows.faults
            plan = _plan(case, table, columns, masks, shown=shown, rows=rows)
            if plan is not None:
                plans[table] = plan
                notes += _unfitted(plan)
                notes += _limited(table, rows)
    faults += _temporary_names(case)
    reading = case.statement.kind in {Kind.SHOW, Kind.DESCRIBE}
    faults += [
        Reason(
            "WRITE_TO_PROTECTED",
            f"denied: {t} has masked columns or filtered rows, so it cannot be changed by "
            f"{describe_groups(case.identity)}",
        )
        for t in case.statement.writes
        if t in plans
    ]
    faults += _shadowing(case, plans, masks)
    if reading:
        return {}, faults, []  # names and types, no rows: nothing to rewrite
    return plans, faults, notes


def _unknown_object(case: Case, table: TableName, masks: tuple[MaskRule, ...]) -> list[Reason]:
    """CREATE makes a table, DROP ... IF EXISTS may find none; everything else needs one that is known."""
    statement = case.statement
    known = case.catalog.get(table)
    if known is not None and known.refused is not None:
        return [Reason("VIEW_NOT_UNDERSTOOD", f"denied: {table} {known.refused}")]
    created = statement.kind in {Kind.CREATE_TABLE, Kind.CREATE_TABLE_AS}
    dropped = statement.kind is Kind.DROP_TABLE and bool(statement.facts.get("if_exists"))
    renamed = statement.kind is Kind.ALTER_TABLE and len(statement.writes) > 1  # one of them is new
    made = created or dropped or renamed
    if table in statement.writes and table not in statement.reads and made:
        if not any(p.covers(table) and "*" not in p.parts[:3] for p in _protecting(case, masks)):
            return []
        return [
            Reason(
                "WRITE_TO_PROTECTED",
                f"denied: the policy protects {table}, so it cannot be created or dropped here",
            )
        ]
    return [
        Reason(
            "UNKNOWN_OBJECT",
            f"denied: {table} is not a table or view that Hoop knows; streams, dynamic tables and other objects are not served",
        )
    ]


def _protecting(case: Case, masks: tuple[MaskRule, ...]) -> list[Pattern]:
    """The patterns of everything that hides columns or rows from the caller."""
    filters = [f.table for f in case.policy.row_filters if f.binds(case.identity)]
    return [*(p for m in masks for p in m.columns), *filters]


def _drifted(
    table: TableName, columns: Mapping[str, str], masks: tuple[MaskRule, ...]
) -> list[Reason]:
    """A column that the policy names outright is gone: it may live on under a name without a mask."""
    gone = {
        p.parts[3]
        for m in masks
        for p in m.columns
        if p.exact and p.covers(table) and p.parts[3] not in columns
    }
    return [
        Reason(
            "POLICY_DRIFT",
            f"denied: the policy masks {column} of {table}, which has no such column; it may have been renamed",
        )
        for column in sorted(gone)
    ]


def _plan(
    case: Case,
    table: TableName,
    columns: Mapping[str, str],
    masks: tuple[MaskRule, ...],
    *,
    shown: frozenset[tuple[TableName, str]],
    rows: Filtering,
) -> TablePlan | None:
    hidden = strictest(table, columns, masks)
    if not hidden and rows.where is None:
        return _as_listed(case, table, columns)
    chosen = {c: None if (table, c) in shown else hidden.get(c) for c in columns}
    if not any(chosen.values()) and rows.where is None:
        return _as_listed(case, table, columns)
    if (override := case.mask_override) is not None:
        chosen = {c: None if m is None else Mask(override) for c, m in chosen.items()}
    function = case.policy.hash_function
    shape = tuple(plan_column(c, t, chosen[c], hash_function=function) for c, t in columns.items())
    return TablePlan(table, shape, rows.where)


def _as_listed(case: Case, table: TableName, columns: Mapping[str, str]) -> TablePlan | None:
    """Of a temporary table exactly its columns are read: nothing else, should its name mean another table.

    A statement that writes to it reads it by its name alone, as nothing can be written to a query.
    """
    known = case.catalog.get(table)
    if known is None or not known.temporary or table in case.statement.writes:
        return None
    return TablePlan(table, tuple(plan_column(c, t, None) for c, t in columns.items()))


def _temporary_names(case: Case) -> list[Reason]:
    """A name means one object: temporary tables are made, and changed, only where no other is meant."""
    statement = case.statement
    found: list[Reason] = []
    for table in statement.writes:
        known = case.catalog.get(table)
        if known is None or known.refused is not None:
            continue
        making = statement.kind in {Kind.CREATE_TABLE, Kind.CREATE_TABLE_AS}
        if making and bool(statement.facts.get("temporary")) != known.temporary:
            kind = "temporary" if known.temporary else "permanent"
            why = f"there is a {kind} table of that name already"
        elif known.temporary and statement.kind is Kind.ALTER_TABLE:
            why = "a temporary table cannot be altered; make it anew"
        else:
            continue
        found.append(Reason("TEMPORARY_NAME", f"denied: {table} cannot be changed so: {why}"))
    return found


def exposed(case: Case, plans: Mapping[TableName, TablePlan]) -> tuple[MaskedColumn, ...]:
    """What the tables hold that some mask names and the caller's exceptions leave open."""
    found: list[MaskedColumn] = []
    if case.statement.kind in {Kind.SHOW, Kind.DESCRIBE}:
        return ()  # names and types, no rows
    for table in sorted({*case.statement.reads, *case.statement.writes}):
        planned = plans[table].columns if table in plans else ()
        closed = {c.name for c in planned if c.mask is not None}
        hidden = strictest(table, case.catalog.columns(table) or {}, case.policy.masks)
        found += [
            MaskedColumn(table, column, mask.name.value)
            for column, mask in hidden.items()
            if column not in closed
        ]
    tables = [t for t in case.statement.reads if metadata_view(t) is None]
    return (*found, *unfiltered(case.policy, case.identity, tables))


def filtered(case: Case, plans: Mapping[TableName, TablePlan]) -> tuple[FilteredTable, ...]:
    tables = [t for t in plans if metadata_view(t) is None]
    return filtered_tables(case.policy, case.identity, tables, case.catalog)


def _narrowed(table: TableName) -> Reason:
    return Reason("METADATA", f"{table} tells of the tables that rules let the caller read")


def _limited(table: TableName, rows: Filtering) -> list[Reason]:
    return [
        Reason("ROW_FILTER", f"rows of {table} are limited to {f.where.source}")
        for f in rows.filters
    ]


def strictest(
    table: TableName, columns: Iterable[str], masks: tuple[MaskRule, ...]
) -> dict[str, Mask]:
    """By column, of several masks that name it the strictest; the first in the file among equals."""
    found: dict[str, Mask] = {}
    naming = [
        (m.mask, names)
        for m in masks
        if (names := {p.parts[3] for p in m.columns if p.covers(table)})
    ]
    for column in columns if naming else ():
        these = [mask for mask, names in naming if column in names or "*" in names]
        if these:
            found[column] = min(these, key=lambda m: _STRICTNESS[m.name])
    return found


def _unfitted(plan: TablePlan) -> list[Reason]:
    return [
        Reason(
            "MASK_NOT_APPLICABLE",
            f"{c.name} of {plan.table} is shown as NULL: its mask does not fit its type",
        )
        for c in plan.columns
        if not c.fitted
    ]


def _shadowing(
    case: Case, plans: Mapping[TableName, TablePlan], masks: tuple[MaskRule, ...]
) -> list[Reason]:
    """A CTE must not take the name under which this session would find a protected table."""
    named = [p for p in _protecting(case, masks) if p.parts[2] != "*"]
    protected_names = {t.name for t in plans} | {p.parts[2] for p in named}
    faults = []
    for cte in case.ctes:
        here = cte.shadows is not None and (
            cte.shadows in plans or any(p.covers(cte.shadows) for p in named)
        )
        if here or (cte.recursive and cte.name in protected_names):
            faults.append(
                Reason(
                    "CTE_SHADOWS_PROTECTED",
                    f"denied: the common table expression {cte.name} has the name of a protected table; rename it",
                )
            )
    return faults
