"""Text of strangers, made visible: nothing in it is invisible, moves other text, or passes for the page itself.

What a reader could not see is written out, as [U+202E]. Nothing is left out and nothing else is changed.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from markupsafe import Markup, escape

from hoop_core.characters import code_of, foreign, name_of, unseen

_MOST_MARKS = 2
"""Accents on one letter; more of them reach over the lines above and below."""
_MOST_COLUMNS, _MOST_LINES, _TAB = 40, 6, 4
_MOST_LISTED = 20
_PART = re.compile(r"(?P<words>[!-~]++(?: [!-~]++)*+)|(?P<blank>[ \t\n]++)|(?P<other>.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Odd:
    """A character that a reader has to know of."""

    code: str
    name: str
    times: int


@dataclass(frozen=True, slots=True)
class OddOnes:
    """The rarest first, as the one letter that deceives stands there once; `more` are not listed."""

    listed: list[Odd]
    more: int


def odd_characters(text: str) -> OddOnes:
    """What is not printable ASCII: unseen, or a letter that may look like another."""
    found = foreign(text)
    listed = [Odd(code_of(c), name_of(c), times) for c, times in found[:_MOST_LISTED]]
    return OddOnes(listed, len(found) - len(listed))


def marked(text: str, *, foreign: bool = False) -> Markup:
    """The text as HTML. With `foreign` every letter outside ASCII is marked, for it may look like another."""
    if len(text) < _MOST_COLUMNS and text.isascii() and text.isprintable():
        return escape(text)
    out: list[str] = []
    marks = 0
    for part in _PART.finditer(text):
        words, blank, character = part.groups()
        marks = marks + 1 if character and unicodedata.combining(character) else 0
        if words:
            out.append(str(escape(words)))
        elif blank:
            out.append(_blank(blank))
        else:
            out.append(_written_out(character) if marks > _MOST_MARKS else _one(character, foreign))
    return Markup("".join(out))  # noqa: S704 - every piece is escaped above


def breakable(text: str) -> Markup:
    """The same with places where long names may go on in the next line."""
    return Markup(".<wbr>").join(marked(part) for part in text.split("."))


def shortened(text: str, most: int) -> str:
    """For places with little room: the whole text is elsewhere on the page."""
    return text if len(text) <= most else text[: most - 1] + "…"


@lru_cache(maxsize=4096)
def _one(character: str, foreign: bool) -> str:
    if unseen(character):
        return _written_out(character)
    if foreign and not character.isascii():
        title = escape(f"{code_of(character)} {name_of(character)}")
        return f'<span class="foreign" title="{title}">{escape(character)}</span>'
    return str(escape(character))


def _written_out(character: str) -> str:
    title = escape(name_of(character))
    return f'<span class="unseen" title="{title}">[{code_of(character)}]</span>'


def _blank(run: str) -> str:
    """White space in such amounts that something is to be pushed out of sight is counted instead, whatever it is
    made of.
    """
    told = [
        f"{count} {name if count > 1 else name[:-1]}"
        for count, name in (
            (run.count(" "), "spaces"), (run.count("\t"), "tabs"), (run.count("\n"), "line ends"))
        if count
    ]  # fmt: skip
    lines = run.count("\n")
    widest = max(len(line.expandtabs(_TAB)) for line in run.split("\n"))
    if lines < _MOST_LINES and widest < _MOST_COLUMNS:
        return run
    end = "\n" if lines else " "
    return f'{end}<span class="unseen">[{", ".join(told)}]</span>{end}'
