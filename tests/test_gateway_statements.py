"""The statement board alone: what is run once, what is kept, and who sees it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast
from unittest.mock import MagicMock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hoop_core.config import GatewaySettings
from hoop_core.errors import (
    ApprovalRefused,
    Cancelled,
    PolicyDenied,
    SessionGone,
    SnowflakeError,
    SnowflakeUnavailable,
)
from hoop_core.gateway.own_answers import Form, asked_for
from hoop_core.gateway.queries import StatementBoard
from hoop_core.gateway.sessions import Live, SessionBook
from hoop_core.gateway.shelves import Shelves
from hoop_core.guard import Guard
from hoop_core.http import BadRequest
from hoop_core.model import Identity, Json, NameContext, RoleBinding, RunContext
from hoop_core.parameters import TOLD, told
from hoop_core.plan import UPSTREAM_ENDED, Delivered
from hoop_core.session.guarded import GuardedSession, QueryRequest

ANN = Identity("https://idp", "ann", "Ann", ("eng",), "oidc", "d1")


def session(name: str = "one", **changes: Any) -> Live:
    async def nobody(_session: GuardedSession) -> Any:
        raise AssertionError("nothing is run here")

    guarded = GuardedSession(
        id=f"ses_{name}", identity=ANN, role=RoleBinding("v", "R"), names=NameContext(),
        run=RunContext(), client={}, parameters={}, opened_at=datetime.now(UTC),
        open_upstream=nobody,
    )  # fmt: skip
    return Live(replace(guarded, **changes), "m", "t", 1e12, 1e12)


class _Policy:
    digest = "p1"

    def for_account(self, _account: str) -> _Policy:
        return self

    def check_role(self, _identity: Identity, _role: RoleBinding) -> None:
        pass


class _Log:
    def __init__(self) -> None:
        self.entries: list[tuple[str, Json]] = []

    def append(self, kind: str, entry: Json, *, session_id: str) -> int:
        self.entries.append((kind, entry))
        return len(self.entries)


class FakeGuard:
    """Runs a statement by waiting until it is let go, or taken back; counts how often."""

    def __init__(self) -> None:
        self.policy, self.log = _Policy(), _Log()
        self.ran: list[str] = []
        self.go = asyncio.Event()
        self.rows = 1
        self.fails: Exception | None = None
        self.changed = self.ended = False

    async def run(self, _session: GuardedSession, request: QueryRequest) -> Delivered:
        self.ran.append(request.sql)
        going, leaving = (asyncio.ensure_future(e.wait()) for e in (self.go, request.abandoned))
        await asyncio.wait({going, leaving}, return_when=asyncio.FIRST_COMPLETED)
        going.cancel()
        leaving.cancel()
        if request.abandoned.is_set():
            raise Cancelled("taken back")
        if self.fails:
            raise self.fails
        rows = [["x" * 1000]] * self.rows
        data = {"rowtype": [], "rowset": rows, "queryId": request.statement_id, "total": self.rows}
        return Delivered({"data": data, "success": True, "code": None}, None, "p1")

    async def still_shown(self, _delivered: Delivered) -> None:
        if self.ended:
            raise ApprovalRefused("ended")

    async def shown_again(
        self, session: GuardedSession, _delivered: Delivered, kind: str, entry: Json
    ) -> None:
        if self.changed:
            raise PolicyDenied("changed")
        self.log.append(kind, entry, session_id=session.id)


def board(guard: FakeGuard, poll: float = 0.02, **sizes: int) -> StatementBoard:
    return StatementBoard(cast(Guard, guard), poll_seconds=poll, shelves=Shelves(**sizes))


def alone(body: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(body())

    return run


@alone
async def test_a_detached_statement_keeps_its_code_until_it_is_done() -> None:
    guard = FakeGuard()
    statements, live = board(guard), session()
    running = statements.submit(live, "r", {"sqlText": "SELECT 1", "asyncExec": True})
    first = await statements.submitted(running)
    second = await statements.answer_by_id(live, running.statement_id)
    assert [first["code"], second["code"]] == ["333334", "333334"]
    guard.go.set()
    done = await statements.answer_by_id(live, running.statement_id)
    assert done["success"] and done["data"]["queryId"] == running.statement_id


@alone
async def test_a_waited_for_statement_says_in_progress() -> None:
    statements, live = board(FakeGuard()), session()
    running = statements.submit(live, "r", {"sqlText": "SELECT 1"})
    assert (await statements.submitted(running))["code"] == "333333"
    await statements.drop(live)


@alone
async def test_a_request_id_is_one_statement_in_every_form() -> None:
    statements, live = board(FakeGuard()), session()
    statements.submit(live, "r", {"sqlText": "SELECT 1"})
    for other in (
        {"sqlText": "SELECT 2"},
        {"sqlText": "SELECT 1", "asyncExec": True},
        {"sqlText": "SELECT 1", "describeOnly": True},
        {"sqlText": "SELECT 1", "bindings": {"1": {"type": "TEXT", "value": "x"}}},
    ):
        with pytest.raises(BadRequest, match="another statement"):
            statements.submit(live, "r", other)
    with pytest.raises(BadRequest, match="characters"):
        statements.submit(live, "r" * 201, {"sqlText": "SELECT 1"})
    await statements.drop(live)


@alone
async def test_answers_that_were_taken_make_room_first() -> None:
    guard = FakeGuard()
    guard.go.set()
    statements, live = board(guard, each=25_000), session()
    taken = statements.submit(live, "taken", {"sqlText": "SELECT 0"})
    assert (await statements.answer(taken))["success"]
    waiting = [statements.submit(live, str(n), {"sqlText": f"SELECT {n}"}) for n in range(1, 5)]
    await asyncio.wait({r.task for r in waiting})
    assert not (await statements.answer(taken))["success"]
    assert [(await statements.answer(r))["success"] for r in waiting] == [True] * 4
    again = statements.submit(live, "taken", {"sqlText": "SELECT 0"})
    assert again is taken and guard.ran.count("SELECT 0") == 1


@alone
async def test_who_keeps_most_gives_first() -> None:
    guard = FakeGuard()
    guard.go.set()
    statements = board(guard, most=40_000)
    modest = session("modest", identity=replace(ANN, subject="bea"))
    greedy = session("greedy")
    first = statements.submit(modest, "r", {"sqlText": "SELECT 1"})
    await asyncio.wait({first.task})
    many = [statements.submit(greedy, str(n), {"sqlText": "SELECT 1"}) for n in range(20)]
    await asyncio.wait({r.task for r in many})
    assert (await statements.answer(first))["success"]
    assert not (await statements.answer(many[0]))["success"]


@alone
async def test_a_session_that_ended_at_snowflake_is_ended() -> None:
    guard, ended = FakeGuard(), list[str]()
    guard.go.set()
    guard.fails = SessionGone("gone", reason=UPSTREAM_ENDED)
    statements, live = board(guard), session()
    statements.session_ended = lambda one, why: ended.append(f"{one.guarded.id} {why}")
    running = statements.submit(live, "r", {"sqlText": "SELECT 1"})
    assert (await statements.answer(running))["code"] == "390111"
    assert ended == ["ses_one ended by Snowflake"]


@alone
async def test_an_error_is_kept_without_the_frames_it_came_through() -> None:
    guard = FakeGuard()
    guard.go.set()
    guard.fails = PolicyDenied("no")
    statements = board(guard)
    running = statements.submit(session(), "r", {"sqlText": "SELECT 1"})
    await asyncio.wait({running.task})
    assert running.error is not None and running.error.__traceback__ is None


class _Upstream:
    def __init__(self, error: Exception | None = None) -> None:
        self.beats, self.error = 0, error
        self.session_id, self.parameters = "77", [{"name": "TIMEZONE", "value": "Asia/Tokyo"}]

    async def heartbeat(self) -> None:
        self.beats += 1
        if self.error:
            raise self.error


def opened(upstream: _Upstream) -> Live:
    async def give(_session: GuardedSession) -> Any:
        return None, upstream

    return session(open_upstream=give)


@alone
async def test_a_session_is_kept_alive_at_snowflake_once_it_is_open_there() -> None:
    upstream = _Upstream()
    live = opened(upstream)
    assert not live.guarded.wants_beat(time.monotonic() + 100, 60)
    await live.guarded.upstream()
    assert live.guarded.wants_beat(time.monotonic() + 100, 60)
    now = time.monotonic() + 100
    await live.guarded.beat(now)
    assert upstream.beats == 1 and not live.guarded.wants_beat(now + 10, 60)
    upstream.error = SnowflakeUnavailable("away")
    await live.guarded.beat(now)  # a heartbeat that is lost ends nothing


@pytest.mark.parametrize("errno", [390111, 390114, 390422])
def test_a_heartbeat_that_finds_the_session_ended_ends_it(errno: int) -> None:
    async def body() -> None:
        live = opened(_Upstream(SnowflakeError("over", errno=errno)))
        await live.guarded.upstream()
        dropped: list[Live] = []

        async def drop(one: Live) -> None:
            dropped.append(one)

        async def end(_upstream: Any) -> None:
            pass

        nothing: Any = MagicMock()
        book = SessionBook(
            GatewaySettings(), nothing, nothing, nothing, role_for=nothing,
            choose_account=nothing, open_upstream=nothing, end_upstream=end, drop_statements=drop,
        )  # fmt: skip
        book._by_token[live.token] = book._by_master[live.master] = live
        with pytest.raises(SessionGone) as caught:
            await book.beat(live)
        assert caught.value.errno == 390111
        await book.close_all()
        assert dropped == [live] and live.guarded.closed

    asyncio.run(body())


@alone
async def test_show_parameters_says_what_snowflake_said() -> None:
    live = opened(_Upstream())
    await live.guarded.upstream()
    sql = "SHOW PARAMETERS LIKE 'TIMEZONE'"
    shown = await board_answer(live, sql)
    assert shown["data"]["rowset"][0][1] == "Asia/Tokyo"


async def board_answer(live: Live, sql: str) -> Json:
    statements = board(FakeGuard(), poll=5)
    return await statements.answer(statements.submit(live, "r", {"sqlText": sql}))


# ------------------------------------------------------------------ whose it is

STRANGERS = {
    "another person": {"identity": replace(ANN, subject="bea")},
    "another issuer": {"identity": replace(ANN, issuer="https://evil")},
    "fewer groups": {"identity": replace(ANN, groups=())},
    "somebody acting for her": {"identity": replace(ANN, actors=("https://idp#bot",))},
    "other claims": {"identity": replace(ANN, claims={"region": "EU"})},
    "another role": {"role": RoleBinding("v", "OTHER")},
    "another account": {"account": "OTHER"},
}


@pytest.mark.parametrize("who", sorted(STRANGERS))
def test_another_caller_sees_nothing_by_id(who: str) -> None:
    async def body() -> None:
        guard = FakeGuard()
        statements, live, other = board(guard), session(), session("two", **STRANGERS[who])
        running = statements.submit(live, "r", {"sqlText": "SELECT 1"})
        scan = {"sqlText": f"select * from table(result_scan('{running.statement_id}'))"}
        describe = {"sqlText": f"describe result '{running.statement_id}'"}
        cancel = {"sqlText": f"select system$cancel_query('{running.statement_id}')"}
        assert statements.status(other, running.statement_id) is None
        with pytest.raises(SnowflakeError):
            await statements.answer_by_id(other, running.statement_id)
        with pytest.raises(SnowflakeError):
            await statements.abort_by_id(other, running.statement_id)
        for number, text in enumerate((scan, describe, cancel)):
            refused = await statements.answer(statements.submit(other, str(number), text))
            assert refused["code"] == "000709"
        assert not running.abandoned.is_set() and guard.ran == ["SELECT 1"]
        await statements.drop(live)

    asyncio.run(body())


@alone
async def test_a_result_is_shown_again_on_record_and_under_the_same_policy_only() -> None:
    guard = FakeGuard()
    statements, live, again = board(guard), session(), session("two")
    running = statements.submit(live, "r", {"sqlText": "SELECT 1"})
    waiting = asyncio.create_task(statements.answer_by_id(again, running.statement_id))
    await asyncio.sleep(0)
    guard.go.set()
    assert (await waiting)["success"]
    assert [k for k, _ in guard.log.entries] == ["result.shown_again"]
    guard.changed = True
    with pytest.raises(PolicyDenied):
        await statements.answer_by_id(again, running.statement_id)
    assert (await statements.answer_by_id(live, running.statement_id))["success"]


@alone
async def test_another_session_waits_one_poll_and_is_never_answered_past_the_check() -> None:
    guard = FakeGuard()
    guard.changed = True
    statements, live, again = board(guard, poll=0.2), session(), session("two")
    running = statements.submit(live, "r", {"sqlText": "SELECT 1"})
    waiting = asyncio.create_task(statements.answer_by_id(again, running.statement_id))
    await asyncio.sleep(0.3)
    guard.go.set()
    assert (await waiting)["code"] == "333333"
    with pytest.raises(PolicyDenied):
        await statements.answer_by_id(again, running.statement_id)


@alone
async def test_a_result_is_not_shown_for_the_first_time_either_once_its_exception_has_ended() -> (
    None
):
    guard = FakeGuard()
    guard.go.set()
    statements, live = board(guard), session()
    running = statements.submit(live, "r", {"sqlText": "SELECT 1", "asyncExec": True})
    await asyncio.wait({running.task})
    guard.ended = True
    with pytest.raises(ApprovalRefused):
        await statements.answer_by_id(live, running.statement_id)


@alone
async def test_a_result_scan_of_what_failed_fails_as_it_did() -> None:
    guard = FakeGuard()
    guard.go.set()
    guard.fails = PolicyDenied("the first error")
    statements, live = board(guard), session()
    running = statements.submit(live, "r", {"sqlText": "SELECT 1"})
    await asyncio.wait({running.task})
    scan = f"SELECT * FROM TABLE(RESULT_SCAN('{running.statement_id}'))"
    told_again = await statements.answer(statements.submit(live, "s", {"sqlText": scan}))
    assert "the first error" in told_again["message"]


@alone
async def test_a_described_own_answer_does_nothing() -> None:
    guard = FakeGuard()
    statements, live = board(guard), session()
    running = statements.submit(live, "r", {"sqlText": "SELECT 1"})
    sql = f"select system$cancel_all_queries({live.guarded.number})"
    asked = statements.submit(live, "c", {"sqlText": sql, "describeOnly": True})
    described = await statements.answer(asked)
    assert described["data"]["rowset"] == [] and len(described["data"]["rowtype"]) == 1
    assert not running.abandoned.is_set()
    await statements.drop(live)


# ------------------------------------------------------------------ the forms

UUID = "01234567-89ab-cdef-0123-456789abcdef"


@pytest.mark.parametrize(
    ("sql", "form"),
    [
        (f"select * from table(result_scan('{UUID}'))", Form.RESULT_SCAN),
        (f"  SELECT *\nFROM TABLE ( RESULT_SCAN( '{UUID}' ) ) ; ", Form.RESULT_SCAN),
        (f"DESC RESULT '{UUID}'", Form.DESCRIBE_RESULT),
        ("DESCRIBE RESULT last_query_id();", Form.DESCRIBE_RESULT),
        (f"select system$cancel_query('{UUID}')", Form.CANCEL_QUERY),
        ("select system$cancel_all_queries(123)", Form.CANCEL_ALL_QUERIES),
        ("select system$cancel_all_queries('123')", Form.CANCEL_ALL_QUERIES),
        ("SELECT CURRENT_SESSION()", Form.CURRENT_SESSION),
        ("show parameters", Form.SHOW_PARAMETERS),
        ("SHOW PARAMETERS LIKE '%TAG' IN SESSION", Form.SHOW_PARAMETERS),
    ],
)
def test_the_forms_that_connectors_send_are_known(sql: str, form: Form) -> None:
    found = asked_for(sql)
    assert found is not None and found.form is form


@pytest.mark.parametrize(
    "sql",
    [
        f"select * from table(result_scan('{UUID}')) t, prod.hr.salaries",
        f"select * from table(result_scan('{UUID}')) where 1=1",
        f"select a from table(result_scan('{UUID}'))",
        "select * from table(result_scan(last_query_id()))",
        f"select * from table(result_scan('{UUID}')) -- x",
        f"select * from table(result_scan('{UUID}')); select 1",
        f"describe result '{UUID}' x",
        "describe result last_query_id(-2)",
        "describe result prod.hr.salaries",
        "select current_session() from prod.hr.salaries",
        "select system$cancel_all_queries(1 + 1)",
        "show parameters in account",
        "show parameters like 'a' in user x",
        "select system$cancel_query('x')",
        "select ſystem$cancel_all_queries(1)",
    ],
)
def test_anything_more_goes_the_ordinary_way(sql: str) -> None:
    assert asked_for(sql) is None


def test_parameters_are_told_in_the_kind_that_drivers_expect() -> None:
    layers = {"AUTOCOMMIT": "false", "CLIENT_PREFETCH_THREADS": "9", "WEEK_START": True}
    values = {
        p["name"]: p["value"]
        for p in told(TOLD, layers, {"UNKNOWN": 1, "CLIENT_TELEMETRY_ENABLED": True})
    }
    assert values["AUTOCOMMIT"] is False and values["CLIENT_PREFETCH_THREADS"] == 9
    assert values["WEEK_START"] == 0  # a truth is no number: what was known stays
    assert "UNKNOWN" not in values and values["CLIENT_TELEMETRY_ENABLED"] is False


# ------------------------------------------------------------------ never twice


class Retries(RuleBasedStateMachine):
    """Requests come again, are taken back, finish and are forgotten, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.guard = self.loop.run_until_complete(self._guard())
        self.board, self.live = board(self.guard, poll=0.0, each=9_000), session()
        self.first: dict[str, str] = {}
        self.taken_back: set[str] = set()

    @staticmethod
    async def _guard() -> FakeGuard:
        return FakeGuard()

    def run_(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    ids = st.sampled_from([f"r{n}" for n in range(6)])

    @rule(request=ids)
    def submit(self, request: str) -> None:
        async def work() -> str | None:
            try:
                running = self.board.submit(self.live, request, {"sqlText": f"SELECT '{request}'"})
            except (BadRequest, Cancelled):
                return None
            await asyncio.sleep(0)
            return running.statement_id

        statement = self.run_(work())
        if statement is not None:
            assert self.first.setdefault(request, statement) == statement

    @rule(request=ids)
    def take_back(self, request: str) -> None:
        if request not in self.first:
            self.taken_back.add(request)
        self.run_(self.board.abort(self.live, request))

    @rule()
    def finish(self) -> None:
        async def work() -> None:
            self.guard.go.set()
            await asyncio.sleep(0.001)
            self.guard.go.clear()

        self.run_(work())

    @invariant()
    def nothing_ran_twice(self) -> None:
        ran = self.guard.ran
        assert len(ran) == len(set(ran))

    @invariant()
    def nothing_ran_that_was_taken_back_before_it_came(self) -> None:
        assert not {f"SELECT '{r}'" for r in self.taken_back} & set(self.guard.ran)

    def teardown(self) -> None:
        self.run_(self.board.drop(self.live))
        self.loop.close()


TestRetries = Retries.TestCase
TestRetries.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
