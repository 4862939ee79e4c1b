"""Text of strangers, made visible: nothing in it is invisible, moves other text, or passes for the page itself.

What a reader could not see is written out, as [U+202E]. Nothing is left out and nothing else is changed.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass

from markupsafe import Markup, escape

_BLANKS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Letters and symbols that look like nothing at all."""
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_MOST_MARKS = 2
"""Accents on one letter; more of them reach over the lines above and below."""
_MOST_SPACES, _MOST_LINES = 40, 6
_MOST_LISTED = 20


@dataclass(frozen=True, slots=True)
class Odd:
    """A character that a reader has to know of."""

    code: str
    name: str
    times: int


def name_of(character: str) -> str:
    return unicodedata.name(character, "") or (
        "CONTROL CHARACTER" if unicodedata.category(character) == "Cc" else "UNASSIGNED"
    )


def code_of(character: str) -> str:
    return f"U+{ord(character):04X}"


def unseen(character: str) -> bool:
    """Whether a reader would not see it, or would see something else."""
    if " " <= character <= "~" or character in "\n\t":
        return False
    category = unicodedata.category(character)
    selector = "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"
    return category in _UNSEEN or category == "Zs" or selector or character in _BLANKS


def odd_characters(text: str, *, foreign: bool) -> list[Odd]:
    """Which there are; with `foreign` also letters that are not ASCII, as some look like those that are."""
    if text.isascii() and text.isprintable():
        return []
    counted = Counter(c for c in text if unseen(c) or (foreign and not c.isascii()))
    listed = counted.most_common(_MOST_LISTED)
    return [Odd(code_of(c), name_of(c), n) for c, n in listed]


def marked(text: str, *, foreign: bool = False) -> Markup:
    """The text as HTML. With `foreign` every letter outside ASCII is marked, for it may look like another."""
    if text.isascii() and text.isprintable() and " " * _MOST_SPACES not in text:
        return escape(text)
    out: list[str] = []
    marks = 0
    at = 0
    while at < len(text):
        character = text[at]
        if character in " \n":
            run = _run(text, at, character)
            out.append(_space(character, run))
            at += run
            continue
        at += 1
        marks = marks + 1 if unicodedata.combining(character) else 0
        if unseen(character) or marks > _MOST_MARKS:
            out.append(_written_out(character))
        elif foreign and not character.isascii():
            title = escape(f"{code_of(character)} {name_of(character)}")
            out.append(f'<span class="foreign" title="{title}">{escape(character)}</span>')
        else:
            out.append(str(escape(character)))
    return Markup("".join(out))  # noqa: S704 - every piece is escaped above


def breakable(text: str) -> Markup:
    """The same with places where long names may go on in the next line."""
    return Markup(".<wbr>").join(marked(part) for part in text.split("."))


def shortened(text: str, most: int) -> str:
    """For places with little room: the whole text is elsewhere on the page."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _written_out(character: str) -> str:
    title = escape(name_of(character))
    return f'<span class="unseen" title="{title}">[{code_of(character)}]</span>'


def _run(text: str, at: int, character: str) -> int:
    end = at
    while end < len(text) and text[end] == character:
        end += 1
    return end - at


def _space(character: str, run: int) -> str:
    """Space in such amounts that something is to be pushed out of sight is counted instead."""
    if character == " " and run >= _MOST_SPACES:
        return f' <span class="unseen">[{run} spaces]</span> '
    if character == "\n" and run >= _MOST_LINES:
        return f'\n<span class="unseen">[{run} line ends]</span>\n'
    return character * run
