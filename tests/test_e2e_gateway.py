"""The plain Snowflake driver through a real gateway, OpenBao and the emulator."""

from __future__ import annotations

import base64
import json
import threading
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from snowflake.connector.errors import DatabaseError, Error, ProgrammingError

from hoop_core.audit.stored import stored_entries
from hoop_core.client import HoopClient, token_source
from hoop_core.store import Store

if TYPE_CHECKING:
    from snowflake.connector import SnowflakeConnection

    from hoop_core.devstack.stack import DevStack

pytestmark = pytest.mark.e2e
Connect = Callable[..., "SnowflakeConnection"]
Behind = Callable[[str], list[tuple[Any, ...]]]


def rows(connection: SnowflakeConnection, sql: str, *binds: Any) -> list[Any]:
    return connection.cursor().execute(sql, binds or None).fetchall()


def as_person(stack: DevStack, who: str) -> HoopClient:
    return HoopClient(stack.info.gateway_url, token_source(stack.token(who)))


def entries(stack: DevStack, session: str | None = None) -> list[dict[str, Any]]:
    """The log as an auditor's client sees it, newest session first."""
    with as_person(stack, "alice") as hoop:
        wanted = session or hoop.sessions()[0]["id"]
        return list(hoop.session(wanted)["entries"])


def last_refused_signin(stack: DevStack) -> str:
    store = Store(stack.store_url)
    store.attach()
    try:
        refused = [e.text for e in stored_entries(store) if e.kind == "signin.refused"]
    finally:
        store.close()
    return str(json.loads(refused[-1])["data"]["message"])


# ------------------------------------------------------------------ reading


def test_protected_columns_come_back_masked(connect: Connect, behind: Behind) -> None:
    sql = "SELECT CUSTOMER_ID, EMAIL, SSN FROM CUSTOMERS WHERE CUSTOMER_ID <= 5 ORDER BY 1"
    seen = rows(connect(), sql)
    true = behind(sql.replace("FROM CUSTOMERS", "FROM PROD.CRM.CUSTOMERS"))
    assert [r[0] for r in seen] == [r[0] for r in true]
    for (_, email, ssn), (_, true_email, true_ssn) in zip(seen, true, strict=True):
        assert ssn is None and true_ssn is not None
        assert email != true_email and email.split("@")[1] == true_email.split("@")[1]


def test_an_excepted_group_sees_the_column(connect: Connect, behind: Behind) -> None:
    sql = "SELECT EMAIL FROM PROD.CRM.CUSTOMERS WHERE CUSTOMER_ID = 7"
    assert rows(connect("pia"), sql) == behind(sql)


def test_a_select_from_dual_reads_nothing(connect: Connect) -> None:
    assert connect().cursor().execute("SELECT 1 AS ONE FROM DUAL").fetchall() == [(1,)]


def test_positional_binds_reach_the_statement(connect: Connect) -> None:
    connection = connect(paramstyle="qmark")
    found = connection.cursor().execute(
        "SELECT CUSTOMER_ID FROM CUSTOMERS WHERE CUSTOMER_ID IN (?, ?) ORDER BY 1", (3, 8)
    )
    assert found.fetchall() == [(3,), (8,)]


@pytest.mark.parametrize("format_", ["ARROW", "JSON"])
def test_large_results_come_in_parts_that_only_hoop_serves(
    connect: Connect, stack: DevStack, format_: str
) -> None:
    connection = connect(session_parameters={"PYTHON_CONNECTOR_QUERY_RESULT_FORMAT": format_})
    cursor = connection.cursor()
    cursor.execute("SELECT CUSTOMER_ID, EMAIL, SIGNED_UP FROM CUSTOMERS")
    remote = [
        b for b in cursor.get_result_batches() or [] if getattr(b, "_remote_chunk_info", None)
    ]
    assert remote
    for batch in remote:
        assert batch._remote_chunk_info.url.startswith(stack.info.gateway_url)
    ids = sorted(int(r[0]) for r in cursor)
    assert ids == list(range(1, 50_001))


def test_a_part_without_its_secret_is_refused(connect: Connect, stack: DevStack) -> None:
    cursor = connect().cursor()
    cursor.execute("SELECT CUSTOMER_ID FROM CUSTOMERS")
    batches = cursor.get_result_batches() or []
    url = next(b._remote_chunk_info.url for b in batches if getattr(b, "_remote_chunk_info", None))
    assert httpx.get(url).status_code == 403
    assert httpx.get(url, headers={"x-hoop-chunk": "guess"}).status_code == 403


def test_describe_only_gives_columns_and_no_rows(connect: Connect) -> None:
    described = connect().cursor().describe("SELECT CUSTOMER_ID, EMAIL FROM CUSTOMERS")
    assert [d.name for d in described] == ["CUSTOMER_ID", "EMAIL"]


def test_a_renewed_session_goes_on(connect: Connect) -> None:
    connection = connect()
    old = connection.rest.token
    connection.rest._renew_session()
    assert connection.rest.token != old
    assert rows(connection, "SELECT COUNT(*) FROM ORDERS")[0][0] > 0


def test_a_statement_can_be_cancelled(connect: Connect, behind: Behind) -> None:
    connection = connect()
    slow = "SELECT COUNT(*) FROM ORDERS A, ORDERS B, ORDERS C WHERE A.AMOUNT * B.AMOUNT < C.AMOUNT"
    with pytest.raises(ProgrammingError) as caught:
        connection.cursor().execute(slow, timeout=2)
    assert caught.value.errno == 604
    assert rows(connection, "SELECT 1") == [(1,)]


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("sql", "errno", "says"),
    [
        ("SELECT * FROM PROD.HR.SALARIES", 3001, "SALARIES"),
        ("SELECT * FROM NO_SUCH_TABLE", 2003, "NO_SUCH_TABLE"),
        ("SELECT 1; SELECT 2", 8, "one statement"),
        ("SELECT FROM WHERE", 1003, ""),
        ("USE ROLE ACCOUNTADMIN", 3001, ""),
        ("SELECT SYSTEM$WAIT(1)", 3001, ""),
        ("CALL SOMETHING()", 3001, ""),
    ],
)
def test_a_refusal_is_one_clear_error_and_is_in_the_log(
    connect: Connect, stack: DevStack, behind: Behind, sql: str, errno: int, says: str
) -> None:
    connection = connect()
    mark = f"refusal {uuid.uuid4()}"
    with pytest.raises(ProgrammingError) as caught:
        connection.cursor().execute(f"{sql} /* {mark} */")
    assert caught.value.errno == errno
    assert says.lower() in str(caught.value).lower()
    assert "does not exist or not authorized" not in str(caught.value)
    logged = entries(stack)
    assert [e["kind"] for e in logged if mark in json.dumps(e)] == ["statement.refused"]
    history = behind("SELECT QUERY_TEXT FROM SNOWFLAKE.ACCOUNT_USAGE.QUERY_HISTORY")
    assert not any(mark in text for (text,) in history if "QUERY_HISTORY" not in text)


def _expired(stack: DevStack) -> str:
    token = stack.brief_token("churn-agent")
    time.sleep(3)  # its one second, and the gateway's leeway
    return token


def _unsigned(stack: DevStack) -> str:
    _, claims, _ = stack.token("churn-agent").split(".")
    head = base64.urlsafe_b64encode(json.dumps({"alg": "none", "kid": "x"}).encode()).decode()
    return f"{head.rstrip('=')}.{claims}."


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_expired, "expired"),
        (lambda s: s.token("hoop-gateway"), "another audience"),
        (_unsigned, "algorithm"),
        (lambda s: "garbage", "not a signed JWT"),
        (lambda s: s.token("churn-agent")[:-8] + "AAAAAAAA", "signature"),
    ],
    ids=["expired", "wrong-audience", "alg-none", "garbage", "forged"],
)
def test_a_bad_token_cannot_sign_in(
    connect: Connect, stack: DevStack, make: Callable[[DevStack], str], says: str
) -> None:
    token = make(stack)
    with pytest.raises(DatabaseError) as caught:
        connect(token=token)
    assert says in str(caught.value)
    assert caught.value.errno in {390303, 390318, 250001}
    assert says in last_refused_signin(stack)
    assert token[:20] not in str(caught.value) or token == "garbage"


def test_a_person_without_a_role_cannot_sign_in(connect: Connect) -> None:
    with pytest.raises(DatabaseError, match="role"):
        connect("alice")


def test_a_password_sign_in_says_what_to_do(connect: Connect) -> None:
    with pytest.raises(DatabaseError, match="authenticator='oauth'"):
        connect(authenticator="snowflake", password="x", token=None)


def test_an_unknown_endpoint_is_refused_in_snowflakes_shape(stack: DevStack) -> None:
    answer = httpx.post(f"{stack.info.gateway_url}/api/v3/statements", json={"statement": "x"})
    assert answer.status_code == 404
    assert answer.json()["success"] is False and answer.json()["code"] == "099404"


@pytest.mark.parametrize("handle", ["", 'Snowflake Token="None"', f'Snowflake Token="{"A" * 43}"'])
def test_a_guessed_handle_reaches_nothing(stack: DevStack, handle: str) -> None:
    answer = httpx.post(
        f"{stack.info.gateway_url}/queries/v1/query-request?requestId=1",
        json={"sqlText": "SELECT 1"},
        headers={"Authorization": handle},
    )
    assert answer.json()["code"] == "390111"


def test_a_handle_is_void_after_close(connect: Connect, stack: DevStack) -> None:
    connection = connect()
    handle = connection.rest.token
    connection.close()
    answer = httpx.post(
        f"{stack.info.gateway_url}/session/heartbeat",
        headers={"Authorization": f'Snowflake Token="{handle}"'},
    )
    assert answer.json()["code"] == "390111"


def test_a_gzip_bomb_is_refused(stack: DevStack) -> None:
    import gzip

    answer = httpx.post(
        f"{stack.info.gateway_url}/session/v1/login-request",
        content=gzip.compress(b" " * 100_000_000),
        headers={"Content-Encoding": "gzip"},
    )
    assert answer.json()["success"] is False and "longer than" in answer.json()["message"]


# ------------------------------------------------------------------ once, and on record


def test_a_retried_request_runs_once(connect: Connect, stack: DevStack, behind: Behind) -> None:
    connection = connect()
    mark = f"once_{uuid.uuid4().hex}"
    url = f"{stack.info.gateway_url}/queries/v1/query-request?requestId={uuid.uuid4()}"
    headers = {"Authorization": f'Snowflake Token="{connection.rest.token}"'}
    body = {"sqlText": f"SELECT COUNT(*) AS {mark} FROM ORDERS", "bindings": None}
    answers = [httpx.post(url, json=body, headers=headers, timeout=60).json() for _ in range(3)]
    assert len({a["data"]["queryId"] for a in answers}) == 1
    history = behind("SELECT QUERY_TEXT FROM SNOWFLAKE.ACCOUNT_USAGE.QUERY_HISTORY")
    assert sum(mark.upper() in t.upper() for (t,) in history) == 1


def test_the_intent_is_logged_before_and_the_outcome_after(
    connect: Connect, stack: DevStack, behind: Behind
) -> None:
    connection = connect()
    rows(connection, "SELECT EMAIL FROM CUSTOMERS WHERE CUSTOMER_ID = 1")
    logged = entries(stack)
    kinds = [e["kind"] for e in logged]
    assert kinds == [
        "session.opened",
        "credential.minting",
        "credential.minted",
        "statement.intent",
        "statement.outcome",
    ]
    intent, outcome = logged[3]["data"], logged[4]["data"]
    history = behind(
        "SELECT QUERY_ID, QUERY_TEXT, QUERY_TAG FROM SNOWFLAKE.ACCOUNT_USAGE.QUERY_HISTORY"
    )
    (ran,) = [h for h in history if h[0] == outcome["query_id"]]
    assert ran[1] == intent["executed"]
    assert intent["statement_id"] in ran[2]


def test_the_minted_user_dies_with_the_session(
    connect: Connect, stack: DevStack, behind: Behind
) -> None:
    connection = connect()
    rows(connection, "SELECT 1")
    minted = [e for e in entries(stack) if e["kind"] == "credential.minted"]
    user = minted[0]["data"]["snowflake_user"]
    assert user in {r[0] for r in behind("SHOW USERS")}
    with as_person(stack, "alice") as hoop:
        session = hoop.sessions()[0]["id"]
    connection.close()
    assert user not in {r[0] for r in behind("SHOW USERS")}
    kinds = [e["kind"] for e in entries(stack, session)]
    assert kinds[-3:] == ["credential.revoking", "credential.gone", "session.closed"]


def test_agents_reach_snowflake_as_minted_users_only(connect: Connect, behind: Behind) -> None:
    rows(connect(), "SELECT 1")
    logins = behind("SELECT USER_NAME FROM SNOWFLAKE.ACCOUNT_USAGE.LOGIN_HISTORY")
    names = {name for (name,) in logins}
    assert any(n.startswith("V_") for n in names)
    assert all(n.startswith("V_") or n in {"HOOP_ADMIN", "VAULT_MINTER_SVC"} for n in names)


def test_a_denied_caller_costs_no_user(connect: Connect, stack: DevStack) -> None:
    connection = connect()
    with pytest.raises(ProgrammingError):
        rows(connection, "SELECT * FROM PROD.HR.SALARIES")
    assert "credential.minted" not in [e["kind"] for e in entries(stack)]


# ------------------------------------------------------------------ approvals


def _answered(stack: DevStack, approval: str, *verdicts: tuple[str, str]) -> None:
    for who, verdict in verdicts:
        with as_person(stack, who) as hoop:
            hoop.answer(approval, verdict, f"{who} says {verdict}")


def _held(stack: DevStack, mark: str) -> str:
    with as_person(stack, "alice") as hoop:
        for _ in range(200):
            for approval in hoop.approvals("pending"):
                if mark in approval.sql:
                    return approval.id
            time.sleep(0.05)
    raise AssertionError("the statement was never asked for")


class _Held:
    """A statement in a thread of its own: an unmodified driver simply waits."""

    def __init__(self, connection: SnowflakeConnection, sql: str) -> None:
        self.result: Any = None
        self.error: Error | None = None
        self._thread = threading.Thread(target=self._run, args=(connection, sql))
        self._thread.start()

    def _run(self, connection: SnowflakeConnection, sql: str) -> None:
        try:
            self.result = rows(connection, sql)
        except Error as e:
            self.error = e

    def join(self) -> _Held:
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self


def _risky(mark: str) -> str:
    return f"DELETE FROM PROD.FEATURES.CHURN_STAGING /* {mark} */"


def test_a_risky_statement_waits_for_two_persons_and_then_runs(
    connect: Connect, stack: DevStack, behind: Behind
) -> None:
    before = behind("SELECT COUNT(*) FROM PROD.FEATURES.CHURN_STAGING")[0][0]
    mark = uuid.uuid4().hex
    held = _Held(connect(), _risky(mark))
    approval = _held(stack, mark)
    _answered(stack, approval, ("alice", "approve"))
    assert behind("SELECT COUNT(*) FROM PROD.FEATURES.CHURN_STAGING")[0][0] == before
    _answered(stack, approval, ("bob", "approve"))
    assert held.join().error is None
    assert held.result == [(before,)]
    assert behind("SELECT COUNT(*) FROM PROD.FEATURES.CHURN_STAGING")[0][0] == 0
    with as_person(stack, "alice") as hoop:
        assert hoop.approval(approval).status == "consumed"


def test_a_rejected_statement_fails_with_the_reason_and_never_runs(
    connect: Connect, stack: DevStack, behind: Behind
) -> None:
    mark = uuid.uuid4().hex
    held = _Held(connect(), _risky(mark))
    _answered(stack, _held(stack, mark), ("alice", "approve"), ("bob", "reject"))
    error = held.join().error
    assert isinstance(error, ProgrammingError) and error.errno == 3001
    assert "bob says reject" in str(error)
    history = behind("SELECT QUERY_TEXT FROM SNOWFLAKE.ACCOUNT_USAGE.QUERY_HISTORY")
    assert not any("CHURN_STAGING" in t and "DELETE" in t and mark in t for (t,) in history)


def test_the_requester_cannot_approve_their_own_statement(
    connect: Connect, stack: DevStack
) -> None:
    mark = uuid.uuid4().hex
    held = _Held(connect(), _risky(mark))
    approval = _held(stack, mark)
    with as_person(stack, "churn-agent") as hoop, pytest.raises(Exception, match="own request"):
        hoop.answer(approval, "approve", "me")
    _answered(stack, approval, ("alice", "reject"))
    assert held.join().error is not None
