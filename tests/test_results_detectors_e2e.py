"""The detectors on results, through the real stack: report, mask and block, inline and remote parts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from hoop_core.audit.stored import stored_entries
from hoop_core.store import Store

if TYPE_CHECKING:
    from snowflake.connector import SnowflakeConnection

    from hoop_core.devstack.stack import DevStack

pytestmark = pytest.mark.e2e
Connect = Callable[..., "SnowflakeConnection"]
FORMATS = {"arrow": {}, "json": {"PYTHON_CONNECTOR_QUERY_RESULT_FORMAT": "JSON"}}
form = pytest.mark.parametrize("form", list(FORMATS))
CARD = "SELECT CUSTOMER_ID, '4242 4242' || ' 4242 4242' AS PAID_WITH FROM CUSTOMERS ORDER BY 1"
MAIL = "SELECT 'user' || CUSTOMER_ID || '@' || REGION || '.example' AS CONTACT FROM CUSTOMERS"
LAST = (
    "SELECT CUSTOMER_ID, CASE WHEN CUSTOMER_ID = 50000 THEN 'AKIA' || 'IOSFODNN7EXAMPLE' ELSE 'x' END "
    "AS NOTE FROM CUSTOMERS ORDER BY 1"
)


def entries_of(stack: DevStack, statement: str) -> list[tuple[str, Any]]:
    store = Store(stack.store_url)
    store.attach()
    try:
        every = [(e.kind, json.loads(e.text)["data"]) for e in stored_entries(store)]
    finally:
        store.close()
    return [(kind, data) for kind, data in every if data.get("statement_id") == statement]


def run(connect: Connect, sql: str, form: str) -> tuple[list[Any], str]:
    cursor = connect(session_parameters=FORMATS[form]).cursor()
    rows = cursor.execute(sql).fetchall()
    return rows, str(cursor.sfqid)


def statement_of(stack: DevStack, sql: str) -> str:
    """The id of the last statement with this text."""
    store = Store(stack.store_url)
    store.attach()
    try:
        found = [json.loads(e.text)["data"] for e in stored_entries(store)]
    finally:
        store.close()
    return [str(d["statement_id"]) for d in found if d.get("sql") == sql][-1]


@form
def test_cards_are_masked_in_every_part_and_in_the_recordings(
    connect: Connect, stack: DevStack, form: str
) -> None:
    rows, _ = run(connect, CARD, form)
    assert len(rows) == 50_000
    assert {r[1] for r in rows} == {"[card]"}
    assert [int(r[0]) for r in rows] == list(range(1, 50_001))
    entries = entries_of(stack, statement_of(stack, CARD))
    found = [f for _, d in entries for f in d.get("findings", [])]
    assert sum(f["values"] for f in found) == 50_000
    assert {(f["column"], f["kind"]) for f in found} == {("PAID_WITH", "card")}
    paths = [f["path"] for _, d in entries for f in d.get("recording") or [] if isinstance(f, dict)]
    paths += [d["recording"]["path"] for k, d in entries if k == "result.part"]
    recorded = b"".join((stack.home / "recordings" / p).read_bytes() for p in paths if "part" in p)
    assert b"[card]" in recorded and b"4242 4242 4242" not in recorded


@form
def test_what_is_only_reported_passes_unchanged(
    connect: Connect, stack: DevStack, form: str
) -> None:
    rows, _ = run(connect, MAIL, form)
    assert len(rows) == 50_000 and all("@" in r[0] for r in rows)
    entries = entries_of(stack, statement_of(stack, MAIL))
    found = [f for _, d in entries for f in d.get("findings", [])]
    assert sum(f["values"] for f in found) == 50_000
    assert not any("@" in json.dumps(f) for f in found)


@form
def test_a_value_in_the_last_part_blocks_the_whole_result(
    connect: Connect, stack: DevStack, form: str
) -> None:
    cursor = connect(session_parameters=FORMATS[form]).cursor()
    with pytest.raises(Exception, match="look like token"):
        cursor.execute(LAST)
    [outcome] = [d for k, d in entries_of(stack, statement_of(stack, LAST)) if "outcome" in k]
    assert outcome["status"] == "withheld" and outcome["reason"] == "DETECTOR_BLOCKED"
    assert [f["kind"] for f in outcome["findings"]] == ["token"]


def test_columns_that_depend_on_masked_ones_are_in_the_outcome(
    connect: Connect, stack: DevStack
) -> None:
    sql = "SELECT UPPER(EMAIL) AS MAIL, REGION FROM CUSTOMERS WHERE CUSTOMER_ID = 9"
    run(connect, sql, "arrow")
    [outcome] = [d for k, d in entries_of(stack, statement_of(stack, sql)) if "outcome" in k]
    assert outcome["tainted"] == [
        {"column": "MAIL", "sources": ["PROD.CRM.CUSTOMERS.EMAIL"], "unknown": False}
    ]


def test_who_is_excepted_sees_the_value_and_the_log_says_so(
    connect: Connect, stack: DevStack
) -> None:
    sql = "SELECT '4242 4242' || ' 4242 4242 ' AS C"
    cursor = connect("pia").cursor()
    assert cursor.execute(sql).fetchall() == [("4242 4242 4242 4242 ",)]
    [outcome] = [d for k, d in entries_of(stack, statement_of(stack, sql)) if "outcome" in k]
    assert outcome["detectors_freed"] == ["card", "iban", "ssn"]
    assert [f["kind"] for f in outcome["findings"]] == ["card"]
    assert [f["path"] for f in outcome["recording"] if "part" in f["path"]] == []


def test_an_error_of_snowflake_comes_without_the_value_that_it_quotes(
    connect: Connect, stack: DevStack
) -> None:
    sql = "SELECT FULL_NAME::NUMBER FROM CUSTOMERS WHERE CUSTOMER_ID = 11"
    name = connect().cursor().execute(
        "SELECT FULL_NAME FROM CUSTOMERS WHERE CUSTOMER_ID = 11"
    ).fetchall()[0][0]  # fmt: skip
    with pytest.raises(Exception, match="hidden") as failed:
        connect().cursor().execute(sql)
    assert not any(part in str(failed.value) for part in name.split())
    assert name not in json.dumps(entries_of(stack, statement_of(stack, sql)))
