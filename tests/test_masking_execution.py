"""Masked statements, executed: on DuckDB through fakesnow, which stands in for Snowflake.

Not modelled there: AT/BEFORE, `$1`, HASH_AGG(*), ASOF with MATCH_CONDITION, HOOP.MASK_HASH.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import snowflake.connector

from hoop_core.judge import judge_text
from hoop_core.masking.masks import Mask, MaskName, plan_column, sql_type
from hoop_core.model import Identity, NameContext, Outcome, RunContext
from hoop_core.policy.file import load_policy
from hoop_core.sql.catalog import load_catalog

fakesnow = pytest.importorskip("fakesnow")
pytestmark = pytest.mark.filterwarnings("ignore")

DATA = Path(__file__).parent / "data"
POLICY = load_policy(DATA / "adversarial_policy.yaml")
CATALOG = load_catalog(DATA / "adversarial_catalog.yaml")
# 55 mixes an aggregate with a plain column, which no engine runs
CASES = [
    case
    for case in map(json.loads, (DATA / "adversarial.jsonl").read_text().splitlines())
    if case["expect"] == "masked" and case["id"] != 55
]
ONE, OTHER = ("canary_alice", "zed", "mid"), ("other", "alpha", "111")


@pytest.fixture(scope="module")
def cursor() -> Iterator[Any]:
    with (
        fakesnow.patch(),
        snowflake.connector.connect(database="DB", schema="PUBLIC") as connection,
    ):
        yield connection.cursor()


def masked(sql: str) -> str:
    verdict = judge_text(
        sql,
        NameContext("DB", "PUBLIC"),
        identity=Identity("i", "s", "agent", ("agents",), "oidc", "d"),
        policy=POLICY,
        catalog=CATALOG,
        run=RunContext(),
        now=datetime(2026, 3, 2, tzinfo=UTC),
        mask_override="constant",
    )
    assert verdict.decision.outcome is Outcome.ALLOW
    assert verdict.rewritten is not None
    return verdict.rewritten


def fill(cursor: Any, secrets: tuple[str, ...]) -> None:
    for sql in (
        "CREATE OR REPLACE TABLE customers (id NUMBER, name VARCHAR, email VARCHAR, ssn VARCHAR, balance NUMBER(12,2))",
        "CREATE OR REPLACE TABLE orders (id NUMBER, cust_id NUMBER, ts TIMESTAMP_NTZ)",
        "CREATE OR REPLACE TABLE out1 (id NUMBER, v VARCHAR)",
        "DROP TABLE IF EXISTS scratch",
        "INSERT INTO orders VALUES (1, 0, '2024-01-01'), (2, 1, '2024-01-02')",
        "INSERT INTO out1 VALUES (0, 'x'), (7, 'y')",
    ):
        cursor.execute(sql)
    for i, name in enumerate(("Alice", "Bob", "Carol")):
        cursor.execute(
            f"INSERT INTO customers VALUES ({i}, '{name}', '{secrets[i]}@{secrets[i]}corp.com', "
            f"'{secrets[2 - i]}-1', {i} * 10)"
        )


def outcome(cursor: Any, sql: str, secrets: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The rows, and the rows of every table that the statement may have written."""
    fill(cursor, secrets)
    rows = sorted(map(str, cursor.execute(sql).fetchall()))
    written = list(map(str, cursor.execute("SELECT * FROM out1").fetchall()))
    if "SCRATCH" in sql:
        written += map(str, cursor.execute("SELECT * FROM scratch").fetchall())
    return rows, sorted(written)


@pytest.mark.parametrize("case", CASES, ids=lambda c: str(c["id"]))
def test_databases_that_differ_in_protected_values_give_equal_results(
    case: dict[str, Any], cursor: Any
) -> None:
    sql = masked(case["sql"])
    assert outcome(cursor, sql, ONE) == outcome(cursor, sql, OTHER)


def test_the_unguarded_statements_do_tell_the_two_databases_apart(cursor: Any) -> None:
    telling = sum(
        outcome(cursor, c["sql"].replace("scratch", "SCRATCH"), ONE)
        != outcome(cursor, c["sql"].replace("scratch", "SCRATCH"), OTHER)
        for c in CASES
    )
    assert telling >= 0.8 * len(CASES)


@pytest.mark.parametrize(
    ("mask", "type_", "value", "shown"),
    [
        (Mask(MaskName.NULL), "VARCHAR", "'a'", None),
        (Mask(MaskName.NULL), "VARIANT", "PARSE_JSON('1')", None),
        (Mask(MaskName.CONSTANT), "VARCHAR", "'a'", "***"),
        (Mask(MaskName.CONSTANT), "VARCHAR(2)", "'a'", "**"),
        (Mask(MaskName.CONSTANT, {"value": "it's \\ "}), "VARCHAR", "'a'", "it's \\ "),
        (Mask(MaskName.CONSTANT), "NUMBER(38,0)", "7", 0),
        (Mask(MaskName.CONSTANT, {"value": 5}), "NUMBER(38,0)", "7", 5),
        (Mask(MaskName.CONSTANT), "BOOLEAN", "TRUE", False),
        (Mask(MaskName.CONSTANT), "VARIANT", "PARSE_JSON('1')", None),
        (Mask(MaskName.CONSTANT, {"value": "x"}), "NUMBER", "7", None),
        (Mask(MaskName.EMAIL_DOMAIN), "VARCHAR", "'jane@corp.example'", "***@corp.example"),
        (Mask(MaskName.EMAIL_DOMAIN), "VARCHAR", "'\"a@b\"@corp.example'", "***@corp.example"),
        (Mask(MaskName.EMAIL_DOMAIN), "VARCHAR", "'no address'", "***"),
        (Mask(MaskName.EMAIL_DOMAIN), "VARCHAR(6)", "'j@corp'", "***@co"),
        (Mask(MaskName.PARTIAL), "VARCHAR", "'4000006849234884'", "************4884"),
        (Mask(MaskName.PARTIAL), "VARCHAR", "'12345'", "*****"),
        (Mask(MaskName.PARTIAL, {"keep_first": 1, "keep_last": 0}), "VARCHAR", "'abc'", "a**"),
        (Mask(MaskName.BUCKET, {"size": 100}), "NUMBER(12,2)", "1234.56", 1200),
        (Mask(MaskName.BUCKET), "FLOAT", "17.5", 10.0),
        (Mask(MaskName.BUCKET), "VARCHAR", "'17'", None),
        (Mask(MaskName.DATE_TRUNC), "DATE", "'2026-03-17'", "2026-03-01"),
        (Mask(MaskName.DATE_TRUNC, {"unit": "hour"}), "DATE", "'2026-03-17'", None),
        (Mask(MaskName.DATE_TRUNC, {"unit": "week"}), "DATE", "'2026-03-22'", "2026-03-16"),
        (Mask(MaskName.BUCKET), "NUMBER(2,0)", "-95", -99),
        (Mask(MaskName.BUCKET), "NUMBER(3,1)", "-98.5", -99),
    ],
)
def test_what_each_mask_shows(
    cursor: Any, mask: Mask, type_: str, value: str, shown: object
) -> None:
    expression = plan_column("C", type_, mask).sql
    rows = f"SELECT {expression} FROM (SELECT {value}::{type_} AS C) AS _g"
    seen = cursor.execute(rows).fetchone()[0]
    assert (str(seen) if isinstance(shown, str) else seen) == shown
    nothing = f"SELECT {expression} FROM (SELECT NULL::{type_} AS C) AS _g"
    assert cursor.execute(nothing).fetchone()[0] is None


def test_a_date_is_never_cut_where_the_session_says() -> None:
    weekly = plan_column("D", "DATE", Mask(MaskName.DATE_TRUNC, {"unit": "week"})).sql
    assert "WEEK'" not in weekly  # DATE_TRUNC('WEEK') follows WEEK_START
    local = plan_column("T", "TIMESTAMP_LTZ(9)", Mask(MaskName.DATE_TRUNC))
    assert local.sql == "NULL::TIMESTAMP_LTZ(9)" and not local.fitted  # TIMEZONE moves its days


def test_the_hash_is_computed_in_the_warehouse_and_its_key_is_not_in_the_text() -> None:
    plan = plan_column("SSN", "VARCHAR(32)", Mask(MaskName.HASH, {"domain": "people"}))
    assert plan.sql == (
        """IFF(_g."SSN" IS NULL, NULL, LEFT(HOOP.MASK_HASH(_g."SSN", 'people'), 32))::VARCHAR(32)"""
    )
    assert plan_column("N", "NUMBER", Mask(MaskName.HASH)).sql == "NULL::NUMBER"


@pytest.mark.parametrize(
    ("text", "cast"),
    [
        ("NUMBER(38,0)", "NUMBER(38, 0)"),
        ("VARCHAR(16777216)", "VARCHAR(16777216)"),
        ("varchar not null", "VARCHAR"),
        ("VARCHAR(10) COLLATE 'en-ci'", "VARCHAR(10)"),
        ("TIMESTAMP_NTZ(9)", "TIMESTAMP_NTZ(9)"),
        ("DOUBLE PRECISION", "DOUBLE"),
        ("ARRAY(NUMBER(38,0))", "ARRAY"),
        ("OBJECT(a VARCHAR)", "OBJECT"),
        ("VECTOR(FLOAT, 3)", "VARIANT"),
        ("NUMBER); DROP TABLE t --", "VARIANT"),
    ],
)
def test_types_are_read_strictly(text: str, cast: str) -> None:
    assert sql_type(text).cast == cast
