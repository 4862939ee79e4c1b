"""Caps and lexical guards, applied to the token stream before any parsing.

A parser can be made to recurse or to take exponential time; a tokenizer can read a text differently
from Snowflake. So every token must have a shape that both read alike, and the counts that drive
sqlglot's cost are capped before it is asked to build a tree.
"""

from __future__ import annotations

import logging
import re
import string
from dataclasses import dataclass, field
from enum import IntEnum

from sqlglot import Token, TokenType
from sqlglot.errors import SqlglotError

from hoop_core.sql.dialect import SNOWFLAKE
from hoop_core.sql.refusals import refuse

# sqlglot logs the text of statements that it does not fully understand; texts hold people's data
logging.getLogger("sqlglot").setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a text may cost at most. Real analytic queries peak near 2,000 tokens and depth 9."""

    max_chars: int = 200_000
    max_tokens: int = 20_000
    max_depth: int = 32
    max_table_reads: int = 200
    max_prefix_run: int = 32
    """Consecutive prefix operators: each one is a level of recursion in the parser."""
    max_open_joins: int = 10
    """JOINs still waiting for their ON: sqlglot's time doubles with each one."""
    max_nested_types: int = 6
    """`DATE(DATE(...`: sqlglot tries each as a type and as a call, so its time doubles with each one."""
    max_nested_pivots: int = 4


DEFAULT = Limits()

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(?:[ \t\r\n\f\v]+[A-Za-z_][A-Za-z0-9_$]*)*\Z")
_NUMBER = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?\Z")
_STRING = re.compile(r"'(?:[^'\\]|\\.|'')*'\Z", re.DOTALL)
_DOLLAR = re.compile(r"\$\$(?:[^$]|\$(?!\$))*\$\$\Z", re.DOTALL)
_HEX = re.compile(r"[xX]'[0-9A-Fa-f]*'\Z")
_QUOTED = re.compile(r'"(?:[^"]|"")+"\Z', re.DOTALL)
_SPACE = re.compile(r"[ \t\r\n\f\v]+")
# `{-`, `^` and friends of MATCH_RECOGNIZE patterns, `@stage`, `->>`, `|>`, `{{jinja}}` stay out
# fmt: off
_OPERATORS = frozenset({
    ".", ",", "(", ")", "[", "]", "{", "}", "+", "-", "*", "/", "%", "=",
    "<>", "!=", "<", ">", "<=", ">=", "||", "::", ":", "=>", "->", "?", "$", "|", ";",
})
# fmt: on
_LITERAL_TYPES = frozenset(
    {TokenType.STRING, TokenType.RAW_STRING, TokenType.HEX_STRING, TokenType.NUMBER}
)
# sqlglot keeps the rest of these statements as one opaque string
_OPAQUE = frozenset({TokenType.COMMAND, TokenType.EXECUTE, TokenType.FETCH, TokenType.RENAME})
_ENDS_SOLID = frozenset(string.ascii_letters + string.digits + "'\"_$")
_STARTS_SOLID = frozenset(string.ascii_letters + string.digits + "'\"_$")
_TYPES = SNOWFLAKE.parser_class.TYPE_TOKENS


@dataclass(frozen=True, slots=True)
class Scan:
    """The tokens of one statement, and each as it is sent on: without comments, with one space in front
    where there was any gap, and with single spaces inside words such as `GROUP   BY`."""

    sql: str = field(repr=False)
    tokens: tuple[Token, ...] = field(repr=False)
    pieces: tuple[str, ...] = field(repr=False)

    @property
    def canonical(self) -> str:
        return "".join(self.pieces)


class _Role(IntEnum):
    """What a token means for the cost of parsing."""

    NONE = 0
    OPEN = 1
    CLOSE = 2
    CASE = 3
    END = 4
    READ = 5
    JOIN = 6
    ANSWER = 7  # ON or USING
    PREFIX = 8
    UNCONDITIONAL = 9  # CROSS or NATURAL: the JOIN after it waits for no ON
    SEPARATOR = 10
    NAMING = 11  # AS or a dot: the word after it is a name
    TYPE = 12
    PIVOT = 13


# Words that end or answer what another one opened; as names (`AS natural`, `x.end`) they do nothing.
_NAMES_AFTER = frozenset({_Role.END, _Role.ANSWER, _Role.UNCONDITIONAL})
_ROLE_OF_KIND = {
    _Role.OPEN: {TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE},
    _Role.CLOSE: {TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE},
    _Role.CASE: {TokenType.CASE},
    _Role.END: {TokenType.END},
    _Role.SEPARATOR: {TokenType.SEMICOLON},
    _Role.NAMING: {TokenType.ALIAS, TokenType.DOT},
    _Role.PIVOT: {TokenType.PIVOT, TokenType.UNPIVOT},
}
_ROLE_OF_WORD = {
    **dict.fromkeys(("FROM", "SELECT"), _Role.READ),
    **dict.fromkeys(("JOIN", "STRAIGHT_JOIN"), _Role.JOIN),
    **dict.fromkeys(("ON", "USING"), _Role.ANSWER),
    **dict.fromkeys(("NOT", "-", "+", "PRIOR", "INTERVAL", "DISTINCT"), _Role.PREFIX),
    **dict.fromkeys(("CROSS", "NATURAL"), _Role.UNCONDITIONAL),
}


def scan(sql: str, limits: Limits = DEFAULT) -> Scan:
    """One statement, without a trailing semicolon.

    Raises StatementRefused: NUL, TOO_LONG, BACKTICK, NON_ASCII, UNREADABLE_TOKEN, UNPARSEABLE, EMPTY,
    MULTI_STATEMENT, TOO_MANY_TOKENS, TOO_DEEP, TOO_MANY_READS.
    """
    tokens = _tokens(sql, limits)
    costs = _Costs(limits)
    pieces: list[str] = []
    end = -1  # where the previous token ended
    previous = _Role.NONE
    naming = _Role.NAMING  # looking up a member of an enumeration takes time
    for token in tokens:
        start, last = token.start, token.end
        text = sql[start : last + 1]
        known = _KNOWN.get(text)
        if known is None or known[0] is not token.token_type:
            known = _learn(token, text)
        _, piece, role = known
        if start > end + 1:
            piece = " " + piece if pieces else piece
        elif pieces and (
            (sql[end] in _ENDS_SOLID and text[0] in _STARTS_SOLID and pieces[-1].strip() != "$")
            or (text == "{" == sql[end])
        ):
            # `1_000`, `e'x'`, `'a'b`, `{{`: two tokens here, possibly one to Snowflake;
            # of `$1` the tree will show that a number follows
            raise _unreadable(sql[end : last + 1], token)
        pieces.append(piece)
        end = last
        if previous is naming and role in _NAMES_AFTER:
            role = _Role.NONE
        if 0 < role < naming or costs.run:  # the others matter to the word after them only
            costs.count(role, previous)
        previous = role
    return Scan(sql, tokens, tuple(pieces))


def check_length(sql: str, limits: Limits = DEFAULT) -> None:
    """Raises StatementRefused (TOO_LONG)."""
    if len(sql) > limits.max_chars:
        raise refuse(
            "TOO_LONG",
            f"The statement has {len(sql)} characters; at most {limits.max_chars} are read.",
            "Load bulk data from a stage or in smaller batches.",
        )


def _tokens(sql: str, limits: Limits) -> tuple[Token, ...]:
    check_length(sql, limits)
    if "\x00" in sql:
        raise refuse("NUL", "The statement contains a NUL character.", "Remove it.")
    try:
        found = SNOWFLAKE.tokenize(sql)
    except SqlglotError:
        raise refuse(
            "UNPARSEABLE",
            "The statement cannot be split into words.",
            "Look for an unclosed quote or comment.",
        ) from None
    while found and found[-1].token_type is TokenType.SEMICOLON:
        found.pop()
    if not found:
        raise refuse("EMPTY", "The statement is empty.", "Send one SQL statement.")
    if len(found) > limits.max_tokens:
        raise refuse(
            "TOO_MANY_TOKENS",
            f"The statement has {len(found)} words; at most {limits.max_tokens} are analysed.",
            "Split it into smaller statements.",
        )
    if found[0].token_type in _OPAQUE:
        raise refuse(
            "UNSERVED_STATEMENT",
            f"{found[0].text.upper()} statements are not served through Hoop.",
            "Send the query itself.",
        )
    return tuple(found)


_KNOWN: dict[str, tuple[TokenType, str, _Role]] = {}
_MOST_KNOWN = 20_000
"""Words seen before need no second look. Literals are never kept: they hold people's data."""


def _learn(token: Token, text: str) -> tuple[TokenType, str, _Role]:
    if not _readable(token, text):
        raise _unreadable(text, token)
    kind = token.token_type
    if kind in _LITERAL_TYPES:
        return kind, text, _Role.NONE
    quoted = kind is TokenType.IDENTIFIER
    piece = text if quoted else _SPACE.sub(" ", text)
    learnt = kind, piece, _Role.NONE if quoted else _role(token, text.upper())
    if len(text) <= 128:
        if len(_KNOWN) >= _MOST_KNOWN:
            _KNOWN.clear()
        _KNOWN[text] = learnt
    return learnt


def _role(token: Token, word: str) -> _Role:
    kind = token.token_type
    for role, kinds in _ROLE_OF_KIND.items():
        if kind in kinds:
            return role
    known = _ROLE_OF_WORD.get(word)
    if known is not None:
        return known
    return _Role.TYPE if kind in _TYPES else _Role.NONE


def _readable(token: Token, text: str) -> bool:
    first = text[:1]
    if first == "'":
        return token.token_type is TokenType.STRING and _STRING.match(text) is not None
    if first == '"':
        return token.token_type is TokenType.IDENTIFIER and _QUOTED.match(text) is not None
    if text.startswith("$$"):
        return token.token_type is TokenType.RAW_STRING and _DOLLAR.match(text) is not None
    if token.token_type is TokenType.HEX_STRING:
        return _HEX.match(text) is not None
    if token.token_type is TokenType.NUMBER:
        return _NUMBER.match(text) is not None
    return text in _OPERATORS or _WORD.match(text) is not None


def _unreadable(text: str, token: Token) -> Exception:
    where = f"at line {token.line}"
    if "`" in text:
        return refuse(
            "BACKTICK",
            f"A backtick {where} is not Snowflake SQL.",
            'Quote identifiers with "double quotes".',
        )
    if not text.isascii():
        return refuse(
            "NON_ASCII",
            f"An unquoted identifier {where} has characters outside ASCII.",
            'Put it in "double quotes".',
        )
    return refuse(
        "UNREADABLE_TOKEN",
        f"A piece of text {where} can be read in more than one way, or is not served through Hoop.",
        "Stages (@), pipes (->>, |>), templates ({{ }}) and prefixed strings are not accepted.",
    )


class _Costs:
    """What drives the parser's time, counted token by token."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._depth = self._cases = self._reads = self._open_joins = 0
        self._pending = [0]  # per nesting level: JOINs that have not met their ON or USING
        self._opened_by = [_Role.NONE]  # per nesting level: the role of the word before it
        self._types = self._pivots = 0
        self.run = 0

    def count(self, role: _Role, previous: _Role) -> None:
        """Raises StatementRefused: TOO_DEEP, TOO_MANY_READS, MULTI_STATEMENT."""
        self.run = self.run + 1 if role is _Role.PREFIX else 0
        if role is _Role.OPEN:
            self._depth += 1
            self._pending.append(0)
            self._opened_by.append(previous)
            self._types += previous is _Role.TYPE
            self._pivots += previous is _Role.PIVOT
        elif role is _Role.CLOSE:
            self._close()
        elif role is _Role.CASE:
            self._depth += 1
            self._cases += 1
        elif role is _Role.END and self._cases:
            self._depth -= 1
            self._cases -= 1
        elif role in {_Role.READ, _Role.JOIN}:
            self._reads += 1
            if role is _Role.JOIN and previous is not _Role.UNCONDITIONAL:
                self._pending[-1] += 1
                self._open_joins += 1
        elif role is _Role.ANSWER and self._pending[-1]:
            self._pending[-1] -= 1
            self._open_joins -= 1
        elif role is _Role.SEPARATOR:
            raise refuse(
                "MULTI_STATEMENT",
                "The text holds more than one statement.",
                "Send one statement at a time.",
            )
        self._check()

    def _close(self) -> None:
        if len(self._pending) == 1:
            return  # closed more often than opened: the parser will say so
        self._depth -= 1
        # an unanswered JOIN stays expensive for whatever encloses it
        closed = self._pending.pop()
        self._pending[-1] += closed
        by = self._opened_by.pop()
        self._types -= by is _Role.TYPE
        self._pivots -= by is _Role.PIVOT

    def _check(self) -> None:
        limits = self._limits
        if (
            self._depth > limits.max_depth
            or self.run > limits.max_prefix_run
            or self._types > limits.max_nested_types
            or self._pivots > limits.max_nested_pivots
        ):
            raise refuse(
                "TOO_DEEP",
                f"The statement is nested deeper than {limits.max_depth} levels.",
                "Use common table expressions or a temporary table for intermediate results.",
            )
        if self._reads > 3 * limits.max_table_reads or self._open_joins > limits.max_open_joins:
            raise refuse(
                "TOO_MANY_READS",
                "The statement has too many queries or joins, or joins without ON.",
                "Give every JOIN its ON, write CROSS JOIN where that is meant, or split the statement.",
            )
