"""snowflake-connector-python, unmodified: what its users do all day, by host, port and token only."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from snowflake.connector import DictCursor, ProgrammingError, SnowflakeConnection
from snowflake.connector.constants import QueryStatus
from snowflake.connector.errors import DatabaseError

from tests.clients_world import DENIED, HELD, MASKED_NOTE, ClientsWorld

pytestmark = pytest.mark.e2e

FIRST_FIVE = "SELECT CUSTOMER_ID, EMAIL, SSN FROM {} WHERE CUSTOMER_ID <= 5 ORDER BY 1"


@pytest.fixture(scope="module")
def connection(clients: ClientsWorld) -> Iterator[SnowflakeConnection]:
    with clients.connect() as opened:
        yield opened


@pytest.fixture(scope="module")
def qmark(clients: ClientsWorld) -> Iterator[SnowflakeConnection]:
    with clients.connect(paramstyle="qmark") as opened:
        yield opened


def rows(connection: SnowflakeConnection, sql: str, *binds: Any) -> list[Any]:
    return list(connection.cursor().execute(sql, binds or None).fetchall())


# ------------------------------------------------------------------ reading


def test_protected_columns_are_masked_and_the_others_as_they_are(
    clients: ClientsWorld, connection: SnowflakeConnection
) -> None:
    seen = rows(connection, FIRST_FIVE.format("CUSTOMERS"))
    true = clients.behind(FIRST_FIVE.format("PROD.CRM.CUSTOMERS"))
    assert [r[0] for r in seen] == [r[0] for r in true]
    assert all(ssn is None for *_, ssn in seen) and all(ssn for *_, ssn in true)
    for (_, email, _), (_, true_email, _) in zip(seen, true, strict=True):
        assert email == "***@" + true_email.split("@")[1]


def test_types_arrive_as_from_snowflake_itself(
    clients: ClientsWorld, connection: SnowflakeConnection
) -> None:
    plain = "ID, PRICE, RATIO, ACTIVE, DAY, AT_TIME, AT_NTZ, AT_LTZ, DOC, RAW, LABEL"
    seen = rows(connection, f"SELECT {plain} FROM TYPED")
    assert seen == clients.behind(f"SELECT {plain} FROM PROD.CRM.TYPED")
    row = dict(zip(plain.split(", "), seen[0], strict=True))
    assert row["PRICE"] == Decimal("12.34") and row["DAY"] == dt.date(2024, 2, 29)
    assert row["AT_NTZ"].isoformat() == "2024-02-29T12:34:56.789000"
    assert row["AT_LTZ"].tzinfo is not None and row["RAW"] == b"AB" and row["LABEL"] == "öé"
    assert json.loads(row["DOC"]) == {"a": [1, "x"]}


def test_masked_columns_keep_their_types(connection: SnowflakeConnection) -> None:
    cursor = connection.cursor()
    secret = "SECRET_NUMBER, SECRET_DAY, SECRET_AT, SECRET_RAW, SECRET_TEXT"
    shown = cursor.execute(f"SELECT {secret} FROM TYPED").fetchall()
    types = [d.type_code for d in cursor.description]
    cursor.execute("SELECT PRICE, DAY, AT_NTZ, RAW, LABEL FROM TYPED")
    assert shown == [(None, None, None, None, None)]
    assert types == [d.type_code for d in cursor.description]


def test_a_dictionary_cursor_names_columns(connection: SnowflakeConnection) -> None:
    with connection.cursor(DictCursor) as cursor:
        cursor.execute("SELECT CUSTOMER_ID, SSN AS S FROM CUSTOMERS WHERE CUSTOMER_ID = 1")
        assert cursor.fetchall() == [{"CUSTOMER_ID": 1, "S": None}]


def test_pandas_and_arrow_see_what_rows_show(connection: SnowflakeConnection) -> None:
    sql = "SELECT CUSTOMER_ID, EMAIL, SSN, SIGNED_UP, MRR FROM CUSTOMERS ORDER BY 1"
    frame = connection.cursor().execute(sql).fetch_pandas_all()
    assert len(frame) == 50_000 and frame["SSN"].isna().all()
    assert frame["EMAIL"].str.startswith("***@").all()
    assert connection.cursor().execute(sql).fetch_arrow_all().num_rows == 50_000
    batches = [len(b) for b in connection.cursor().execute(sql).fetch_pandas_batches()]
    assert len(batches) > 1 and sum(batches) == 50_000


def test_a_cursor_is_read_in_portions(connection: SnowflakeConnection) -> None:
    cursor = connection.cursor().execute("SELECT CUSTOMER_ID FROM CUSTOMERS ORDER BY 1")
    assert cursor.fetchone() == (1,)
    assert [r[0] for r in cursor.fetchmany(3)] == [2, 3, 4]
    assert sum(1 for _ in cursor) == 49_996
    assert cursor.nextset() is None


def test_describe_runs_nothing_and_names_columns(connection: SnowflakeConnection) -> None:
    found = connection.cursor().describe("SELECT CUSTOMER_ID, EMAIL AS MAIL FROM CUSTOMERS")
    assert [d.name for d in found] == ["CUSTOMER_ID", "MAIL"]


@pytest.mark.parametrize(
    "sql",
    [
        "\ufeffSELECT 1",
        "SELECT 1;",
        "SELECT 1 ;\n\n",
        "-- why\nSELECT /* what */ 1 -- end",
    ],
)
def test_how_people_write_a_statement_does_not_matter(
    connection: SnowflakeConnection, sql: str
) -> None:
    assert rows(connection, sql) == [(1,)]


# ------------------------------------------------------------------ binds


def test_binds_in_every_style(
    clients: ClientsWorld, connection: SnowflakeConnection, qmark: SnowflakeConnection
) -> None:
    sql = "SELECT CUSTOMER_ID FROM CUSTOMERS WHERE CUSTOMER_ID IN ({}) ORDER BY 1"
    assert rows(connection, sql.format("%s, %s"), 3, 8) == [(3,), (8,)]
    named = connection.cursor().execute(sql.format("%(a)s, %(b)s"), {"a": 3, "b": 8})
    assert named.fetchall() == [(3,), (8,)]
    assert rows(qmark, sql.format("?, ?"), 3, 8) == [(3,), (8,)]
    with clients.connect(paramstyle="numeric") as numeric:
        assert rows(numeric, sql.format(":1, :2"), 3, 8) == [(3,), (8,)]


def test_bound_values_keep_their_types(qmark: SnowflakeConnection) -> None:
    given = (Decimal("1.50"), "it's", True, None, dt.date(2024, 2, 29), b"\x01")
    [row] = rows(qmark, "SELECT ?, ?, ?, ?, ?, ?", *given)
    assert row[1] == "it's" and row[2] in {True, "true", "TRUE"} and row[3] is None
    assert Decimal(row[0]) == given[0] and str(row[4]) == "2024-02-29"


def test_many_rows_are_bound_at_once(clients: ClientsWorld, qmark: SnowflakeConnection) -> None:
    name = f"PROD.FEATURES.MANY_{uuid.uuid4().hex[:8].upper()}"
    cursor = qmark.cursor()
    cursor.execute(f"CREATE TABLE {name} (ID INT, LABEL VARCHAR)")
    cursor.executemany(f"INSERT INTO {name} VALUES (?, ?)", [(i, f"n{i}") for i in range(50)])
    assert cursor.rowcount == 50
    assert clients.behind(f"SELECT COUNT(*), MAX(LABEL) FROM {name}") == [(50, "n9")]
    cursor.execute(f"DROP TABLE {name}")


# ------------------------------------------------------------------ refusals and people


@pytest.mark.parametrize(
    ("sql", "errno", "says"),
    [
        (f"SELECT * FROM {DENIED}", 3001, "no rule grants"),
        ("SELECT * FROM NOWHERE", 2003, "NOWHERE"),
        ("SELECT FROM WHERE", 1003, "not Snowflake SQL"),
        ("SELECT 1; SELECT 2", 8, "one statement"),
        ("CREATE VIEW PROD.FEATURES.V AS SELECT 1 AS A", 3001, "Only tables"),
    ],
)
def test_a_denial_is_the_drivers_own_error(
    connection: SnowflakeConnection, sql: str, errno: int, says: str
) -> None:
    with pytest.raises(ProgrammingError) as caught:
        connection.cursor().execute(sql)
    assert caught.value.errno == errno and says in str(caught.value.msg)
    assert rows(connection, "SELECT 1") == [(1,)]


def test_a_bad_token_is_the_drivers_own_error(clients: ClientsWorld) -> None:
    with pytest.raises(DatabaseError) as caught:
        clients.connect(token="no.such.token")
    assert "token" in str(caught.value).lower()


def test_a_held_statement_waits_for_a_person_and_gets_its_rows(
    clients: ClientsWorld, connection: SnowflakeConnection
) -> None:
    with clients.approving("CONNECTOR_MARK"):
        found = rows(connection, f"SELECT BODY AS CONNECTOR_MARK FROM {HELD} WHERE NOTE_ID = 1")
    assert found == [(MASKED_NOTE,)]


# ------------------------------------------------------------------ sessions


def test_an_asynchronous_statement_is_found_by_its_id(connection: SnowflakeConnection) -> None:
    cursor = connection.cursor()
    cursor.execute_async("SELECT SSN FROM CUSTOMERS WHERE CUSTOMER_ID = 1")
    assert connection.is_still_running(connection.get_query_status(cursor.sfqid)) in {True, False}
    cursor.get_results_from_sfqid(cursor.sfqid)
    assert cursor.fetchall() == [(None,)]
    assert connection.get_query_status(cursor.sfqid) is QueryStatus.SUCCESS


def test_transactions_roll_back_and_commit(clients: ClientsWorld) -> None:
    name = f"PROD.FEATURES.TX_{uuid.uuid4().hex[:8].upper()}"
    with clients.connect(autocommit=False) as connection:
        cursor = connection.cursor()
        cursor.execute(f"CREATE TABLE {name} (ID INT)")
        cursor.execute(f"INSERT INTO {name} VALUES (1)")
        connection.rollback()
        cursor.execute(f"INSERT INTO {name} VALUES (2)")
        connection.commit()
    assert clients.behind(f"SELECT ID FROM {name}") == [(2,)]


def test_session_parameters_and_the_query_tag(clients: ClientsWorld) -> None:
    options = {"QUERY_TAG": "nightly-tag", "DATE_OUTPUT_FORMAT": "DD.MM.YYYY"}
    with clients.connect(session_parameters=options) as connection:
        cursor = connection.cursor()
        cursor.execute("ALTER SESSION SET QUERY_TAG = 'other-tag'")
        cursor.execute("SELECT 'TAG_MARK'")
        assert rows(connection, "SHOW PARAMETERS LIKE 'QUERY_TAG'")[0][1] == "other-tag"
    history = "SNOWFLAKE.ACCOUNT_USAGE.QUERY_HISTORY"
    [(tag,)] = clients.behind(
        f"SELECT QUERY_TAG FROM {history} WHERE QUERY_TEXT = 'SELECT ''TAG_MARK'''"
    )
    assert tag.startswith("hoop:") and tag.endswith(" other-tag")


def test_a_session_tells_what_it_is_and_moves(clients: ClientsWorld) -> None:
    with clients.connect() as connection:
        assert connection.is_valid() and (connection.database, connection.schema) == ("PROD", "CRM")
        assert (connection.role, connection.warehouse) == ("ML_READER", "ML_WH")
        rows(connection, "USE SCHEMA FEATURES")
        assert rows(connection, "SELECT CURRENT_DATABASE(), CURRENT_SCHEMA()") == [
            ("PROD", "FEATURES")
        ]
        old = connection.rest.token
        connection.rest._renew_session()
        assert connection.rest.token != old and rows(connection, "SELECT 1") == [(1,)]
    assert connection.is_closed()
