"""The text that is executed: the caller's own tokens, with table references replaced.

Every base table is written fully qualified, so that the session's database and schema cannot change
what was decided. A protected table becomes a subquery that lists each of its columns, masked or plain;
masking therefore happens before anything can be derived from the values. AT, BEFORE and SAMPLE belong
to the base table, so their tokens move into the subquery.

Nothing is regenerated from sqlglot's tree: that would change what some functions mean.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from functools import lru_cache
from operator import attrgetter

from sqlglot import TokenType, exp

from hoop_core.masking.masks import INNER, TablePlan
from hoop_core.model import TableName
from hoop_core.sql.metadata import metadata_view
from hoop_core.sql.refusals import refuse
from hoop_core.sql.statement import Analysis, TableRef

Plans = Mapping[TableName, TablePlan]

MOST_COLUMNS = 4_000
"""Columns that all masking subqueries of a statement may list together: they multiply its length."""

MOST_CHARS = 4_000_000
"""Of what is sent; Snowflake itself takes texts of some megabytes."""

MOST_LISTED = 10_000
"""Rows that a SHOW has at most (https://docs.snowflake.com/en/sql-reference/sql/show)."""

_Edit = tuple[int, int, str]  # replace the tokens first..last (inclusive) by a text


def rewrite(analysis: Analysis, plans: Plans) -> str:
    """The text to execute for an analysed statement.

    Raises StatementRefused: TOO_MANY_READS, REWRITE_MISMATCH, AMBIGUOUS_NAME.
    """
    if analysis.tree is None:
        return _emit(analysis, _command_edits(analysis))
    _check_size(analysis, plans)
    _check_short_names(analysis, plans)
    edits: list[_Edit] = []
    for ref in analysis.refs:
        plan = None if ref.written else plans.get(ref.table)
        if plan is None:
            edits.append((_at(analysis, ref.start), _at(analysis, ref.end), qualified(ref.table)))
        else:
            edits += _masking_edits(analysis, ref, plan)
    for column in analysis.columns:
        if column.table in plans:
            short = _at(analysis, column.short)
            edits.append((_at(analysis, column.start), short, analysis.text.pieces[short].strip()))
    text = _emit(analysis, edits)
    if len(text) > MOST_CHARS:
        raise refuse(
            "TOO_MANY_READS",
            f"With its masks and filters the statement has {len(text)} characters; at most {MOST_CHARS} "
            "are sent.",
            "Read each table once in a common table expression and refer to that.",
        )
    return text


@lru_cache(maxsize=4096)
def qualified(table: TableName) -> str:
    """All three parts quoted, exactly as stored."""
    parts = (table.database, table.schema, table.name)
    return ".".join('"' + p.replace('"', '""') + '"' for p in parts)


def wrapper(plan: TablePlan, moment: str = "", sample: str = "") -> str:
    """The masking subquery of a table. `moment` is the AT or BEFORE clause and `sample` the SAMPLE clause
    of the reference; both belong to the base table. The row filter comes after them."""
    head, tail = _wrapper_parts(plan)
    return f"{head}{moment} AS {INNER}{sample}{tail}"


@lru_cache(maxsize=1024)
def _wrapper_parts(plan: TablePlan) -> tuple[str, str]:
    columns = ", ".join(f'{c.sql} AS "' + c.name.replace('"', '""') + '"' for c in plan.columns)
    columns = columns or _of_metadata(plan.table)
    where = "" if plan.where is None else f" WHERE {plan.where}"
    return f"(SELECT {columns} FROM {qualified(plan.table)}", f"{where})"  # noqa: S608  every part is a quoted name or a mask expression


def _of_metadata(view: TableName) -> str:
    """All columns of a view of INFORMATION_SCHEMA, the withheld ones without their values."""
    known = metadata_view(view)
    withheld = ", ".join(f'NULL::VARCHAR AS "{c}"' for c in (known.withheld if known else ()))
    return f"* REPLACE ({withheld})" if withheld else "*"


def _at(analysis: Analysis, start: int) -> int:
    """The index of the token that covers a character."""
    return bisect_left(analysis.tokens, start, key=attrgetter("end"))


def _emit(analysis: Analysis, edits: list[_Edit]) -> str:
    """The caller's tokens without comments, with the edits applied."""
    pieces, done = analysis.text.pieces, 0
    out: list[str] = []
    for first, last, text in sorted(edits):
        if first < done:
            raise _doubt("the tables in it overlap")
        out += pieces[done:first]
        if pieces[first][0] == " " and text:
            out.append(" ")
        out.append(text)
        done = last + 1
    out += pieces[done:]
    return "".join(out)


def _command_edits(analysis: Analysis) -> list[_Edit]:
    command = analysis.command
    edits: list[_Edit] = []
    if command is not None and command.table is not None and command.span is not None:
        first, last = (_at(analysis, place) for place in command.span)
        edits.append((first, last, qualified(command.table)))
    if command is not None and command.limit is not None:
        first, last = (_at(analysis, place) for place in command.limit)
        edits.append((first, last, str(MOST_LISTED)))
    return edits


def _masking_edits(analysis: Analysis, ref: TableRef, plan: TablePlan) -> list[_Edit]:
    first, last = _at(analysis, ref.start), _at(analysis, ref.end)
    moment = sample = ""
    edits: list[_Edit] = []
    if ref.node.args.get("when"):
        end = _closing(analysis, last + 2)
        moment, last = _clause(analysis, last + 1, end), end
    if ref.node.args.get("sample"):
        begin = _sample_of(analysis, ref, last)
        method = analysis.tokens[begin + 1].token_type is not TokenType.L_PAREN
        end = _closing(analysis, begin + 1 + method)
        seed = analysis.tokens[end + 1 : end + 2]
        if seed and seed[0].text.upper() in {"SEED", "REPEATABLE"}:
            end = _closing(analysis, end + 2)
        sample = _clause(analysis, begin, end)
        if plan.where is not None and "ROWS" in sample.upper():
            # a fixed number of rows is drawn before the filter, and would tell how many it hides
            raise refuse(
                "SAMPLE_OF_FILTERED",
                f"Rows of {ref.table} are filtered, so a fixed number of them cannot be sampled.",
                "Sample a percentage: SAMPLE (10).",
            )
        edits.append((begin, end, ""))
    named = "" if _keeps_alias(ref.node) else ' AS "' + ref.table.name.replace('"', '""') + '"'
    return [(first, last, wrapper(plan, moment, sample) + named), *edits]


def _keeps_alias(node: exp.Table) -> bool:
    """The caller gave an alias, or a PIVOT follows, which names its result itself."""
    return bool(node.args.get("alias") or node.args.get("pivots"))


def _sample_of(analysis: Analysis, ref: TableRef, last: int) -> int:
    """Where the SAMPLE of a reference begins: behind its name and at most an alias."""
    for i in range(last + 1, min(last + 4, len(analysis.tokens))):
        if analysis.tokens[i].token_type is TokenType.TABLE_SAMPLE:
            return i
    raise _doubt(f"the SAMPLE clause of {ref.table} stands in an unusual place")


def _closing(analysis: Analysis, begin: int) -> int:
    """The token that closes the parenthesis at `begin`."""
    depth = 0
    for i in range(begin, len(analysis.tokens)):
        kind = analysis.tokens[i].token_type
        depth += (kind is TokenType.L_PAREN) - (kind is TokenType.R_PAREN)
        if depth == 0:
            if i > begin:
                return i
            break
    raise _doubt("a clause has no parentheses")


def _clause(analysis: Analysis, first: int, last: int) -> str:
    start, end = analysis.tokens[first].start, analysis.tokens[last].end
    if any(start <= ref.start <= end for ref in analysis.refs):
        raise refuse(
            "REWRITE_MISMATCH",
            "A query inside AT(...), BEFORE(...) or SAMPLE(...) cannot be rewritten.",
            "Compute the value first and pass it on.",
        )
    return " " + "".join(analysis.text.pieces[first : last + 1]).lstrip(" ")


def _doubt(why: str) -> Exception:
    return refuse(
        "REWRITE_MISMATCH",
        f"The statement could not be rewritten without a doubt about its meaning: {why}.",
        "Simplify the clauses around the tables it reads.",
    )


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
