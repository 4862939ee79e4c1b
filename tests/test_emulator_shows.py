"""Lists that drivers ask for by themselves: keys and routines, the order of SHOW TABLES, types of local time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import snowflake.connector
from snowflake.connector import DictCursor, SnowflakeConnection
from snowflake.connector.errors import ProgrammingError

from hoop_core.devstack.emulator.process import running

pytestmark = pytest.mark.e2e
Row = dict[str, Any]


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SnowflakeConnection]:
    with (
        running(tmp_path_factory.mktemp("emulator")) as emulator,
        snowflake.connector.connect(**emulator.options(database="PROD", schema="CRM")) as opened,
    ):
        for sql in (
            "CREATE TABLE HOUSES (ID INT PRIMARY KEY, NAME VARCHAR UNIQUE, BUILT TIMESTAMP_LTZ)",
            "CREATE TABLE ROOMS (ID INT, HOUSE INT REFERENCES HOUSES(ID))",
        ):
            opened.cursor().execute(sql)
        yield opened


def rows(connection: SnowflakeConnection, sql: str) -> list[Row]:
    return list(connection.cursor(DictCursor).execute(sql).fetchall())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "scope", ["TABLE PROD.CRM.HOUSES", "CRM.HOUSES", "SCHEMA PROD.CRM", "DATABASE PROD", "ACCOUNT"]
)
def test_primary_keys_are_listed_in_every_scope(admin: SnowflakeConnection, scope: str) -> None:
    (key,) = rows(admin, f"SHOW PRIMARY KEYS IN {scope}")
    assert (key["table_name"], key["column_name"], key["key_sequence"]) == ("HOUSES", "ID", "1")


def test_unique_keys_are_no_primary_keys(admin: SnowflakeConnection) -> None:
    assert [r["column_name"] for r in rows(admin, "SHOW UNIQUE KEYS IN TABLE HOUSES")] == ["NAME"]
    assert rows(admin, "SHOW PRIMARY KEYS IN TABLE ROOMS") == []


@pytest.mark.parametrize(
    "sql",
    [
        "SHOW IMPORTED KEYS IN TABLE ROOMS",
        "show /* JDBC:DatabaseMetaData.getForeignKeys() */ exported keys in table PROD.CRM.HOUSES",
    ],
)
def test_a_foreign_key_is_seen_from_both_ends(admin: SnowflakeConnection, sql: str) -> None:
    (key,) = rows(admin, sql)
    assert (key["pk_table_name"], key["pk_column_name"]) == ("HOUSES", "ID")
    assert (key["fk_table_name"], key["fk_column_name"]) == ("ROOMS", "HOUSE")


@pytest.mark.parametrize(
    "sql", ["SHOW IMPORTED KEYS IN TABLE HOUSES", "SHOW EXPORTED KEYS IN TABLE ROOMS"]
)
def test_a_primary_key_is_not_taken_for_a_foreign_one(admin: SnowflakeConnection, sql: str) -> None:
    assert rows(admin, sql) == []


@pytest.mark.parametrize("which", ["PRIMARY", "UNIQUE", "IMPORTED", "EXPORTED"])
def test_keys_of_a_table_that_is_not_there(admin: SnowflakeConnection, which: str) -> None:
    with pytest.raises(ProgrammingError) as caught:
        rows(admin, f"SHOW {which} KEYS IN TABLE PROD.CRM.NO_SUCH")
    assert caught.value.errno == 2003


def test_functions_are_listed(admin: SnowflakeConnection) -> None:
    found = rows(admin, "SHOW FUNCTIONS IN DATABASE GOVERNANCE")
    assert [(r["catalog_name"], r["schema_name"], r["name"]) for r in found] == [
        ("GOVERNANCE", "HOOP", "MASK_HASH")
    ]
    assert rows(admin, "SHOW PROCEDURES IN SCHEMA PROD.CRM") == []


def test_tables_are_listed_in_snowflakes_order(admin: SnowflakeConnection) -> None:
    def first(sql: str) -> list[str]:
        return [d.name for d in admin.cursor().execute(sql).description or []][:5]

    where = ["database_name", "schema_name"]
    assert first("SHOW TABLES IN SCHEMA PROD.CRM") == ["created_on", "name", *where, "kind"]
    assert first("SHOW TERSE TABLES IN SCHEMA PROD.CRM") == ["created_on", "name", "kind", *where]


def test_local_time_is_told_apart_from_time_with_a_zone(admin: SnowflakeConnection) -> None:
    described = {r["name"]: r["type"] for r in rows(admin, "DESCRIBE TABLE HOUSES")}
    assert described["BUILT"] == "TIMESTAMP_LTZ(9)"
    shown = {r["column_name"]: r["data_type"] for r in rows(admin, "SHOW COLUMNS IN TABLE HOUSES")}
    assert "TIMESTAMP_LTZ" in shown["BUILT"]


def test_texts_become_timestamps_without_a_current_database(admin: SnowflakeConnection) -> None:
    sql = "SELECT '2024-02-29 12:30:15.5'::TIMESTAMP_NTZ AS A, NULL::BINARY(16) AS B"
    (found,) = rows(admin, sql)
    assert (str(found["A"]), found["B"]) == ("2024-02-29 12:30:15.500000", None)
