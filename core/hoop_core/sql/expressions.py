"""The base columns that an expression is computed from."""

from __future__ import annotations

from abc import ABC, abstractmethod

from sqlglot import exp

from hoop_core.sql.names import fold
from hoop_core.sql.relations import UNTRACED, Columns, Relation, Scope, opaque

Env = tuple[dict[str, Relation], "Env"] | None
"""Visible common table expressions, innermost first."""

_NOTHING: frozenset[str] = frozenset()
_Column, _Expr, _Identifier = exp.Column, exp.Expr, exp.Identifier  # looked at for every node

_NO_COLUMNS = frozenset(
    {
        *("ALL", "DEFAULT", "LEVEL"),
        *("YEAR", "QUARTER", "MONTH", "WEEK", "WEEKISO", "DAY", "DAYOFMONTH", "DAYOFWEEK"),
        *("DAYOFWEEKISO", "DAYOFYEAR", "YEAROFWEEK", "YEAROFWEEKISO", "HOUR", "MINUTE", "SECOND"),
        *("MILLISECOND", "MICROSECOND", "NANOSECOND", "EPOCH_SECOND", "EPOCH_MILLISECOND"),
        *("EPOCH_MICROSECOND", "EPOCH_NANOSECOND"),
    }
)
"""Words that mean no column where no relation has one of this name."""

_LEAVES: frozenset[type] = frozenset(
    {
        exp.Literal,
        exp.DataType,
        exp.Null,
        exp.Boolean,
        exp.Placeholder,
        exp.RawString,
        exp.HexString,
        type(None),
        bool,
        str,
    }
)
_APART: frozenset[type] = _LEAVES | {
    exp.Identifier,
    exp.Var,
    exp.Star,
    exp.Parameter,
    exp.Count,
    exp.Table,
    exp.Select,
    exp.Union,
    exp.Except,
    exp.Intersect,
    exp.Subquery,
    exp.Alias,
    exp.PivotAlias,
    exp.Dot,
    exp.Kwarg,
    exp.PropertyEQ,
    exp.Lambda,
}


class Expressions(ABC):
    """The state of one walk. `read` is the set of base columns read so far."""

    def __init__(self, columns: Columns, bases: dict[int, Relation]) -> None:
        self.columns = columns
        self.read = 0
        self._bases = bases
        """By the id of the node that names it: what is no name of a CTE."""

    @abstractmethod
    def query(self, node: exp.Expr, env: Env, outer: Scope | None) -> Relation:
        """The result of a query."""

    @abstractmethod
    def bindings(self, with_: exp.Expr, env: Env, outer: Scope | None) -> Env:
        """The CTEs of a WITH, in front of those that are visible already."""

    def unknown(self) -> Relation:
        """Something that this walk does not know: anything may be in it."""
        self.read |= self.columns.everything
        return opaque(self.columns.everything | UNTRACED)

    def read_all(self, value: object, scope: Scope, env: Env = None) -> None:
        """Everything in a clause counts as read."""
        for node in value if isinstance(value, list) else [value]:
            if isinstance(node, exp.Expr):
                self.value(node, scope, env)

    def value(
        self,
        root: exp.Expr,
        scope: Scope,
        env: Env = None,
        bound: frozenset[str] = _NOTHING,
        *,
        unqualified: bool = False,
    ) -> int:
        """The columns that an expression is computed from; they count as read.

        `bound` are the parameters of lambdas around it. `unqualified`: qualifiers are pattern variables.
        """
        mask = 0
        todo: list[exp.Expr] = [root]
        pop, push = todo.pop, todo.append
        while todo:
            node = pop()
            kind = node.__class__
            if kind is _Column:
                mask |= self._column(node, scope, bound, unqualified=unqualified)
                continue
            if kind in _APART:
                if kind in _LEAVES:
                    continue
                if kind is exp.Lambda:
                    params = bound.union(
                        fold(p) for p in node.expressions if type(p) is _Identifier
                    )
                    mask |= self.value(node.this, scope, env, params, unqualified=unqualified)
                    continue
                found = self._apart(node, kind, scope, env, bound)
                if found is not None:
                    mask |= found
                    continue
            names = _NAMES.get(kind)
            for name, child in node.args.items():
                of = child.__class__
                if of is list:
                    todo += [c for c in child if isinstance(c, _Expr)]
                elif (
                    of not in _LEAVES
                    and isinstance(child, _Expr)
                    and (names is None or name != names or of not in _WORDS)
                ):
                    push(child)
        self.read |= mask
        return mask

    def _apart(
        self, node: exp.Expr, kind: type, scope: Scope, env: Env, bound: frozenset[str]
    ) -> int | None:
        """Nodes that are more than the sum of their parts; None for those that are not after all."""
        if kind in _WORDS:
            name = fold(node) if kind is _Identifier else node.name.upper()
            return 0 if name in bound else scope.find(name) or 0
        if kind is exp.Star or kind is exp.Parameter:
            return self._by_place(node, scope)
        if kind is exp.Count:
            star = node.this
            plain = type(star) is exp.Star and not any(star.args.values())
            return UNTRACED if plain else None
        if kind is exp.Table:
            return self.unknown().everything
        if kind in _NAMES:
            return None
        before, self.read = self.read, 0
        relation = self.query(node, env, scope)
        inside = self.read | relation.everything
        self.read |= before
        return inside or UNTRACED

    def _column(
        self, node: exp.Expr, scope: Scope, bound: frozenset[str], *, unqualified: bool
    ) -> int:
        args = node.args
        this, table = args["this"], args.get("table")
        if type(this) is not _Identifier:
            called = scope if table is None else scope.narrowed(fold(table))
            return self._by_place(this, called)
        given = this.args
        name = given["this"] if given.get("quoted") else given["this"].upper()
        if table is None or unqualified:
            found = scope.find(name)
        else:
            found = scope.find_in(fold(table), name)
        if found is not None:
            return found
        if table is None and (name in bound or (name in _NO_COLUMNS and not given.get("quoted"))):
            return UNTRACED
        self.read |= self.columns.everything
        return UNTRACED | scope.newer(name)

    def _by_place(self, node: exp.Expr, scope: Scope) -> int:
        """`*` inside an expression, and `$n`."""
        if not scope.relations:
            self.read |= self.columns.everything
            return UNTRACED
        if isinstance(node, exp.Parameter) and len(scope.relations) == 1:
            relation, text = scope.relations[0], node.this.name
            if relation.positional and text.isdigit() and 1 <= int(text) <= len(relation.outputs):
                return relation.outputs[int(text) - 1][1] or UNTRACED
        return scope.everything() or UNTRACED


_WORDS: frozenset[type] = frozenset({exp.Identifier, exp.Var})
_NAMES: dict[type, str] = {
    exp.Alias: "alias",
    exp.PivotAlias: "alias",
    exp.Dot: "expression",
    exp.Kwarg: "this",
    exp.PropertyEQ: "this",
}
"""Where a word in a node is the name of something else than a column."""
