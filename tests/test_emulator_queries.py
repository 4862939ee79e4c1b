"""The life of a query in the stand-in: slow, asynchronous, cancelled, timed out, retried, refused."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pytest
import snowflake.connector
from snowflake.connector import SnowflakeConnection
from snowflake.connector.constants import QueryStatus
from snowflake.connector.errors import Error

from hoop_core.devstack.emulator.process import Running, running

pytestmark = pytest.mark.e2e

HEAVY = "SELECT COUNT(*) FROM ORDERS A, ORDERS B WHERE A.AMOUNT + B.AMOUNT < RANDOM() % 7"


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    arguments = ("--slow-seconds", "0.4", "--poll-seconds", "0.4")
    with running(tmp_path_factory.mktemp("emulator"), *arguments) as found:
        yield found


@pytest.fixture
def open_(emulator: Running) -> Iterator[Callable[..., SnowflakeConnection]]:
    opened: list[SnowflakeConnection] = []

    def get(**more: Any) -> SnowflakeConnection:
        options = emulator.options(database="PROD", schema="CRM", **more)
        opened.append(snowflake.connector.connect(**options))
        return opened[-1]

    yield get
    for connection in opened:
        connection.close()


@pytest.fixture
def connection(open_: Callable[..., SnowflakeConnection]) -> SnowflakeConnection:
    return open_()


def rows(connection: SnowflakeConnection, sql: str, *params: Any) -> list[tuple[Any, ...]]:
    return [tuple(r) for r in connection.cursor().execute(sql, *params).fetchall()]


def errno(connection: SnowflakeConnection, sql: str, **more: Any) -> int:
    with pytest.raises(Error) as caught:
        connection.cursor().execute(sql, **more)
    return caught.value.errno or 0


@pytest.fixture
def token(emulator: Running) -> str:
    return str(emulator.sign_in(query="&databaseName=PROD&schemaName=CRM")["data"]["token"])


def test_a_slow_query_is_polled_until_it_is_done(emulator: Running, token: str) -> None:
    answer = emulator.query(token, "SELECT SYSTEM$WAIT(1.2)")
    seen = []
    while answer["code"] in ("333333", "333334"):
        seen.append(answer["code"])
        assert answer["success"] is True
        assert answer["data"]["getResultUrl"] == f"/queries/{answer['data']['queryId']}/result"
        answer = emulator.call("GET", answer["data"]["getResultUrl"], token=token)
    assert seen[0] == "333333"
    assert len(seen) >= 2
    assert answer["data"]["total"] == 1


def test_an_unmodified_driver_waits_for_a_slow_query(connection: SnowflakeConnection) -> None:
    assert rows(connection, "SELECT SYSTEM$WAIT(1), 5 A") == [("waited 1 seconds", 5)]
    assert rows(connection, "CALL SYSTEM$WAIT(10, 'MILLISECONDS')") == [("waited 10 milliseconds",)]


def test_an_asynchronous_query_is_found_by_its_id(connection: SnowflakeConnection) -> None:
    cursor = connection.cursor()
    cursor.execute_async("SELECT SYSTEM$WAIT(1), COUNT(*) FROM ORDERS")
    query_id = str(cursor.sfqid)
    assert connection.get_query_status(query_id) is QueryStatus.RUNNING
    # The session goes on meanwhile.
    assert rows(connection, "SELECT 1") == [(1,)]
    cursor.get_results_from_sfqid(query_id)
    assert cursor.fetchall() == [("waited 1 seconds", 200_000)]
    assert connection.get_query_status(query_id) is QueryStatus.SUCCESS
    assert rows(connection, f"SELECT * FROM TABLE(RESULT_SCAN('{query_id}'))")[0][1] == 200_000


def test_a_failed_asynchronous_query_says_so(connection: SnowflakeConnection) -> None:
    cursor = connection.cursor()
    cursor.execute_async("SELECT * FROM NOPE")
    query_id = str(cursor.sfqid)
    while connection.is_still_running(connection.get_query_status(query_id)):
        time.sleep(0.05)
    assert connection.get_query_status(query_id) is QueryStatus.FAILED_WITH_ERROR
    with pytest.raises(Error) as caught:
        connection.get_query_status_throw_if_error(query_id)
    assert caught.value.errno == 2003


def test_results_belong_to_their_user(
    emulator: Running, connection: SnowflakeConnection, open_: Callable[..., SnowflakeConnection]
) -> None:
    cursor = connection.cursor()
    cursor.execute("SELECT 42")
    query_id = str(cursor.sfqid)
    rows(connection, "CREATE OR REPLACE USER OTHER PASSWORD = 'pw'")
    other = open_(user="OTHER", password="pw")
    assert other.get_query_status(query_id) is QueryStatus.NO_DATA
    assert errno(other, f"SELECT * FROM TABLE(RESULT_SCAN('{query_id}'))") == 709
    token = emulator.sign_in({"LOGIN_NAME": "OTHER", "PASSWORD": "pw"})["data"]["token"]
    answer = emulator.call("GET", f"/queries/{query_id}/result", token=token)
    assert (answer["success"], answer["code"]) == (False, "000709")
    # The same user in another session may have it.
    token = emulator.sign_in()["data"]["token"]
    answer = emulator.call("GET", f"/queries/{query_id}/result", token=token)
    assert answer["data"]["total"] == 1


@pytest.mark.parametrize("sql", ["SELECT SYSTEM$WAIT(60)", HEAVY])
def test_abort_really_cancels(emulator: Running, token: str, sql: str) -> None:
    request_id = str(uuid.uuid4())
    answer = emulator.query(token, sql, request_id=request_id)
    assert answer["code"] == "333333"
    path = f"/queries/v1/abort-request?requestId={uuid.uuid4()}"
    assert emulator.call("POST", path, {"requestId": request_id}, token=token)["success"]
    while answer["code"] == "333333":
        answer = emulator.call("GET", answer["data"]["getResultUrl"], token=token)
    assert (answer["code"], answer["data"]["sqlState"]) == ("000604", "57014")
    assert emulator.query(token, "SELECT 1")["success"]
    assert emulator.call("POST", path, {"requestId": request_id}, token=token)["code"] == "000605"


def test_a_driver_side_timeout_cancels_at_the_server(connection: SnowflakeConnection) -> None:
    assert errno(connection, "SELECT SYSTEM$WAIT(60)", timeout=1) == 604
    assert rows(connection, "SELECT 1") == [(1,)]


@pytest.mark.parametrize("sql", ["SELECT SYSTEM$WAIT(60)", HEAVY])
def test_a_statement_timeout_cancels(connection: SnowflakeConnection, sql: str) -> None:
    rows(connection, "ALTER SESSION SET STATEMENT_TIMEOUT_IN_SECONDS = 1")
    assert errno(connection, sql) == 630
    assert rows(connection, "SELECT 1") == [(1,)]
    rows(connection, "ALTER SESSION UNSET STATEMENT_TIMEOUT_IN_SECONDS")
    assert rows(connection, "SELECT SYSTEM$WAIT(1.1)")[0][0] == "waited 1.1 seconds"


def test_a_statement_parameter_counts_for_one_statement(connection: SnowflakeConnection) -> None:
    timeout = {"STATEMENT_TIMEOUT_IN_SECONDS": 1}
    assert errno(connection, "SELECT SYSTEM$WAIT(60)", _statement_params=timeout) == 630
    assert errno(connection, "SELECT 1", _statement_params={"NO_SUCH": 1}) == 1006


def test_abort_all_queries_stops_a_users_work(
    connection: SnowflakeConnection, open_: Callable[..., SnowflakeConnection]
) -> None:
    rows(connection, "CREATE OR REPLACE USER WORKER PASSWORD = 'pw'")
    worker = open_(user="WORKER", password="pw")
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(errno(worker, "SELECT SYSTEM$WAIT(60)")))
    thread.start()
    while thread.is_alive():
        rows(connection, "ALTER USER WORKER ABORT ALL QUERIES")
        thread.join(0.2)
    assert seen == [604]
    assert rows(worker, "SELECT 1") == [(1,)]


def test_a_retried_request_does_not_run_twice(emulator: Running, token: str) -> None:
    emulator.query(token, "CREATE OR REPLACE TABLE PROD.FEATURES.ONCE (A INT)")
    request_id = str(uuid.uuid4())
    sql = "INSERT INTO PROD.FEATURES.ONCE VALUES (1)"
    first = emulator.query(token, sql, request_id=request_id)
    again = emulator.query(token, sql, request_id=request_id)
    assert first["data"]["queryId"] == again["data"]["queryId"]
    assert again["data"]["rowset"] == [["1"]]
    counted = emulator.query(token, "SELECT COUNT(*) FROM PROD.FEATURES.ONCE", parameters=JSON)
    assert counted["data"]["rowset"] == [["1"]]
    changed = emulator.query(token, sql + " -- changed", request_id=request_id)
    assert changed["success"] is False


JSON = {"PYTHON_CONNECTOR_QUERY_RESULT_FORMAT": "JSON"}


def test_a_retry_meets_the_running_query(emulator: Running, token: str) -> None:
    request_id = str(uuid.uuid4())
    first = emulator.query(token, "SELECT SYSTEM$WAIT(1)", request_id=request_id)
    again = emulator.query(token, "SELECT SYSTEM$WAIT(1)", request_id=request_id)
    assert first["code"] == "333333"
    assert first["data"]["queryId"] == again["data"]["queryId"]


def test_several_statements_in_one_text_are_refused(connection: SnowflakeConnection) -> None:
    assert errno(connection, "SELECT 1; SELECT 2") == 8
    assert errno(connection, "SELECT 1; DROP TABLE ORDERS") == 8
    assert errno(connection, "SELECT 1; SELECT 2", num_statements=2) == 2
    assert errno(connection, "SELECT 1; SELECT 2", num_statements=3) == 8
    assert rows(connection, "SELECT ';' /* ; */ A; -- ;") == [(";",)]


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("SELEC 1", 1003),
        ("SELECT * FROM", 1003),
        ("SELECT 'open", 1003),
        ("SELECT NO_SUCH FROM ORDERS", 904),
        ('SELECT "customer_id" FROM ORDERS', 904),
        ("SELECT NO_SUCH_FUNCTION(1)", 2140),
        ("SELECT SYSTEM$NO_SUCH()", 2140),
        ("SELECT 'x'::INT", 100035),
        ("CREATE USER X FROB = 1", 1006),
        ("CREATE USER X TYPE = ROBOT", 1008),
        ("CREATE USER X RSA_PUBLIC_KEY = 'not a key'", 1008),
        ("ALTER SESSION SET HOOP_CONTEXT = 'x'", 1006),
        ("ALTER SESSION SET TIMEZONE = 'America/New_York'", 2),
        ("GRANT FROB ON TABLE ORDERS TO ROLE PUBLIC", 1003),
        ("CREATE USER", 1003),
        ("SELECT $NOT_SET", 2211),
        ("USE DATABASE NOPE", 2043),
        ("PUT file:///tmp/x @s", 2003),
        ("COPY INTO ORDERS FROM @s", 2003),
        ("GET @s file:///tmp", 2),
        ("CREATE STAGE S URL = 's3://bucket'", 2),
        ("EXECUTE IMMEDIATE 'SELECT 1'", 2),
        ("EXPLAIN SELECT 1", 2),
        ("SELECT * FROM ORDERS AT(OFFSET => -60)", 2),
        ("SELECT * FROM IDENTIFIER('ORDERS')", 2),
        ("SELECT * FROM @STAGE", 2),
    ],
)
def test_what_is_not_understood_is_refused_in_snowflakes_codes(
    connection: SnowflakeConnection, sql: str, code: int
) -> None:
    assert errno(connection, sql) == code


def test_positional_bindings_keep_their_types(open_: Callable[..., SnowflakeConnection]) -> None:
    connection = open_(paramstyle="qmark")
    at = datetime(2024, 2, 29, 12, 30, 1, 250_000)  # noqa: DTZ001 (NTZ)
    given = (1, "it's", 1.5, Decimal("2.50"), date(2024, 2, 29), at, None, True, b"\x00\xff")
    assert rows(connection, "SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?", given) == [given]
    assert rows(connection, "SELECT COUNT(*) FROM ORDERS WHERE ORDER_ID <= ?", (10,)) == [(10,)]


def test_an_array_binding_is_one_statement(open_: Callable[..., SnowflakeConnection]) -> None:
    connection = open_(paramstyle="qmark")
    rows(connection, "CREATE OR REPLACE TABLE PROD.FEATURES.MANY (A INT, B VARCHAR)")
    cursor = connection.cursor()
    cursor.executemany("INSERT INTO PROD.FEATURES.MANY VALUES (?, ?)", [(1, "a"), (2, None)])
    assert cursor.rowcount == 2
    with pytest.raises(Error):
        bad = [(3, "c"), ("x", "d")]
        cursor.executemany("INSERT INTO PROD.FEATURES.MANY VALUES (?::INT, ?)", bad)
    assert rows(connection, "SELECT * FROM PROD.FEATURES.MANY ORDER BY A") == [(1, "a"), (2, None)]


def test_describing_runs_nothing(connection: SnowflakeConnection) -> None:
    cursor = connection.cursor()
    described = cursor.describe(
        "SELECT CUSTOMER_ID, MRR, SIGNED_UP, COUNT(*) OVER () FROM CUSTOMERS"
    )
    assert [(c.name, c.precision, c.scale) for c in described] == [
        ("CUSTOMER_ID", 38, 0),
        ("MRR", 12, 2),
        ("SIGNED_UP", None, None),
        ("COUNT(*) OVER ()", 38, 0),
    ]
    rows(connection, "CREATE OR REPLACE TABLE PROD.FEATURES.STAYS (A INT)")
    for sql in (
        "DELETE FROM ORDERS",
        "DROP TABLE PROD.FEATURES.STAYS",
        "CREATE TABLE PROD.FEATURES.NOT_MADE (A INT)",
        "CREATE USER NOT_MADE",
        "SELECT SYSTEM$WAIT(60)",
    ):
        cursor.describe(sql)
    with pytest.raises(Error):
        cursor.describe("SELECT * FROM NOPE")
    assert rows(connection, "SELECT COUNT(*) FROM ORDERS") == [(200_000,)]
    assert rows(connection, "SELECT * FROM PROD.FEATURES.STAYS") == []
    assert errno(connection, "SELECT * FROM PROD.FEATURES.NOT_MADE") == 2003
    assert rows(connection, "SHOW USERS LIKE 'NOT_MADE'") == []


def test_dml_tells_how_many_rows_it_changed(connection: SnowflakeConnection) -> None:
    rows(connection, "CREATE OR REPLACE TABLE PROD.FEATURES.D (A INT, B NUMBER(10, 2), C VARCHAR)")
    cursor = connection.cursor()
    for sql, count, answer in (
        ("INSERT INTO PROD.FEATURES.D VALUES (1, 1, 'x'), (2, 2, 'y')", 2, (2,)),
        ("UPDATE PROD.FEATURES.D SET B = B + 1 WHERE A = 1", 1, (1, 0)),
        (
            "MERGE INTO PROD.FEATURES.D T USING (SELECT 1 A UNION ALL SELECT 9) S ON T.A = S.A "
            "WHEN MATCHED THEN UPDATE SET T.B = T.B * 10, C = 'm' "
            "WHEN NOT MATCHED THEN INSERT (A, C) VALUES (S.A, 'new')",
            2,
            (1, 1),
        ),
        ("INSERT OVERWRITE INTO PROD.FEATURES.D SELECT A, B, C FROM PROD.FEATURES.D", 3, (3,)),
        ("DELETE FROM PROD.FEATURES.D WHERE A = 2", 1, (1,)),
    ):
        cursor.execute(sql)
        assert (cursor.rowcount, cursor.fetchall()) == (count, [answer]), sql
    assert rows(connection, "SELECT * FROM PROD.FEATURES.D ORDER BY A") == [
        (1, Decimal("20.00"), "m"),
        (9, None, "new"),
    ]
    double = "MERGE INTO PROD.FEATURES.D T USING (SELECT 1 A UNION ALL SELECT 1) S ON T.A = S.A "
    assert errno(connection, double + "WHEN MATCHED THEN DELETE") == 100090
    assert rows(connection, "SELECT COUNT(*) FROM PROD.FEATURES.D") == [(2,)]


def test_transactions_commit_and_roll_back(
    connection: SnowflakeConnection, open_: Callable[..., SnowflakeConnection]
) -> None:
    rows(connection, "CREATE OR REPLACE TABLE PROD.FEATURES.TX (A INT)")
    other = open_()
    rows(connection, "BEGIN")
    rows(connection, "INSERT INTO PROD.FEATURES.TX VALUES (1)")
    assert rows(other, "SELECT COUNT(*) FROM PROD.FEATURES.TX") == [(0,)]
    rows(connection, "ROLLBACK")
    assert rows(connection, "SELECT COUNT(*) FROM PROD.FEATURES.TX") == [(0,)]
    rows(connection, "START TRANSACTION")
    rows(connection, "INSERT INTO PROD.FEATURES.TX VALUES (1)")
    rows(connection, "COMMIT")
    assert rows(other, "SELECT COUNT(*) FROM PROD.FEATURES.TX") == [(1,)]
    connection.autocommit(False)
    rows(connection, "INSERT INTO PROD.FEATURES.TX VALUES (2)")
    assert rows(other, "SELECT COUNT(*) FROM PROD.FEATURES.TX") == [(1,)]
    connection.commit()
    assert rows(other, "SELECT COUNT(*) FROM PROD.FEATURES.TX") == [(2,)]


def test_the_place_follows_use(connection: SnowflakeConnection) -> None:
    rows(connection, "USE SCHEMA FEATURES")
    assert (connection.database, connection.schema) == ("PROD", "FEATURES")
    rows(connection, "USE DATABASE SNOWFLAKE")
    assert rows(connection, "SELECT CURRENT_DATABASE(), CURRENT_SCHEMA()")[0][0] == "SNOWFLAKE"
    rows(connection, "USE PROD.CRM")
    assert rows(connection, "SELECT CURRENT_DATABASE(), CURRENT_SCHEMA()") == [("PROD", "CRM")]
    rows(connection, "USE ROLE SYSADMIN")
    assert connection.role == "SYSADMIN"


def test_session_variables_and_tags(connection: SnowflakeConnection) -> None:
    rows(connection, "SET LIMIT_ID = 3")
    sql = "SELECT COUNT(*), '$LIMIT_ID' FROM ORDERS WHERE ORDER_ID <= $LIMIT_ID"
    assert rows(connection, sql) == [(3, "$LIMIT_ID")]
    rows(connection, "UNSET LIMIT_ID")
    assert errno(connection, sql) == 2211
    rows(connection, "ALTER SESSION SET QUERY_TAG = 'nightly'")
    assert rows(connection, "SHOW PARAMETERS LIKE 'query_tag'")[0][1] == "nightly"


def test_databases_schemas_and_warehouses_can_be_made(connection: SnowflakeConnection) -> None:
    rows(connection, "CREATE DATABASE SCRATCH")
    assert (connection.database, connection.schema) == ("SCRATCH", "PUBLIC")
    rows(connection, "CREATE SCHEMA INNER_PLACE")
    rows(connection, "CREATE TABLE T (A INT)")
    assert rows(connection, "SELECT * FROM SCRATCH.INNER_PLACE.T") == []
    rows(connection, "DROP SCHEMA SCRATCH.INNER_PLACE")
    assert errno(connection, "SELECT * FROM SCRATCH.INNER_PLACE.T") == 2003
    rows(connection, "CREATE WAREHOUSE W2 WITH WAREHOUSE_SIZE = 'SMALL' AUTO_SUSPEND = 60")
    assert rows(connection, "SELECT CURRENT_WAREHOUSE()") == [("W2",)]
    rows(connection, "DROP DATABASE SCRATCH")
    assert errno(connection, "USE DATABASE SCRATCH") == 2043


def test_unknown_endpoints_are_not_there(emulator: Running) -> None:
    import httpx

    for method, path in (
        ("GET", "/"),
        ("POST", "/api/v2/statements"),
        ("POST", "/session/authenticator-request"),
        ("GET", "/queries/v1/query-request"),
        ("PUT", "/fs_bucket/x"),
        ("GET", "/docs"),
    ):
        status = httpx.request(method, emulator.url + path, trust_env=False).status_code
        assert status in (404, 405), path
    broken = httpx.post(
        emulator.url + "/session/v1/login-request", content=b"{not json", trust_env=False
    )
    assert broken.status_code == 400
