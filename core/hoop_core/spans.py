"""Spans of time as people write them: 30m, 24h, 7d."""

from __future__ import annotations

import re
from datetime import timedelta

_SPAN = re.compile(r"([0-9]{1,9})\s*([smhd])\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_span(text: str) -> timedelta | None:
    """A number and s, m, h or d; None when it is anything else or longer than timedelta can hold."""
    match = _SPAN.match(text)
    if match is None:
        return None
    try:
        return timedelta(seconds=int(match.group(1)) * _SECONDS[match.group(2)])
    except OverflowError:
        return None


def in_words(span: timedelta) -> str:
    """The span in the largest unit that fits exactly: what `parse_span` reads."""
    seconds = int(span.total_seconds())
    for letter in "dhm":
        if seconds % _SECONDS[letter] == 0:
            return f"{seconds // _SECONDS[letter]}{letter}"
    return f"{seconds}s"
