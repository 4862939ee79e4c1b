"""SHOW PARAMETERS LIKE: what a pattern means, and that none of them can hold up the gateway."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hoop_core.gateway.own_answers import _like


@given(
    st.text("AB_", max_size=8),
    st.text("AB_%", max_size=6),
)
def test_a_pattern_means_what_like_means(name: str, pattern: str) -> None:
    expected = re.fullmatch(pattern.replace("_", ".").replace("%", ".*"), name)
    assert _like(name, pattern) is (expected is not None)


@pytest.mark.parametrize("end", ["1", "%1", "_"])
def test_a_pattern_of_many_wildcards_comes_to_its_end(end: str) -> None:
    # as a regular expression with ".*." forty times this would take longer than anybody lives
    assert not _like("CLIENT_STAGE_ARRAY_BINDING_THRESHOLD", "%_" * 40 + end)
