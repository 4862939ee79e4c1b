"""Caps and lexical guards, applied to the token stream before any parsing.

A parser can be made to recurse or to take exponential time; a tokenizer can read a text differently
from Snowflake. So every token must have a shape that both read alike, and the counts that drive
sqlglot's cost are capped before it is asked to build a tree.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sqlglot import Token, TokenType
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import SqlglotError

from hoop_core.sql.refusals import refuse

SNOWFLAKE = Dialect.get_or_raise("snowflake")

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
_QUOTED_TYPES = frozenset(
    {TokenType.STRING, TokenType.RAW_STRING, TokenType.HEX_STRING, TokenType.IDENTIFIER}
)
_OPEN = frozenset({TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE})
_CLOSE = frozenset({TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE})
# sqlglot keeps the rest of these statements as one opaque string
_OPAQUE = frozenset({TokenType.COMMAND, TokenType.EXECUTE, TokenType.FETCH, TokenType.RENAME})
_PREFIX = frozenset({"NOT", "-", "+", "PRIOR", "INTERVAL", "DISTINCT"})


def raw(sql: str, token: Token) -> str:
    """The caller's own characters of a token; white space inside `GROUP   BY` becomes one space."""
    text = sql[token.start : token.end + 1]
    return text if token.token_type in _QUOTED_TYPES else _SPACE.sub(" ", text)


def scan(sql: str, limits: Limits = DEFAULT) -> tuple[Token, ...]:
    """The tokens of one statement, without a trailing semicolon.

    Raises StatementRefused: NUL, TOO_LONG, BACKTICK, NON_ASCII, UNREADABLE_TOKEN, UNPARSEABLE, EMPTY,
    MULTI_STATEMENT, TOO_MANY_TOKENS, TOO_DEEP, TOO_MANY_READS.
    """
    if len(sql) > limits.max_chars:
        raise refuse(
            "TOO_LONG",
            f"The statement has {len(sql)} characters; at most {limits.max_chars} are read.",
            "Load bulk data from a stage or in smaller batches.",
        )
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
    tokens = tuple(found)
    _check_shapes(sql, tokens)
    _check_costs(tokens, limits)
    return tokens


def canonical(sql: str, tokens: Sequence[Token]) -> str:
    """The statement without its comments: the caller's tokens, one space where there was any gap."""
    out: list[str] = []
    end = -1
    for token in tokens:
        if out and token.start > end + 1:
            out.append(" ")
        out.append(raw(sql, token))
        end = token.end
    return "".join(out)


def _check_shapes(sql: str, tokens: Sequence[Token]) -> None:
    previous: Token | None = None
    for token in tokens:
        text = sql[token.start : token.end + 1]
        if not _readable(token, text):
            raise _unreadable(text, token)
        if token.token_type is TokenType.SEMICOLON:
            raise refuse(
                "MULTI_STATEMENT",
                "The text holds more than one statement.",
                "Send one statement at a time.",
            )
        if previous is not None and previous.end + 1 == token.start and _clash(sql, previous, text):
            # `1_000`, `e'x'`, `'a'b`, `{{`: two tokens here, possibly one to Snowflake
            raise _unreadable(sql[previous.start : token.end + 1], token)
        previous = token


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


def _clash(sql: str, previous: Token, text: str) -> bool:
    before, after = sql[previous.end], text[0]
    if before == after == "{":
        return True
    if sql[previous.start : previous.end + 1] == "$":
        return False  # `$1`; that only a number may follow is checked on the tree
    solid = "'\"_$"
    return (before.isalnum() or before in solid) and (after.isalnum() or after in "'\"_")


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


def _check_costs(tokens: Sequence[Token], limits: Limits) -> None:
    depth = run = reads = 0
    pending = [0]  # per nesting level: JOINs that have not met their ON or USING
    previous = ""
    for token in tokens:
        kind = token.token_type
        word = "" if kind in _QUOTED_TYPES else token.text.upper()
        run = run + 1 if word in _PREFIX else 0
        if kind in _OPEN:
            depth += 1
            pending.append(0)
        elif kind in _CLOSE:
            depth -= 1
            if len(pending) > 1:
                # an unanswered JOIN stays expensive for whatever encloses it
                closed = pending.pop()
                pending[-1] += closed
        elif kind is TokenType.CASE:
            depth += 1
        elif kind is TokenType.END:
            depth -= 1
        elif word in {"FROM", "JOIN", "SELECT"}:
            reads += 1
            if word == "JOIN" and previous not in {"CROSS", "NATURAL"}:
                pending[-1] += 1
        elif word in {"ON", "USING"}:
            pending[-1] = max(0, pending[-1] - 1)
        if depth > limits.max_depth or run > limits.max_prefix_run:
            raise refuse(
                "TOO_DEEP",
                f"The statement is nested deeper than {limits.max_depth} levels.",
                "Use common table expressions or a temporary table for intermediate results.",
            )
        if reads > 3 * limits.max_table_reads or sum(pending) > limits.max_open_joins:
            raise refuse(
                "TOO_MANY_READS",
                "The statement has too many queries or joins, or joins without ON.",
                "Give every JOIN its ON, write CROSS JOIN where that is meant, or split the statement.",
            )
        previous = word
