"""Which outputs of a query are a base table's column as it is: only of these can be told what a mask makes of them.

Everything that is not plain to see (expressions, set operations, views, joins that merge columns, names that could
mean two things) is no direct output. So this leaves checks out, and makes none that would be wrong.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlglot import exp

from hoop_core.errors import StatementRefused
from hoop_core.model import Kind, TableName
from hoop_core.sql.catalog import Catalog
from hoop_core.sql.names import fold
from hoop_core.sql.statement import Analysis

Source = tuple[TableName, str]
_Env = Mapping[str, exp.Expr]
_DEEPEST = 50


def direct_outputs(analysis: Analysis, catalog: Catalog, outputs: list[str]) -> list[Source | None]:
    """By output, in order: the base column that it is; None where it is none, or that is not certain."""
    tree = analysis.tree
    if analysis.statement.kind is not Kind.SELECT or tree is None:
        return [None] * len(outputs)
    walk = _Walk({id(r.node): r.table for r in analysis.refs}, catalog)
    found: list[Source | None] = []
    for name in outputs:
        if outputs.count(name) > 1:
            found.append(None)
            continue
        try:
            found.append(walk.output(tree, name, {}, 0))
        except (StatementRefused, RecursionError, AttributeError, KeyError):
            found.append(None)
    return found


class _Walk:
    def __init__(self, bases: Mapping[int, TableName], catalog: Catalog) -> None:
        self._bases, self._catalog = bases, catalog

    def output(self, query: exp.Expr, name: str, env: _Env, depth: int) -> Source | None:
        """What the column `name` of a query's result is."""
        if depth > _DEEPEST:
            return None
        if isinstance(query, exp.Subquery) and not _clauses(query):
            return self.output(query.this, name, env, depth + 1)
        if not isinstance(query, exp.Select):
            return None
        with_ = query.args.get("with_")
        if with_ is not None:
            if with_.args.get("recursive"):
                return None
            env = {**env, **{fold(c.args["alias"].this): c for c in with_.expressions}}
        if query.args.get("match") or query.args.get("laterals"):
            return None
        named = [p for p in query.expressions if _named(p) == name]
        stars = [p for p in query.expressions if p.is_star]
        if len(named) == 1 and not stars:
            column = named[0].this if isinstance(named[0], exp.Alias) else named[0]
            if not isinstance(column, exp.Column):
                return None
            return self._column(query, fold(column.this), _qualifier(column), env, depth)
        if not named and len(stars) == 1 and type(stars[0]) is exp.Star and not _changed(stars[0]):
            return self._column(query, name, None, env, depth)
        return None

    def _column(
        self, query: exp.Select, name: str, alias: str | None, env: _Env, depth: int
    ) -> Source | None:
        """A column of what stands in FROM. Without an alias, only where one relation stands there."""
        from_ = query.args.get("from_")
        joins = query.args.get("joins") or []
        if from_ is None or any(j.args.get("using") or j.args.get("method") for j in joins):
            return None
        items = [from_.this, *(j.this for j in joins)]
        if alias is not None:
            items = [i for i in items if _called(i) == alias]
        if len(items) != 1:
            return None
        return self._of(items[0], name, env, depth + 1)

    def _of(self, item: exp.Expr, name: str, env: _Env, depth: int) -> Source | None:
        alias = item.args.get("alias")
        if item.args.get("pivots") or item.args.get("joins"):
            return None
        if isinstance(alias, exp.TableAlias) and alias.args.get("columns"):
            return None
        if isinstance(item, exp.Table):
            table = self._bases.get(id(item))
            if table is not None:
                known = self._catalog.get(table)
                whole = known is not None and known.definition is None and name in known.columns
                return (table, name) if whole else None
            bound = env.get(fold(item.this))
            if bound is None or bound.args["alias"].args.get("columns"):
                return None
            # what a CTE sees are those before it; that names nothing else, as none is recursive
            return self.output(bound.this, name, env, depth + 1)
        if isinstance(item, exp.Subquery):
            return self.output(item.this, name, env, depth + 1)
        return None


def _named(projection: exp.Expr) -> str | None:
    if isinstance(projection, exp.Alias):
        return fold(projection.args["alias"])
    if isinstance(projection, exp.Column) and isinstance(projection.this, exp.Identifier):
        return fold(projection.this)
    return None


def _called(item: exp.Expr) -> str | None:
    alias = item.args.get("alias")
    if isinstance(alias, exp.TableAlias) and alias.this is not None:
        return fold(alias.this)
    return fold(item.this) if isinstance(item, exp.Table) else None


def _changed(star: exp.Expr) -> bool:
    return any(star.args.get(k) for k in ("except_", "replace", "rename"))


def _clauses(query: exp.Subquery) -> bool:
    return any(v for k, v in query.args.items() if k not in {"this", "alias"})


def _qualifier(column: exp.Column) -> str | None:
    table = column.args.get("table")
    return None if table is None else fold(table)
