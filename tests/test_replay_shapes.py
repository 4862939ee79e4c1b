"""What a masked column can hold: every mask on every type it fits, and one value too many of each."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hoop_core.masking.masks import Mask, MaskName
from hoop_core.replay.shapes import shape_of
from tests.test_replay_parts import clock

TEXT, SHORT = "VARCHAR(16777216)", "VARCHAR(5)"


def fits(mask: MaskName, kind: str, found: Any, /, **options: Any) -> bool:
    shape = shape_of(Mask(mask, options), kind)
    assert shape is not None
    return shape(found)


@pytest.mark.parametrize("mask", list(MaskName))
@pytest.mark.parametrize("kind", [TEXT, "NUMBER(38,0)", "FLOAT", "DATE", "BOOLEAN", "VARIANT"])
def test_null_can_always_be_there_for_joins_make_it(mask: MaskName, kind: str) -> None:
    assert fits(mask, kind, None)


@pytest.mark.parametrize(
    ("mask", "kind", "options", "good", "bad"),
    [
        (MaskName.NULL, TEXT, {}, [None], ["", "x"]),
        (MaskName.CONSTANT, TEXT, {}, ["***"], ["anna", ""]),
        (MaskName.CONSTANT, TEXT, {"value": "gone"}, ["gone"], ["***", "Gone"]),
        (MaskName.CONSTANT, SHORT, {"value": "withheld"}, ["withh"], ["withheld"]),
        (MaskName.CONSTANT, "NUMBER(12,2)", {}, [Decimal("0.00")], [Decimal("7.47"), 0]),
        (MaskName.CONSTANT, "NUMBER(3,0)", {"value": 7}, [Decimal(7)], [Decimal(8)]),
        (MaskName.CONSTANT, "FLOAT", {"value": 0.1}, [Decimal("0.1")], [Decimal("0.2")]),
        (MaskName.CONSTANT, "BOOLEAN", {}, [False], [True]),
        (MaskName.CONSTANT, "DATE", {}, [date(1970, 1, 1)], [date(1970, 1, 2)]),
        (MaskName.CONSTANT, "DATE", {"value": "x"}, [None], [date(1970, 1, 1)]),
        (MaskName.CONSTANT, "TIMESTAMP_NTZ(9)", {}, [clock(1970, 1, 1)],
         [clock(1970, 1, 1, 0, 0, 1)]),
        (MaskName.HASH, TEXT, {}, ["ab" * 32], ["ab" * 31, "anna@example.com", "zz" * 32]),
        (MaskName.HASH, "VARCHAR(10)", {}, ["ab" * 5], ["ab" * 32, "ab" * 4]),
        (MaskName.HASH, "DATE", {}, [None], ["ab" * 32]),
        (MaskName.PARTIAL, TEXT, {}, ["****", "", "************1111", "****5678"],
         ["4111111111111111", "1234", "***12345"]),
        (MaskName.PARTIAL, TEXT, {"keep_first": 2, "keep_last": 0}, ["an**", "***"], ["anna", "an*a"]),
        (MaskName.EMAIL_DOMAIN, TEXT, {}, ["***@example.com", "***", "***@"],
         ["anna@example.com", "***@a@b", "**"]),
        (MaskName.EMAIL_DOMAIN, SHORT, {}, ["***@e", "***"], ["anna@"]),
        (MaskName.EMAIL_DOMAIN, "VARCHAR(2)", {}, ["**"], ["an", "***"]),
        (MaskName.DATE_TRUNC, "DATE", {}, [date(2024, 3, 1)], [date(2024, 3, 2)]),
        (MaskName.DATE_TRUNC, "DATE", {"unit": "hour"}, [None], [date(2024, 3, 1)]),
        (MaskName.DATE_TRUNC, "DATE", {"unit": "week"}, [date(2024, 3, 4)], [date(2024, 3, 3)]),
        (MaskName.DATE_TRUNC, "DATE", {"unit": "quarter"}, [date(2024, 4, 1)], [date(2024, 3, 1)]),
        (MaskName.DATE_TRUNC, "TIMESTAMP_NTZ(9)", {"unit": "day"}, [clock(2024, 3, 2)],
         [clock(2024, 3, 2, 1)]),
        (MaskName.DATE_TRUNC, "TIMESTAMP_NTZ(9)", {"unit": "hour"}, [clock(2024, 3, 2, 5)],
         [clock(2024, 3, 2, 5, 1), clock(2024, 3, 2, 5, 0, 0, 1)]),
        (MaskName.DATE_TRUNC, "TIMESTAMP_LTZ(9)", {}, [None], [clock(2024, 3, 1)]),
        (MaskName.BUCKET, "NUMBER(5,0)", {}, [Decimal(40), Decimal(-10), Decimal(0)], [Decimal(41)]),
        (MaskName.BUCKET, "NUMBER(2,0)", {"size": 30}, [Decimal(-99), Decimal(-90)], [Decimal(-98)]),
        (MaskName.BUCKET, "FLOAT", {"size": 0.1}, [Decimal("0.30000000000000004")], [Decimal("0.35")]),
        (MaskName.BUCKET, TEXT, {}, [None], ["40"]),
    ],
)  # fmt: skip
def test_what_a_mask_gives_fits_and_what_it_hides_does_not(
    mask: MaskName, kind: str, options: dict[str, Any], good: list[Any], bad: list[Any]
) -> None:
    assert [v for v in good if not fits(mask, kind, v, **options)] == []
    assert [v for v in bad if fits(mask, kind, v, **options)] == []


@given(st.text(max_size=40), st.integers(0, 6), st.integers(0, 6))
def test_partial_shows_what_the_expression_of_the_mask_shows(
    value: str, first: int, last: int
) -> None:
    hidden = "*" * len(value)
    if len(value) >= 2 * (first + last):
        hidden = value[:first] + "*" * (len(value) - first - last) + value[len(value) - last :]
    assert fits(MaskName.PARTIAL, TEXT, hidden, keep_first=first, keep_last=last)


@given(
    st.decimals(min_value=-(10**9), max_value=10**9, places=2),
    st.one_of(st.integers(1, 10_000), st.decimals(min_value=1, max_value=99, places=1)),
)
def test_bucket_shows_the_beginning_of_a_bucket_only(value: Decimal, size: int | Decimal) -> None:
    start = (value // Decimal(size)) * Decimal(size)
    start = start if start <= value else start - Decimal(size)
    assert fits(MaskName.BUCKET, "NUMBER(38,2)", start, size=float(size))


def test_of_a_hash_function_that_is_not_hoops_own_nothing_is_known() -> None:
    assert shape_of(Mask(MaskName.HASH), TEXT, hash_known=False) is None
