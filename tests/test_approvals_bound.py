"""Bound values in questions: an approver need not be cleared for what a job binds."""

from __future__ import annotations

from typing import Any

import pytest

from hoop_core.approvals.bound import Bound, told


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ({"masked": []}, ["7", "EU"]),
        ({"masked": [{"table": "t", "column": "c", "mask": "null", "used": True}]}, []),
        ({"masked": [{"table": "t", "column": "c", "mask": "null", "used": None}]}, []),
        ({"masked": [{"table": "t", "column": "c", "mask": "null", "used": False}]}, ["7", "EU"]),
        ({"masked": [{"table": "t", "column": "c", "mask": "null", "used": False}],
          "writes": ["t"]}, []),
        ({"exposed": [{"table": "t", "column": "c"}]}, []),
    ],
)  # fmt: skip
def test_bound_values_near_masked_columns_are_hidden(
    body: dict[str, Any], shown: list[str]
) -> None:
    given = [{"type": "FIXED", "value": "7", "position": "1"},
             {"type": "TEXT", "value": "EU", "position": "2"}]  # fmt: skip
    found, _ = told(given, body)
    assert [b.value for b in found if b.value is not None] == shown
    assert [b.length for b in found] == [1, 2]


@pytest.mark.parametrize(
    "secret",
    ["una@corp.example", "4111 1111 1111 1111", "078-05-1120", "DE89370400440532013000",
     "sk_live_51H8abcdefghijklmnopqrstuv", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "x" * 501],
)  # fmt: skip
def test_bound_values_that_look_like_secrets_are_hidden(secret: str) -> None:
    given = [{"type": "TEXT", "value": secret, "position": "1"}]
    found, _ = told(given, {"masked": []})
    assert found[0].value is None
    assert found[0].length == len(secret)


def test_many_bound_values_are_counted() -> None:
    given = [{"type": "FIXED", "value": str(n), "position": str(n)} for n in range(300)]
    found, more = told(given, {"masked": []})
    assert (len(found), more) == (200, 100)
    rows, _ = told([{"type": "TEXT", "value": ["a", "b"], "position": "1"}], {})
    assert (rows[0].value, rows[0].rows) == (None, 2)


def test_a_value_is_the_same_after_it_was_written_down() -> None:
    found, _ = told([{"type": "TEXT", "value": "EU", "position": "1"}], {})
    assert [Bound.from_json(b.as_json()) for b in found] == found
