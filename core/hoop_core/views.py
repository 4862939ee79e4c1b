"""Views: what a statement reads beneath them, and the text in which the masks beneath them bind.

A view and everything beneath it are `reads` of the statement. In the text that runs, its query takes its
place,

    (WITH _view1 ("A", "B") AS (<query>) SELECT "A", "B" FROM _view1) AS "V"

with every name in it fully qualified in the view's own schema, and the whole is then analysed, masked and
verified like any statement. So what runs is what was decided on, also when somebody makes the view anew at
that moment. The chain is proven link by link: the caller's text with the masks on views (verified), the
same with the views' queries in it (compared as trees), that with the masks on base tables (verified). The
caller's CTEs reach nothing inside a view, and a view nothing of the caller's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from sqlglot import exp

from hoop_core.errors import StatementRefused
from hoop_core.masking.masks import TablePlan
from hoop_core.masking.rewrite import rewrite
from hoop_core.masking.verify import verify
from hoop_core.model import ColumnLineage, Kind, NameContext, Statement, TableName
from hoop_core.sql.catalog import Catalog, CatalogObject
from hoop_core.sql.limits import DEFAULT, Limits
from hoop_core.sql.lineage import Trace, any_column, column_lineage, trace
from hoop_core.sql.metadata import OBJECT as METADATA
from hoop_core.sql.metadata import metadata_view
from hoop_core.sql.refusals import refuse
from hoop_core.sql.splice import Inline, splice, tables_in
from hoop_core.sql.statement import Analysis, CteName, analyse
from hoop_core.sql.view_text import not_understood, read_view

DEEPEST = 8
"""Views upon views that are followed."""

Plans = Mapping[TableName, TablePlan]
# Where a view stands must not change what they answer; that they do not look at it is not documented.
_OF_THE_PLACE = (exp.CurrentDatabase, exp.CurrentSchema, exp.CurrentSchemas)


@dataclass(frozen=True, slots=True)
class View:
    """A view whose text was understood. `columns` are those that the view shows, in its order."""

    table: TableName
    columns: tuple[str, ...]
    analysis: Analysis = field(repr=False)

    @property
    def reads(self) -> tuple[TableName, ...]:
        return self.analysis.statement.reads


def objects(
    tables: tuple[TableName, ...], limits: Limits = DEFAULT
) -> Generator[tuple[TableName, ...], Catalog, Catalog]:
    """Ask for `tables`, then for what the views among them read, and so on; return what there is.

    What is not followed any more (too deep, too many) is missing in the end, and so denied. Never raises.
    """
    metadata = {t: METADATA for t in tables if metadata_view(t) is not None}
    catalog = yield tuple(t for t in tables if t not in metadata)
    if metadata:
        catalog = catalog.but(metadata)
    asked, told = set(tables), tables
    for _ in range(DEEPEST):
        wanted = sorted(_named_in_views(told, catalog, limits) - asked)
        asked.update(wanted)
        if not wanted or len(asked) > limits.max_table_reads:
            break
        told = tuple(wanted)
        found = yield told
        catalog = catalog.but({t: o for t in told if (o := found.get(t)) is not None})
    return catalog


def _named_in_views(
    tables: tuple[TableName, ...], catalog: Catalog, limits: Limits
) -> set[TableName]:
    found: set[TableName] = set()
    for table in tables:
        known = catalog.get(table)
        if known is not None and known.definition is not None:
            try:
                found |= set(_understood(table, known.definition, limits)[1].tables)
            except (StatementRefused, RecursionError):
                continue  # `beneath` says why
    return found


@dataclass(frozen=True, slots=True)
class Views:
    """The views that a statement reads. `catalog` says of the others why they are refused."""

    analysis: Analysis = field(repr=False)
    statement: Statement
    """The caller's, with everything beneath its views among the reads."""
    ctes: tuple[CteName, ...]
    catalog: Catalog = field(repr=False)
    inner_first: Mapping[TableName, View] = field(repr=False)
    limits: Limits

    def text(self, plans: Plans) -> str:
        """The text to execute, verified. Raises StatementRefused."""
        expanded = self._expanded(plans, frozenset(self.inner_first))
        return _masked(expanded, {t: p for t, p in plans.items() if t not in self.inner_first})

    def trace(self) -> Trace:
        """Through the views, level by level, to their base tables. Never raises."""
        levels = [trace(self.analysis, self.catalog)]
        inlined: set[TableName] = set()
        named = set(self.analysis.statement.reads) & set(self.inner_first)
        try:
            while not named <= inlined:
                inlined |= named
                levels.append(trace(self._expanded({}, frozenset(inlined)), self.catalog))
                named = {t for v in inlined for t in self.inner_first[v].reads}
                named &= set(self.inner_first)
        except (StatementRefused, RecursionError):
            unknown = tuple(dataclasses.replace(c, unknown=True) for c in levels[0].lineage)
            return Trace(any_column(self.statement), unknown)
        return _united(levels)

    def _expanded(self, plans: Plans, inlined: frozenset[TableName]) -> Analysis:
        """The statement with the masks of views applied and the queries of `inlined` in their places."""
        outer = {t: p for t, p in plans.items() if t in self.inner_first}
        prefix = _unused(self.analysis, *(v.analysis for v in self.inner_first.values()))
        inlines: dict[TableName, Inline] = {}
        for number, view in enumerate(self.inner_first.values(), 1):
            if view.table in inlined:
                body = self._spliced(view.analysis, outer, inlines)
                tables = tables_in(view.analysis, inlines)
                query = _query(f"{prefix}{number}", view, body)
                inlines[view.table] = Inline(view.table, query, tables)
        text = self._spliced(self.analysis, outer, inlines)
        expanded = self._analysed(text, self.analysis.statement.names)
        ours, theirs = self.statement, expanded.statement
        if (theirs.kind, theirs.writes) != (ours.kind, ours.writes) or not set(theirs.reads) <= set(
            ours.reads
        ):
            raise _doubt()
        return expanded

    def _spliced(
        self, analysis: Analysis, outer: Plans, inlines: Mapping[TableName, Inline]
    ) -> str:
        reads = analysis.statement.reads
        text = _masked(analysis, {t: outer[t] for t in reads if t in outer})
        again = self._analysed(text, analysis.statement.names)
        return splice(again, {t: inlines[t] for t in reads if t in inlines}, self.limits)

    def _analysed(self, text: str, names: NameContext) -> Analysis:
        try:
            return analyse(text, names, self.limits)
        except StatementRefused as e:
            raise refuse(
                e.reason, f"With the queries of its views in it: {e.message}", e.hint
            ) from None


def beneath(analysis: Analysis, catalog: Catalog, limits: Limits = DEFAULT) -> Views | None:
    """What stands beneath the views of a statement; None when it reads and writes none.

    Never raises for a view's text: a view that is not understood is refused in the catalog, so that the
    policy can first ask whether the caller may read it at all.
    """
    touched = [(t, catalog.get(t)) for t in analysis.tables]
    if analysis.tree is None or not any(o and o.definition is not None for _, o in touched):
        return None
    walk = _Walk(catalog, limits)
    for table in analysis.statement.reads:
        walk.visit(table, ())
    for table in analysis.statement.writes:
        found = catalog.get(table)
        if found is not None and found.definition is not None:
            walk.refused[table] = "is a view, and views cannot be written to"
    reads = set(analysis.statement.reads)
    for view in walk.found.values():
        reads |= set(view.reads)
    statement = _with_reads(analysis.statement, reads, walk.found)
    refused = {t: CatalogObject({}, refused=why) for t, why in walk.refused.items()}
    # a recursive CTE named like a protected table is the engine's to refuse, also inside a view
    inner = [c for v in walk.found.values() for c in v.analysis.ctes if c.recursive]
    ctes = (*analysis.ctes, *(dataclasses.replace(c, shadows=None) for c in inner))
    return Views(analysis, statement, ctes, catalog.but(refused), walk.found, limits)


class _Walk:
    """Depth first; `found` holds inner views before the views that read them."""

    def __init__(self, catalog: Catalog, limits: Limits) -> None:
        self._catalog, self._limits = catalog, limits
        self.found: dict[TableName, View] = {}
        self.refused: dict[TableName, str] = {}
        self._height: dict[TableName, int] = {}

    def visit(self, table: TableName, path: tuple[TableName, ...]) -> int:
        """How many views stand on each other from here down; 0 for what is no view."""
        known = self._catalog.get(table)
        if known is None or known.definition is None or table in self.refused:
            return 0
        if table in self._height:
            return self._height[table]
        if table in path:
            self.refused[table] = "is a view that refers to itself"
            return 0
        try:
            view = _view(table, known, self._catalog, self._limits)
            height = 1
            if len(path) >= DEEPEST:
                raise _too_deep()
            for inner in view.reads:
                height = max(height, 1 + self.visit(inner, (*path, table)))
            if height > DEEPEST:
                raise _too_deep()
        except StatementRefused as e:
            self.refused[table] = e.message
            return 0
        if table not in self.refused:
            self.found[table], self._height[table] = view, height
        return height


def _view(table: TableName, known: CatalogObject, catalog: Catalog, limits: Limits) -> View:
    """Raises StatementRefused (VIEW_NOT_UNDERSTOOD)."""
    listed, analysis = _understood(table, known.definition or "", limits)
    columns = tuple(known.columns)
    if listed is not None and listed != columns:
        raise not_understood("has other columns than its text says; it was changed just now")
    width = _width(analysis, catalog)
    if width != len(columns):
        raise not_understood(
            f"shows {len(columns)} columns, but its query gives "
            + (f"{width}" if width is not None else "an unknown number")
        )
    return View(table, columns, analysis)


@lru_cache(maxsize=512)
def _understood(
    table: TableName, definition: str, limits: Limits
) -> tuple[tuple[str, ...] | None, Analysis]:
    """The columns that a view's text lists, and its query, analysed in the view's own schema.

    Unqualified names in a view mean its own schema, not the session's
    (https://docs.snowflake.com/en/sql-reference/sql/create-view). Raises StatementRefused.
    """
    text = read_view(definition, table, limits)
    try:
        analysis = analyse(text.query, NameContext(table.database, table.schema), limits)
    except StatementRefused as e:
        raise not_understood(f"has a query that Hoop does not serve: {e.message}") from None
    tree = analysis.tree
    if analysis.statement.kind is not Kind.SELECT or tree is None or analysis.statement.writes:
        raise not_understood("has a text that is not a query")
    if tree.find(exp.Placeholder) is not None:
        raise not_understood(
            "has a query with a bind variable, which would take the caller's value"
        )
    if any(metadata_view(t) is not None for t in analysis.tables):
        raise not_understood("has a query on INFORMATION_SCHEMA")
    if tree.find(*_OF_THE_PLACE) is not None:
        raise not_understood("has a query that depends on the current database or schema")
    return text.columns, analysis


def _width(analysis: Analysis, catalog: Catalog) -> int | None:
    """How many columns a query gives; None when that is not known for certain."""
    tree = analysis.tree
    shown = tree.selects if isinstance(tree, exp.Query) else []
    if not any(e.is_star for e in shown):
        return len(shown)
    traced = column_lineage(analysis, catalog)
    return None if not traced or any(c.output.endswith("*") for c in traced) else len(traced)


def _with_reads(
    statement: Statement, reads: set[TableName], views: Mapping[TableName, View]
) -> Statement:
    called = {f for v in views.values() for f in v.analysis.statement.functions}
    databases = {t.database for t in (*reads, *statement.writes)}
    return dataclasses.replace(
        statement,
        reads=tuple(sorted(reads)),
        functions=tuple(sorted(called.union(statement.functions))),
        facts={**statement.facts, "cross_database": len(databases) > 1},
    )


def _united(levels: Sequence[Trace]) -> Trace:
    """What is read on any level; the outputs must be the same on all of them."""
    read: dict[TableName, set[str]] = {}
    for level in levels:
        for table, names in level.columns:
            read.setdefault(table, set()).update(names)
    columns = tuple((t, tuple(sorted(c))) for t, c in sorted(read.items()))
    outputs = [[c.output for c in level.lineage] for level in levels]
    if any(o != outputs[0] for o in outputs):
        first = levels[0].lineage
        return Trace(columns, tuple(dataclasses.replace(c, unknown=True) for c in first))
    lineage = tuple(
        ColumnLineage(
            same[0].output,
            tuple(sorted({s for c in same for s in c.sources})),
            any(c.unknown for c in same),
        )
        for same in zip(*(level.lineage for level in levels), strict=True)
    )
    return Trace(columns, lineage)


def _masked(analysis: Analysis, plans: Plans) -> str:
    """The text with the masks of the given tables, verified against the statement."""
    mine = {t: p for t, p in plans.items() if t in analysis.tables}
    text = rewrite(analysis, mine)
    verify(text, statement=analysis.statement, plans=mine, original=analysis)
    return text


def _query(name: str, view: View, body: str) -> str:
    columns = ", ".join('"' + c.replace('"', '""') + '"' for c in view.columns)
    return f"(WITH {name} ({columns}) AS ({body}) SELECT {columns} FROM {name})"  # noqa: S608  quoted names and a verified query


def _unused(*analyses: Analysis) -> str:
    """A name that nothing in these texts begins with."""
    texts = [a.statement.sql.lower() for a in analyses]
    prefix = "_view"
    while any(prefix in t for t in texts):
        prefix = "_" + prefix
    return prefix


def _too_deep() -> StatementRefused:
    return not_understood(f"stands on more than {DEEPEST} views one upon the other")


def _doubt() -> StatementRefused:
    return refuse(
        "REWRITE_MISMATCH",
        "The views of the statement could not be expanded without a doubt about its meaning.",
        "Read the base tables instead.",
    )
