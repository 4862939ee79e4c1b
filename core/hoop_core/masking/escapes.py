"""Text behind the escapes of JSON: what a value looks like once somebody reads it.

In the JSON text of a VARIANT a line break is a backslash and the letter n, and a letter that touches a number
makes it another number. So the detectors look at the text as it is, and at what its escapes stand for. The
same is done to every other text that has a backslash in it: it may be JSON, or JSON within JSON.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import polars as pl

from hoop_core.masking import detectors
from hoop_core.model import Detector

_LEVELS = 3
"""JSON within JSON within JSON is read; what is deeper is looked at with its escapes as gaps."""
_FEW = 1_000
# One pass from left to right, so that of `\\\\n` the backslash is read and the n stays.
_SIMPLE = {
    "\\\\": "\\", '\\"': '"', "\\/": "/", "\\b": "\b", "\\f": "\f", "\\n": "\n", "\\r": "\r", "\\t": "\t",
}  # fmt: skip
_CODED = "\\u"
_ONE = re.compile(r'\\(?:u([0-9A-Fa-f]{4})|(["\\/bfnrt]))')
_GAP = r"\\+(?:u[0-9A-Fa-f]{4}|[A-Za-z])?"


def find(
    texts: pl.Series, kinds: Collection[Detector], first: Collection[Detector] = ()
) -> dict[Detector, pl.Series]:
    """Which of `texts` hold which kind of value, as they are or with their escapes read: see `detectors.find`."""
    if len(texts) <= _FEW:
        possible = detectors.possible(texts.to_list(), kinds)
        if possible is not None:
            return detectors.find(texts, possible, first, plain=True) if possible else {}
    found = detectors.find(texts, kinds, first)
    rows = _escaped(texts)
    if not len(rows):
        return found
    read = texts.gather(rows)
    for level in range(_LEVELS + 1):
        deep = level == _LEVELS
        read = read.str.replace_all(_GAP, " ") if deep else _read(read)
        for kind, hit in detectors.find(read, kinds, first).items():
            before = found.get(kind, pl.zeros(len(texts), pl.Boolean, eager=True))
            found[kind] = before.clone().scatter(rows.filter(hit), True)
        left = _escaped(read)
        rows, read = rows.gather(left), read.gather(left)
        if not len(rows):
            break
    return found


def _escaped(texts: pl.Series) -> pl.Series:
    return texts.str.contains("\\", literal=True).fill_null(False).arg_true()


def _read(texts: pl.Series) -> pl.Series:
    """`texts` with one level of escapes read; what is no escape of JSON stays."""
    coded = texts.str.contains(_CODED, literal=True)
    plain = texts.str.replace_many(_SIMPLE)
    rows = coded.arg_true()
    if not len(rows):
        return plain
    slow = [_read_one(text) for text in texts.gather(rows)]
    return plain.clone().scatter(rows, pl.Series(slow, dtype=pl.String))


def _read_one(text: str) -> str:
    read = _ONE.sub(
        lambda m: chr(int(m[1], 16)) if m[1] else _SIMPLE["\\" + m[2]],
        text,
    )
    return whole(read)


def whole(text: str) -> str:
    """Two halves of one character (surrogates) as that character; a half alone cannot be shown."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
