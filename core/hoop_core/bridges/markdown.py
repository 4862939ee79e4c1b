"""Foreign text inside Markdown that a browser will show: it stays text, and all of it is seen.

CommonMark 0.31: a fence ends at a run of as many backticks as it began with (section 4.5), a code span at a run of
exactly as many (section 6.1), and a backslash makes any ASCII punctuation literal (section 2.4). On top of that,
GitHub's autolinks are found in what is plain text by then, so code spans hold whatever may be an address.
"""

from __future__ import annotations

import re

from hoop_core.characters import code_of, letters_named, written_out

_TICKS = re.compile(r"`+")
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_AUTOLINK = re.compile(r"(?i)(://|www\.)")
FOLD = "↩"
_WIDTH = 80


def visible(text: str) -> str:
    """`text` with everything that is not seen, or that changes the order of what is seen, as ⟦U+202E⟧."""
    return written_out(text).replace(FOLD, f"⟦{code_of(FOLD)}⟧")


def letters(text: str) -> str:
    """A sentence for above `text` where it has letters outside ASCII: one may pass for another. Else empty."""
    named = letters_named(text)
    return f"Not ASCII in it: {prose(named)}" if named else ""


def fence(text: str, language: str = "") -> str:
    """A block of code that `text` cannot end. Blocks are scrolled, not wrapped: lines that would run out of sight go
    on after a ↩.
    """
    text = "\n".join(_folded(line) for line in visible(text).split("\n"))
    ticks = "`" * max(3, _longest(text) + 1)
    return f"{ticks}{language}\n{text}\n{ticks}"


def _folded(line: str) -> str:
    parts = [line[i : i + _WIDTH] for i in range(0, len(line), _WIDTH)] or [""]
    return f"{FOLD}\n".join(parts)


def code(text: str, *, most: int = 300) -> str:
    """A code span that `text` cannot end, on one line; longer text is cut where it shows."""
    text = visible(" ".join(text.split()))
    if not text:
        return "–"
    if len(text) > most:
        text = text[:most] + "…"
    ticks = "`" * (_longest(text) + 1)
    room = " " if text[0] == "`" or text[-1] == "`" else ""
    return f"{ticks}{room}{text}{room}{ticks}"


def codes(texts: object) -> str:
    """Several of them, beside each other."""
    found = [code(str(t)) for t in texts] if isinstance(texts, list | tuple) else []
    return ", ".join(found) or "–"


def prose(text: str, *, most: int = 2000) -> str:
    """A sentence: no markup, no links; longer text is cut where it shows."""
    text = visible(" ".join(text.split()))
    if len(text) > most:
        text = text[: most - 1] + "…"
    return _PUNCTUATION.sub(r"\\\1", _AUTOLINK.sub(lambda m: f"{m[0][:-1]} {m[0][-1]}", text))


def _longest(text: str) -> int:
    return max((len(run) for run in _TICKS.findall(text)), default=0)
