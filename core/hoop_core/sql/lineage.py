"""Which base columns each output column depends on. Evidence, never a reason to relax a mask.

What sqlglot cannot trace (`*` inside a function, `$3`, recursive parts) comes back as unknown, and
unknown means: assume every column of every table that the statement reads.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlglot import exp
from sqlglot.lineage import Node, lineage
from sqlglot.optimizer import build_scope
from sqlglot.optimizer.qualify import qualify
from sqlglot.schema import MappingSchema

from hoop_core.model import ColumnLineage, Kind, TableName
from hoop_core.sql.catalog import Catalog
from hoop_core.sql.limits import SNOWFLAKE
from hoop_core.sql.names import fold
from hoop_core.sql.statement import Analysis

_ROWS = {Kind.SELECT, Kind.INSERT, Kind.INSERT_OVERWRITE, Kind.CREATE_TABLE_AS}
_UNKNOWN = (ColumnLineage("*", (), unknown=True),)
_MOST_TOKENS = 4_000
"""Qualifying costs more than linear time: beyond this, lineage is unknown rather than slow."""


def column_lineage(analysis: Analysis, catalog: Catalog) -> tuple[ColumnLineage, ...]:
    """The lineage of what a statement returns or writes, over the caller's own text. Never raises."""
    statement = analysis.statement
    if analysis.tree is None or not statement.reads:
        return ()
    if len(analysis.tokens) > _MOST_TOKENS:
        return _UNKNOWN
    try:
        if statement.kind in _ROWS:
            return _of_rows(analysis, catalog)
        return _of_assignments(analysis.tree)
    except (
        Exception
    ):  # also RecursionError: lineage is evidence beside the decision, not part of it
        return _UNKNOWN


def _of_rows(analysis: Analysis, catalog: Catalog) -> tuple[ColumnLineage, ...]:
    tree = _with_full_names(analysis)
    query = tree if isinstance(tree, exp.Query) else tree.expression
    if not isinstance(query, exp.Query):
        return _UNKNOWN
    schema = _schema(analysis.statement.reads, catalog)
    qualified = qualify(
        query,
        dialect="snowflake",
        schema=schema,
        validate_qualify_columns=False,
        identify=False,
        quote_identifiers=False,
    )
    scope = build_scope(qualified)
    traced = lineage(
        None,
        qualified,
        schema,
        dialect="snowflake",
        scope=scope,
        copy=False,
        trim_selects=False,  # trimming copies every query once per column
    )
    names = [s.alias_or_name for s in qualified.selects]
    twice = {
        n for n in names if names.count(n) > 1
    }  # `lineage` answers by name: it cannot tell them apart
    return tuple(
        ColumnLineage(output, (), unknown=True) if name in twice else _column(output, traced[name])
        for output, name in zip(_outputs(tree, names), names, strict=True)
    )


def _with_full_names(analysis: Analysis) -> exp.Expr:
    # parsing again is cheaper than copying; the places of the names tell which node is which
    tree = SNOWFLAKE.parser().parse(list(analysis.tokens), analysis.statement.sql)[0]
    if tree is None:
        raise ValueError("the statement cannot be read twice")
    refs = {r.start: r.table for r in analysis.refs}
    for node in list(tree.find_all(exp.Table)):
        parts = (node.args.get("catalog"), node.args.get("db"), node.this)
        starts = [p.meta["start"] for p in parts if p is not None and "start" in p.meta]
        table = refs.get(min(starts, default=-1))
        if table is None:
            continue
        if not node.args.get("alias") and not node.args.get("pivots"):
            name = exp.Identifier(this=table.name, quoted=True)
            node.set("alias", exp.TableAlias(this=name))
        for part, text in zip(
            ("this", "db", "catalog"), (table.name, table.schema, table.database), strict=True
        ):
            node.set(part, exp.Identifier(this=text, quoted=True))
    return tree


def _schema(tables: Iterable[TableName], catalog: Catalog) -> MappingSchema:
    # without normalising: the catalog already holds stored names
    schema = MappingSchema(dialect="snowflake", normalize=False)
    for table in tables:
        columns = catalog.columns(table)
        if columns:
            schema.add_table(
                exp.Table(
                    this=exp.Identifier(this=table.name, quoted=True),
                    db=exp.Identifier(this=table.schema, quoted=True),
                    catalog=exp.Identifier(this=table.database, quoted=True),
                ),
                dict.fromkeys(columns, "VARCHAR"),
                dialect="snowflake",
            )
    return schema


def _outputs(tree: exp.Expr, names: list[str]) -> list[str]:
    """The written columns where the statement lists them, else the names of the query's own columns."""
    if isinstance(tree, exp.Insert | exp.Create) and isinstance(tree.this, exp.Schema):
        listed = [
            fold(c.this if isinstance(c, exp.ColumnDef) else c)
            for c in tree.this.expressions
            if isinstance(c, exp.ColumnDef | exp.Identifier)
        ]
        if len(listed) == len(names):
            return listed
    return names


def _column(name: str, root: Node) -> ColumnLineage:
    sources: set[tuple[TableName, str]] = set()
    unknown = False
    for node in root.walk():
        if isinstance(node.expression, exp.Table):
            table = node.expression
            column = node.name.rsplit(".", 1)[-1].strip('"')
            unknown = unknown or column == "*"
            sources.add((TableName(table.catalog, table.db, table.name), column))
        elif node.expression.find(exp.Star, exp.Parameter) is not None:
            unknown = True
    return ColumnLineage(name, tuple(sorted(sources)), unknown=unknown or not sources)


def _of_assignments(tree: exp.Expr) -> tuple[ColumnLineage, ...]:
    """UPDATE and MERGE: the written columns, their sources not traced."""
    names: set[str] = set()
    for update in tree.find_all(exp.Update):
        names |= {fold(e.this.this) for e in update.expressions if isinstance(e.this, exp.Column)}
    for insert in tree.find_all(exp.Insert):
        if isinstance(insert.this, exp.Tuple):
            names |= {fold(c.this) for c in insert.this.expressions if isinstance(c, exp.Column)}
    return tuple(ColumnLineage(n, (), unknown=True) for n in sorted(names))
