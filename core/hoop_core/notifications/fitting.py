"""Cutting a message to what its target takes. A longer one would be refused, and never arrive.

Sizes are of the text as HTML in UTF-8, which no target makes more of: some count characters, some UTF-16, some bytes,
and some are sent HTML.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

_LINE_END = 8
"""`<br />` and CR LF."""
_ELLIPSIS = "\u2026"
_LONGEST_TITLE = 250


def size(text: str) -> int:
    return len(html.escape(text).encode()) + _LINE_END * text.count("\n")


def fitted_title(title: str, most: int) -> str:
    """`most` as Apprise has it; 0 where a target has no titles and gets it as a line of the text."""
    return _shortened(title, min(most or _LONGEST_TITLE, _LONGEST_TITLE))


def fitted(facts: Sequence[str], room: int) -> list[str]:
    """`Name: what` lines, the longest of them cut so that all fit into `room`, and a line that names those."""
    if _total(facts) <= room:
        return list(facts)
    low, high = 0, max(map(size, facts))
    while low < high:  # the longest that lines may be
        middle = (low + high + 1) // 2
        if _total(_cut(facts, middle)) <= room:
            low = middle
        else:
            high = middle - 1
    found = _cut(facts, low)
    return found if _total(found) <= room else []


def _cut(facts: Sequence[str], most: int) -> list[str]:
    named = [fact.partition(":")[0] for fact in facts if size(fact) > most]
    return [*(_shortened(f, most) for f in facts), f"Cut, whole in Hoop: {', '.join(named)}"]


def _total(lines: Sequence[str]) -> int:
    return sum(size(line) + 2 * _LINE_END for line in lines)


def _shortened(text: str, most: int) -> str:
    if size(text) <= most:
        return text
    left, end = most - size(_ELLIPSIS), 0
    while end < len(text) and (left := left - size(text[end])) >= 0:
        end += 1
    return text[:end] + _ELLIPSIS
