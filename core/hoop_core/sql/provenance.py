"""Where every value of a statement comes from: one walk over the tree, from the tables outward.

The walk answers two questions at once: which base columns the statement reads anywhere, and which ones
each output is computed from. It over-approximates: a name that it cannot resolve may be any column, and
a value that it cannot trace is marked `UNTRACED`. Only how values are computed counts for an output; which
rows there are (WHERE, joins, grouping) counts as read. The value of a subquery inside an expression
depends on all that the subquery reads.

The cost is linear in the size of the tree: no copies, no rewriting, no pass per column.
"""

from __future__ import annotations

from sqlglot import exp

from hoop_core.sql.expressions import Env
from hoop_core.sql.names import fold
from hoop_core.sql.relations import (
    MOST_OUTPUTS,
    UNTRACED,
    Outputs,
    Relation,
    Scope,
    of_outputs,
    opaque,
    renamed,
    united,
)
from hoop_core.sql.sources import NOT_CLAUSES, Sources

_STAR_CHANGES = frozenset({"except_", "replace", "rename"})
_MOST_RECURSIVE = 64
"""Columns of a recursive CTE that are kept apart."""


class Walk(Sources):
    """Queries. What a statement of another kind is made of is `lineage`'s to know."""

    def query(self, node: exp.Expr, env: Env, outer: Scope | None) -> Relation:
        """The result of a SELECT, a set operation, VALUES, or one of these in parentheses."""
        if isinstance(node, exp.Subquery):
            scope = Scope(self.columns, outer)
            self.from_item(scope, node, env)
            return self.star_of(scope)
        with_ = node.args.get("with_")
        if with_ is not None:
            env = self.bindings(with_, env, outer)
        if isinstance(node, exp.Select):
            return self._select(node, env, outer)
        if isinstance(node, exp.SetOperation):
            return self._set_operation(node, env, outer)
        if isinstance(node, exp.Values):
            return self.values(node, env, outer)
        return self.unknown()

    def _set_operation(self, node: exp.SetOperation, env: Env, outer: Scope | None) -> Relation:
        spine = [node]  # long chains lean to the left: down without recursion
        while isinstance(spine[-1].this, exp.SetOperation) and not spine[-1].this.args.get("with_"):
            spine.append(spine[-1].this)
        relation = self.query(spine[-1].this, env, outer)
        for step in reversed(spine):
            right = self.query(step.expression, env, outer)
            relation = self._combined(step, relation, right)
            relation = self._modified(step, relation, env, outer)
        return relation

    def _combined(self, node: exp.SetOperation, left: Relation, right: Relation) -> Relation:
        return united(left, right, by_name=bool(node.args.get("by_name")))

    def _modified(
        self, node: exp.Expr, relation: Relation, env: Env, outer: Scope | None
    ) -> Relation:
        """ORDER BY, LIMIT and the like of a whole set operation: they see its output columns."""
        scope = None
        for name, value in node.args.items():
            if value and name not in NOT_CLAUSES and not isinstance(value, bool | str):
                if scope is None:
                    scope = Scope(self.columns, outer)
                    scope.add(relation, "")
                self.read_all(value, scope, env)
        return relation

    def bindings(self, with_: exp.Expr, env: Env, outer: Scope | None) -> Env:
        frame: dict[str, Relation] = {}
        inner: Env = (frame, env)
        recursive = bool(with_.args.get("recursive"))
        for cte in with_.expressions:
            alias = cte.args["alias"]
            names = [fold(c) for c in alias.args.get("columns") or ()]
            own = fold(alias.this)
            frame[own] = self._cte(cte.this, own, names, inner, outer, recursive=recursive)
        return inner

    def _cte(
        self,
        body: exp.Expr,
        own: str,
        names: list[str],
        env: Env,
        outer: Scope | None,
        *,
        recursive: bool,
    ) -> Relation:
        """A CTE may name itself: everywhere if RECURSIVE is written, else in the right branch only."""
        without = opaque(self.columns.everything | UNTRACED)  # naming itself before there is a row
        before: Env = ({own: without}, env) if recursive else env
        if not isinstance(body, exp.SetOperation):
            return renamed(self.query(body, before, outer), names)
        with_ = body.args.get("with_")
        inner = None if with_ is None else self.bindings(with_, before, outer)
        anchor = renamed(self.query(body.this, inner or before, outer), names)
        stand_in = self._stand_in(anchor)
        inside: Env = ({own: stand_in}, env)
        if inner is not None:
            inside = (inner[0], inside)
        right = self.query(body.expression, inside, outer)
        relation = self._closed(self._combined(body, anchor, right), stand_in)
        return self._modified(body, relation, inside, outer)

    def _stand_in(self, anchor: Relation) -> Relation:
        """What a CTE's own name means inside it: one fresh bit for each column."""
        if anchor.positional and len(anchor.outputs) <= _MOST_RECURSIVE:
            return of_outputs([(name, self.columns.fresh()) for name, _ in anchor.outputs])
        return opaque(self.columns.fresh())

    def _closed(self, relation: Relation, stand_in: Relation) -> Relation:
        """Replace the fresh bits in a recursive result by what their columns turn out to be."""
        if not relation.everything & stand_in.everything:
            return relation
        bits = ~stand_in.everything
        if not (relation.positional and stand_in.positional):
            return opaque(relation.everything & bits)
        masks = [m for _, m in relation.outputs]
        own = [bit for _, bit in stand_in.outputs]
        changed = True
        while changed:
            changed = False
            for i, mask in enumerate(masks):
                for j, bit in enumerate(own):
                    if mask & bit:
                        mask |= masks[j]  # noqa: PLW2901
                if mask != masks[i]:
                    masks[i], changed = mask, True
        names = [n for n, _ in relation.outputs]
        return of_outputs([(n, m & bits) for n, m in zip(names, masks, strict=True)])

    def _select(self, node: exp.Select, env: Env, outer: Scope | None) -> Relation:
        scope = Scope(self.columns, outer)
        args = node.args
        from_ = args.get("from_")
        if from_ is not None:
            self.from_item(scope, from_.this, env)
        for join in args.get("joins") or ():
            self._join(scope, join, env)
        for lateral in args.get("laterals") or ():
            self.from_item(scope, lateral, env)
        match = args.get("match")
        if match is not None:
            scope = self._matched(scope, match, env)
        relation = self._select_list(node, scope, env)
        for name, value in args.items():
            if value and name not in NOT_CLAUSES and not isinstance(value, bool | str):
                self.read_all(value, scope, env)
        return relation

    def _select_list(self, node: exp.Select, scope: Scope, env: Env) -> Relation:
        items: list[exp.Expr] = node.expressions
        aliases = scope.aliases
        for item in items:
            if type(item) is exp.Alias:
                aliases[fold(item.args["alias"])] = None
        outputs: Outputs = []
        loose: list[Relation] = []
        for item in items:
            kind = type(item)
            if kind is exp.Star or (kind is exp.Column and type(item.this) is exp.Star):
                self._star(item, scope, env, outputs, loose)
                continue
            value = item.args["this"] if kind is exp.Alias else item
            mask = self.value(value, scope, env)
            name = ""
            if kind is exp.Alias:
                name = fold(item.args["alias"])
                known = aliases.get(name)
                aliases[name] = mask if known is None else known | mask
                if type(value) is exp.Column and value.name.upper() == "PRIOR":
                    # `PRIOR c`, which the parser takes for `PRIOR AS c`
                    self.value(exp.column(item.args["alias"].copy()), scope, env)
            elif kind is exp.Column and type(item.this) is exp.Identifier:
                name = fold(item.this)
            outputs.append((name, mask))
        if not loose:
            return of_outputs(outputs)
        return _loose(outputs, loose)

    def _star(
        self, item: exp.Expr, scope: Scope, env: Env, outputs: Outputs, loose: list[Relation]
    ) -> None:
        """`*` and `t.*`, with EXCLUDE, RENAME, REPLACE and ILIKE."""
        star = item if isinstance(item, exp.Star) else item.this
        if star is item:
            relation = self.star_of(scope)
        else:
            called = scope.called(fold(item.args["table"]))
            relation = called[0] if len(called) == 1 else self.unknown()
        changes = set(filter(star.args.get, star.args))
        if relation.counted and not relation.positional:
            loose.append(opaque(0))  # only the order is not certain
        if len(outputs) > MOST_OUTPUTS:
            loose.append(opaque(relation.everything or UNTRACED))
            self.read |= relation.everything
            return
        if relation.counted and not changes:
            outputs += relation.outputs
            self.read |= relation.everything
            return
        replaced = {
            fold(a.args["alias"]): self.value(a.this, scope, env)
            for a in star.args.get("replace") or ()
            if isinstance(a, exp.Alias)
        }
        left_out = {_last_name(c) for c in star.args.get("except_") or ()}
        shown = [n for n, _ in relation.outputs] if relation.counted else []
        if (
            not relation.counted
            or changes - _STAR_CHANGES
            or any(shown.count(n) > 1 for n in left_out)  # which of them is meant?
        ):
            mask = relation.everything
            for value in replaced.values():
                mask |= value
            loose.append(opaque(mask or UNTRACED))
            self.read |= mask
            return
        names = {
            _last_name(a.this): fold(a.args["alias"])
            for a in star.args.get("rename") or ()
            if isinstance(a, exp.Alias)
        }
        for name, given in relation.outputs:
            if name and name in left_out:
                continue
            mask = replaced.get(name, given) if name else given
            self.read |= mask
            outputs.append((names.get(name, name), mask))


def _last_name(node: exp.Expr) -> str:
    return fold(node.this if isinstance(node, exp.Column) else node)


def _loose(outputs: Outputs, loose: list[Relation]) -> Relation:
    """A select list in which the order of the columns is not certain, or which ones there are."""
    known = of_outputs(outputs)
    if known.positional and not any(r.everything for r in loose):
        known.positional = False
        return known
    everything = known.everything
    for relation in loose:
        everything |= relation.everything
    return Relation(known.columns, everything, rest=everything, positional=False)
