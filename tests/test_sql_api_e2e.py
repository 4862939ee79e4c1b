"""Snowflake's SQL REST API at the gateway, on the real stack: by plain HTTP and by Airflow's own hook."""

from __future__ import annotations

import gzip
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import requests

from hoop_core.audit.stored import stored_entries
from hoop_core.client import HoopClient, token_source
from hoop_core.store import Store

if TYPE_CHECKING:
    from hoop_core.devstack.stack import DevStack

pytestmark = pytest.mark.e2e
Behind = Callable[[str], list[tuple[Any, ...]]]
URL = "/api/v2/statements"
SLOW = "SELECT COUNT(*) FROM ORDERS A, ORDERS B, ORDERS C WHERE A.AMOUNT * B.AMOUNT < C.AMOUNT"


@dataclass(frozen=True)
class Api:
    """One caller of the SQL API."""

    http: httpx.Client
    stack: DevStack

    def submit(self, sql: str, *, params: dict[str, str] | None = None, **body: Any) -> Any:
        given = {"statement": sql, "database": "PROD", "schema": "CRM", **body}
        return self.http.post(URL, json=given, params=params)

    def poll(self, handle: str, **params: Any) -> Any:
        return self.http.get(f"{URL}/{handle}", params=params)

    def ended(self, handle: str) -> Any:
        """What is answered once the statement has come to its end."""
        for _ in range(60):
            answer = self.poll(handle)
            if answer.status_code != 202:
                return answer
        raise AssertionError("the statement has not ended")

    def entries(self, handle: str) -> list[tuple[str, dict[str, Any]]]:
        return [
            (kind, data)
            for kind, data, session in log(self.stack)
            if session == "ses_" + handle.replace("-", "")
        ]


def log(stack: DevStack) -> list[tuple[str, dict[str, Any], str | None]]:
    store = Store(stack.store_url)
    store.attach()
    try:
        return [
            (e.kind, json.loads(e.text)["data"], json.loads(e.text)["session"])
            for e in stored_entries(store)
        ]
    finally:
        store.close()


@pytest.fixture
def api(stack: DevStack) -> Iterator[Callable[..., Api]]:
    opened: list[httpx.Client] = []

    def one(who: str = "churn-agent", token: str = "", **headers: str) -> Api:
        token = token or stack.token(who)
        client = httpx.Client(
            base_url=stack.info.gateway_url,
            headers={"authorization": f"Bearer {token}", **headers},
            timeout=60,
        )
        opened.append(client)
        return Api(client, stack)

    yield one
    for client in opened:
        client.close()


Callers = Callable[..., Api]

# ------------------------------------------------------------------ results


def test_a_statement_is_answered_with_masked_rows(api: Callers, behind: Behind) -> None:
    sql = "SELECT CUSTOMER_ID, EMAIL, SSN FROM CUSTOMERS WHERE CUSTOMER_ID <= 3 ORDER BY 1"
    answer = api().submit(sql)
    told = answer.json()
    assert answer.status_code == 200 and told["code"] == "090001", told
    assert told["resultSetMetaData"]["numRows"] == 3
    assert told["resultSetMetaData"]["format"] == "jsonv2"
    names = [c["name"] for c in told["resultSetMetaData"]["rowType"]]
    assert names == ["CUSTOMER_ID", "EMAIL", "SSN"]
    assert [p["rowCount"] for p in told["resultSetMetaData"]["partitionInfo"]] == [3]
    assert told["statementHandle"] in told["statementStatusUrl"]
    true = behind(sql.replace("FROM CUSTOMERS", "FROM PROD.CRM.CUSTOMERS"))
    for (number, email, ssn), (_, true_email, _) in zip(told["data"], true, strict=True):
        assert number.isdecimal() and ssn is None
        assert email != true_email and email.split("@")[1] == true_email.split("@")[1]


TYPES = (
    "SELECT TRUE AS B, FALSE AS C, NULL::BOOLEAN AS N, '2024-02-29'::DATE AS D, 1.50::NUMBER(9,2) AS P, "
    "'12:34:56'::TIME AS T, '2024-02-29 12:34:56.789'::TIMESTAMP_NTZ AS S, "
    "TO_BINARY('AB', 'UTF-8') AS R"
)


def test_values_are_texts_in_the_apis_form(api: Callers) -> None:
    told = api().submit(TYPES).json()
    (row,) = told["data"]
    assert row[:4] == ["true", "false", None, str(19782)]
    assert row[4] == "1.50"
    assert float(row[5]) == 45296.0
    assert float(row[6]) == pytest.approx(1709210096.789)
    assert row[7] == "4142"


def test_nulls_are_texts_where_they_are_not_wanted(api: Callers) -> None:
    told = api().submit("SELECT NULL AS A, TRUE AS B", params={"nullable": "false"}).json()
    assert told["data"] == [["null", "true"]]


def test_values_are_bound(api: Callers) -> None:
    sql = "SELECT CUSTOMER_ID FROM CUSTOMERS WHERE CUSTOMER_ID IN (?, ?) ORDER BY 1"
    binds = {"1": {"type": "FIXED", "value": "3"}, "2": {"type": "FIXED", "value": "8"}}
    told = api().submit(sql, bindings=binds).json()
    assert told["data"] == [["3"], ["8"]]


PARTS = "SELECT CUSTOMER_ID, CUSTOMER_ID < 25000 AS LOW FROM CUSTOMERS"


def test_large_results_come_in_partitions(api: Callers) -> None:
    caller = api()
    told = caller.submit(PARTS).json()
    handle, parts = told["statementHandle"], told["resultSetMetaData"]["partitionInfo"]
    assert len(parts) > 2 and sum(p["rowCount"] for p in parts) == 50_000
    rows = list(told["data"])
    for number in range(1, len(parts)):
        answer = caller.poll(handle, partition=number)
        assert answer.headers["content-encoding"] == "gzip"
        assert len(answer.json()["data"]) == parts[number]["rowCount"]
        rows += answer.json()["data"]
    assert {int(n) for n, _ in rows} == set(range(1, 50_001))
    assert all(low == ("true" if int(n) < 25_000 else "false") for n, low in rows)
    assert caller.poll(handle, partition=len(parts)).status_code == 400
    recorded = [d for k, d in caller.entries(handle) if k == "result.part"]
    assert [d["part"] for d in recorded if d["complete"]] == list(range(1, len(parts)))


def test_a_partition_is_not_packed_for_who_cannot_unpack_it(api: Callers) -> None:
    caller = api(**{"accept-encoding": "gzip;q=0, identity"})
    handle = caller.submit("SELECT CUSTOMER_ID FROM CUSTOMERS").json()["statementHandle"]
    answer = caller.poll(handle, partition=1)
    assert "content-encoding" not in answer.headers
    with pytest.raises(gzip.BadGzipFile):
        gzip.decompress(answer.content)
    assert answer.json()["data"]


def test_changes_are_counted(api: Callers) -> None:
    caller = api()
    table = f"PROD.FEATURES.CHURN_STAGING WHERE CUSTOMER_ID = -{uuid.uuid4().int % 10**9}"
    told = caller.submit(f"DELETE FROM {table}").json()
    assert told["stats"]["numRowsDeleted"] == 0, told


# ------------------------------------------------------------------ in progress


def test_an_asynchronous_statement_is_polled(api: Callers) -> None:
    caller = api()
    first = caller.submit("SELECT COUNT(*) FROM ORDERS", params={"async": "true"})
    assert first.status_code == 202 and first.json()["code"] == "333334"
    done = caller.ended(first.json()["statementHandle"])
    assert done.status_code == 200 and int(done.json()["data"][0][0]) > 0
    again = caller.poll(first.json()["statementHandle"])
    assert again.json()["data"] == done.json()["data"]


def test_a_statement_is_canceled(api: Callers) -> None:
    caller = api()
    handle = caller.submit(SLOW, params={"async": "true"}).json()["statementHandle"]
    until_running(caller, handle)
    answer = caller.http.post(f"{URL}/{handle}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (200, "000604")
    ended = caller.ended(handle)
    assert (ended.status_code, ended.json()["code"]) == (422, "000604")
    again = caller.http.post(f"{URL}/{handle}/cancel")
    assert (again.status_code, again.json()["code"]) == (422, "000605")


def until_running(caller: Api, handle: str) -> None:
    for _ in range(100):
        if "statement.intent" in [kind for kind, _ in caller.entries(handle)]:
            return
        time.sleep(0.05)
    raise AssertionError("the statement does not run")


def test_a_statement_that_takes_too_long_ends_with_408(api: Callers) -> None:
    answer = api().submit(SLOW, timeout=2)
    assert (answer.status_code, answer.json()["code"]) == (408, "000630")


def test_a_statement_is_held_for_people_and_then_gets_its_rows(
    api: Callers, stack: DevStack
) -> None:
    caller, name = api(), f"T_{uuid.uuid4().hex[:12].upper()}"
    sql = f"CREATE TABLE PROD.FEATURES.{name} AS SELECT CUSTOMER_ID FROM CUSTOMERS LIMIT 3"
    first = caller.submit(sql, params={"async": "true"})
    handle = first.json()["statementHandle"]
    approval = asked(stack, name)
    waiting = caller.poll(handle)
    assert waiting.status_code == 202 and "held" in waiting.json()["message"]
    with HoopClient(stack.info.gateway_url, token_source(stack.token("alice"))) as hoop:
        hoop.answer(approval, "approve", "go ahead")
    done = caller.ended(handle)
    assert done.status_code == 200 and name in done.json()["data"][0][0], done.json()


def asked(stack: DevStack, mark: str) -> str:
    with HoopClient(stack.info.gateway_url, token_source(stack.token("alice"))) as hoop:
        for _ in range(200):
            for approval in hoop.approvals("pending"):
                if mark in approval.sql:
                    return str(approval.id)
            time.sleep(0.05)
    raise AssertionError("the statement was never asked for")


# ------------------------------------------------------------------ refusals


def test_a_denial_is_a_failure_with_hoops_code(api: Callers) -> None:
    caller = api()
    answer = caller.submit("SELECT * FROM PROD.HR.SALARIES")
    told = answer.json()
    assert (answer.status_code, told["code"], told["sqlState"]) == (422, "003001", "42501")
    assert "SALARIES" in told["message"]
    kinds = [kind for kind, _ in caller.entries(told["statementHandle"])]
    assert "statement.refused" in kinds and "credential.minted" not in kinds
    assert caller.poll(told["statementHandle"]).json()["message"] == told["message"]


@pytest.mark.parametrize(
    "sql",
    [
        "USE SCHEMA PROD.FEATURES",
        "ALTER SESSION SET TIMEZONE = 'UTC'",
        "BEGIN",
        "COMMIT",
        "CREATE TEMPORARY TABLE PROD.FEATURES.TMP AS SELECT 1 AS A",
    ],
)
def test_what_only_a_session_keeps_is_refused(api: Callers, sql: str) -> None:
    answer = api().submit(sql)
    assert answer.status_code == 422, answer.json()
    assert "SQL API" in answer.json()["message"]


def test_several_statements_are_refused(api: Callers) -> None:
    answer = api().submit("SELECT 1; SELECT 2", parameters={"MULTI_STATEMENT_COUNT": "2"})
    assert (answer.status_code, answer.json()["code"]) == (422, "000008")


def test_a_parameter_that_cannot_be_set_is_refused(api: Callers) -> None:
    answer = api().submit("SELECT 1", parameters={"QUOTED_IDENTIFIERS_IGNORE_CASE": "true"})
    assert answer.status_code == 400 and "cannot be set" in answer.json()["message"]


def test_parameters_and_context_count_for_the_statement(api: Callers) -> None:
    caller = api()
    told = caller.submit(
        "SELECT TO_VARCHAR('2024-02-29'::DATE) AS A",
        parameters={
            "date_output_format": "DD.MM.YYYY",
            "query_tag": "mine",
            "hoop_context": json.dumps({"orchestrator": "airflow", "dag_id": "d"}),
        },
    ).json()
    entries = dict(caller.entries(told["statementHandle"]))
    assert entries["session.opened"]["run_asserted"]["fields"]["dag_id"] == "d"
    assert entries["session.opened"]["client"]["application"] == "SQLAPI"


def test_a_role_that_is_not_the_callers_is_forbidden(api: Callers) -> None:
    answer = api().submit("SELECT 1", role="PII_READER")
    assert answer.status_code == 403, answer.json()


def test_a_name_means_what_is_stored_and_nothing_else(api: Callers) -> None:
    answer = api().submit("SELECT CUSTOMER_ID FROM CUSTOMERS", database="prod")
    assert answer.status_code == 422, answer.json()


@pytest.mark.parametrize(
    ("headers", "hint"),
    [
        ({"authorization": ""}, "Bearer"),
        ({"authorization": "Bearer not.a.token"}, ""),
        ({"authorization": "Basic Zm9vOmJhcg=="}, "Bearer"),
        ({"x-snowflake-authorization-token-type": "KEYPAIR_JWT"}, "OAUTH"),
    ],
)
def test_nobody_is_heard_without_a_token(
    api: Callers, stack: DevStack, headers: dict[str, str], hint: str
) -> None:
    before = refusals(stack)
    answer = api(**headers).submit("SELECT 1")
    assert answer.status_code == 401 and hint in answer.json()["message"]
    assert refusals(stack) > before


def refusals(stack: DevStack) -> int:
    return sum(kind == "signin.refused" for kind, _, _ in log(stack))


def test_a_token_counts_until_it_expires_and_not_for_a_poll_after_it(
    api: Callers, stack: DevStack
) -> None:
    brief = stack.brief_token("churn-agent")
    handle = api(token=brief).submit("SELECT 1").json()["statementHandle"]
    for _ in range(200):
        answer = api(token=brief).poll(handle)
        if answer.status_code != 200:
            break
        time.sleep(0.5)
    assert (answer.status_code, answer.json()["code"]) == (401, "390318")
    assert api().poll(handle).status_code == 200


def test_a_statement_of_somebody_else_is_not_there(api: Callers, stack: DevStack) -> None:
    handle = api().submit("SELECT 1").json()["statementHandle"]
    before = refusals(stack)
    foreign, unknown = api("pia").poll(handle), api("pia").poll(str(uuid.uuid4()))
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.json() == unknown.json()
    assert api("pia").http.post(f"{URL}/{handle}/cancel").status_code == 404
    assert api("pia").poll(handle, partition=1).status_code == 404
    assert refusals(stack) == before + 3
    assert api().poll(handle).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", URL, 405),
        ("DELETE", URL + "/0", 405),
        ("GET", URL + "/no-handle", 404),
        ("POST", URL + "/x/y/z", 404),
        ("GET", "/api/v2/databases", 404),
    ],
)
def test_what_is_not_served_is_refused_in_the_apis_shape(
    api: Callers, method: str, path: str, status: int
) -> None:
    answer = api().http.request(method, path)
    assert answer.status_code == status
    assert {"code", "message"} <= set(answer.json())


@pytest.mark.parametrize(
    ("body", "params"),
    [
        ({}, {}),
        ({"statement": " "}, {}),
        ({"statement": "SELECT 1", "timeout": -1}, {}),
        ({"statement": "SELECT 1", "timeout": "1"}, {}),
        ({"statement": "SELECT 1", "parameters": []}, {}),
        ({"statement": "SELECT 1", "bindings": {"1": "x"}}, {}),
        ({"statement": "SELECT 1", "database": 7}, {}),
        ({"statement": "SELECT 1"}, {"async": "maybe"}),
        ({"statement": "SELECT 1"}, {"requestId": "x" * 201}),
        ({"statement": "SELECT 1", "parameters": {"HOOP_CONTEXT": "no json"}}, {}),
    ],
)
def test_a_malformed_request_is_told_what_is_wrong(
    api: Callers, body: dict[str, Any], params: dict[str, str]
) -> None:
    answer = api().http.post(URL, json=body, params=params)
    assert answer.status_code == 400 and answer.json()["message"]


def test_other_bodies_than_json_are_refused(api: Callers) -> None:
    answer = api().http.post(URL, content=b"statement=1", headers={"content-type": "text/plain"})
    assert answer.status_code == 415


# ------------------------------------------------------------------ once


def test_a_request_that_comes_twice_runs_once(api: Callers) -> None:
    caller, params = api(), {"requestId": str(uuid.uuid4())}
    first = caller.submit("SELECT COUNT(*) FROM ORDERS", params=params).json()
    again = caller.submit("SELECT COUNT(*) FROM ORDERS", params={**params, "retry": "true"}).json()
    assert first == again
    kinds = [kind for kind, _ in caller.entries(first["statementHandle"])]
    assert kinds.count("statement.intent") == kinds.count("session.opened") == 1
    other = caller.submit("SELECT COUNT(*) FROM CUSTOMERS", params=params)
    assert other.status_code == 400 and "another statement" in other.json()["message"]


def test_requests_that_come_at_once_are_one(api: Callers) -> None:
    caller, params = api(), {"requestId": str(uuid.uuid4())}
    with ThreadPoolExecutor(6) as pool:
        sent = [
            pool.submit(caller.submit, "SELECT COUNT(*) FROM ORDERS", params=params)
            for _ in range(6)
        ]
        told = [s.result().json() for s in sent]
    assert told[0]["code"] == "090001" and all(t == told[0] for t in told)
    kinds = [kind for kind, _ in caller.entries(told[0]["statementHandle"])]
    assert kinds.count("statement.intent") == kinds.count("session.opened") == 1


def test_the_request_id_of_somebody_else_is_another_one(api: Callers) -> None:
    params = {"requestId": str(uuid.uuid4())}
    mine = api().submit("SELECT 1 AS A", params=params).json()
    theirs = api("pia").submit("SELECT 2 AS A", params=params).json()
    assert theirs["data"] == [["2"]]
    assert mine["statementHandle"] != theirs["statementHandle"]


def test_the_user_of_a_statement_goes_with_it(
    api: Callers, behind: Behind, stack: DevStack
) -> None:
    caller = api()
    handle = caller.submit("SELECT COUNT(*) FROM ORDERS").json()["statementHandle"]
    for _ in range(200):
        gone = [d for k, d in caller.entries(handle) if k == "credential.gone"]
        if gone:
            break
        time.sleep(0.05)
    assert gone
    assert "session.closed" not in [kind for kind, _ in caller.entries(handle)]
    assert caller.poll(handle).status_code == 200


# ------------------------------------------------------------------ clients


@pytest.fixture
def hook(stack: DevStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Airflow's hook as it is, with the caller's token as its connection's password.

    It makes its address of the account's name alone, so what is sent there is sent to the gateway.
    """
    monkeypatch.setenv("AIRFLOW_HOME", os.environ.get("AIRFLOW_HOME", str(tmp_path)))
    found = pytest.importorskip("airflow.providers.snowflake.hooks.sql_api")
    extra = {
        "account": "hoopdev",
        "database": "PROD",
        "warehouse": "ML_WH",
        "authenticator": "programmatic_access_token",
    }
    connection = {"conn_type": "snowflake", "login": "me", "schema": "CRM", "extra": extra}
    connection["password"] = stack.token("churn-agent")
    monkeypatch.setenv("AIRFLOW_CONN_SQL_API", json.dumps(connection))
    send = requests.Session.request

    def to_gateway(self: Any, method: str, url: str, **more: Any) -> Any:
        there = url.replace("https://hoopdev.snowflakecomputing.com", stack.info.gateway_url)
        return send(self, method, there, **more)

    monkeypatch.setattr(requests.Session, "request", to_gateway)
    return found.SnowflakeSqlApiHook("sql_api")


def succeeded(hook: Any, handle: str) -> dict[str, Any]:
    for _ in range(60):
        status: dict[str, Any] = hook.get_sql_api_query_status(handle)
        if status["status"] != "running":
            return status
    raise AssertionError("the statement has not ended")


@pytest.mark.airflow
def test_airflows_own_hook_gets_rows_of_every_partition(hook: Any) -> None:
    sql = "SELECT CUSTOMER_ID, EMAIL FROM CUSTOMERS WHERE CUSTOMER_ID <= ?"
    binds = {"1": {"type": "FIXED", "value": "9000"}}
    (handle,) = hook.execute_query(sql, 1, query_tag="nightly", bindings=binds)
    assert succeeded(hook, handle)["status"] == "success"
    rows = hook.get_result_from_successful_sql_api_query(handle)
    assert sorted(int(r["CUSTOMER_ID"]) for r in rows) == list(range(1, 9001))


@pytest.mark.airflow
def test_airflows_own_hook_hears_of_a_denial_and_cancels(hook: Any) -> None:
    (handle,) = hook.execute_query("SELECT * FROM PROD.HR.SALARIES", 1)
    status = succeeded(hook, handle)
    assert status["status"] == "error" and "SALARIES" in status["message"]
    (slow,) = hook.execute_query(SLOW, 1)
    hook.cancel_queries([slow])
    assert "000604" in succeeded(hook, slow)["message"]
