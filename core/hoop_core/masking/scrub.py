"""Error texts of Snowflake without the values that they quote.

What Snowflake says of a value that it could not convert holds that value: in quotes, behind "value", in the
list of a row. No list of such messages would be complete, so the rule is turned round. A piece of a message
stays only if the caller wrote it in the statement, if it names something that the statement touches, or if it
is a word of Snowflake's own: one that stands in `snowflake_messages.txt`. All else is hidden, numbers too,
save for places in the text, limits and the sizes of types.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources

HIDDEN = "[hidden]"
_LONGEST = 4_000
_PIECES = re.compile(
    r"""
      (?P<quoted>'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`)
    | (?P<type>\b[A-Z][A-Z_0-9]*(?:\[[A-Z0-9]{1,8}\])?\(\d{1,9}(?:,[ ]?\d{1,3})?\))
    | (?P<place>\b(?:line|position|pos|character|column|row|limit|length|size|expected|expecting|expects|got|timeout[ ]of)
        [ :=]{1,2}\(?\d{1,9}\)?(?![\w.,-]*\w))
    | (?P<code>\A\d{6}(?=[ ]\())
    | (?P<state>\(\d[0-9A-Z]{4}\))
    | (?P<word>[\w$]+)
    | (?P<space>\s+)
    | (?P<mark>[!-/:-@\[-`{-~])
    | (?P<other>.)
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
_TYPES = frozenset(
    [
        "ARRAY",
        "BIGINT",
        "BINARY",
        "BOOLEAN",
        "CHAR",
        "DATE",
        "DATETIME",
        "DECIMAL",
        "DOUBLE",
        "FIXED",
        "FLOAT",
        "GEOGRAPHY",
        "GEOMETRY",
        "INTEGER",
        "MAP",
        "NUMBER",
        "NUMERIC",
        "OBJECT",
        "REAL",
        "STRING",
        "TEXT",
        "TIME",
        "TIMESTAMP",
        "TIMESTAMP_LTZ",
        "TIMESTAMP_NTZ",
        "TIMESTAMP_TZ",
        "VARBINARY",
        "VARCHAR",
        "VARIANT",
        "VECTOR",
    ]
)
_ROW_VALUES = re.compile(r"(row values?|values)\s*[:\[(]", re.IGNORECASE)
_VALUE = re.compile(r"values?|json|xml", re.IGNORECASE)
# The only words of Snowflake's own that may stand behind "value" in the same line.
_BEHIND_VALUE = frozenset(
    [
        "is",
        "not",
        "recognized",
        "to",
        "as",
        "for",
        "with",
        "format",
        "out",
        "of",
        "range",
        "in",
        "column",
        "row",
        "file",
        "line",
        "character",
        "a",
        "an",
        "the",
        "into",
        "longer",
        "than",
        "maximum",
        "allowed",
        "pos",
        "unknown",
        "keyword",
        "document",
        "too",
        "large",
        "max",
        "size",
        "bytes",
        "list",
        "does",
        "match",
        "expecting",
        "but",
        "got",
        "exceeded",
        "by",
        "string",
        "error",
        "parsing",
    ]
)


def scrub(message: str, statement: str, names: Iterable[str] = ()) -> str:
    """`message` without values. `statement` is the caller's own text; `names` are parts of the names of what
    the statement touches. The answer holds no word that is in none of them and not Snowflake's own.
    """
    told = message[:_LONGEST]
    row = _ROW_VALUES.search(told)
    if row:
        told = told[: row.end(1)]
    named = {n.upper() for n in names}
    known = _Known(statement.replace("''", "'"), named, _words(statement) | named)
    shown: list[str] = []
    behind_value = False
    for piece in _PIECES.finditer(told):
        kind, text = str(piece.lastgroup), piece.group()
        if kind == "space":
            behind_value = behind_value and "\n" not in text
        stays = _stays(kind, text, known, behind_value=behind_value)
        shown.append(text if stays else HIDDEN)
        behind_value = behind_value or (kind == "word" and bool(_VALUE.fullmatch(text)))
    if row:
        shown.append(f": {HIDDEN}")
    # What one value left behind is one gap: its length and its punctuation are part of it.
    return re.sub(rf"{_GAP}(?:[\W_]*{_GAP})+", HIDDEN, "".join(shown))


_GAP = re.escape(HIDDEN)


_LOOKED_UP, _PLACES = 32, 64
"""Pieces of one message that are looked for in the statement, and places at which each is looked at. A message
of Snowflake's own quotes a few; what comes after these is hidden.
"""
_GOES_ON = re.compile(r"[\w@+-]|\.\w")
_CAME_FROM = re.compile(r"[\w@.+-]")


@dataclass(slots=True)
class _Known:
    """What the caller knows: the statement, the names of what it touches, and the words of both."""

    statement: str
    names: set[str]
    words: set[str]
    lookups: int = 0

    def wrote(self, content: str) -> bool:
        """Whether the statement holds `content`, and not as a part of something longer.

        Both texts are the caller's to choose, so the work is bounded: a search takes time by their lengths'
        sum, and there are a few searches only.
        """
        self.lookups += 1
        if self.lookups > _LOOKED_UP:
            return False
        at = -1
        for _ in range(_PLACES):
            at = self.statement.find(content, at + 1)
            if at < 0:
                return False
            end = at + len(content)
            goes_on = _GOES_ON.match(self.statement, end)
            if not goes_on and not (at and _CAME_FROM.match(self.statement, at - 1)):
                return True
        return False


def _stays(kind: str, text: str, known: _Known, *, behind_value: bool) -> bool:
    if kind in {"space", "mark"}:
        return True
    if kind == "quoted":
        return _quoted_stays(text[1:-1], known)
    if kind == "word":
        upper = text.upper()
        if upper in known.words or (upper in _TYPES and text == upper):
            return True
        return text.lower() in (_BEHIND_VALUE if behind_value else _vocabulary())
    if kind == "type":
        return text[: min(text.find(c) for c in "[(" if c in text)] in _TYPES
    return kind == "code" or (kind in {"place", "state"} and not behind_value)


def _quoted_stays(content: str, known: _Known) -> bool:
    """What the caller wrote in one piece, or a name all of whose parts are known."""
    if not content.strip():
        return True
    if content.upper() in known.words:
        return True
    if all(p.strip('"').upper() in known.names for p in content.split(".")):
        return True
    return known.wrote(content.replace("''", "'"))


def _words(statement: str) -> set[str]:
    """Identifiers, keywords, numbers and literals of one word, as the caller wrote them."""
    return {w.upper() for w in re.findall(r"[\w$]+", statement)}


@cache
def _vocabulary() -> frozenset[str]:
    text = (
        resources.files("hoop_core.masking").joinpath("snowflake_messages.txt").read_text("utf-8")
    )
    told = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    return frozenset(w.lower() for w in re.findall(r"[^\W\d_]+(?:_[^\W\d]+)*", told)) | {
        "utf8",
        "utf16",
    }
