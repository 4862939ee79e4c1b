"""The SELECT that tells how many rows a change would touch.

It is cut out of the change's own tokens and sent through all gates like any other statement of the caller: what
comes of a wrong cut is a refusal or a wrong number, never more than the caller may read.

https://docs.snowflake.com/en/sql-reference/sql-dml
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlglot import TokenType

from hoop_core.errors import StatementRefused
from hoop_core.model import Kind, Statement
from hoop_core.sql.limits import Scan, scan

_OPENING = {TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE}
_CLOSING = {TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE}
_QUERY = {"SELECT", "WITH"}


@dataclass(frozen=True, slots=True)
class Count:
    """`what` is being counted, in words; either the number is known, or `sql` asks for it."""

    what: str
    rows: int | None = None
    sql: str = ""
    binds: tuple[int, ...] = ()
    """Which bound values of the change the SELECT needs, from 1 on, in its order."""

    def bindings(self, given: dict[str, Any] | None) -> dict[str, Any] | None:
        """The values for the SELECT. Raises KeyError where one is not there."""
        return {str(n): (given or {})[str(at)] for n, at in enumerate(self.binds, 1)} or None


@dataclass(frozen=True, slots=True)
class _Cutter:
    """A statement's tokens that stand in no brackets, and the text between two of them."""

    text: Scan
    top: tuple[tuple[int, str], ...]

    @classmethod
    def of(cls, sql: str) -> _Cutter:
        found, depth = [], 0
        text = scan(sql)
        for at, token in enumerate(text.tokens):
            if token.token_type in _CLOSING:
                depth -= 1
            if depth == 0:
                found.append((at, text.pieces[at].strip().upper()))
            if token.token_type in _OPENING:
                depth += 1
        return cls(text, tuple(found))

    def find(self, *words: str, after: int = -1) -> int | None:
        return next((at for at, word in self.top if at > after and word in words), None)

    def cut(self, start: int, end: int | None = None) -> str:
        return "".join(self.text.pieces[start:end]).strip()

    def binds(self, start: int, end: int | None = None) -> tuple[int, ...]:
        """The numbers of the question marks in a cut."""
        marks = [
            at for at, t in enumerate(self.text.tokens) if t.token_type is TokenType.PLACEHOLDER
        ]
        last = len(self.text.tokens) if end is None else end
        return tuple(n for n, at in enumerate(marks, 1) if start <= at < last)


def count_of(statement: Statement) -> Count | None:
    """How to count what a statement would touch; None where it changes no rows, or that cannot be told so."""
    try:
        cutter = _Cutter.of(statement.sql)
    except StatementRefused:
        return None
    match statement.kind:
        case Kind.DELETE:
            return _deleted(cutter)
        case Kind.UPDATE:
            return _updated(cutter)
        case Kind.MERGE:
            return _merged(cutter)
        case Kind.INSERT | Kind.INSERT_OVERWRITE:
            return _inserted(cutter)
        case Kind.CREATE_TABLE_AS:
            start = cutter.find(*_QUERY)
            return None if start is None else _rows_of(cutter, start, "rows of the new table")
        case Kind.TRUNCATE | Kind.DROP_TABLE if len(statement.writes) == 1:
            table = statement.writes[0]
            return Count("rows that would be lost", sql=f"SELECT COUNT(*) FROM {table}")  # noqa: S608
        case _:
            return None


def _deleted(cutter: _Cutter) -> Count | None:
    start = cutter.find("FROM")
    if start is None:
        return None
    using, where = cutter.find("USING"), cutter.find("WHERE")
    return _selected(
        cutter, start + 1, where, where=where, what="rows that would be deleted", using=using
    )


def _updated(cutter: _Cutter) -> Count | None:
    start, setting = cutter.find("UPDATE"), cutter.find("SET")
    if start is None or setting is None:
        return None
    from_, where = cutter.find("FROM", after=setting), cutter.find("WHERE", after=setting)
    count = _selected(cutter, start + 1, setting, where=where, what="rows that would be changed")
    if from_ is None:
        return count
    joined = cutter.cut(from_ + 1, where)
    target = cutter.cut(start + 1, setting)
    rest = "" if where is None else f" {cutter.cut(where)}"
    return Count(
        "rows that would be changed, at most",
        sql=f"SELECT COUNT(*) FROM {target}, {joined}{rest}",  # noqa: S608
        binds=(*cutter.binds(start + 1, setting), *cutter.binds(from_ + 1)),
    )


def _selected(
    cutter: _Cutter,
    start: int,
    end: int | None,
    *,
    where: int | None,
    what: str,
    using: int | None = None,
) -> Count:
    tables = cutter.cut(start, end)
    binds = cutter.binds(start, end)
    if using is not None:
        tables = f"{cutter.cut(start, using)}, {cutter.cut(using + 1, end)}"
        what += ", at most"
    condition = ""
    if where is not None:
        condition = f" {cutter.cut(where)}"
        binds += cutter.binds(where)
    return Count(what, sql=f"SELECT COUNT(*) FROM {tables}{condition}", binds=binds)  # noqa: S608


def _merged(cutter: _Cutter) -> Count | None:
    using = cutter.find("USING")
    on = None if using is None else cutter.find("ON", after=using)
    if using is None or on is None:
        return None
    source = cutter.cut(using + 1, on)
    return Count(
        "rows of the source that would be merged",
        sql=f"SELECT COUNT(*) FROM {source}",  # noqa: S608
        binds=cutter.binds(using + 1, on),
    )


def _inserted(cutter: _Cutter) -> Count | None:
    what = "rows that would be inserted"
    values = cutter.find("VALUES")
    query = cutter.find(*_QUERY)
    if query is not None:
        return _rows_of(cutter, query, what)
    if values is None:
        return None
    return Count(what, rows=sum(1 for at, word in cutter.top if at > values and word == "("))


def _rows_of(cutter: _Cutter, start: int, what: str) -> Count:
    query = cutter.cut(start)
    return Count(what, sql=f"SELECT COUNT(*) FROM ({query})", binds=cutter.binds(start))  # noqa: S608
