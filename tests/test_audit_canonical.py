"""Canonical JSON is what RFC 8785 says, whichever encoder writes it."""

from __future__ import annotations

import json
from typing import Any

import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from hoop_core.audit.canonical import canonical, encodable

_TEXT = st.text(max_size=20) | st.text(
    st.sampled_from('\x00\x08\t\n\x0b\x0c\r\x1f\x7f"\\/\u2028\ud800é🎲￿'), max_size=8
)
_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | _TEXT | st.floats(-1e21, 1e21),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(_VALUES)
def test_the_text_is_that_of_rfc_8785(value: Any) -> None:
    assert canonical(value) == rfc8785.dumps(encodable(value))


def test_names_outside_ascii_are_ordered_by_utf16_units() -> None:
    # Of these two, the code point of the second is larger and its first UTF-16 unit is smaller.
    assert list(json.loads(canonical({"\ufb33": 1, "\U0001f600": 2}))) == ["\U0001f600", "\ufb33"]
