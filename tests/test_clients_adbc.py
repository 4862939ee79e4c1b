"""The ADBC driver (gosnowflake inside), from Python: Arrow all the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from tests.clients_world import MASKED_NOTE, ClientsWorld
from tests.native_world import BIG, HOLD_MARK, HUGE, SLOW, WIDE, settings

adbc = pytest.importorskip(
    "adbc_driver_snowflake.dbapi", reason="pip install adbc-driver-snowflake"
)
errors = pytest.importorskip("adbc_driver_manager")

pytestmark = [pytest.mark.e2e]


@pytest.fixture(scope="module")
def connection(native_world: ClientsWorld) -> Iterator[Any]:
    opened = adbc.connect(
        db_kwargs={
            "username": "whoever",
            "adbc.snowflake.sql.account": "hoopdev",
            "adbc.snowflake.sql.auth_type": "auth_oauth",
            "adbc.snowflake.sql.client_option.auth_token": native_world.agent_token,
            "adbc.snowflake.sql.client_option.keep_session_alive": "false",
            "adbc.snowflake.sql.uri.host": native_world.host,
            "adbc.snowflake.sql.uri.port": str(native_world.port),
            "adbc.snowflake.sql.uri.protocol": "http",
            "adbc.snowflake.sql.db": "PROD",
            "adbc.snowflake.sql.schema": "CRM",
        },
        autocommit=True,
    )
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def wide(connection: Any) -> pa.Table:
    return table(connection, WIDE)


def table(connection: Any, sql: str, *binds: Any) -> pa.Table:
    with connection.cursor() as cursor:
        cursor.execute(sql, binds or None)
        return cursor.fetch_arrow_table()


def test_every_type_comes_back_as_arrow(wide: pa.Table) -> None:
    row = wide.slice(0, 1).to_pylist()[0]
    assert (row["ID"], row["BIG"], row["HUGE"]) == (1, Decimal(BIG), Decimal(HUGE))
    assert row["PRICE"] == Decimal("1234567890123456.78")
    assert (row["RATIO"], row["OK"], row["LABEL"]) == (0.1, True, "Zoë 日本 🚀")
    assert (row["BORN"], row["RAW"]) == (date(2024, 2, 29), b"\x00\xff\x10")
    assert str(row["ALARM"]) == "23:59:58.123456"
    assert str(row["MADE"]) == "2024-02-29 12:30:15.123456"
    assert str(row["SENT"]) == "1969-07-20 20:17:40.500000+00:00"
    empty = wide.slice(1, 1).to_pylist()[0]
    assert {k for k, v in empty.items() if v is not None} == {"ID", "HUGE"}


def test_masked_columns_are_null_and_keep_their_types(wide: pa.Table) -> None:
    for name in (n for n in wide.schema.names if f"SECRET_{n}" in wide.schema.names):
        masked = wide.column(f"SECRET_{name}")
        assert masked.null_count == 2
        assert masked.type == wide.column(name).type


def test_a_large_result_comes_in_parts(connection: Any) -> None:
    found = table(connection, "SELECT CUSTOMER_ID, EMAIL FROM CUSTOMERS")
    assert sum(int(v) for v in found.column("CUSTOMER_ID").to_pylist()) == 50_000 * 50_001 // 2
    assert all(v.startswith("***@") for v in found.column("EMAIL").to_pylist())


def test_values_are_bound(connection: Any) -> None:
    found = table(connection, "SELECT ? AS A, ? AS B, ? AS C", 7, "Zoë 🚀", 2.5)
    assert list(found.to_pylist()[0].values()) == [7, "Zoë 🚀", 2.5]


def test_many_rows_are_bound(connection: Any) -> None:
    rows = [(940_000 + i, i / 4) for i in range(50)]
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO PROD.FEATURES.CHURN_STAGING (CUSTOMER_ID, SCORE) VALUES (?, ?)", rows
        )
    mine = "PROD.FEATURES.CHURN_STAGING WHERE CUSTOMER_ID BETWEEN 940000 AND 940049"
    counted = table(connection, f"SELECT COUNT(*) AS N, MAX(SCORE) AS S FROM {mine}").to_pylist()[0]
    assert counted == {"N": 50, "S": 12.25}
    table(connection, f"DELETE FROM {mine}")


def test_a_denial_is_the_drivers_ordinary_error(connection: Any) -> None:
    with pytest.raises(errors.Error) as caught:
        table(connection, "SELECT * FROM PROD.HR.SALARIES")
    assert (caught.value.vendor_code, caught.value.sqlstate) == (3001, "42501")
    assert "PROD.HR.SALARIES, which no rule grants" in str(caught.value)


def test_a_held_statement_gets_its_rows(connection: Any, native_world: ClientsWorld) -> None:
    with native_world.approving(HOLD_MARK):
        found = table(connection, settings(native_world)["SQL_HELD"])
    assert found.to_pylist() == [{"BODY": MASKED_NOTE, "MARK": HOLD_MARK}] * 3


def test_a_running_statement_is_cancelled(connection: Any) -> None:
    with connection.cursor() as cursor:

        def cancel() -> None:
            time.sleep(0.7)
            cursor.adbc_cancel()

        canceller = threading.Thread(target=cancel)
        canceller.start()
        with pytest.raises(errors.Error):
            cursor.execute(SLOW)
        canceller.join()
    assert table(connection, "SELECT 1 AS A").to_pylist() == [{"A": 1}]


def test_a_statement_is_described_without_running(connection: Any) -> None:
    with connection.cursor() as cursor:
        schema = cursor.adbc_execute_schema("SELECT SSN, CUSTOMER_ID FROM CUSTOMERS")
    assert schema.names == ["SSN", "CUSTOMER_ID"]
    assert pa.types.is_string(schema.field("SSN").type)


def test_the_schema_of_a_table_is_told(connection: Any) -> None:
    schema = connection.adbc_get_table_schema("CUSTOMERS")
    assert schema.field("EMAIL").type == pa.string()
    assert schema.field("MRR").metadata[b"DATA_TYPE"] == b"NUMBER(12,2)"


def test_the_schema_of_a_table_that_no_rule_grants_is_not_told(connection: Any) -> None:
    with pytest.raises(errors.Error, match="no rule grants"):
        connection.adbc_get_table_schema("SALARIES", db_schema_filter="HR")


def test_the_session_knows_where_it_is(connection: Any) -> None:
    assert connection.adbc_current_catalog == "PROD"
    assert connection.adbc_current_db_schema == "CRM"
    assert table(connection, "SHOW TERSE TABLES IN SCHEMA PROD.CRM").num_rows >= 4
