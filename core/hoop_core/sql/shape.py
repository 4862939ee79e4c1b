"""The roots that Hoop serves: which kind of statement a tree is, what it writes, what is risky in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sqlglot import exp

from hoop_core.model import Kind
from hoop_core.sql import nodes
from hoop_core.sql.refusals import refuse

UNBOUNDED = 2**53 - 1
"""A number of rows or bytes that nothing bounds or that nobody knows: the highest that JSON carries."""


@dataclass(frozen=True, slots=True)
class Shape:
    """`target` is the one table that the statement changes."""

    kind: Kind
    allowed: frozenset[type[exp.Expr]] = field(repr=False)
    target: exp.Table | None = None
    facts: dict[str, bool | int] = field(default_factory=dict)


def shape_of(tree: exp.Expr) -> Shape:
    """Raises StatementRefused (UNSERVED_STATEMENT, UNKNOWN_SYNTAX) for everything that is not served."""
    for root, read in _ROOTS:
        if isinstance(tree, root):
            return read(tree)
    raise refuse(
        "UNSERVED_STATEMENT",
        "This kind of statement is not served through Hoop.",
        "Served: queries, INSERT, UPDATE, DELETE, MERGE, TRUNCATE, CREATE/ALTER/DROP TABLE, PUT, COPY INTO a "
        "table, SHOW, DESCRIBE, USE, ALTER SESSION, transactions.",
    )


def _query(tree: exp.Expr) -> Shape:
    selects = _branches(tree)
    where = bool(selects) and all(s.args.get("where") for s in selects)
    limits = [_limited_to(tree)]
    if limits[0] is None:
        limits = [_limited_to(s) for s in selects] or [None]
    rows = None if None in limits else min(sum(n or 0 for n in limits), UNBOUNDED)
    facts: dict[str, bool | int] = {
        "has_where": where,
        "has_limit": rows is not None,
        "limit_rows": UNBOUNDED if rows is None else rows,
        "is_unbounded": not where and rows is None,
    }
    return Shape(Kind.SELECT, nodes.QUERY, None, facts)


def _limited_to(query: exp.Expr) -> int | None:
    """The most rows that LIMIT, TOP or FETCH lets through: UNBOUNDED when a bind variable says it, None
    without any. NULL and strings are no limit (https://docs.snowflake.com/en/sql-reference/constructs/limit).
    """
    limit = query.args.get("limit")
    if limit is None:
        return None
    count = (
        limit.args.get("count") if isinstance(limit, exp.Fetch) else limit.args.get("expression")
    )
    if isinstance(count, exp.Literal):
        return min(int(count.name), UNBOUNDED) if count.name.isdecimal() and count.is_int else None
    return UNBOUNDED if isinstance(count, exp.Placeholder) else None


def _branches(tree: exp.Expr) -> list[exp.Select]:
    """The SELECTs whose rows a query returns, through parentheses and set operations."""
    found: list[exp.Select] = []
    todo = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, exp.SetOperation):
            todo += [node.this, node.expression]
        elif isinstance(node, exp.Subquery):
            todo.append(node.this)
        elif isinstance(node, exp.Select):
            found.append(node)
    return found


def _target(node: object) -> exp.Table:
    inner = node.this if isinstance(node, exp.Schema) else node
    if not isinstance(inner, exp.Table):
        raise refuse("INDIRECT_TABLE", "The table to change is not given by its name.")
    return inner


def _insert(tree: exp.Expr) -> Shape:
    nodes.only(tree, "this expression overwrite")
    if not isinstance(tree.expression, exp.Query | exp.Values):
        raise refuse("UNKNOWN_SYNTAX", "INSERT needs VALUES or a query.")
    overwrite = bool(tree.args.get("overwrite"))
    kind = Kind.INSERT_OVERWRITE if overwrite else Kind.INSERT
    return Shape(kind, nodes.CHANGE, _target(tree.this), {"is_unbounded": overwrite})


def _update(tree: exp.Expr) -> Shape:
    nodes.only(tree, "this expressions from_ where")
    return Shape(Kind.UPDATE, nodes.CHANGE, _target(tree.this), _bounds(tree))


def _delete(tree: exp.Expr) -> Shape:
    nodes.only(tree, "this using where")
    return Shape(Kind.DELETE, nodes.CHANGE, _target(tree.this), _bounds(tree))


def _merge(tree: exp.Expr) -> Shape:
    nodes.only(tree, "this using on whens")
    on = tree.args.get("on")
    if not isinstance(on, exp.Expr):
        raise refuse("UNKNOWN_SYNTAX", "MERGE needs ON and a condition.")
    joined = _narrows(on)
    matched = [w for w in tree.find_all(exp.When) if w.args.get("matched")]
    bounded = all(w.args.get("condition") and _narrows(w.args["condition"]) for w in matched)
    facts: dict[str, bool | int] = {
        "has_where": joined,
        "is_unbounded": bool(matched) and not joined and not bounded,
    }
    return Shape(Kind.MERGE, nodes.CHANGE, _target(tree.this), facts)


def _truncate(tree: exp.Expr) -> Shape:
    nodes.only(tree, "expressions exists")
    target = _single(tree.expressions)
    facts: dict[str, bool | int] = {
        "is_unbounded": True,
        "if_exists": bool(tree.args.get("exists")),
    }
    return Shape(Kind.TRUNCATE, nodes.CHANGE, target, facts)


def _single(tables: list[exp.Expr]) -> exp.Table:
    if len(tables) != 1:
        raise refuse("UNKNOWN_SYNTAX", "Only one table at a time can be changed.")
    return _target(tables[0])


def _create(tree: exp.Expr) -> Shape:
    nodes.only(tree, "this kind expression exists properties replace")
    if str(tree.args.get("kind") or "").upper() != "TABLE":
        raise refuse(
            "UNSERVED_STATEMENT",
            "Only tables can be created through Hoop.",
            "Ask an administrator for views, stages, functions and other objects.",
        )
    query = tree.args.get("expression")
    if query is None and not isinstance(tree.this, exp.Schema):
        raise refuse("UNKNOWN_SYNTAX", "CREATE TABLE needs a list of columns or AS SELECT.")
    if query is not None and not isinstance(query, exp.Query):
        raise refuse("UNKNOWN_SYNTAX", "CREATE TABLE ... AS needs a query.")
    properties = tree.args.get("properties")
    facts: dict[str, bool | int] = {
        "replaces": bool(tree.args.get("replace")),
        "if_exists": bool(tree.args.get("exists")),
        "temporary": properties is not None
        and any(isinstance(p, exp.TemporaryProperty) for p in properties.expressions),
    }
    if facts["temporary"] and facts["if_exists"]:
        raise refuse(
            "UNSERVED_STATEMENT",
            "CREATE TEMPORARY TABLE IF NOT EXISTS is not served: what is there may be another table.",
            "Leave IF NOT EXISTS out, or write CREATE OR REPLACE TEMPORARY TABLE.",
        )
    kind = Kind.CREATE_TABLE if query is None else Kind.CREATE_TABLE_AS
    return Shape(kind, nodes.DEFINE, _target(tree.this), facts)


def _alter(tree: exp.Expr) -> Shape:
    nodes.only(tree, "this kind actions exists")
    if str(tree.args.get("kind") or "").upper() != "TABLE":
        raise refuse("UNSERVED_STATEMENT", "Only tables can be altered through Hoop.")
    actions = tree.args.get("actions") or []
    for action in actions:
        column_drop = (
            isinstance(action, exp.Drop) and str(action.args.get("kind")).upper() == "COLUMN"
        )
        if not (column_drop or isinstance(action, exp.ColumnDef | exp.RenameColumn)):
            raise refuse(
                "UNSERVED_STATEMENT",
                "This form of ALTER TABLE is not served through Hoop.",
                "Served: ADD COLUMN, DROP COLUMN, RENAME COLUMN.",
            )
    if not actions:
        raise refuse("UNKNOWN_SYNTAX", "ALTER TABLE without a change that Hoop understands.")
    dropping = any(isinstance(a, exp.Drop) for a in actions)
    return Shape(Kind.ALTER_TABLE, nodes.DEFINE, _target(tree.this), {"is_unbounded": dropping})


def _drop(tree: exp.Expr) -> Shape:
    nodes.only(tree, "tables kind exists cascade restrict")
    if str(tree.args.get("kind") or "").upper() != "TABLE":
        raise refuse("UNSERVED_STATEMENT", "Only tables can be dropped through Hoop.")
    facts: dict[str, bool | int] = {
        "is_unbounded": True,
        "if_exists": bool(tree.args.get("exists")),
    }
    return Shape(Kind.DROP_TABLE, nodes.DEFINE, _single(tree.args.get("tables") or []), facts)


def _bounds(tree: exp.Expr) -> dict[str, bool | int]:
    where = tree.args.get("where")
    return {
        "has_where": where is not None,
        "is_unbounded": where is None or not _narrows(where.this),
    }


def _narrows(condition: exp.Expr) -> bool:
    """Whether a condition depends on the row at all: `1 = 1`, `id = id` and `x OR TRUE` do not.

    A help against careless texts, not a proof: `id IS NOT NULL` counts as narrowing.
    """
    while isinstance(condition, exp.Paren):
        condition = condition.this
    if isinstance(condition, exp.And):
        return _narrows(condition.this) or _narrows(condition.expression)
    if isinstance(condition, exp.Or):
        return _narrows(condition.this) and _narrows(condition.expression)
    if isinstance(condition, exp.EQ | exp.GTE | exp.LTE | exp.NullSafeEQ):
        left, right = condition.this, condition.expression
        if left.sql(dialect="snowflake") == right.sql(dialect="snowflake"):
            return False
    return condition.find(exp.Column) is not None


_ROOTS: tuple[tuple[type[exp.Expr], Callable[[exp.Expr], Shape]], ...] = (
    (exp.Select, _query),
    (exp.SetOperation, _query),
    (exp.Subquery, _query),
    (exp.Insert, _insert),
    (exp.Update, _update),
    (exp.Delete, _delete),
    (exp.Merge, _merge),
    (exp.TruncateTable, _truncate),
    (exp.Create, _create),
    (exp.Alter, _alter),
    (exp.Drop, _drop),
)
