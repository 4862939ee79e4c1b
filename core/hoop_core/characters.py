"""Which characters of a stranger's text a reader would not see, or would see somewhere else than they stand.

One classification for every place that shows such text: Hoop's pages, Airflow's Required Actions, the plugin's pages.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections import Counter
from functools import lru_cache

_IGNORABLE = (
    (0x00AD, 0x00AD),
    (0x034F, 0x034F),
    (0x061C, 0x061C),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x200B, 0x200F),
    (0x202A, 0x202E),
    (0x2060, 0x206F),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFF8),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),
)
"""Default_Ignorable_Code_Point, first and last: DerivedCoreProperties.txt of Unicode 17.0 (UAX #44)."""
_FIRSTS = [first for first, _ in _IGNORABLE]
_BLANKS = frozenset("\u2800\ufffc\U00013441\U00013442\U00016fe4\U0001d159")
"""Symbols and letters that look like nothing at all."""
_LONG = frozenset(map(chr, (*range(0xFD40, 0xFD50), 0xFDCF, *range(0xFDFD, 0xFE00))))
"""Arabic phrases in one sign: as wide as a clause, over which they may lie. Unicode calls them neutral symbols."""
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"})
_MARKS = frozenset({"Mn", "Me"})
_RIGHT_TO_LEFT = frozenset({"R", "AL", "AN"})
_MOST_LISTED = 20
_NOT_PLAIN = re.compile(r"[^\n\t -~]")


def code_of(character: str) -> str:
    """`U+202E`."""
    return f"U+{ord(character):04X}"


def name_of(character: str) -> str:
    """Unicode's name of it."""
    return unicodedata.name(character, "") or (
        "CONTROL CHARACTER" if unicodedata.category(character) == "Cc" else "UNASSIGNED"
    )


def unseen(character: str) -> bool:
    """Whether a reader would not see it, or would take it for a space. Line ends and tabs are seen."""
    if " " <= character <= "~" or character in "\n\t":
        return False
    at = bisect_right(_FIRSTS, ord(character)) - 1
    return (
        unicodedata.category(character) in _HIDDEN
        or character in _BLANKS
        or (at >= 0 and ord(character) <= _IGNORABLE[at][1])
    )


@lru_cache(maxsize=4096)
def unclear(character: str) -> bool:
    """Whether, in a text without styles, its reader could be misled: it is unseen, sits on another letter or over
    others, or is written from right to left, which turns what stands beside it.
    """
    return (
        unseen(character)
        or unicodedata.category(character) in _MARKS
        or character in _LONG
        or unicodedata.bidirectional(character) in _RIGHT_TO_LEFT
    )


def written_out(text: str) -> str:
    """`text` with everything unclear as ⟦U+202E⟧."""
    return _NOT_PLAIN.sub(lambda found: _written_out(found[0]), text)


def foreign(text: str) -> list[tuple[str, int]]:
    """The characters outside printable ASCII and how often each stands there, the rarest first: one letter may look
    like another.
    """
    counted = Counter(_NOT_PLAIN.findall(text))
    return sorted(counted.items(), key=lambda item: (item[1], item[0]))


def letters_named(text: str) -> str:
    """Those of them that `written_out` leaves as they are, with their names, for reading beside `text`."""
    letters = [(c, times) for c, times in foreign(text) if not unclear(c)]
    named = [f"{c} {code_of(c)} {name_of(c)} ({times}×)" for c, times in letters[:_MOST_LISTED]]
    more = f" and {len(letters) - len(named)} more" if len(letters) > len(named) else ""
    return ", ".join(named) + more


def _written_out(character: str) -> str:
    return f"⟦{code_of(character)}⟧" if unclear(character) else character
