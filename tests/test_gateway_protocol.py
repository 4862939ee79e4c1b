"""Snowflake's client protocol through a real gateway: async, results and status by id, cancelling, retries."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import snowflake.connector.aio
from snowflake.connector.constants import QueryStatus
from snowflake.connector.errors import DatabaseError, ProgrammingError

from hoop_core.client import HoopClient, token_source

if TYPE_CHECKING:
    from snowflake.connector import SnowflakeConnection

    from hoop_core.devstack.stack import DevStack

pytestmark = pytest.mark.e2e
Connect = Callable[..., "SnowflakeConnection"]
Behind = Callable[[str], list[tuple[Any, ...]]]

SLOW = "SELECT COUNT(*) FROM ORDERS A CROSS JOIN ORDERS B CROSS JOIN ORDERS C"
HELD = "UPDATE PROD.FEATURES.CHURN_STAGING SET CUSTOMER_ID = LENGTH('{}')"


class Raw:
    """A client of our own, for what no driver sends."""

    def __init__(self, stack: DevStack, handle: str = "") -> None:
        self.url, self.handle = stack.info.gateway_url, handle

    def call(self, method: str, path: str, body: Any = None, **params: str) -> Any:
        headers = {"Authorization": f'Snowflake Token="{self.handle}"'} if self.handle else {}
        answer = httpx.request(
            method, self.url + path, json=body, params=params, headers=headers, timeout=60
        )
        return answer.json()

    def run(self, sql: str, request_id: str = "", **more: Any) -> Any:
        request_id = request_id or str(uuid.uuid4())
        return self.call(
            "POST", "/queries/v1/query-request", {"sqlText": sql, **more}, requestId=request_id
        )


def raw(stack: DevStack, connection: SnowflakeConnection) -> Raw:
    return Raw(stack, str(connection.rest.token))


def entries(stack: DevStack) -> list[dict[str, Any]]:
    """Of the newest session."""
    with HoopClient(stack.info.gateway_url, token_source(stack.token("alice"))) as hoop:
        return list(hoop.session(hoop.sessions()[0]["id"])["entries"])


def until(condition: Callable[[], Any]) -> Any:
    for _ in range(400):
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it never came true")


def held(stack: DevStack, mark: str) -> str:
    with HoopClient(stack.info.gateway_url, token_source(stack.token("alice"))) as hoop:
        return str(
            until(lambda: next((a.id for a in hoop.approvals("pending") if mark in a.sql), None))
        )


def answer(stack: DevStack, approval: str, verdict: str, *people: str) -> None:
    for who in people:
        with HoopClient(stack.info.gateway_url, token_source(stack.token(who))) as hoop:
            hoop.answer(approval, verdict, "test")


# ------------------------------------------------------------------ asynchronous


def test_an_asynchronous_statement_is_waited_for_by_its_id(connect: Connect) -> None:
    connection = connect()
    cursor = connection.cursor()
    started = cursor.execute_async("SELECT CUSTOMER_ID FROM CUSTOMERS WHERE CUSTOMER_ID < 4")
    cursor.get_results_from_sfqid(started["queryId"])
    assert sorted(cursor.fetchall()) == [(1,), (2,), (3,)]
    assert connection.get_query_status(started["queryId"]) is QueryStatus.SUCCESS


def test_a_large_asynchronous_result_is_masked_and_comes_in_parts(connect: Connect) -> None:
    connection = connect()
    cursor = connection.cursor()
    started = cursor.execute_async("SELECT CUSTOMER_ID, SSN FROM CUSTOMERS")
    cursor.get_results_from_sfqid(started["queryId"])
    rows = cursor.fetchall()
    assert len(rows) == 50_000 and {ssn for _, ssn in rows} == {None}


def test_a_denied_asynchronous_statement_is_this_drivers_error(connect: Connect) -> None:
    connection = connect()
    cursor = connection.cursor()
    started = cursor.execute_async("SELECT * FROM PROD.HR.SALARIES")
    until(lambda: not connection.is_still_running(connection.get_query_status(started["queryId"])))
    with pytest.raises(ProgrammingError, match="SALARIES") as caught:
        connection.get_query_status_throw_if_error(started["queryId"])
    assert caught.value.errno == 3001


def test_a_held_statement_is_queued_until_it_is_approved(connect: Connect, stack: DevStack) -> None:
    connection = connect()
    mark = uuid.uuid4().hex
    started = connection.cursor().execute_async(HELD.format(mark))
    approval = held(stack, mark)
    status = connection.get_query_status(started["queryId"])
    assert status is QueryStatus.QUEUED and connection.is_still_running(status)
    answer(stack, approval, "reject", "alice")
    until(lambda: connection.get_query_status(started["queryId"]) is QueryStatus.FAILED_WITH_ERROR)


def test_the_asyncio_driver_runs_and_waits(stack: DevStack) -> None:
    async def both() -> tuple[Any, Any]:
        connection = snowflake.connector.aio.SnowflakeConnection(
            host=stack.info.gateway_host, port=stack.info.gateway_port, protocol="http",
            account="hoopdev", user="x", authenticator="oauth", token=stack.token("churn-agent"),
            database="PROD", schema="CRM",
        )  # fmt: skip
        await connection.connect()
        cursor = connection.cursor()
        await cursor.execute("SELECT 7")
        direct = await cursor.fetchall()
        started = await cursor.execute_async("SELECT 8")
        await cursor.get_results_from_sfqid(started["queryId"])
        later = await cursor.fetchall()
        await connection.close()
        return direct, later

    assert asyncio.run(both()) == ([(7,)], [(8,)])


# ------------------------------------------------------------------ by id: whose


def test_a_result_is_found_from_another_session_of_the_same_caller(
    connect: Connect, stack: DevStack, behind: Behind
) -> None:
    mark = f"SHOWN_{uuid.uuid4().hex}".upper()
    first, second = connect().cursor(), connect()
    first.execute(f"SELECT EMAIL AS {mark} FROM CUSTOMERS WHERE CUSTOMER_ID = 3")
    shown = first.fetchall()
    cursor = second.cursor()
    cursor.get_results_from_sfqid(str(first.sfqid))
    assert cursor.fetchall() == shown
    history = behind("SELECT QUERY_TEXT FROM SNOWFLAKE.ACCOUNT_USAGE.QUERY_HISTORY")
    assert sum(mark in text for (text,) in history) == 1
    (logged,) = [e["data"] for e in entries(stack) if e["kind"] == "statement.answered"]
    assert logged["of_statement_id"] == first.sfqid and logged["form"] == "result_scan"


@pytest.mark.parametrize("whose", ["another caller's", "nobody's"])
def test_what_is_not_the_callers_own_cannot_be_told_from_what_does_not_exist(
    connect: Connect, stack: DevStack, whose: str
) -> None:
    theirs = connect("pia").cursor()
    theirs.execute("SELECT EMAIL FROM CUSTOMERS WHERE CUSTOMER_ID = 3")
    statement = str(theirs.sfqid) if whose == "another caller's" else str(uuid.uuid4())
    mine = connect()
    client = raw(stack, mine)
    result = client.call("GET", f"/queries/{statement}/result")
    assert result["code"] == "000709" and statement not in result["message"]
    assert client.call("GET", f"/monitoring/queries/{statement}")["data"] == {"queries": []}
    assert client.call("POST", f"/queries/{statement}/abort-request")["code"] == "000709"
    for sql in (
        f"select * from table(result_scan('{statement}'))",
        f"SELECT SYSTEM$CANCEL_QUERY('{statement}')",
    ):
        with pytest.raises(ProgrammingError) as caught:
            mine.cursor().execute(sql)
        assert caught.value.errno == 709


def test_results_end_with_their_session(connect: Connect, stack: DevStack) -> None:
    first, second = connect(), connect()
    cursor = first.cursor()
    cursor.execute("SELECT 1")
    assert raw(stack, second).call("GET", f"/queries/{cursor.sfqid}/result")["success"]
    first.close()
    gone = raw(stack, second).call("GET", f"/queries/{cursor.sfqid}/result")
    assert gone["code"] == "000709"


@pytest.mark.parametrize("method_path", [
    ("GET", "/queries/{}/result"), ("GET", "/monitoring/queries/{}"),
    ("POST", "/queries/{}/abort-request"),
])  # fmt: skip
def test_no_address_answers_without_a_live_handle(
    connect: Connect, stack: DevStack, method_path: tuple[str, str]
) -> None:
    connection = connect()
    cursor = connection.cursor()
    cursor.execute("SELECT 1")
    method, path = method_path
    known, used = Raw(stack), raw(stack, connection)
    connection.close()
    for client in (known, used, Raw(stack, "A" * 43)):
        assert client.call(method, path.format(cursor.sfqid))["code"] == "390111"


def test_one_id_serves_status_result_and_snowflakes_history(
    connect: Connect, stack: DevStack, behind: Behind
) -> None:
    connection = connect()
    cursor = connection.cursor()
    cursor.execute("SELECT 41 + 1")
    statement = str(cursor.sfqid)
    (status,) = raw(stack, connection).call("GET", f"/monitoring/queries/{statement}")["data"][
        "queries"
    ]
    assert (status["status"], status["id"]) == ("SUCCESS", statement)
    again = raw(stack, connection).call("GET", f"/queries/{statement}/result")
    assert again["data"]["queryId"] == statement and again["data"]["total"] == 1
    tags = behind("SELECT QUERY_TAG FROM SNOWFLAKE.ACCOUNT_USAGE.QUERY_HISTORY")
    assert sum(statement in str(tag) for (tag,) in tags) == 1


# ------------------------------------------------------------------ cancelling


def by_address(connection: SnowflakeConnection, statement: str) -> None:
    assert connection.cursor().abort_query(statement)


def by_function(connection: SnowflakeConnection, statement: str) -> None:
    said = connection.cursor().execute(f"select system$cancel_query('{statement}')").fetchone()
    assert said == (f"query [{statement}] terminated.",)


def by_session(connection: SnowflakeConnection, statement: str) -> None:
    sql = f"select system$cancel_all_queries({connection.session_id})"
    assert connection.cursor().execute(sql).fetchone() == ("1 cancelled.",)


@pytest.mark.parametrize("cancel", [by_address, by_function, by_session])
@pytest.mark.parametrize("text", [SLOW, HELD])
def test_a_statement_is_cancelled(
    connect: Connect,
    stack: DevStack,
    cancel: Callable[[SnowflakeConnection, str], None],
    text: str,
) -> None:
    connection = connect()
    mark = uuid.uuid4().hex
    started = connection.cursor().execute_async(text.format(mark))["queryId"]
    if text == HELD:
        held(stack, mark)
    else:
        until(lambda: connection.get_query_status(started) is QueryStatus.RUNNING)
    cancel(connection, started)
    until(lambda: connection.get_query_status(started) is QueryStatus.ABORTED)
    over = raw(stack, connection).call("POST", f"/queries/{started}/abort-request")
    assert over["code"] == "000605"


def test_all_queries_are_cancelled_from_another_session_of_the_same_caller_only(
    connect: Connect, stack: DevStack
) -> None:
    connection, stranger = connect(), connect("pia")
    mark = uuid.uuid4().hex
    started = connection.cursor().execute_async(HELD.format(mark))["queryId"]
    held(stack, mark)
    sql = f"select system$cancel_all_queries({connection.session_id})"
    assert stranger.cursor().execute(sql).fetchone() == ("0 cancelled.",)
    assert connection.get_query_status(started) is QueryStatus.QUEUED
    assert connect().cursor().execute(sql).fetchone() == ("1 cancelled.",)


def test_a_request_taken_back_before_it_came_does_not_run(
    connect: Connect, stack: DevStack
) -> None:
    client = raw(stack, connect())
    request_id = str(uuid.uuid4())
    client.call("POST", "/queries/v1/abort-request", {"requestId": request_id}, requestId="x")
    assert client.run("SELECT 1", request_id)["code"] == "000604"


# ------------------------------------------------------------------ once


def test_a_retry_while_it_runs_and_after_it_was_cancelled_does_not_run_again(
    connect: Connect, stack: DevStack
) -> None:
    client = raw(stack, connect())
    mark, request_id = uuid.uuid4().hex, str(uuid.uuid4())
    first = client.run(HELD.format(mark), request_id, asyncExec=True)
    held(stack, mark)
    again = client.run(HELD.format(mark), request_id, asyncExec=True)
    assert again["data"]["queryId"] == first["data"]["queryId"]
    client.call("POST", "/queries/v1/abort-request", {"requestId": request_id}, requestId="x")
    late = client.call("GET", f"/queries/{first['data']['queryId']}/result")
    assert late["code"] == "000604"
    client.run(HELD.format(mark), request_id, asyncExec=True)
    asked = [e for e in entries(stack) if mark in json.dumps(e) and e["kind"] == "approval.asked"]
    refused = [e for e in entries(stack) if e["kind"] == "statement.refused"]
    assert len(asked) <= 1 and len(refused) == 1


def login(stack: DevStack, who: str, request_id: str) -> Any:
    data = {"ACCOUNT_NAME": "hoopdev", "AUTHENTICATOR": "OAUTH", "TOKEN": stack.token(who)}
    return Raw(stack).call(
        "POST", "/session/v1/login-request", {"data": data}, request_id=request_id
    )


def test_a_retried_sign_in_finds_its_session_once(stack: DevStack, monkeypatch: Any) -> None:
    token, request_id = stack.token("churn-agent"), str(uuid.uuid4())
    monkeypatch.setattr(type(stack), "token", lambda _self, _who: token)
    first, again = login(stack, "", request_id)["data"], login(stack, "", request_id)["data"]
    assert first["sessionId"] == again["sessionId"] and first["token"] != again["token"]
    assert Raw(stack, first["token"]).run("SELECT 1")["code"] == "390111"
    assert Raw(stack, again["token"]).run("SELECT 1")["success"]
    used = login(stack, "", request_id)["data"]
    assert used["sessionId"] != again["sessionId"]
    for handle in (again["token"], used["token"]):
        Raw(stack, handle).call("POST", "/session", delete="true")


def test_a_sign_in_with_another_token_gets_a_session_of_its_own(stack: DevStack) -> None:
    request_id = str(uuid.uuid4())
    mine, theirs = (login(stack, w, request_id)["data"] for w in ("churn-agent", "pia"))
    assert mine["sessionId"] != theirs["sessionId"]
    for one in (mine, theirs):
        assert Raw(stack, one["token"]).call("POST", "/session", delete="true")["success"]


# ------------------------------------------------------------------ sessions


def test_a_session_has_one_number(connect: Connect) -> None:
    connection = connect()
    number = connection.session_id
    assert connection.cursor().execute("SELECT CURRENT_SESSION()").fetchone() == (str(number),)
    connection.rest._renew_session()
    assert connection.cursor().execute("select current_session();").fetchone() == (str(number),)
    assert connect().session_id != number


def test_show_parameters_tells_what_was_set(connect: Connect) -> None:
    connection = connect(session_parameters={"QUERY_TAG": "by login"})
    cursor = connection.cursor()
    sql = "SHOW PARAMETERS LIKE 'query_tag' IN SESSION"
    (row,) = cursor.execute(sql).fetchall()
    assert (row[0], row[1], row[3]) == ("QUERY_TAG", "by login", "SESSION")
    cursor.execute("ALTER SESSION SET QUERY_TAG = 'by \\'ALTER\\' TIMEZONE=x'")
    assert cursor.execute(sql).fetchall()[0][1] == "by 'ALTER' TIMEZONE=x"
    (zone,) = cursor.execute("SHOW PARAMETERS LIKE 'TIMEZONE'").fetchall()
    assert zone[1] != "x"
    assert len(cursor.execute("SHOW PARAMETERS").fetchall()) > 40


@pytest.mark.parametrize("how", ["login", "alter", "statement"])
def test_the_callers_tag_rides_behind_hoops(connect: Connect, behind: Behind, how: str) -> None:
    tag = f"tag-{uuid.uuid4().hex}"
    connection = connect(session_parameters={"QUERY_TAG": tag} if how == "login" else {})
    cursor = connection.cursor()
    if how == "alter":
        cursor.execute(f"ALTER SESSION SET QUERY_TAG = '{tag}'")
    more = {"_statement_params": {"QUERY_TAG": tag}} if how == "statement" else {}
    cursor.execute("SELECT 5", **more)
    tags = behind("SELECT QUERY_TAG FROM SNOWFLAKE.ACCOUNT_USAGE.QUERY_HISTORY")
    (mine,) = [str(t) for (t,) in tags if str(cursor.sfqid) in str(t)]
    assert mine.startswith("hoop:") and mine.endswith(f" {tag}")


def test_ending_a_session_twice_is_no_error(connect: Connect, stack: DevStack) -> None:
    client = raw(stack, connect())
    ended = [client.call("POST", "/session", {}, delete="true")["success"] for _ in range(2)]
    assert ended == [True, True]
    assert client.call("POST", "/session/heartbeat")["code"] == "390111"


def test_a_session_that_snowflake_ended_is_over_and_a_new_one_works(
    connect: Connect, stack: DevStack, behind: Behind
) -> None:
    connection = connect()
    connection.cursor().execute("SELECT 1")
    (minted,) = [e["data"] for e in entries(stack) if e["kind"] == "credential.minted"]
    behind(f'ALTER USER "{minted["snowflake_user"]}" SET DISABLED = TRUE')
    for _ in range(2):
        with pytest.raises(ProgrammingError) as caught:
            connection.cursor().execute("SELECT 2")
        assert caught.value.errno == 390111
    closed = until(lambda: [e["data"] for e in entries(stack) if e["kind"] == "session.closed"])
    assert closed[0]["reason"] == "ended by Snowflake"
    assert connect().cursor().execute("SELECT 3").fetchall() == [(3,)]


def test_drivers_are_told_the_parameters_that_they_read(connect: Connect, stack: DevStack) -> None:
    answered = login(stack, "churn-agent", str(uuid.uuid4()))["data"]
    told = {p["name"]: p["value"] for p in answered["parameters"]}
    assert told["CLIENT_TELEMETRY_ENABLED"] is False and told["SERVICE_NAME"] == ""
    assert isinstance(told["CLIENT_PREFETCH_THREADS"], int) and told["AUTOCOMMIT"] is True
    assert int(answered["serverVersion"].split(" ")[0].split(".")[0]) > 0
    client = Raw(stack, answered["token"])
    again = {p["name"]: p["value"] for p in client.run("SELECT 1")["data"]["parameters"]}
    assert again["CLIENT_TELEMETRY_ENABLED"] is False
    assert "CLIENT_STAGE_ARRAY_BINDING_THRESHOLD" not in again
    client.call("POST", "/session", delete="true")


def test_what_a_client_asks_to_be_told_it_is_told(connect: Connect) -> None:
    connection = connect(client_session_keep_alive=True)
    connection.cursor().execute("SELECT 1")
    assert connection._session_parameters["CLIENT_SESSION_KEEP_ALIVE"] is True


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("count", [0, 1])
def test_one_statement_passes_whatever_is_said_about_several(connect: Connect, count: int) -> None:
    cursor = connect().cursor()
    assert cursor.execute("SELECT 3", num_statements=count).fetchall() == [(3,)]


def test_several_statements_are_refused_with_a_hint_and_on_record(
    connect: Connect, stack: DevStack
) -> None:
    with pytest.raises(ProgrammingError, match="one statement at a time") as caught:
        connect().cursor().execute("SELECT 1; SELECT 2", num_statements=2)
    assert caught.value.errno == 8
    (refused,) = [e["data"] for e in entries(stack) if e["kind"] == "statement.refused"]
    assert refused["reason"] == "MULTI_STATEMENT"


def test_a_text_that_nobody_reads_does_not_fill_the_log(connect: Connect, stack: DevStack) -> None:
    sql = f"SELECT '{'x' * 5_000_000}'"  # a few kilobytes on the line
    with pytest.raises(ProgrammingError, match="at most 200000 are read"):
        connect().cursor().execute(sql)
    (refused,) = [e["data"] for e in entries(stack) if e["kind"] == "statement.refused"]
    assert (refused["sql"], refused["sql_characters"]) == (sql[:2_000], len(sql))
    assert refused["sql_sha256"] == hashlib.sha256(sql.encode()).hexdigest()


@pytest.mark.parametrize("bindings", [
    [1], "x", {"1": "x"}, {"1": {"value": "x"}}, {"1": {"type": "TEXT", "value": {"a": 1}}},
    {"1": {"type": "TEXT", "value": [["x"]]}}, {"1": {"type": "TEXT", "value": "x", "schema": 1}},
])  # fmt: skip
def test_malformed_bindings_are_refused_in_every_door(
    connect: Connect, stack: DevStack, bindings: Any
) -> None:
    refused = raw(stack, connect()).run("SELECT ?", bindings=bindings)
    assert refused["code"] == "099400"
    if isinstance(bindings, dict):
        rest = httpx.post(
            f"{stack.info.gateway_url}/hoop/v1/approvals",
            json={"sql": "SELECT ?", "parameters": bindings},
            headers={"Authorization": f"Bearer {stack.token('churn-agent')}"},
        )
        assert rest.status_code == 400


@pytest.mark.parametrize(
    ("style", "sql", "values"),
    [
        ("qmark", "SELECT ?, ?", (1, "a")),
        ("numeric", "SELECT :1, :2", (1, "a")),
        ("pyformat", "SELECT %(n)s, %(t)s", {"n": 1, "t": "a"}),
    ],
)
def test_values_are_bound_in_every_style_of_the_driver(
    connect: Connect, style: str, sql: str, values: Any
) -> None:
    assert connect(paramstyle=style).cursor().execute(sql, values).fetchall() == [(1, "a")]


def test_a_long_text_passes(connect: Connect) -> None:
    terms = ", ".join(f"{n} AS C{n}" for n in range(200))
    sql = f"SELECT {terms} /* {'x' * 60_000} */"
    assert len(connect().cursor().execute(sql).fetchone() or ()) == 200


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "HEAD"])
def test_an_unknown_address_is_refused_for_every_method(stack: DevStack, method: str) -> None:
    answered = httpx.request(method, f"{stack.info.gateway_url}/session/v1/elsewhere")
    assert answered.status_code in {404, 405}
    assert method == "HEAD" or answered.json()["success"] is False


def test_unknown_addresses_are_on_record_and_cannot_fill_it(
    connect: Connect, stack: DevStack
) -> None:
    client = raw(stack, connect())
    for number in range(15):
        client.call("GET", f"/queries/v9/unknown/{number}")
    logged = [e for e in entries(stack) if e["kind"] == "endpoint.refused"]
    assert 1 <= len(logged) <= 10
    assert logged[0]["data"]["path"] == "/queries/v9/unknown/0"


@pytest.mark.parametrize("path", ["/telemetry/send", "/telemetry/send/sessionless"])
def test_telemetry_is_answered_and_dropped(stack: DevStack, path: str) -> None:
    assert Raw(stack).call("POST", path, {"logs": []})["success"]


def test_what_only_looks_like_an_own_answer_goes_the_ordinary_way(connect: Connect) -> None:
    connection = connect()
    cursor = connection.cursor()
    cursor.execute("SELECT 1")
    with pytest.raises(ProgrammingError):
        cursor.execute(f"SELECT * FROM TABLE(RESULT_SCAN('{cursor.sfqid}')), PROD.HR.SALARIES")
    with pytest.raises(ProgrammingError):
        cursor.execute("SELECT SYSTEM$CANCEL_ALL_QUERIES(1), SYSTEM$WAIT(1)")


def test_a_password_that_is_no_token_is_refused_as_a_wrong_password(connect: Connect) -> None:
    with pytest.raises(DatabaseError) as caught:
        connect(authenticator="snowflake", password="hunter2", token=None)
    assert "390100" in str(caught.value) or caught.value.errno == 390100
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("form", ["snowflake", "PROGRAMMATIC_ACCESS_TOKEN"])
def test_a_token_is_taken_in_the_place_of_a_password(
    connect: Connect, stack: DevStack, form: str
) -> None:
    token = stack.token("churn-agent")
    given = {"password": token, "token": None} if form == "snowflake" else {"token": token}
    connection = connect(authenticator=form, **given)
    assert connection.cursor().execute("SELECT 2").fetchall() == [(2,)]
