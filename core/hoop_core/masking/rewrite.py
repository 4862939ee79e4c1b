"""The text that is executed: the caller's own tokens, with table references replaced.

Every base table is written fully qualified, so that the session's database and schema cannot change
what was decided. A protected table becomes a subquery that lists each of its columns, masked or plain;
masking therefore happens before anything can be derived from the values.

The splice is accepted only if it parses to the same text as an independent rewrite of the tree. Where a
clause has to move into the subquery (SAMPLE) the text is regenerated from the tree instead, provided
that regeneration does not change any function that the caller wrote.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

from sqlglot import Token, TokenType, exp
from sqlglot.errors import ErrorLevel, SqlglotError

from hoop_core.masking.masks import INNER, TablePlan
from hoop_core.model import TableName
from hoop_core.sql.limits import SNOWFLAKE, canonical, raw
from hoop_core.sql.names import fold, resolve_parts
from hoop_core.sql.refusals import refuse
from hoop_core.sql.statement import Analysis, TableRef

Plans = Mapping[TableName, TablePlan]

MOST_COLUMNS = 4_000
"""Columns that all masking subqueries of a statement may list together: they multiply its length."""


def rewrite(analysis: Analysis, plans: Plans) -> str:
    """The text to execute for an analysed statement.

    Raises StatementRefused: TOO_MANY_READS, REWRITE_MISMATCH, REWRITE_DRIFT, AMBIGUOUS_NAME.
    """
    if analysis.tree is None:
        return _emit(analysis, _command_edits(analysis))
    _check_size(analysis, plans)
    _check_short_names(analysis, plans)
    tree = _rewrite_tree(analysis, plans)
    expected = generate(tree)
    if any(r.node.args.get("sample") for r in analysis.refs if r.table in plans):
        _check_drift(analysis)
        text = expected
    else:
        text = _emit(analysis, _edits(analysis, plans))
    if _reparsed(text) != expected:
        raise refuse(
            "REWRITE_MISMATCH",
            "The statement could not be rewritten without a doubt about its meaning.",
            "Simplify the clauses around the tables it reads.",
        )
    return text


def generate(tree: exp.Expr) -> str:
    """sqlglot's own text, without comments, of a tree that nobody needs afterwards."""
    return tree.sql(
        dialect=SNOWFLAKE, comments=False, unsupported_level=ErrorLevel.IGNORE, copy=False
    )


def qualified(table: TableName) -> str:
    """All three parts quoted, exactly as stored."""
    parts = (table.database, table.schema, table.name)
    return ".".join('"' + p.replace('"', '""') + '"' for p in parts)


def wrapper(plan: TablePlan, clause: str = "") -> str:
    """The masking subquery of a table; `clause` is an AT or BEFORE that belongs to the base table."""
    columns = ", ".join(f'{c.sql} AS "' + c.name.replace('"', '""') + '"' for c in plan.columns)
    return f"(SELECT {columns} FROM {qualified(plan.table)}{clause} AS {INNER})"  # noqa: S608  every part is a quoted name or a mask expression


_Edit = tuple[int, int, str]  # replace the tokens that lie in start..end (inclusive) by a text


def _emit(analysis: Analysis, edits: list[_Edit]) -> str:
    """The caller's tokens without comments, with the edits applied."""
    sql, pending = analysis.statement.sql, sorted(edits)
    out: list[str] = []
    at, end = 0, -1
    for token in analysis.tokens:
        while at < len(pending) and pending[at][1] < token.start:
            at += 1
        inside = at < len(pending) and pending[at][0] <= token.start <= pending[at][1]
        if inside and token.start != pending[at][0]:
            end = token.end
            continue
        if out and token.start > end + 1:
            out.append(" ")
        out.append(pending[at][2] if inside else raw(sql, token))
        end = token.end
    return "".join(out)


def _command_edits(analysis: Analysis) -> list[_Edit]:
    command = analysis.command
    if command is None or command.table is None or command.span is None:
        return []
    return [(*command.span, qualified(command.table))]


def _edits(analysis: Analysis, plans: Plans) -> list[_Edit]:
    edits: list[_Edit] = []
    for ref in analysis.refs:
        plan = None if ref.written else plans.get(ref.table)
        if plan is None:
            edits.append((ref.start, ref.end, qualified(ref.table)))
            continue
        end, clause = ref.end, ""
        if ref.node.args.get("when"):
            end, clause = _historical_clause(analysis, ref, plans)
        named = "" if _keeps_alias(ref.node) else f' AS "{_exposed(ref.table)}"'
        edits.append((ref.start, end, wrapper(plan, clause) + named))
    for column in analysis.columns:
        if column.table in plans:
            edits.append((column.start, column.short - 1, ""))
    return edits


def _keeps_alias(node: exp.Table) -> bool:
    """The caller gave an alias, or a PIVOT follows, which names its result itself."""
    return bool(node.args.get("alias") or node.args.get("pivots"))


def _exposed(table: TableName) -> str:
    return table.name.replace('"', '""')


def _historical_clause(analysis: Analysis, ref: TableRef, plans: Plans) -> tuple[int, str]:
    """The AT(...) or BEFORE(...) after a table name: where it ends, and its text."""
    tokens = analysis.tokens
    first = next(i for i, t in enumerate(tokens) if t.start > ref.end)
    depth, last = 0, first
    for i in range(first + 1, len(tokens)):
        depth += (tokens[i].token_type is TokenType.L_PAREN) - (
            tokens[i].token_type is TokenType.R_PAREN
        )
        last = i
        if depth == 0:
            break
    inner = tokens[first : last + 1]
    if any(r.start > ref.end and r.end <= inner[-1].end for r in analysis.refs):
        raise refuse(
            "REWRITE_MISMATCH",
            "A query inside AT(...) or BEFORE(...) cannot be rewritten.",
            "Compute the time first and pass it as a value.",
        )
    return inner[-1].end, " " + canonical(analysis.statement.sql, inner)


def _check_size(analysis: Analysis, plans: Plans) -> None:
    shown = sum(len(plans[r.table].columns) for r in analysis.refs if r.table in plans)
    if shown > MOST_COLUMNS:
        raise refuse(
            "TOO_MANY_READS",
            f"The masked tables in the statement have {shown} columns together; at most {MOST_COLUMNS} "
            "are rewritten.",
            "Read each table once in a common table expression and refer to that.",
        )


def _check_short_names(analysis: Analysis, plans: Plans) -> None:
    """`db.schema.t.c` becomes `t.c`: refuse when another table in the text would answer to `t`."""
    for column in analysis.columns:
        if column.table in plans and any(
            r.table.name == column.table.name and r.table != column.table for r in analysis.refs
        ):
            raise refuse(
                "AMBIGUOUS_NAME",
                f"Two tables named {column.table.name} are read, one of them masked.",
                "Give both an alias and use the alias in front of the columns.",
            )


def _rewrite_tree(analysis: Analysis, plans: Plans) -> exp.Expr:
    # parsing again is cheaper than copying; the places of the names tell which node is which
    tree = _fresh(analysis)
    refs = {r.start: r for r in analysis.refs}
    for node in list(tree.find_all(exp.Table)):
        parts = (node.args.get("catalog"), node.args.get("db"), node.this)
        starts = [p.meta["start"] for p in parts if p is not None and "start" in p.meta]
        ref = refs.get(min(starts, default=-1))
        if ref is None:
            continue
        plan = None if ref.written else plans.get(ref.table)
        if plan is None:
            _qualify(node, ref.table)
        else:
            node.replace(_wrapped(node, plan))
    _shorten_columns(tree, analysis, plans)
    return tree


def _fresh(analysis: Analysis) -> exp.Expr:
    tree = SNOWFLAKE.parser().parse(list(analysis.tokens), analysis.statement.sql)[0]
    if tree is None:
        raise refuse("REWRITE_MISMATCH", "The statement cannot be read twice.")
    return tree


def _qualify(node: exp.Table, table: TableName) -> None:
    # Snowflake lets the bare name stand for a qualified table, so no alias is needed
    node.set("this", exp.to_identifier(table.name, quoted=True))
    node.set("db", exp.to_identifier(table.schema, quoted=True))
    node.set("catalog", exp.to_identifier(table.database, quoted=True))


def _wrapped(node: exp.Table, plan: TablePlan) -> exp.Subquery:
    subquery = _parsed_wrapper(plan).copy()
    inner = subquery.find(exp.Table)
    if inner is None:
        raise refuse("REWRITE_MISMATCH", "The masking subquery cannot be built.")
    # moved, not copied, here and below: tables inside these clauses are still to be rewritten in place
    for moved in ("when", "sample"):
        if node.args.get(moved):
            inner.set(moved, node.args[moved])
    alias = node.args.get("alias")
    if alias is not None:
        subquery.set("alias", alias.copy())
    elif not node.args.get("pivots"):
        name = exp.to_identifier(plan.table.name, quoted=True)
        subquery.set("alias", exp.TableAlias(this=name))
    for kept in ("joins", "laterals", "pivots"):
        if node.args.get(kept):
            subquery.set(kept, node.args[kept])
    return subquery


@lru_cache(maxsize=512)
def _parsed_wrapper(plan: TablePlan) -> exp.Subquery:
    text = f"SELECT * FROM {wrapper(plan)}"  # noqa: S608  see `wrapper`
    parsed = SNOWFLAKE.parse(text)[0]
    subquery = None if parsed is None else parsed.find(exp.Subquery)
    if subquery is None:
        raise refuse("REWRITE_MISMATCH", "The masking subquery cannot be built.")
    subquery.pop()
    return subquery


def _shorten_columns(tree: exp.Expr, analysis: Analysis, plans: Plans) -> None:
    if not any(c.table in plans for c in analysis.columns):
        return
    for column in list(tree.find_all(exp.Column)):
        if not column.args.get("db"):
            continue
        parts = (column.args.get("catalog"), column.args.get("db"), column.args.get("table"))
        name = resolve_parts(tuple(fold(p) for p in parts if p), analysis.statement.names)
        if name in plans:
            column.set("catalog", None)
            column.set("db", None)


def _check_drift(analysis: Analysis) -> None:
    """Regeneration may rename a function or drop a clause: refuse when it would."""
    before = _words(analysis.tokens)
    after = _words(tuple(SNOWFLAKE.tokenize(generate(_fresh(analysis)))))
    changed = (before - after) | (after - before)
    if set(changed) - _HARMLESS:
        raise refuse(
            "REWRITE_DRIFT",
            "SAMPLE on a masked table cannot be combined with what else the statement uses "
            f"({', '.join(sorted(set(changed) - _HARMLESS)[:3])}).",
            "Sample in a subquery of its own: (SELECT * FROM t SAMPLE (10)).",
        )


_HARMLESS = frozenset(
    {"AS", "TABLESAMPLE", "SAMPLE", "BERNOULLI", "INNER", "OUTER", "(", ")", "ASC"}
)


def _words(tokens: tuple[Token, ...]) -> Counter[str]:
    return Counter(t.text.upper() for t in tokens)


def _reparsed(text: str) -> str:
    try:
        trees = SNOWFLAKE.parse(text)
    except SqlglotError:
        return ""
    return generate(trees[0]) if len(trees) == 1 and trees[0] is not None else ""
