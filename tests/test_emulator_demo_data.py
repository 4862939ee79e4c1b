"""The demo world: lifelike, made up beyond doubt, and the same at every start."""

from __future__ import annotations

import re
from collections.abc import Iterator

import duckdb
import pytest

from hoop_core.devstack import demo_data


def loaded() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("ATTACH ':memory:' AS PROD")
    for schema in ("CRM", "HR", "FEATURES"):
        connection.execute(f"CREATE SCHEMA PROD.{schema}")
    demo_data.load(connection)
    return connection


@pytest.fixture(scope="module")
def data() -> Iterator[duckdb.DuckDBPyConnection]:
    connection = loaded()
    yield connection
    connection.close()


DIGESTS = {
    "CUSTOMERS": "7ca9919adbb3e6e195122bfad9a427bb",
    "ORDERS": "88668ae8247ad32168affa48e01e62af",
    "SUPPORT_NOTES": "4b444a95df2eb58c47119ad68f7d0d09",
    "SALARIES": "7fab15d36c4090b299a6d24ce76bfee3",
    "CHURN_STAGING": "2d2258a84d9b03b28185c10f24a710ef",
}
"""What every machine must get. Whoever changes the data changes these, and the demo's pictures."""


def digest(connection: duckdb.DuckDBPyConnection, name: tuple[str, str, str]) -> str:
    sql = "SELECT md5(string_agg(t::VARCHAR, chr(10) ORDER BY t::VARCHAR)) FROM {} t"
    found = connection.execute(sql.format(".".join(name))).fetchone()
    assert found is not None
    return str(found[0])


def test_the_tables_have_their_columns_and_sizes(data: duckdb.DuckDBPyConnection) -> None:
    for name, rows in demo_data.ROWS.items():
        assert data.execute(f"SELECT COUNT(*) FROM {'.'.join(name)}").fetchone() == (rows,)
    described = data.execute("DESCRIBE PROD.CRM.CUSTOMERS").fetchall()
    assert [(c[0], c[1]) for c in described] == [
        ("CUSTOMER_ID", "BIGINT"),
        ("FULL_NAME", "VARCHAR"),
        ("EMAIL", "VARCHAR"),
        ("SSN", "VARCHAR"),
        ("CARD_NUMBER", "VARCHAR"),
        ("REGION", "VARCHAR"),
        ("SEGMENT", "VARCHAR"),
        ("SIGNED_UP", "DATE"),
        ("MRR", "DECIMAL(12,2)"),
    ]


def test_every_start_makes_the_same_world(data: duckdb.DuckDBPyConnection) -> None:
    assert {name[2]: digest(data, name) for name in demo_data.TABLES} == DIGESTS


def test_no_row_can_belong_to_a_person(data: duckdb.DuckDBPyConnection) -> None:
    people = data.execute("SELECT EMAIL, SSN, CARD_NUMBER FROM PROD.CRM.CUSTOMERS").fetchall()
    assert len({p[0] for p in people}) == len(people)
    for email, ssn, card in people:
        assert re.fullmatch(r"[a-z]+\.[a-z]+\d+@[a-z]+\.example", email)
        area, group, serial = ssn.split("-")
        assert 900 <= int(area) <= 999
        assert 1 <= int(group) <= 49
        assert 1 <= int(serial) <= 9999
        assert len(area + group + serial) == 9
        assert card.startswith(("400000", "424242", "555555", "601100"))
        assert luhn(card), card


def luhn(card: str) -> bool:
    total = 0
    for i, c in enumerate(reversed(card)):
        digit = int(c) * (1 + i % 2)
        total += digit - 9 if digit > 9 else digit
    return len(card) == 16 and total % 10 == 0


def test_some_notes_hold_an_address_or_a_number_and_none_a_placeholder(
    data: duckdb.DuckDBPyConnection,
) -> None:
    bodies = [r[0] for r in data.execute("SELECT BODY FROM PROD.CRM.SUPPORT_NOTES").fetchall()]
    mail = sum("@" in b for b in bodies) / len(bodies)
    phone = sum("555 01" in b for b in bodies) / len(bodies)
    assert 0.1 < mail < 0.4
    assert 0.1 < phone < 0.4
    assert not any("{" in b for b in bodies)


def test_values_spread_and_keys_join(data: duckdb.DuckDBPyConnection) -> None:
    regions = dict(
        data.execute("SELECT REGION, COUNT(*) FROM PROD.CRM.CUSTOMERS GROUP BY 1").fetchall()
    )
    assert set(regions) == {"EU", "NA", "APAC", "LATAM"}
    assert min(regions.values()) > 3_000
    lost = "SELECT COUNT(*) FROM PROD.CRM.{} LEFT JOIN PROD.CRM.CUSTOMERS C USING (CUSTOMER_ID) WHERE C.EMAIL IS NULL"
    for table in ("ORDERS", "SUPPORT_NOTES"):
        assert data.execute(lost.format(table)).fetchone() == (0,)
    buyers = data.execute("SELECT COUNT(DISTINCT CUSTOMER_ID) FROM PROD.CRM.ORDERS").fetchone()
    assert buyers is not None
    assert buyers[0] > 40_000
    newest = data.execute("SELECT MAX(COMPUTED_AT) < '2024-01-01' FROM PROD.FEATURES.CHURN_STAGING")
    assert newest.fetchone() == (True,)
