"""Attacks that once worked, each as a test: what a hostile client sends, and what must hold."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import requests

from hoop_core.audit.stored import stored_entries
from hoop_core.client import HoopClient, token_source
from hoop_core.store import Store

if TYPE_CHECKING:
    from snowflake.connector import SnowflakeConnection

    from hoop_core.devstack.stack import DevStack

pytestmark = pytest.mark.e2e
Connect = Callable[..., "SnowflakeConnection"]
Behind = Callable[[str], list[tuple[Any, ...]]]
PARKED = "UPDATE PROD.FEATURES.CHURN_STAGING SET SCORE = 0"


class Wire:
    """A client of the protocol that does what drivers never would."""

    def __init__(self, stack: DevStack, connection: SnowflakeConnection) -> None:
        self.url = stack.info.gateway_url
        self.headers = {"Authorization": f'Snowflake Token="{connection.rest.token}"'}

    def query(self, sql: str, request: str | None = None, raw: str | None = None) -> dict[str, Any]:
        answer = httpx.post(
            f"{self.url}/queries/v1/query-request?requestId={request or uuid.uuid4()}",
            content=raw or json.dumps({"sqlText": sql}),
            headers=self.headers,
            timeout=60,
        )
        return dict(answer.json())

    def abort(self, request: str) -> None:
        httpx.post(
            f"{self.url}/queries/v1/abort-request",
            json={"requestId": request},
            headers=self.headers,
            timeout=60,
        )


@pytest.fixture
def wire(stack: DevStack, connect: Connect) -> Wire:
    return Wire(stack, connect())


def log_of(stack: DevStack) -> list[tuple[str, Any]]:
    store = Store(stack.store_url)
    store.attach()
    try:
        return [(e.kind, json.loads(e.text)["data"]) for e in stored_entries(store)]
    finally:
        store.close()


def approver(stack: DevStack, who: str = "alice") -> HoopClient:
    return HoopClient(stack.info.gateway_url, token_source(stack.token(who)))


@pytest.mark.parametrize("path", ["/session/v1/login-request", "/telemetry/send"])
def test_a_small_body_that_unpacks_to_a_huge_one_is_not_unpacked(
    stack: DevStack, path: str
) -> None:
    nested = b'{"a":[' + b"[]," * 2_000_000 + b"[]]}"
    answer = httpx.post(
        stack.info.gateway_url + path,
        content=gzip.compress(nested),
        headers={"Content-Encoding": "gzip"},
        timeout=60,
    )
    refused = "unpacks to more than" in str(answer.json()["message"])
    assert refused or answer.json()["data"] == "Log Received"


def test_a_body_of_countless_parts_is_refused(wire: Wire) -> None:
    raw = json.dumps({"sqlText": "SELECT 1", "bindings": {}, "x": [[]] * 50_000})
    assert "too many parts" in wire.query("", raw=raw)["message"]


@pytest.mark.parametrize(
    "raw",
    [
        r'{"sqlText": "SELECT 1", "bindings": {"1": {"type": "TEXT", "value": "\ud800"}}}',
        r'{"sqlText": "SELECT 1", "parameters": {"QUERY_TAG": "\ud800"}}',
        '{"sqlText": "SELECT 1", "parameters": {"TIMEZONE": 1e999}}',
        '{"sqlText": "SELECT ?", "bindings": {"1": {"type": "REAL", "value": NaN}}}',
        r'{"sqlText": "SELECT ' + r"'\udc00'" + '"}',
    ],
)
def test_values_that_cannot_be_written_down_are_refused_at_the_door(wire: Wire, raw: str) -> None:
    assert wire.query("", raw=raw)["code"] == "099400"


def test_a_context_that_cannot_be_shown_cannot_sign_in(connect: Connect, stack: DevStack) -> None:
    with pytest.raises(Exception, match="HOOP_CONTEXT"):
        connect(session_parameters={"HOOP_CONTEXT": '{"dag_id": "\\ud800"}'})
    with approver(stack) as hoop:
        assert hoop.sessions() is not None and hoop.approvals() is not None


def test_a_request_id_never_runs_a_second_statement(wire: Wire, behind: Behind) -> None:
    request = str(uuid.uuid4())
    insert = "INSERT INTO PROD.FEATURES.CHURN_STAGING SELECT -77, 0, CURRENT_TIMESTAMP()"
    first = wire.query(insert, request)
    for _ in range(20):
        assert wire.query("SELECT 1")["success"]
    assert wire.query(insert, request)["data"]["queryId"] == first["data"]["queryId"]
    assert "another statement" in wire.query("SELECT 2", request)["message"]
    count = "SELECT COUNT(*) FROM PROD.FEATURES.CHURN_STAGING WHERE CUSTOMER_ID = -77"
    assert behind(count) == [(1,)]


def test_a_large_result_survives_later_statements_of_its_session(connect: Connect) -> None:
    connection = connect()
    cursor = connection.cursor().execute("SELECT CUSTOMER_ID FROM CUSTOMERS")
    for _ in range(20):
        connection.cursor().execute("SELECT 1")
    assert len(cursor.fetchall()) == 50_000


def test_a_part_that_broke_off_is_recorded_when_it_is_fetched_again(
    stack: DevStack, wire: Wire
) -> None:
    data = wire.query("SELECT * FROM ORDERS")["data"]
    url, headers = data["chunks"][0]["url"], data["chunkHeaders"]
    with httpx.stream("GET", url, headers=headers, timeout=60) as broken:
        next(broken.iter_bytes(1024))
    assert httpx.get(url, headers=headers, timeout=60).status_code == 200
    parts = [d for k, d in log_of(stack) if k == "result.part"
             and d["statement_id"] in url and d["complete"]]  # fmt: skip
    assert len(parts) >= 1
    assert (stack.home / "recordings" / parts[-1]["recording"]["path"]).is_file()


def test_every_intent_has_an_outcome_however_often_it_is_cancelled(
    stack: DevStack, wire: Wire
) -> None:
    slow = "SELECT COUNT(*) FROM ORDERS A, ORDERS B, ORDERS C WHERE A.AMOUNT * B.AMOUNT < C.AMOUNT"
    for pause in (0.0, 0.05, 0.4, 1.0):
        request = str(uuid.uuid4())
        running = threading.Thread(target=wire.query, args=(slow, request))
        running.start()
        time.sleep(pause)
        aborts = [threading.Thread(target=wire.abort, args=(request,)) for _ in range(6)]
        for a in aborts:
            a.start()
            time.sleep(0.005)
        for t in [*aborts, running]:
            t.join(60)
            assert not t.is_alive()
    logged = log_of(stack)
    intents = {d["statement_id"] for k, d in logged if k == "statement.intent"}
    outcomes = {d["statement_id"] for k, d in logged if k == "statement.outcome"}
    assert intents == outcomes


def test_a_statement_sent_while_its_session_closes_leaves_no_user(
    stack: DevStack, connect: Connect, behind: Behind
) -> None:
    minted = set()
    for pause in (0.0, 0.005, 0.02, 0.05):
        wire = Wire(stack, connect())
        started = threading.Thread(target=wire.query, args=("SELECT COUNT(*) FROM ORDERS",))
        started.start()
        time.sleep(pause)
        closing = threading.Thread(
            target=httpx.post,
            args=(f"{wire.url}/session?delete=true",),
            kwargs={"headers": wire.headers, "timeout": 60},
        )
        closing.start()
        late = threading.Thread(target=wire.query, args=(PARKED,))
        late.start()
        for t in (started, closing, late):
            t.join(60)
            assert not t.is_alive()
    for kind, data in log_of(stack):
        if kind == "credential.minted":
            minted.add(data["snowflake_user"])
        if kind == "credential.gone":
            minted.discard(data["snowflake_user"])
    open_now = {row[0] for row in behind("SHOW USERS")}
    with approver(stack) as hoop:
        closed = {s["id"] for s in hoop.sessions() if s["closed_at"]}
    assert not [u for u in minted & open_now if _session_of(stack, u) in closed]


def _session_of(stack: DevStack, user: str) -> str | None:
    store = Store(stack.store_url)
    store.attach()
    try:
        return next(
            e.session_id
            for e in stored_entries(store)
            if e.kind == "credential.minted" and user in e.text
        )
    finally:
        store.close()


def test_approvers_see_bound_values_at_their_places(stack: DevStack, wire: Wire) -> None:
    bindings = {
        "2": {"type": "FIXED", "value": "7"},
        "1": {"type": "FIXED", "value": "100000"},
    }
    sql = "UPDATE PROD.FEATURES.CHURN_STAGING SET SCORE = ? + ?"
    request = str(uuid.uuid4())
    raw = json.dumps({"sqlText": sql, "bindings": bindings})
    parked = threading.Thread(target=wire.query, args=("", request, raw))
    parked.start()
    shown: Any = None
    with approver(stack) as hoop:
        for _ in range(100):
            found = [a for a in hoop.approvals("pending") if a.sql == sql]
            if found:
                shown = found[0].parameters
                hoop.answer(found[0].id, "reject", "only a test")
                break
            time.sleep(0.05)
    parked.join(60)
    assert [(p["position"], p["value"]) for p in shown] == [("1", "100000"), ("2", "7")]


@pytest.mark.parametrize(
    "merge",
    [
        "MERGE INTO PROD.FEATURES.CHURN_STAGING T USING (SELECT 1 AS X) S ON TRUE "
        "WHEN MATCHED THEN DELETE",
        "MERGE INTO PROD.FEATURES.CHURN_STAGING T USING (SELECT 1 AS X) S ON 1 = 1 "
        "WHEN MATCHED THEN UPDATE SET SCORE = 0",
    ],
)
def test_an_unbounded_merge_waits_for_humans(stack: DevStack, wire: Wire, merge: str) -> None:
    parked = threading.Thread(target=wire.query, args=(merge,))
    parked.start()
    with approver(stack) as hoop:
        for _ in range(100):
            found = [a for a in hoop.approvals("pending") if a.sql == merge]
            if found:
                hoop.answer(found[0].id, "reject", "only a test")
                break
            time.sleep(0.05)
        else:
            pytest.fail("nobody was asked")
    parked.join(60)


def test_rows_that_an_exception_unmasks_are_not_kept_in_the_recording(
    stack: DevStack, connect: Connect, behind: Behind
) -> None:
    sql = "SELECT EMAIL FROM PROD.CRM.CUSTOMERS WHERE CUSTOMER_ID = 4242"
    assert connect("pia").cursor().execute(sql).fetchall() == behind(sql)
    (raw,) = behind(sql)[0]
    outcome = [d for k, d in log_of(stack) if k == "statement.outcome"][-1]
    assert outcome["not_kept"] and outcome["rows"] == 1
    for file in (stack.home / "recordings").rglob("*"):
        assert not file.is_file() or raw.encode() not in file.read_bytes()


def test_a_user_minted_too_late_ends_with_the_token_that_made_it(
    stack: DevStack, behind: Behind
) -> None:
    from hoop_core.config import load_settings
    from hoop_core.credentials.vault import VaultMinter
    from hoop_core.credentials.vault_login import VaultLogin
    from hoop_core.errors import VaultUnavailable
    from hoop_core.model import RoleBinding

    class AnswersTooLate(VaultLogin):
        """Vault mints, and its answer does not arrive in time."""

        def client(self, token: str = "") -> Any:
            client = super().client(token)
            mint = client.secrets.database.generate_credentials

            def late(**arguments: Any) -> Any:
                mint(**arguments)
                raise requests.ReadTimeout

            client.secrets.database.generate_credentials = late
            return client

    before = {row[0] for row in behind("SHOW USERS")}
    settings = load_settings(stack.info.config_file).vault
    minter = VaultMinter(settings)
    minter._vault = AnswersTooLate(settings)
    with pytest.raises(VaultUnavailable):
        minter.mint(minter.draft(RoleBinding("ml-reader", "ML_READER"), "s"))
    for _ in range(100):
        if {row[0] for row in behind("SHOW USERS")} <= before:
            return
        time.sleep(0.1)
    pytest.fail("the user is still there")


def test_an_absurd_part_number_is_refused_in_shape(stack: DevStack, wire: Wire) -> None:
    data = wire.query("SELECT * FROM ORDERS")["data"]
    url = data["chunks"][0]["url"].rsplit("/", 1)[0] + "/" + "9" * 5000
    answer = httpx.get(url, headers=data["chunkHeaders"], timeout=60)
    assert answer.status_code == 404 and answer.json()["success"] is False


def test_a_closed_session_mints_nobody() -> None:
    from datetime import UTC, datetime

    from hoop_core.errors import SessionGone
    from hoop_core.model import Identity, NameContext, RoleBinding, RunContext
    from hoop_core.session.guarded import GuardedSession

    async def never(_session: GuardedSession) -> Any:
        raise AssertionError("minted")

    async def go() -> None:
        session = GuardedSession(
            id="s", identity=Identity("i", "s", "n", (), "oidc", ""), role=RoleBinding("v", "R"),
            names=NameContext(), run=RunContext(), client={}, parameters={},
            opened_at=datetime.now(UTC), open_upstream=never,
        )  # fmt: skip
        await session.detach()
        with pytest.raises(SessionGone):
            await session.upstream()

    asyncio.run(go())


def test_describing_an_alter_session_does_not_change_what_grants_are_bound_to(
    stack: DevStack, wire: Wire
) -> None:
    alter = "ALTER SESSION SET TIMEZONE = 'UTC'"
    wire.query("", raw=json.dumps({"sqlText": alter, "describeOnly": True}))
    assert wire.query("SELECT 1 AS AFTER_DESCRIBE")["success"]
    assert wire.query(alter)["success"]
    assert wire.query("SELECT 1 AS AFTER_ALTER")["success"]
    settings = {d["sql"]: d["settings"] for k, d in log_of(stack) if k == "statement.intent"}
    assert settings["SELECT 1 AS AFTER_DESCRIBE"] == {}
    assert settings["SELECT 1 AS AFTER_ALTER"] == {"TIMEZONE": "UTC"}


@pytest.mark.parametrize("address", ["http://evil.example/queries/1/result", "//evil/x", None])
def test_the_session_token_is_sent_to_no_other_server(address: str | None) -> None:
    from hoop_core.errors import SnowflakeUnavailable
    from hoop_core.model import NameContext
    from hoop_core.snowflake.session import SnowflakeSession

    asked: list[str] = []

    class Http:
        async def call(self, _method: str, path: str, *_rest: Any) -> Any:
            asked.append(path)
            return {"code": "333333", "data": {"getResultUrl": address}}

    async def go() -> None:
        http: Any = Http()
        session = SnowflakeSession(http, "t", "m", NameContext(), "1", [], {})
        with pytest.raises(SnowflakeUnavailable):
            await session.query({"sqlText": "SELECT 1"}, uuid.uuid4())

    asyncio.run(go())
    assert len(asked) == 1 and asked[0].startswith("/queries/v1/query-request")


def test_a_close_that_is_cancelled_still_ends_the_session() -> None:
    from types import SimpleNamespace

    from hoop_core.gateway.sessions import Live, SessionBook

    async def go() -> None:
        ended: list[str] = []

        async def drop(_live: Any) -> None:
            await asyncio.sleep(0.05)

        async def detach() -> str:
            return "upstream"

        async def end(upstream: str) -> None:
            ended.append(upstream)

        book = SessionBook(
            None, None, None, SimpleNamespace(closed=lambda *_: None),  # type: ignore
            role_for=None, choose_account=None,  # type: ignore
            open_upstream=None, end_upstream=end, drop_statements=drop,  # type: ignore
        )  # fmt: skip
        guarded = SimpleNamespace(
            closed=False, detach=detach, id="s", identity=SimpleNamespace(key="k")
        )
        live = Live(guarded, "m", "t", 0, 0)  # type: ignore[arg-type]
        book._by_token["t"] = live
        closing = asyncio.create_task(book.close(live, "test"))
        await asyncio.sleep(0.01)
        closing.cancel()
        await book.close_all()
        assert ended == ["upstream"]

    asyncio.run(go())
