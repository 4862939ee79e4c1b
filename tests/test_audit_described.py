"""What Hoop believed of a table: in the log once, and read back to the same."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hoop_core.audit.canonical import canonical
from hoop_core.audit.described import KIND, Described, described_json, described_object
from hoop_core.audit.log import AuditLog
from hoop_core.model import TableName
from hoop_core.sql.catalog import CatalogObject

T, U = TableName("D", "S", "T"), TableName("D", "S", "U")
ONE = CatalogObject({"A": "NUMBER(38,0)", "B": "VARCHAR(10)"})
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
OBJECTS = st.builds(
    CatalogObject,
    st.dictionaries(TEXT, TEXT, max_size=5),
    definition=st.none() | TEXT,
    refused=st.none() | TEXT,
    temporary=st.booleans(),
)


@given(OBJECTS)
def test_what_is_logged_is_read_back_with_the_same_digest_and_the_same_order(
    known: CatalogObject,
) -> None:
    told = json.loads(canonical(described_json("A", T, known)))
    found = described_object(told["object"])
    assert found.digest == told["sha256"] == known.digest
    assert list(found.columns.items()) == list(known.columns.items())


def test_the_order_of_columns_makes_another_digest() -> None:
    turned = CatalogObject(dict(reversed(ONE.columns.items())))
    assert turned.digest != ONE.digest


def described(log: AuditLog) -> list[str]:
    return [json.loads(e.text)["data"]["name"] for e in log.entries() if e.kind == KIND]


def test_each_thing_believed_is_logged_once(log: AuditLog) -> None:
    writer = Described(log)
    changed = CatalogObject({"A": "DATE"})
    for objects in ({T: ONE, U: None}, {T: ONE}, {T: changed}, {T: ONE, U: ONE}):
        writer.describe("A", writer.missing("A", objects))
    assert described(log) == ["D.S.T", "D.S.T", "D.S.U"]
    assert writer.missing("OTHER", {T: ONE}) == {T: ONE}


def test_it_is_logged_once_more_after_a_day_for_older_ones_may_be_pruned(
    log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Described(log)
    writer.describe("A", writer.missing("A", {T: ONE}))
    today = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: today + 23 * 3600)
    assert writer.missing("A", {T: ONE}) == {}
    monkeypatch.setattr(time, "monotonic", lambda: today + 25 * 3600)
    assert writer.missing("A", {T: ONE}) == {T: ONE}


def test_sizes_make_nothing_new(log: AuditLog) -> None:
    writer = Described(log)
    writer.describe("A", writer.missing("A", {T: ONE}))
    grown = CatalogObject(dict(ONE.columns), rows=10, bytes=1000)
    assert writer.missing("A", {T: grown}) == {}


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"columns": [["A", "DATE"], ["A", "DATE"]], "definition": None, "refused": None,
         "temporary": False},
        {"columns": [["A"]], "definition": None, "refused": None, "temporary": False},
        {"columns": None, "definition": None, "refused": None, "temporary": False},
    ],
)  # fmt: skip
def test_what_describes_nothing_is_an_error(told: dict[str, object]) -> None:
    with pytest.raises((KeyError, ValueError, TypeError)):
        described_object(told)
