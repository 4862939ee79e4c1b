"""Puts the queries of views into a text, in the places where the views are named.

The text is one that was rewritten: no comments, every table fully qualified. The result is accepted only
if it parses to the same tree as the same change made on the tree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlglot import exp
from sqlglot.errors import ErrorLevel, SqlglotError

from hoop_core.model import TableName
from hoop_core.sql.dialect import SNOWFLAKE
from hoop_core.sql.limits import Limits
from hoop_core.sql.metadata import NAMES as METADATA
from hoop_core.sql.names import fold, resolve_parts
from hoop_core.sql.refusals import refuse
from hoop_core.sql.statement import Analysis, TableRef


@dataclass(frozen=True, slots=True)
class Inline:
    """`query` is a parenthesised SELECT that shows exactly the columns of the view; `tables` is how often
    it names a table."""

    view: TableName
    query: str = field(repr=False)
    tables: int


Inlines = Mapping[TableName, Inline]


def splice(analysis: Analysis, inlines: Inlines, limits: Limits) -> str:
    """The analysed text with the given views replaced, and columns named with a schema fully qualified.

    Raises StatementRefused: VIEW_NOT_UNDERSTOOD, AMBIGUOUS_NAME, TOO_LONG, TOO_MANY_READS,
    REWRITE_MISMATCH.
    """
    if not inlines and not analysis.columns:
        return analysis.statement.sql
    _check_short_names(analysis, inlines)
    if tables_in(analysis, inlines) > limits.max_table_reads:
        raise refuse(
            "TOO_MANY_READS",
            f"With the queries of its views in it, the statement names more than {limits.max_table_reads} "
            "tables.",
            "Read fewer views at once, or the base tables instead.",
        )
    edits = [_edit(r, inlines[r.table]) for r in analysis.refs if r.table in inlines]
    for column in analysis.columns:
        inlined = column.table in inlines
        edits.append((column.start, column.short - 1, "" if inlined else _schema(column.table)))
    sql, out, at = analysis.statement.sql, list[str](), 0
    if len(sql) + sum(len(text) for _, _, text in edits) > limits.max_chars:
        raise refuse(
            "TOO_LONG",
            f"With the queries of its views in it, the statement is longer than {limits.max_chars} "
            "characters.",
            "Read fewer views at once, or the base tables instead.",
        )
    for start, end, text in sorted(edits):
        if start < at:
            raise _doubt()
        out += (sql[at:start], text)
        at = end + 1
    text = "".join((*out, sql[at:]))
    if _shown(_parsed(text)) != _shown(_on_the_tree(analysis, inlines)):
        raise _doubt()
    return text


def tables_in(analysis: Analysis, inlines: Inlines) -> int:
    """How many tables are named once the queries of views are in."""
    return sum(inlines[r.table].tables if r.table in inlines else 1 for r in analysis.refs)


def _edit(ref: TableRef, inline: Inline) -> tuple[int, int, str]:
    node = ref.node
    if ref.written or node.args.get("when"):
        raise refuse(
            "VIEW_NOT_UNDERSTOOD",
            f"AT or BEFORE on the view {ref.table} is not served.",
            "Read the tables beneath it at that moment.",
        )
    named = "" if node.args.get("alias") or node.args.get("pivots") else _alias(ref.table)
    return ref.start, ref.end, inline.query + named


def _alias(table: TableName) -> str:
    return ' AS "' + table.name.replace('"', '""') + '"'


def _schema(table: TableName) -> str:
    parts = (table.database, table.schema)
    return "".join('"' + p.replace('"', '""') + '".' for p in parts)


def _check_short_names(analysis: Analysis, inlines: Inlines) -> None:
    """`db.schema.v.c` becomes `v.c`: refuse when another table in the text would answer to `v`."""
    for column in analysis.columns:
        if column.table in inlines and any(
            r.table.name == column.table.name and r.table != column.table for r in analysis.refs
        ):
            raise refuse(
                "AMBIGUOUS_NAME",
                f"Two objects named {column.table.name} are read, one of them a view.",
                "Give both an alias and use the alias in front of the columns.",
            )


def _on_the_tree(analysis: Analysis, inlines: Inlines) -> exp.Expr:
    tree = _parsed(analysis.statement.sql)
    names = analysis.statement.names
    for column in list(tree.find_all(exp.Column)):
        if column.args.get("db"):
            given = (column.args.get(p) for p in ("catalog", "db", "table"))
            table = resolve_parts(tuple(fold(p) for p in given if p), names, metadata=METADATA)
            inlined = table in inlines
            for part, text in (("catalog", table.database), ("db", table.schema)):
                column.set(part, None if inlined else exp.Identifier(this=text, quoted=True))
    for node in list(tree.find_all(exp.Table)):
        parts = tuple(fold(p) for p in (node.args.get(a) for a in ("catalog", "db", "this")) if p)
        inline = inlines.get(TableName(*parts)) if len(parts) == 3 else None
        if inline is not None:
            node.replace(_subquery(node, inline))
    return tree


def _subquery(node: exp.Table, inline: Inline) -> exp.Expr:
    found = _parsed(f"SELECT * FROM {inline.query}").find(exp.Subquery)  # noqa: S608  built by us
    if found is None:
        raise _doubt()
    found.pop()
    alias = node.args.get("alias")
    if alias is not None:
        found.set("alias", alias.copy())
    elif not node.args.get("pivots"):
        name = exp.Identifier(this=inline.view.name, quoted=True)
        found.set("alias", exp.TableAlias(this=name))
    for kept in ("joins", "laterals", "pivots", "sample"):
        if node.args.get(kept):
            found.set(kept, node.args[kept])
    return found


def _parsed(text: str) -> exp.Expr:
    try:
        trees = SNOWFLAKE.parse(text)
    except SqlglotError:
        raise _doubt() from None
    if len(trees) != 1 or trees[0] is None:
        raise _doubt()
    return trees[0]


def _shown(tree: exp.Expr) -> str:
    return tree.sql(
        dialect=SNOWFLAKE, comments=False, unsupported_level=ErrorLevel.IGNORE, copy=False
    )


def _doubt() -> Exception:
    return refuse(
        "REWRITE_MISMATCH",
        "The query of a view could not be put in its place without a doubt about the meaning.",
        "Read the base tables instead.",
    )
