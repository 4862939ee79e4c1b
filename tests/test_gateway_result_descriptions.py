"""DESCRIBE RESULT: the columns that a caller was shown before, and nothing that she was not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from snowflake.connector import SnowflakeConnection
from snowflake.connector.errors import ProgrammingError

from hoop_core.gateway.result_descriptions import COLUMNS, described
from tests.clients_world import ClientsWorld


@pytest.mark.parametrize(
    ("column", "type_text"),
    [
        ({"type": "fixed", "precision": 12, "scale": 2}, "NUMBER(12,2)"),
        ({"type": "fixed"}, "NUMBER(38,0)"),
        ({"type": "real"}, "FLOAT"),
        ({"type": "TEXT", "length": 40}, "VARCHAR(40)"),
        ({"type": "text", "length": None}, "VARCHAR(16777216)"),
        ({"type": "binary", "length": 8}, "BINARY(8)"),
        ({"type": "timestamp_tz", "scale": 3}, "TIMESTAMP_TZ(3)"),
        ({"type": "time"}, "TIME(9)"),
        ({"type": "variant"}, "VARIANT"),
        ({"type": "boolean", "nullable": False}, "BOOLEAN"),
        ({}, "VARCHAR(16777216)"),
    ],
)
def test_types_are_written_as_describe_writes_them(
    column: dict[str, object], type_text: str
) -> None:
    [row] = described([{"name": "A", **column}])
    assert len(row) == len(COLUMNS)
    null = "N" if column.get("nullable") is False else "Y"
    assert row[:4] == ("A", type_text, "COLUMN", null)


@pytest.fixture(scope="module")
def connection(clients: ClientsWorld) -> Iterator[SnowflakeConnection]:
    with clients.connect() as opened:
        yield opened


@pytest.mark.e2e
def test_the_statement_before_is_described(connection: SnowflakeConnection) -> None:
    cursor = connection.cursor()
    cursor.execute("SELECT CUSTOMER_ID, SSN FROM CUSTOMERS LIMIT 0")
    told = cursor.execute("DESCRIBE RESULT LAST_QUERY_ID()").fetchall()
    assert [(r[0], r[1].partition("(")[0]) for r in told] == [
        ("CUSTOMER_ID", "NUMBER"),
        ("SSN", "VARCHAR"),
    ]


@pytest.mark.e2e
def test_a_statement_is_described_by_its_id(connection: SnowflakeConnection) -> None:
    cursor = connection.cursor()
    asked = cursor.execute("SELECT 1 AS A").sfqid
    cursor.execute("SELECT 2 AS B")
    assert [r[0] for r in cursor.execute(f"DESC RESULT '{asked}'").fetchall()] == ["A"]


@pytest.mark.e2e
def test_what_was_refused_is_refused_again_and_tells_no_columns(
    connection: SnowflakeConnection,
) -> None:
    cursor = connection.cursor()
    with pytest.raises(ProgrammingError, match="no rule grants"):
        cursor.execute("SELECT * FROM PROD.HR.SALARIES")
    with pytest.raises(ProgrammingError, match="no rule grants"):
        cursor.execute("DESCRIBE RESULT LAST_QUERY_ID()")


@pytest.mark.e2e
def test_without_a_statement_before_there_is_nothing_to_describe(clients: ClientsWorld) -> None:
    with clients.connect() as fresh, pytest.raises(ProgrammingError, match="not found"):
        fresh.cursor().execute("DESCRIBE RESULT LAST_QUERY_ID()")
