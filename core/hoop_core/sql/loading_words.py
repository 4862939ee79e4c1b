"""The words of statements that load files: PUT, COPY INTO, temporary stages and file formats.

sqlglot's tokenizer does not know stages, and what it makes of `file://` is not what Snowflake does. These
statements are few and short, so they have a lexer of their own, which refuses whatever two readers could
read in two ways. It is one regular expression without nested repetition: its time is linear.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

from hoop_core.sql.refusals import refuse

_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "0": "\0"}


class Sort(Enum):
    """What a word is."""

    SPACE = auto()
    COMMENT = auto()
    FILE = auto()
    STAGE = auto()
    TEXT = auto()
    QUOTED = auto()
    COLUMN = auto()
    NUMBER = auto()
    NAME = auto()
    BIND = auto()
    SIGN = auto()


_NAME = r"[A-Za-z_][A-Za-z0-9_$]*"
_IN_QUOTES = r'"(?:[^"\x00]|"")+"'
_STAGE_NAME = rf"(?:{_IN_QUOTES}|{_NAME})"
_WORDS = re.compile(
    "|".join(
        (
            r"(?P<SPACE>[ \t\r\n\f\v]+)",
            # a comment inside a comment ends where the reader thinks it does
            r"(?P<COMMENT>/\*(?:[^*/]|\*(?!/)|/(?!\*))*\*/|--[^\r\n]*)",
            r"(?P<FILE>[Ff][Ii][Ll][Ee]://[^\s'\";]*)",
            rf"(?P<STAGE>@(?:~|%?{_STAGE_NAME}(?:\.{_STAGE_NAME}){{0,2}})(?:/[A-Za-z0-9_.$=+~/-]*)?)",
            r"(?P<TEXT>'(?:[^'\\\x00]|''|\\[^\x00])*')",
            rf"(?P<QUOTED>{_IN_QUOTES})",
            r"(?P<COLUMN>\$[0-9]{1,4}(?![A-Za-z0-9_$]))",
            r"(?P<NUMBER>[0-9]+(?:\.[0-9]+)?(?![A-Za-z0-9_$.]))",
            rf"(?P<NAME>{_NAME})",
            r"(?P<BIND>\?)",
            # a slash before a slash or a star begins a comment for somebody
            r"(?P<SIGN>::|=>|<>|!=|<=|>=|\|\||[(),.:=;*<>+%\[\]{}-]|/(?![/*]))",
        )
    )
)


@dataclass(frozen=True, slots=True)
class Word:
    """`text` as it is written; `start` and `end` (exclusive) are places in the statement."""

    sort: Sort
    text: str
    start: int
    end: int

    @property
    def value(self) -> str:
        """What a text or a name stands for: without quotes, names without quotes in upper case."""
        if self.sort is Sort.TEXT:
            return unescaped(self.text[1:-1])
        if self.sort is Sort.QUOTED:
            return self.text[1:-1].replace('""', '"')
        return self.text.upper() if self.sort is Sort.NAME else self.text


def words(sql: str) -> list[Word]:
    """The words of a text, without white space and comments.

    Raises StatementRefused (UNREADABLE_TOKEN) for what is none.
    """
    found: list[Word] = []
    at = 0
    while at < len(sql):
        match = _WORDS.match(sql, at)
        if match is None:
            raise refuse(
                "UNREADABLE_TOKEN",
                f"A piece of text at character {at + 1} can be read in more than one way, or is not "
                "served in statements that load files.",
                "Put paths and names with other characters in quotes; leave nested and // comments out.",
            )
        sort = Sort[match.lastgroup or ""]
        if sort not in (Sort.SPACE, Sort.COMMENT):
            if found and found[-1].end == at and _run_together(found[-1], sort):
                raise refuse(
                    "UNREADABLE_TOKEN",
                    f"Two words run together at character {at + 1}.",
                    "Put a space between them.",
                )
            found.append(Word(sort, match.group(), at, match.end()))
        at = match.end()
    return found


_SOLID = frozenset({Sort.TEXT, Sort.QUOTED, Sort.COLUMN, Sort.NUMBER, Sort.NAME, Sort.STAGE, Sort.FILE})  # fmt: skip


def _run_together(before: Word, sort: Sort) -> bool:
    if before.sort is Sort.FILE and sort is Sort.TEXT:
        return False  # the Node.js driver writes `file://1'@stage'`; no path without quotes has one in it
    return before.sort in _SOLID and sort in _SOLID


def unescaped(inner: str) -> str:
    """The value of a string literal's inside.

    https://docs.snowflake.com/en/sql-reference/data-types-text#escape-sequences-in-single-quoted-string-constants
    """

    def one(match: re.Match[str]) -> str:
        found = match.group()
        if found == "''":
            return "'"
        return _ESCAPES.get(found[1], found[1])

    if re.search(r"\\[0-9xXuU]", inner):
        raise refuse(
            "UNREADABLE_TOKEN",
            "A text has a character given by its number (\\x, \\u, \\0).",
            "Write the character itself.",
        )
    return re.sub(r"''|\\.", one, inner, flags=re.DOTALL)


def text_literal(value: str) -> str:
    """A string literal that means `value`."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
