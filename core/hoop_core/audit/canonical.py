"""Canonical JSON (RFC 8785): one text for one value, so that hashes and signatures mean the same anywhere."""

from __future__ import annotations

import json
from typing import Any

import rfc8785

_LARGEST = 2**53 - 1
_plain = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, check_circular=False
)


def canonical(value: Any) -> bytes:
    """The canonical text of `value`, with what canonical JSON cannot hold written out: see `encodable`.

    The standard library's encoder writes the same text in a fraction of the time, save for fractions and for
    names outside ASCII, which RFC 8785 formats and orders in ways of its own (sections 3.2.2.3 and 3.2.3).
    """
    walk = _Walk()
    written = walk.encodable(value)
    return _plain.encode(written).encode() if walk.plain else rfc8785.dumps(written)


def encodable(value: Any) -> Any:
    """`value` with what canonical JSON cannot hold written out: lone surrogates, huge numbers."""
    return _Walk().encodable(value)


class _Walk:
    """One pass over a value."""

    def __init__(self) -> None:
        self.plain = True

    def encodable(self, value: Any) -> Any:
        if isinstance(value, str):
            return value if value.isascii() else _text(value)
        if isinstance(value, dict):
            return {self._name(k): self.encodable(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.encodable(v) for v in value]
        if isinstance(value, bool) or value is None:
            return value
        if isinstance(value, int):
            return int(value) if abs(value) <= _LARGEST else str(value)
        self.plain = False  # a fraction, or what the encoder will refuse
        return value

    def _name(self, name: Any) -> str:
        text = _text(str(name))
        self.plain = self.plain and text.isascii()
        return text


def _text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
