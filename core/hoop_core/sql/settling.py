"""Names that come as bind variables, written into the statement before it is analysed.

`write_pandas` names its tables and stages by `identifier(?)`, the drivers' uploads theirs by `PUT ... ?`. What
such a statement does is not in its text, so nothing could be decided on it: the bound names are put in their
places, and the text that comes of it is what is analysed, logged, approved and run. Bind variables that are
values stay bound.

https://docs.snowflake.com/en/sql-reference/identifier-literal
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hoop_core.errors import StatementRefused
from hoop_core.sql.limits import DEFAULT
from hoop_core.sql.loading_words import Sort, Word, text_literal, words
from hoop_core.sql.names import parse_parts

Bindings = dict[str, Any]

_LOADS = re.compile(r"(?:\s|/\*[^*]*\*+(?:[^/*][^*]*\*+)*/)*(?:PUT|COPY)\b", re.IGNORECASE)
_NAMES = re.compile(r"\b(?:IDENTIFIER|INFER_SCHEMA)\s*\(", re.IGNORECASE)
_MOST_CHARS = 4096  # of one bound name


@dataclass(frozen=True, slots=True)
class Settled:
    """A statement whose names all stand in its text, and the values that are still bound."""

    sql: str
    bindings: Bindings | None
    values: bool = False
    """Whether other bound values than names were written into the text: it is not for the log of a refusal."""


def settle(sql: str, bindings: Bindings | None) -> Settled:
    """Put bound names in their places. Never raises: what does not fit is left, for the analysis to refuse."""
    as_given = Settled(sql, bindings)
    loads = _LOADS.match(sql) is not None
    if len(sql) > DEFAULT.max_chars or not (
        (loads and bindings) or ("(" in sql and _NAMES.search(sql))
    ):
        return as_given
    try:
        found = words(sql)
    except StatementRefused:
        return as_given
    if any(w.sort is Sort.SIGN and w.text == ";" for w in found[:-1]):
        return as_given  # several statements: refused as such
    return _settled(sql, found, bindings or {}, everything=loads or _infers(found)) or as_given


def _infers(found: list[Word]) -> bool:
    return any(w.sort is Sort.NAME and w.value == "INFER_SCHEMA" for w in found)


def _settled(
    sql: str, found: list[Word], bindings: Mapping[str, Any], *, everything: bool
) -> Settled | None:
    """None when a bound name is none. With `everything` all bind variables are written into the text."""
    pieces: list[str] = []
    kept: Bindings = {}
    at = position = 0
    for i, word in enumerate(found):
        if word.start < at:
            continue  # inside identifier( ... )
        named = _named(found, i)
        if named is not None:
            inner, end = named
            position += inner.sort is Sort.BIND
            name = _text(bindings, position) if inner.sort is Sort.BIND else inner.value
            if name is None or not _is_name(name):
                return None
            pieces += [sql[at : word.start], name]
            at = end
        elif word.sort is Sort.BIND:
            position += 1
            value = _text(bindings, position) if everything else None
            if everything:
                if value is None:
                    return None
                pieces += [sql[at : word.start], text_literal(value)]
                at = word.end
            elif str(position) in bindings:
                kept[str(len(kept) + 1)] = bindings[str(position)]
    if position != len(bindings):
        return None  # named or numbered binds, or more of them than places
    return Settled("".join([*pieces, sql[at:]]), kept or None, everything and bool(bindings))


def _named(found: list[Word], i: int) -> tuple[Word, int] | None:
    """What stands in `identifier( )` at a place, and where that ends."""
    if not (found[i].sort is Sort.NAME and found[i].value == "IDENTIFIER" and i + 3 < len(found)):
        return None
    opening, inner, closing = found[i + 1 : i + 4]
    if (opening.text, closing.text) != ("(", ")") or inner.sort not in (Sort.BIND, Sort.TEXT):
        return None
    return inner, closing.end


def _text(bindings: Mapping[str, Any], position: int) -> str | None:
    bound = bindings.get(str(position))
    if not isinstance(bound, dict) or bound.get("type") != "TEXT":
        return None
    value = bound.get("value")
    return value if isinstance(value, str) and len(value) <= _MOST_CHARS else None


def _is_name(text: str) -> bool:
    parts = parse_parts(text)
    return parts is not None and len(parts) <= 3 and "*" not in parts and text == text.strip()
