"""The SELECT that tells how many rows a change would touch.

It is cut out of the change's own tokens and sent through all gates like any other statement of the caller: what
comes of a wrong cut is a refusal or a wrong number, never more than the caller may read. A wrong number could still
let a standing approval pass, so only texts of the documented forms are cut, and where a word could be a name as well
as the beginning of a clause there is no count.

https://docs.snowflake.com/en/sql-reference/sql-dml
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hoop_core.errors import StatementRefused
from hoop_core.model import Kind, Statement
from hoop_core.sql.clauses import Clauses, Doubt


@dataclass(frozen=True, slots=True)
class Count:
    """`what` is being counted, in words; either the number is known, or `sql` asks for it."""

    what: str
    rows: int | None = None
    sql: str = ""
    binds: tuple[int, ...] = ()
    """Which bound values of the change the SELECT needs, from 1 on, in its order."""
    bounds: bool = True
    """Whether the change touches no more rows than the number (and those lost, where there are any)."""
    lost_sql: str = ""
    """Asks for the rows that are there now and would be gone: they come on top. It binds nothing. Where the target
    does not exist, none are."""

    def bindings(self, given: dict[str, Any] | None) -> dict[str, Any] | None:
        """The values for the SELECT. Raises KeyError where one is not there."""
        return {str(n): (given or {})[str(at)] for n, at in enumerate(self.binds, 1)} or None


def count_of(statement: Statement, bindings: Mapping[str, Any] | None = None) -> Count | None:
    """How to count what a statement would touch; None where it changes no rows, or that cannot be told so.

    `bindings` as the client sent them: one INSERT may be sent with many values in each place. None where they are
    not known, as those that lie in a stage.
    """
    if statement.kind not in _COUNTED or len(statement.writes) != 1:
        return None
    given = bindings or {}
    try:
        clauses = Clauses.of(statement.sql)
        count = _of_kind(statement, clauses, given)
        if count is None or (count.rows is None and _runs(given) is not None):
            return None  # it would run once for each of the values
    except (Doubt, StatementRefused):
        return None
    return replace(count, bounds=not _varies(statement, clauses))


_COUNTED = {
    *(Kind.DELETE, Kind.UPDATE, Kind.MERGE, Kind.INSERT, Kind.INSERT_OVERWRITE),
    *(Kind.CREATE_TABLE, Kind.CREATE_TABLE_AS, Kind.TRUNCATE, Kind.DROP_TABLE),
}


def _of_kind(statement: Statement, clauses: Clauses, bindings: Mapping[str, Any]) -> Count | None:
    """Raises Doubt."""
    match statement.kind:
        case Kind.DELETE:
            return _deleted(statement, clauses)
        case Kind.UPDATE:
            return _updated(statement, clauses)
        case Kind.MERGE:
            return _merged(clauses)
        case Kind.INSERT | Kind.INSERT_OVERWRITE:
            return _inserted(statement, clauses, bindings)
        case Kind.CREATE_TABLE | Kind.CREATE_TABLE_AS:
            return _created(statement, clauses)
        case _:
            return Count("rows that would be lost", sql=_all_of(statement))


def _deleted(statement: Statement, clauses: Clauses) -> Count:
    """https://docs.snowflake.com/en/sql-reference/sql/delete"""
    start = clauses.expect(0, "DELETE", "FROM")
    end = clauses.after_target(start)
    where = _where(statement, clauses, end)
    joined = clauses.word(end) == "USING"
    if clauses.sources(end, where):
        raise Doubt
    if not joined and end != (clauses.end if where is None else where):
        raise Doubt
    what = "rows that would be deleted"
    return _selected(clauses, what, (start, end), (end + 1, where) if joined else None, where)


def _updated(statement: Statement, clauses: Clauses) -> Count:
    """https://docs.snowflake.com/en/sql-reference/sql/update"""
    start = clauses.expect(0, "UPDATE")
    end = clauses.after_target(start)
    setting = clauses.expect(end, "SET")
    where = _where(statement, clauses, setting)
    sources = clauses.sources(setting, where)
    if len(sources) > 1:
        raise Doubt
    joined = (sources[0] + 1, where) if sources else None
    return _selected(clauses, "rows that would be changed", (start, end), joined, where)


def _where(statement: Statement, clauses: Clauses, after: int) -> int | None:
    """Where the condition begins. The tree has to say, too, that there is one."""
    found = clauses.all("WHERE")
    if len(found) != statement.facts["has_where"] or any(at < after for at in found):
        raise Doubt
    if found and clauses.sources(found[0], None):
        raise Doubt
    return found[0] if found else None


def _selected(
    clauses: Clauses,
    what: str,
    target: tuple[int, int],
    joined: tuple[int, int | None] | None,
    where: int | None,
) -> Count:
    """Rows of the target; with a join, of all that it gives: each row that is touched is there at least once."""
    tables, binds = clauses.cut(*target), clauses.binds(*target)
    if joined is not None:
        what += ", at most"
        tables += f", {clauses.cut(*joined)}"
        binds += clauses.binds(*joined)
    if where is not None:
        tables += f" {clauses.cut(where)}"
        binds += clauses.binds(where)
    return Count(what, sql=f"SELECT COUNT(*) FROM {tables}", binds=binds)  # noqa: S608


def _merged(clauses: Clauses) -> Count:
    """Every row of the source with each that it matches, and once where it matches none and would be inserted.

    https://docs.snowflake.com/en/sql-reference/sql/merge
    """
    start = clauses.expect(0, "MERGE", "INTO")
    using = clauses.after_target(start)
    source = clauses.expect(using, "USING")
    on = next(iter(clauses.all("ON")), None)
    whens = clauses.all("WHEN")
    if on is None or not whens or not source < on < whens[0]:
        raise Doubt
    kinds = [clauses.word(at + 1) for at in whens]
    by_side = any(clauses.word(at) == "BY" for when in whens for at in (when + 2, when + 3))
    if by_side or not set(kinds) <= {"MATCHED", "NOT"} or clauses.word(on - 1) in _JOINING:
        raise Doubt
    join = "LEFT JOIN" if "NOT" in kinds else "JOIN"
    tables = f"{clauses.cut(source, on)} {join} {clauses.cut(start, using)}"
    return Count(
        "rows that would be merged, at most",
        sql=f"SELECT COUNT(*) FROM {tables} {clauses.cut(on, whens[0])}",  # noqa: S608
        binds=clauses.binds(source, whens[0]),
    )


_JOINING = {
    *("INNER", "OUTER", "CROSS", "LEFT", "RIGHT", "FULL", "NATURAL", "ASOF", "SEMI", "ANTI"),
    *("LATERAL", "GLOBAL", "POSITIONAL", "DIRECTED", "ANY", "ALL"),
}
"""An alias of this name would make another join of the one that is written after it."""


def _inserted(statement: Statement, clauses: Clauses, bindings: Mapping[str, Any]) -> Count:
    """https://docs.snowflake.com/en/sql-reference/sql/insert"""
    overwrites = statement.kind is Kind.INSERT_OVERWRITE
    at = clauses.expect(0, "INSERT", *(["OVERWRITE"] if overwrites else []), "INTO")
    at = clauses.after_name(at)
    what = "rows that would be inserted"
    if clauses.word(at) == "(" and not clauses.is_query(at):
        at = clauses.after_brackets(at)
    if clauses.is_query(at):
        count = _rows_of(clauses, at, what)
    else:
        count = Count(what, rows=_rows_given(clauses, clauses.expect(at, "VALUES"), bindings))
    return _losing(count, statement) if overwrites else count


def _rows_given(clauses: Clauses, at: int, bindings: Mapping[str, Any]) -> int:
    rows = clauses.groups(at)
    runs = _runs(bindings)
    if not clauses.has_binds:
        if runs is not None:
            raise Doubt
        return rows
    places = {str(n) for n in clauses.binds(0)}
    if not places or places != set(bindings):
        raise Doubt  # bound otherwise, or not known: nobody can tell how often
    return rows * (1 if runs is None else runs)


def _runs(bindings: Mapping[str, Any]) -> int | None:
    """How often a statement runs whose places have many values each; None where they have one. Raises Doubt."""
    values = [b.get("value") if isinstance(b, dict) else b for b in bindings.values()]
    lengths = {len(v) if isinstance(v, list) else None for v in values}
    if len(lengths) > 1:
        raise Doubt
    return next(iter(lengths), None)


def _created(statement: Statement, clauses: Clauses) -> Count | None:
    """https://docs.snowflake.com/en/sql-reference/sql/create-table"""
    replaces = bool(statement.facts["replaces"])
    if statement.kind is Kind.CREATE_TABLE:
        return _losing(Count("rows of the new table", rows=0), statement) if replaces else None
    start = next(iter(clauses.all("AS")), None)
    if start is None or not clauses.is_query(start + 1):
        raise Doubt
    count = _rows_of(clauses, start + 1, "rows of the new table")
    return _losing(count, statement) if replaces else count


def _rows_of(clauses: Clauses, start: int, what: str) -> Count:
    sql = f"SELECT COUNT(*) FROM ({clauses.cut(start)})"  # noqa: S608
    return Count(what, sql=sql, binds=clauses.binds(start))


def _losing(count: Count, statement: Statement) -> Count:
    return replace(count, what=f"{count.what}, and those lost", lost_sql=_all_of(statement))


def _all_of(statement: Statement) -> str:
    return f"SELECT COUNT(*) FROM {statement.writes[0]}"  # noqa: S608


_CHANCE = {
    *("RANDOM", "RANDSTR", "UNIFORM", "NORMAL", "ZIPF", "UUID_STRING"),
    *("SEQ1", "SEQ2", "SEQ4", "SEQ8"),
}
_SAMPLES = {"SAMPLE", "TABLESAMPLE", "TIMELIMIT"}
_SOME = {"LIMIT", "TOP", "FETCH"}


def _varies(statement: Statement, clauses: Clauses) -> bool:
    """Whether it may touch other rows than those that were counted: by chance, or as any that come first will do."""
    start, end = 0, clauses.end
    if statement.kind is Kind.UPDATE:  # the values that are set say nothing about which rows
        start = min((*clauses.sources(0, None), *clauses.all("WHERE")), default=end)
    elif statement.kind is Kind.MERGE:
        end = min(clauses.all("WHEN"))
    words = _CHANCE | _SAMPLES
    return clauses.holds(words, start, end) or clauses.holds(_SOME, start, end, inside=True)
