"""Which base columns a statement reads, and which ones each of its outputs is computed from.

Evidence, never a reason to relax a mask. An output whose sources cannot all be named is `unknown`, and
unknown means: assume every column of every table that the statement reads.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlglot import exp

from hoop_core.model import ColumnLineage, Kind, Statement, TableName
from hoop_core.sql.catalog import Catalog
from hoop_core.sql.names import fold
from hoop_core.sql.provenance import Walk
from hoop_core.sql.relations import ALL, UNTRACED, Columns, Outputs, Relation, Scope
from hoop_core.sql.statement import Analysis

_UNKNOWN = (ColumnLineage("*", (), unknown=True),)

_MOST_SOURCES = 20_000
"""Sources that all outputs may name together: `HASH(*)` a thousand times over a wide table names many."""

ColumnsRead = tuple[tuple[TableName, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class Trace:
    """`columns`: by table, those that the statement reads anywhere; "*" for any column of a table whose
    columns are not known. `lineage`: of each column that is returned or written.
    """

    columns: ColumnsRead = ()
    lineage: tuple[ColumnLineage, ...] = ()


def trace(analysis: Analysis, catalog: Catalog) -> Trace:
    """Over the caller's own text. Never raises: what cannot be traced reads everything."""
    tree = analysis.tree
    if tree is None:
        return Trace()
    columns = Columns(catalog)
    bases = {id(r.node): columns.base(r.table) for r in analysis.refs}
    try:
        walk = Walk(columns, bases)
        outputs = _of_statement(walk, analysis, tree, catalog)
    except Exception:  # also RecursionError
        return Trace(_by_table(columns, columns.everything), _UNKNOWN)
    return Trace(_by_table(columns, walk.read), _lineage(columns, outputs))


def any_column(statement: Statement) -> ColumnsRead:
    """Any column of every table: what must be assumed where nobody has looked."""
    return tuple((t, (ALL,)) for t in sorted({*statement.reads, *statement.writes}))


def column_lineage(analysis: Analysis, catalog: Catalog) -> tuple[ColumnLineage, ...]:
    """The lineage of what a statement returns or writes. Never raises."""
    return trace(analysis, catalog).lineage


def _by_table(columns: Columns, read: int) -> ColumnsRead:
    found: dict[TableName, tuple[str, ...]] = {}
    for table, names in columns.read(read):
        found[table] = found.get(table, ()) + names
    return tuple(sorted(found.items()))


def _lineage(columns: Columns, outputs: Outputs | None) -> tuple[ColumnLineage, ...]:
    if outputs is None:
        return _UNKNOWN
    found: list[ColumnLineage] = []
    room = _MOST_SOURCES
    for output, mask in outputs:
        room -= mask.bit_count()
        if room < 0:
            found.append(ColumnLineage(output, (), unknown=True))
            continue
        sources = tuple(
            sorted((t, c) for t, names in columns.read(mask) for c in names if c != ALL)
        )
        traced = not mask & (UNTRACED | columns.any_column)
        found.append(ColumnLineage(output, sources, unknown=not (traced and sources)))
    return tuple(found)


def _of_statement(
    walk: Walk, analysis: Analysis, tree: exp.Expr, catalog: Catalog
) -> Outputs | None:
    kind, statement = analysis.statement.kind, analysis.statement
    if kind is Kind.SELECT:
        relation = walk.query(tree, None, None)
        return _named(relation, []) if statement.reads else []
    if kind in {Kind.INSERT, Kind.INSERT_OVERWRITE, Kind.CREATE_TABLE_AS}:
        relation = walk.query(tree.expression, None, None)
        return _named(relation, _written(analysis, tree, catalog)) if statement.reads else []
    if kind is Kind.UPDATE:
        return _of_update(walk, tree)
    if kind is Kind.MERGE:
        return _of_merge(walk, analysis, tree, catalog)
    if kind is Kind.DELETE:
        scope = _target_scope(walk, tree)
        for other in tree.args.get("using") or ():
            walk.from_item(scope, other)
        walk.read_all(tree.args.get("where"), scope)
    return []


def _named(relation: Relation, written: list[str]) -> Outputs | None:
    """The outputs under the names of the written columns, else under those of the query itself."""
    if not relation.counted:
        return None
    outputs = relation.outputs
    if not relation.positional:
        outputs = [(name, mask | UNTRACED) for name, mask in outputs]
    if len(written) == len(outputs):
        return [(name, mask) for name, (_, mask) in zip(written, outputs, strict=True)]
    return [(name or f"_COL_{i}", mask) for i, (name, mask) in enumerate(outputs)]


def _written(analysis: Analysis, tree: exp.Expr, catalog: Catalog) -> list[str]:
    """The columns that INSERT or CREATE TABLE AS fills, in order; empty where they are not given."""
    if isinstance(tree.this, exp.Schema):
        return [
            fold(c.this if isinstance(c, exp.ColumnDef) else c)
            for c in tree.this.expressions
            if isinstance(c, exp.ColumnDef | exp.Identifier)
        ]
    if isinstance(tree, exp.Create):
        return []
    return list(catalog.columns(analysis.statement.writes[0]) or ())


def _target_scope(walk: Walk, tree: exp.Expr) -> Scope:
    scope = Scope(walk.columns, None)
    walk.from_item(scope, tree.this)
    return scope


def _of_update(walk: Walk, tree: exp.Expr) -> Outputs:
    scope = _target_scope(walk, tree)
    if tree.args.get("from_") is not None:
        walk.from_item(scope, tree.args["from_"].this)
    walk.read_all(tree.args.get("where"), scope)
    return [_assigned(walk, e, scope) for e in tree.expressions]


def _assigned(walk: Walk, assignment: exp.Expr, scope: Scope) -> tuple[str, int]:
    if not isinstance(assignment, exp.EQ) or not isinstance(assignment.this, exp.Column):
        raise ValueError("an assignment of an unknown form")
    return fold(assignment.this.this), walk.value(assignment.expression, scope)


def _of_merge(walk: Walk, analysis: Analysis, tree: exp.Expr, catalog: Catalog) -> Outputs:
    scope = _target_scope(walk, tree)
    walk.from_item(scope, tree.args["using"])
    walk.read_all(tree.args.get("on"), scope)
    listed = list(catalog.columns(analysis.statement.writes[0]) or ())
    masks: dict[str, int] = {}
    for when in tree.args["whens"].expressions:
        walk.read_all(when.args.get("condition"), scope)
        then = when.args.get("then")
        for name, mask in _of_branch(walk, then, scope, listed):
            masks[name] = masks.get(name, 0) | (mask or UNTRACED)
    return sorted(masks.items())


def _of_branch(walk: Walk, then: object, scope: Scope, listed: list[str]) -> Outputs:
    if isinstance(then, exp.Update):
        return [_assigned(walk, e, scope) for e in then.expressions]
    if isinstance(then, exp.Insert) and isinstance(then.expression, exp.Tuple):
        masks = [walk.value(v, scope) for v in then.expression.expressions]
        names = listed
        if isinstance(then.this, exp.Tuple):
            names = [fold(c.this) for c in then.this.expressions]
        if len(names) == len(masks):
            return list(zip(names, masks, strict=True))
        return [("*", UNTRACED)]
    if isinstance(then, exp.Var) and then.name.upper() == "DELETE":
        return []
    raise ValueError("a branch of an unknown form")
