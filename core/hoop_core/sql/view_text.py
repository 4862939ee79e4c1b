"""What a view's text says: its name, its columns, its query. Everything else in it refuses the view.

The text is Snowflake's own (GET_DDL) or stands in a catalog file. Snowflake has already read it in its own
way, so it must leave no room for another reading: its comments too.

https://docs.snowflake.com/en/sql-reference/sql/create-view
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sqlglot import Token, TokenType
from sqlglot.errors import SqlglotError

from hoop_core.errors import StatementRefused
from hoop_core.model import TableName
from hoop_core.sql.dialect import SNOWFLAKE
from hoop_core.sql.limits import Limits
from hoop_core.sql.refusals import refuse

_GAP = re.compile(
    r"(?:[ \t\r\n\f\v]|--[^\r\n]*(?:\r?\n|\Z)|//[^\r\n]*(?:\r?\n|\Z)|/\*(?:(?!/\*|\*/).)*\*/)*\Z",
    re.DOTALL,
)
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*\Z")
_STRING = re.compile(r"'(?:[^'\\]|\\.|'')*'\Z", re.DOTALL)
# What keeps the query of a view from standing for the view: Snowflake would apply it to the view only.
_GOVERNED = {"POLICY", "TAG", "CONTACT"}


@dataclass(frozen=True, slots=True)
class ViewText:
    """`columns` are the stored names that the text lists; None when it leaves them to the query."""

    columns: tuple[str, ...] | None
    query: str


def read_view(text: str, view: TableName, limits: Limits) -> ViewText:
    """Read the definition of `view`: a CREATE VIEW statement, or the query alone.

    Raises StatementRefused (VIEW_NOT_UNDERSTOOD) with what is wrong, to be said after the view's name.
    """
    if len(text) > limits.max_chars:
        raise not_understood("has a text that is too long to be read")
    try:
        tokens = list(SNOWFLAKE.tokenize(text))
    except SqlglotError:
        raise not_understood("has a text that cannot be split into words") from None
    _check_gaps(text, tokens)
    while tokens and tokens[-1].token_type is TokenType.SEMICOLON:
        tokens.pop()
    reader = _Reader(text, tokens)
    if not reader.take("CREATE"):
        return ViewText(None, reader.rest())
    return _create(reader, view)


def not_understood(what: str) -> StatementRefused:
    """`what` is said after the view's name."""
    return refuse("VIEW_NOT_UNDERSTOOD", what)


def _check_gaps(text: str, tokens: Sequence[Token]) -> None:
    """Between the words stands only what every reader skips alike."""
    at = 0
    for token in tokens:
        if not _GAP.match(text[at : token.start]):
            raise not_understood("has a comment in its text that can be read in more than one way")
        at = token.end + 1
    if not _GAP.match(text[at:]):
        raise not_understood("has a comment in its text that can be read in more than one way")


def _create(reader: _Reader, view: TableName) -> ViewText:
    reader.take("OR", "REPLACE")
    if reader.take("SECURE"):
        raise not_understood("is a secure view: reading its query instead would show what it hides")
    reader.take("RECURSIVE")
    if not reader.take("VIEW"):
        raise not_understood("is not an ordinary view")
    reader.take("IF", "NOT", "EXISTS")
    name = reader.name()
    stored = (view.database, view.schema, view.name)
    if not name or name != stored[-len(name) :]:
        raise not_understood("has a text that defines another view")
    columns = _listed_columns(reader)
    while not reader.take("AS"):
        _option(reader)
    return ViewText(columns, reader.rest())


def _listed_columns(reader: _Reader) -> tuple[str, ...] | None:
    if not reader.take("("):
        return None
    columns: list[str] = []
    while True:
        name = reader.name()
        if len(name) != 1:
            raise reader.wrong()
        columns += name
        if reader.take("COMMENT") and not reader.string():
            raise reader.wrong()
        if reader.take(")"):
            return tuple(columns)
        if not reader.take(","):
            raise reader.wrong()


def _option(reader: _Reader) -> None:
    if reader.take("COPY", "GRANTS"):
        return
    if reader.take("COMMENT", "=") and reader.string():
        return
    if reader.take("CHANGE_TRACKING", "=") and (reader.take("TRUE") or reader.take("FALSE")):
        return
    raise reader.wrong()


class _Reader:
    """A cursor over the words in front of the query."""

    def __init__(self, text: str, tokens: Sequence[Token]) -> None:
        self._text = text
        # sqlglot reads some pairs of words as one token
        self._words = [(word, t) for t in tokens for word in _words(t)]
        self._at = 0

    def take(self, *words: str) -> bool:
        """All the given words in this order, unquoted."""
        ahead = self._words[self._at : self._at + len(words)]
        if [word for word, _ in ahead] != list(words):
            return False
        self._at += len(words)
        return True

    def name(self) -> tuple[str, ...]:
        """A dotted name in stored case; empty when there is none here."""
        parts: list[str] = []
        while self._at < len(self._words):
            word, token = self._words[self._at]
            if token.token_type is TokenType.IDENTIFIER:
                parts.append(token.text)
            elif word and _PLAIN.match(word):
                parts.append(word)
            else:
                return ()
            self._at += 1
            if not self.take("."):
                return tuple(parts)
        return ()

    def string(self) -> bool:
        if self._at < len(self._words):
            token = self._words[self._at][1]
            if _STRING.match(self._text[token.start : token.end + 1]):
                self._at += 1
                return True
        return False

    def rest(self) -> str:
        """The text from here to its end, without a trailing semicolon."""
        if self._at >= len(self._words):
            raise not_understood("has no query in its text")
        return self._text[self._words[self._at][1].start : self._words[-1][1].end + 1]

    def wrong(self) -> StatementRefused:
        if any(word in _GOVERNED for word, _ in self._words[: self._at + 6]):
            return not_understood(
                "carries policies or tags of Snowflake's own, which reading its query would pass by"
            )
        return not_understood("has a text that is not an ordinary CREATE VIEW ... AS SELECT")


def _words(token: Token) -> list[str]:
    if token.token_type in {TokenType.STRING, TokenType.RAW_STRING, TokenType.IDENTIFIER}:
        return [""]  # never taken for a word
    return token.text.upper().split()
