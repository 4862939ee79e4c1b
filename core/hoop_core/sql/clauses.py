"""Where the clauses of a change begin, by its tokens alone: a full parse is too slow to be done on the side.

The text was understood by the parser before, so it is grammatical. What is strict here is that no word is taken for
the beginning of a clause that may as well be a name: that is a Doubt, and the caller does without.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from sqlglot import TokenType

from hoop_core.sql.limits import Scan, scan

_OPENING = {TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE}
_CLOSING = {TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE}
_CLAUSES = {
    *("FROM", "USING", "SET", "WHERE", "ON", "WHEN", "MATCHED"),
    *("VALUES", "CASE", "END", "DISTINCT"),
}
_QUERIES = {"SELECT", "WITH"}
_BOUND = {TokenType.PLACEHOLDER, TokenType.COLON, TokenType.PARAMETER}
_NAME = re.compile(r'(?:[A-Za-z_][A-Za-z0-9_$]*|"(?:[^"]|"")+")\Z', re.DOTALL)


class Doubt(Exception):
    """A word can be read in more than one way, or the text has another form than was expected."""


@dataclass(frozen=True, slots=True)
class Clauses:
    """The tokens of one statement. `words` are in upper case where they are not quoted; `top` are the numbers of those
    that stand in no brackets and in no CASE."""

    text: Scan
    words: tuple[str, ...]
    top: tuple[int, ...]

    @classmethod
    def of(cls, sql: str) -> Clauses:
        """Raises Doubt, StatementRefused."""
        text = scan(sql)
        words = tuple(piece.strip().upper() for piece in text.pieces)
        return cls(text, words, tuple(_outside(text, words)))

    @property
    def end(self) -> int:
        return len(self.words)

    def word(self, at: int) -> str:
        return self.words[at] if 0 <= at < self.end else ""

    def expect(self, at: int, *wanted: str) -> int:
        """The number of the token after these. Raises Doubt."""
        if self.words[at : at + len(wanted)] != wanted:
            raise Doubt
        return at + len(wanted)

    def all(self, word: str) -> list[int]:
        """Where a word stands outside of brackets."""
        return [at for at in self.top if self.words[at] == word]

    def sources(self, start: int, end: int | None) -> list[int]:
        """Each FROM outside of brackets that begins a clause: not that of `IS [NOT] DISTINCT FROM`. Raises Doubt."""
        last = self.end if end is None else end
        found = []
        for at in (at for at in self.all("FROM") if start <= at < last):
            if self.word(at - 1) == "DISTINCT":
                if self.word(at - 2) != "IS" and self.words[at - 3 : at - 1] != ("IS", "NOT"):
                    raise Doubt
                continue
            if self.word(at + 1) in {"FIRST", "LAST"}:  # NTH_VALUE(x, 2) FROM LAST
                raise Doubt
            found.append(at)
        return found

    def after_name(self, at: int) -> int:
        """The number of the token after a name of a table. Raises Doubt."""
        while True:
            if self.word(at) in _CLAUSES or not _NAME.match(self.word(at)):
                raise Doubt
            at += 1
            if self.word(at) != ".":
                return at
            at += 1 + (self.word(at + 1) == ".")  # DATABASE..TABLE

    def after_target(self, at: int) -> int:
        """The number of the token after a table and its alias. Raises Doubt."""
        at = self.after_name(at)
        named = self.word(at) == "AS"
        at += named
        alias = self.word(at)
        if alias and alias not in _CLAUSES and _NAME.match(alias):
            return at + 1
        if named:
            raise Doubt
        return at

    def after_brackets(self, at: int) -> int:
        """The number of the token after the brackets that open at `at`. Raises Doubt."""
        if self.word(at) != "(":
            raise Doubt
        closing = next((n for n in self.top if n > at), None)
        if closing is None:
            raise Doubt
        return closing + 1

    def is_query(self, at: int) -> bool:
        """Whether a query begins here, in brackets or not."""
        while self.word(at) == "(":
            at += 1
        return self.word(at) in _QUERIES

    def groups(self, at: int) -> int:
        """How many brackets there are, with commas between and nothing after them. Raises Doubt."""
        count = 0
        while True:
            at = self.after_brackets(at)
            count += 1
            if at == self.end:
                return count
            at = self.expect(at, ",")

    def cut(self, start: int, end: int | None = None) -> str:
        return "".join(self.text.pieces[start:end]).strip()

    def binds(self, start: int, end: int | None = None) -> tuple[int, ...]:
        """The numbers of the question marks in a cut."""
        tokens, last = self.text.tokens, self.end if end is None else end
        marks = [at for at, t in enumerate(tokens) if t.token_type is TokenType.PLACEHOLDER]
        return tuple(n for n, at in enumerate(marks, 1) if start <= at < last)

    @property
    def has_binds(self) -> bool:
        """Whether anything may be bound, in whatever style."""
        return any(t.token_type in _BOUND for t in self.text.tokens)

    def holds(self, words: set[str], start: int, end: int, *, inside: bool = False) -> bool:
        """Whether one of some words is there, quoted or not, anywhere or inside of brackets."""
        hits = {at for at in range(start, end) if self.words[at].strip('"') in words}
        return bool(hits.difference(self.top) if inside else hits)


def _outside(text: Scan, words: tuple[str, ...]) -> list[int]:
    """The tokens that stand in no brackets and no CASE; brackets of the outermost level are among them."""
    found: list[int] = []
    opened: list[bool] = []
    """For each that is open: whether it is a CASE."""
    names = {at + 1 for at, word in enumerate(words) if word in {".", "AS"}}
    names |= {at for at, (_, after) in enumerate(pairwise(words)) if after == "."}
    for at, token in enumerate(text.tokens):
        kind, named = token.token_type, at in names
        closes = kind in _CLOSING or (kind is TokenType.END and not named)
        if closes and (not opened or opened.pop() is not (kind is TokenType.END)):
            raise Doubt
        if not opened:
            if named and words[at] in _CLAUSES:
                raise Doubt
            found.append(at)
        if kind in _OPENING or (kind is TokenType.CASE and not named):
            opened.append(kind is TokenType.CASE)
    if opened:
        raise Doubt
    return found
