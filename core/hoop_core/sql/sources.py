"""What stands in FROM: tables, subqueries, joins, table functions, PIVOT, MATCH_RECOGNIZE."""

from __future__ import annotations

from sqlglot import exp

from hoop_core.sql.expressions import Env, Expressions
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
)

_TABLE_FUNCTIONS: dict[type[exp.Expr], str] = {
    exp.Explode: "SEQ KEY PATH INDEX VALUE THIS",
    exp.SplitToTable: "SEQ INDEX VALUE",
    exp.Generator: "",
}
_NAMED_TABLE_FUNCTIONS = {"STRTOK_SPLIT_TO_TABLE": "SEQ INDEX VALUE"}
NOT_CLAUSES = frozenset(
    {
        *("with_", "this", "expression", "expressions", "from_", "joins", "laterals", "match"),
        *("db", "catalog", "alias", "pivots", "view", "outer", "ordinality"),
    }
)
"""Arguments of a query or a source that are seen to by themselves; every other one is an expression."""


class Sources(Expressions):
    def from_item(self, scope: Scope, node: exp.Expr, env: Env = None) -> None:
        args = node.args
        if args.get("with_") is not None:
            env = self.bindings(args["with_"], env, scope.parent)
        alias = args.get("alias")
        plain = not (alias or args.get("pivots"))
        if (
            isinstance(node, exp.Subquery)
            and plain
            and isinstance(node.this, exp.Table | exp.Subquery)
        ):
            self.from_item(scope, node.this, env)  # (a JOIN b ON ...): a and b keep their names
        else:
            relation, name = self._relation(scope, node, env)
            for pivot in args.get("pivots") or ():
                relation = self._pivoted(relation, pivot, env, scope)
                alias = pivot.args.get("alias") or alias
            if isinstance(alias, exp.TableAlias):
                relation = renamed(relation, [fold(c) for c in alias.args.get("columns") or ()])
                name = fold(alias.this) if alias.this is not None else name
            scope.add(relation, name)
        for clause, value in args.items():
            if value and clause not in NOT_CLAUSES and not isinstance(value, bool | str):
                self.read_all(value, scope, env)  # SAMPLE, AT; of a subquery also ORDER BY
        for join in args.get("joins") or ():
            self._join(scope, join, env)
        for lateral in args.get("laterals") or ():
            self.from_item(scope, lateral, env)

    def _relation(self, scope: Scope, node: exp.Expr, env: Env) -> tuple[Relation, str]:
        """What stands in FROM, and the name that it has without an alias."""
        if isinstance(node, exp.Table):
            return self._table(node, env, scope)
        this = node.this
        if isinstance(node, exp.Subquery):
            if isinstance(this, exp.Table | exp.Subquery):
                inner = Scope(self.columns, scope.parent)
                self.from_item(inner, this, env)
                return self.star_of(inner), ""
            return self.query(this, env, scope.parent), ""
        if isinstance(node, exp.Values):
            return self.values(node, env, scope.parent), ""
        if isinstance(node, exp.Lateral) and isinstance(this, exp.Query):
            return self.query(this, env, scope), ""
        if isinstance(node, exp.Lateral | exp.TableFromRows):
            listed = _TABLE_FUNCTIONS.get(type(this))
            if listed is None:
                listed = _NAMED_TABLE_FUNCTIONS.get(this.name.upper())
            if listed is not None:
                mask = self.value(this, scope, env) or UNTRACED
                return of_outputs([(name, mask) for name in listed.split()]), ""
        return self.unknown(), ""

    def _table(self, node: exp.Table, env: Env, scope: Scope) -> tuple[Relation, str]:
        base = self._bases.get(id(node))
        if base is not None and base.table is not None:
            return base, base.table.name
        name = fold(node.this)
        while env is not None:
            frame, env = env
            if name in frame:
                return frame[name], name
        return self.unknown(), name

    def _join(self, scope: Scope, join: exp.Expr, env: Env) -> None:
        args = join.args
        natural = "NATURAL" in (str(args.get("method") or "")).upper()
        before = (scope.names, scope.everything()) if natural else ({}, 0)
        count = len(scope.relations)
        self.from_item(scope, args["this"], env)
        if natural:
            self._natural(scope, before, scope.relations[count:])
        for word in args.get("using") or ():
            name = fold(word.this if isinstance(word, exp.Column) else word)
            scope.merged.add(name)
            found = scope.find(name)
            self.read |= self.columns.everything if found is None else found
        for name, value in args.items():
            if value and name not in {"this", "using"} and not isinstance(value, bool | str):
                self.read_all(value, scope, env)

    def _natural(
        self, scope: Scope, before: tuple[dict[str, int], int], added: list[Relation]
    ) -> None:
        names, everything = before
        for relation in added:
            if not all(r.positional for r in scope.relations):
                self.read |= everything | relation.everything
            for name in names.keys() & relation.columns.keys():
                scope.merged.add(name)
                self.read |= names[name] | relation.columns[name]

    def _pivoted(self, relation: Relation, pivot: exp.Expr, env: Env, scope: Scope) -> Relation:
        inner = Scope(self.columns, scope.parent)
        inner.add(relation, "")
        fields = pivot.args.get("fields") or []
        mask = 0
        if not pivot.args.get("unpivot"):
            for node in (*pivot.expressions, *fields):
                mask |= self.value(node, inner, env)
            # every column that is not named groups the rows
            self.read |= relation.everything
            made = _pivot_outputs(pivot, mask)
        else:
            for node in (n for f in fields for n in f.expressions):
                mask |= self.value(node, inner, env)
            words = [*(f.this for f in fields), *pivot.expressions]
            made = [(fold(w), mask) for n in words for w in n.find_all(exp.Identifier)]
        gone = {
            fold(c.this)
            for n in (*pivot.expressions, *fields)
            for c in n.find_all(exp.Column)
            if isinstance(c.this, exp.Identifier)
        }
        if made and relation.positional:
            return of_outputs([(n, m) for n, m in relation.outputs if n not in gone] + made)
        everything = relation.everything | mask
        return Relation({}, everything, rest=everything, positional=False)

    def _matched(self, scope: Scope, match: exp.Expr, env: Env) -> Scope:
        """MATCH_RECOGNIZE: its pattern variables qualify columns of the rows that it looks at."""
        everything = scope.everything()
        rest = everything if any(r.rest is not None for r in scope.relations) else None
        source = Relation(scope.names, everything, rest=rest, positional=False)
        rows = Scope(self.columns, scope.parent)
        rows.add(source, "")
        columns = dict(scope.names)
        for name, value in match.args.items():
            if name in {"alias", "pattern"} or not value or isinstance(value, bool | str):
                continue
            for node in value if isinstance(value, list) else [value]:
                aliased = node.this if isinstance(node, exp.MatchRecognizeMeasure) else node
                if isinstance(aliased, exp.Alias):
                    mask = self.value(aliased.this, rows, env, unqualified=True)
                    columns[fold(aliased.args["alias"])] = mask or UNTRACED
                else:
                    self.value(node, rows, env, unqualified=True)
        alias = match.args.get("alias")
        after = Scope(self.columns, scope.parent)
        name = fold(alias.this) if isinstance(alias, exp.TableAlias) else ""
        after.add(Relation(columns, everything, rest=rest, positional=False), name)
        return after

    def values(self, node: exp.Values, env: Env, outer: Scope | None) -> Relation:
        scope = Scope(self.columns, outer)
        masks: list[int] = []
        even = True
        for at, row in enumerate(node.expressions):
            cells = row.expressions if isinstance(row, exp.Tuple) else [row]
            found = [self.value(c, scope, env) for c in cells]
            if not at:
                masks = found
            elif len(found) != len(masks):
                even = False
            masks = [a | b for a, b in zip(masks, found, strict=False)]
        if not even:
            return opaque(self.columns.everything | UNTRACED)
        return of_outputs([(f"COLUMN{i}", m) for i, m in enumerate(masks, 1)])

    def star_of(self, scope: Scope) -> Relation:
        """What `*` means in a scope."""
        if len(scope.relations) == 1:
            return scope.relations[0]
        everything = scope.everything()
        if sum(len(r.columns) for r in scope.relations) > MOST_OUTPUTS:
            return opaque(everything)
        if not all(r.positional for r in scope.relations):
            rest = everything if any(r.rest is not None for r in scope.relations) else None
            return Relation(scope.names, everything, rest=rest, positional=False)
        outputs: Outputs = []
        for relation in scope.relations:
            outputs += relation.outputs
        if not scope.merged:
            return of_outputs(outputs)
        # a merged column shows once: how many there are and their names are certain, their order is not
        shown = {name: scope.names[name] for name, _ in outputs if name in scope.merged}
        outputs = [*shown.items(), *((n, m) for n, m in outputs if n not in scope.merged)]
        known = of_outputs(outputs)
        known.positional = False
        return known


def _pivot_outputs(pivot: exp.Expr, mask: int) -> Outputs:
    """One column for each listed value; none when the values are found by a query."""
    names = [fold(n) for n in pivot.args.get("columns") or ()]
    fields = pivot.args.get("fields") or []
    values = fields[0].expressions if len(fields) == 1 else []
    if any(isinstance(v, exp.PivotAny | exp.Query) for v in values):
        return []
    count = len(values) * len(pivot.expressions)
    return [(names[i] if len(names) == count else "", mask) for i in range(count)]
