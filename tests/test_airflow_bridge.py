"""The bridge to Airflow's Required Actions: what is shown, whose answer counts, and how a task goes on."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from hoop_core.approvals.approval import Approval, NoSuchApproval
from hoop_core.approvals.binding import Binding
from hoop_core.approvals.desk import ApprovalDesk
from hoop_core.audit.log import AuditLog
from hoop_core.bridges.airflow import bridge as bridge_module
from hoop_core.bridges.airflow import ledger as ledger_module
from hoop_core.bridges.airflow.bridge import AirflowBridge
from hoop_core.bridges.airflow.ledger import MOST_PLACES
from hoop_core.bridges.airflow.values import AirflowUnavailable, Place
from hoop_core.config import AirflowPerson, AirflowSettings
from hoop_core.errors import ConfigError, NotServed
from hoop_core.gateway.limits import TooMany
from hoop_core.http import BadRequest
from hoop_core.model import (
    AnswerVerdict,
    ApprovalStatus,
    ApprovalTerms,
    Identity,
    RoleBinding,
    RunContext,
)
from hoop_core.store import Store
from hoop_core.web.airflow import AirflowApi

ISSUER = "https://id.test"
RUN = {"dag_id": "churn", "run_id": "run-1", "task_id": "build", "map_index": "-1"}
PLACE = Place("churn", "run-1", "build", -1)
PATH = "/api/v2/dags/churn/dagRuns/run-1/taskInstances/build/-1/hitlDetails"
TOKEN = "e30.eyJzdWIiOiJob29wIn0.of-hoop"
"""Hoop's own, with `sub` "hoop"."""
SQL = "DELETE FROM PROD.FEATURES.SCORES"


def person(name: str, *groups: str) -> Identity:
    return Identity(ISSUER, name, name, groups, "oidc", "d" * 64)


AGENT = person("agent", "ml-agents")
ALICE, BOB = person("alice", "data-owners"), person("bob", "data-owners")
SETTINGS = AirflowSettings(
    name="prod",
    url="https://airflow.test/base",
    token_file=Path("/nowhere"),
    users={
        name: AirflowPerson(issuer=ISSUER, subject=name, name=name, groups=groups)
        for name, groups in {
            "alice": ("data-owners",),
            "bob": ("data-owners",),
            "agent": ("data-owners",),
            "other": ("elsewhere",),
        }.items()
    },
)


@dataclass
class Airflow:
    """One task instance of an Airflow, as its REST API shows it."""

    row: dict[str, Any] | None = None
    state: str = "awaiting_input"
    down: bool = False
    answered: list[dict[str, Any]] = field(default_factory=list)
    asked: int = 0
    before: Callable[[httpx.Request], httpx.Response | None] = lambda _: None

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        if other := self.before(request):
            return other
        if self.down:
            raise httpx.ConnectError("refused")
        assert request.headers["authorization"] == f"Bearer {TOKEN}"
        assert request.url.path == "/base" + PATH
        if self.row is None:
            return httpx.Response(404, json={"detail": "none"})
        if request.method == "PATCH":
            body = json.loads(request.content)
            if self.row["response_received"]:
                return httpx.Response(409, json={"detail": "already"})
            self.answered.append(body)
            self.respond("hoop", body["chosen_options"][0], body["params_input"]["reason"])
            return httpx.Response(200, json={})
        task = {"id": "ti-1", "state": self.state}
        return httpx.Response(200, json={**self.row, "task_instance": task})

    def park(self, action: dict[str, Any]) -> None:
        """What a task does with what Hoop gave it; Airflow keeps the text of the first time."""
        if self.row is None:
            self.row = {**action, "defaults": None, "multiple": False}
        self.row |= {
            "response_received": False,
            "responded_by_user": None,
            "responded_at": None,
            "chosen_options": None,
            "params_input": {},
        }
        self.state = "awaiting_input"

    def respond(self, user: str | None, option: str, reason: str = "looked at it") -> None:
        assert self.row is not None
        self.row |= {
            "response_received": True,
            "responded_by_user": None if user is None else {"id": user, "name": user},
            "responded_at": datetime.now(UTC).isoformat(),
            "chosen_options": [option],
            "params_input": {"reason": reason},
        }
        self.state = "scheduled"


class World:
    def __init__(self, store: Store, log: AuditLog, token: Path) -> None:
        self.log, self.desk, self.airflow = log, ApprovalDesk(store, log), Airflow()
        self.settings = SETTINGS.model_copy(update={"token_file": token})
        self.bridge = self.replica(store, log)

    def replica(self, store: Store, log: AuditLog) -> AirflowBridge:
        return AirflowBridge(
            [self.settings],
            store,
            log,
            ApprovalDesk(store, log),
            public_url="https://hoop.test",
            impact_seconds=0,
            transport=httpx.MockTransport(self.airflow.handle),
        )

    def ask(self, sql: str = SQL, quorum: int = 1, who: Identity = AGENT, **run: str) -> Approval:
        context = RunContext("airflow", {**RUN, **run})
        binding = Binding(
            identity=who,
            role=RoleBinding("ml", "ML_READER", "WH"),
            fingerprint=sql,
            executed_sha256=sql,
            parameters_sha256="",
            policy_digest="p",
            catalog_digest="c",
            run=context,
        )
        body = {
            "requester": {"issuer": who.issuer, "subject": who.subject, "name": who.name},
            "run": {"orchestrator": "airflow", "fields": dict(context.fields)},
            "kind": "delete",
            "sql": sql,
            "rewritten": None,
            "snowflake_role": "ML_READER",
            "writes": ["PROD.FEATURES.SCORES"],
            "reads": [],
            "masked": [],
            "reasons": [{"code": "APPROVAL_REQUIRED", "message": "A rule wants it."}],
        }
        hour = timedelta(hours=1)
        terms = ApprovalTerms(
            approvers=("data-owners",), quorum=quorum, pending_for=hour, valid_for=hour
        )
        return self.desk.ask(binding, terms, body, session_id=None)

    def show(self, *approvals: Approval, caller: Identity = AGENT) -> Any:
        return asyncio.run(self.bridge.show(caller, None, PLACE, [a.id for a in approvals]))

    def park(self, *approvals: Approval) -> dict[str, Any]:
        action = self.show(*approvals)["action"]
        self.airflow.park(action)
        found: dict[str, Any] = action
        return found

    def look(self) -> Any:
        """What a task has done when it goes on."""
        return asyncio.run(self.bridge.look(AGENT, "prod", PLACE))

    def turn(self) -> None:
        asyncio.run(self.bridge.turn("prod"))

    def status(self, approval: Approval) -> ApprovalStatus:
        return self.desk.get(approval.id).status

    def logged(self, kind: str) -> list[dict[str, Any]]:
        entries = [json.loads(e.text) for e in self.log.entries()]
        return [e["data"] for e in entries if e["kind"] == kind]


@pytest.fixture
def world(store: Store, log: AuditLog, tmp_path: Path) -> World:
    token = tmp_path / "airflow-token"
    token.write_text(TOKEN + "\n")
    return World(store, log, token)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], None]]:
    """Moves the bridge's time on."""
    ahead = timedelta(0)

    def now() -> datetime:
        return datetime.now(UTC) + ahead

    def move(seconds: float) -> None:
        nonlocal ahead
        ahead += timedelta(seconds=seconds)

    monkeypatch.setattr(bridge_module, "utc_now", now)
    monkeypatch.setattr(ledger_module, "utc_now", now)
    yield move


# ---------------------------------------------------------------------- an answer given in Airflow


def test_an_answer_in_airflow_is_the_answer_of_the_mapped_person(world: World) -> None:
    approval = world.ask()
    world.park(approval)
    world.airflow.respond("alice", "Approve", "scores are stale")
    found = world.look()
    assert found["approvals"] == [{"id": approval.id, "status": "approved"}]
    [answer] = world.desk.get(approval.id).answers
    assert answer["approver"]["subject"] == "alice"
    assert answer["reason"] == "scores are stale"
    [entry] = world.logged("approval.answered")
    assert entry["by_way_of"]["bridge"] == "airflow"
    assert entry["by_way_of"]["user"] == {"id": "alice", "name": "alice"}


def test_the_nudge_is_not_needed(world: World, clock: Callable[[float], None]) -> None:
    approval = world.ask()
    world.park(approval)
    world.airflow.respond("alice", "Approve")
    clock(5)
    world.turn()
    assert world.status(approval) is ApprovalStatus.APPROVED


def test_a_rejection_in_airflow_rejects(world: World) -> None:
    approval = world.ask()
    world.park(approval)
    world.airflow.respond("alice", "Reject", "too much")
    assert world.look()["approvals"][0]["status"] == "rejected"


def test_with_a_quorum_of_two_one_answer_is_one_voice(world: World) -> None:
    approval = world.ask(quorum=2)
    first = world.park(approval)
    world.airflow.respond("alice", "Approve")
    assert world.look()["approvals"][0]["status"] == "pending"
    assert world.park(approval) == first  # Airflow keeps the first text, so it must be the same
    world.airflow.respond("bob", "Approve")
    assert world.look()["approvals"][0]["status"] == "approved"
    assert len(world.logged("approval.answered")) == 2


def test_the_same_person_is_not_two_voices(world: World) -> None:
    approval = world.ask(quorum=2)
    world.park(approval)
    world.airflow.respond("alice", "Approve")
    world.look()
    world.park(approval)
    world.airflow.respond("alice", "Approve")
    assert world.look()["approvals"][0]["status"] == "pending"


def test_one_person_is_one_voice_wherever_it_is_given(world: World) -> None:
    approval = world.ask(quorum=2)
    world.park(approval)
    world.desk.answer(approval.id, ALICE, AnswerVerdict.APPROVE, "in Hoop")
    world.airflow.respond("alice", "Approve", "and in Airflow")
    assert world.look()["approvals"][0]["status"] == "pending"


def test_an_answer_counts_for_all_that_was_shown(world: World) -> None:
    two = world.ask(), world.ask("DELETE FROM PROD.FEATURES.OTHERS")
    action = world.park(*two)
    assert all(a.id in action["body"] and a.binding in action["body"] for a in two)
    world.airflow.respond("alice", "Approve")
    world.look()
    assert {world.status(a) for a in two} == {ApprovalStatus.APPROVED}


# ---------------------------------------------------------------------- whose answer is not heard


@pytest.mark.parametrize(
    ("user", "option", "reason", "why"),
    [
        ("mallory", "Approve", "please", "nobody that Hoop knows"),
        (None, "Approve", "default", "nobody gave it"),
        ("alice", "Approve", "   ", "no reason"),
        ("alice", "Maybe", "hm", "neither a yes nor a no"),
        ("agent", "Approve", "mine", "Nobody may answer their own request"),
        ("other", "Approve", "me too", "in none of the groups"),
        ("agent", "Reject", "mine", "Nobody may answer their own request"),
    ],
)
def test_an_answer_that_does_not_count_is_logged(
    world: World, user: str | None, option: str, reason: str, why: str
) -> None:
    approval = world.ask()
    world.park(approval)
    world.airflow.respond(user, option, reason)
    found = world.look()
    assert found["approvals"][0]["status"] == "pending"
    assert why in found["said"]
    [entry] = world.logged("approval.answer_refused")
    assert entry["approval"] == approval.id
    assert entry["by_way_of"]["instance"] == "prod"
    world.look()
    assert len(world.logged("approval.answer_refused")) == 1  # the same answer, looked at again


FORGED: list[dict[str, Any]] = [
    {"body": "Nothing to see."},
    {"subject": "Hoop: may agent run SELECT 1?"},
    {"options": ["Reject", "Approve"]},
    {"options": ["Approve", "Reject", "Later"]},
    {"defaults": ["Approve"]},
    {"multiple": True},
    {"params": {}},
    {"params": {"reason": {"value": "fine", "description": None, "schema": {}}}},
]


@pytest.mark.parametrize("forged", FORGED, ids=lambda f: "-".join(f))
def test_a_row_that_hoop_has_not_written_is_not_heard(world: World, forged: dict[str, Any]) -> None:
    approval = world.ask()
    world.park(approval)
    assert world.airflow.row is not None
    world.airflow.row |= forged
    world.airflow.respond("alice", "Approve")
    assert "not what Hoop had written" in world.look()["said"]
    assert world.status(approval) is ApprovalStatus.PENDING


FOREIGN = {
    "subject": "Deploy model 7 to production?",
    "body": "compliance gate",
    "options": ["Approve", "Reject"],
    "params": {},
    "defaults": None,
    "multiple": False,
}
"""An ApprovalOperator of somebody else: nothing of it is Hoop's."""


@pytest.mark.parametrize("end", ["approved", "withdrawn"])
@pytest.mark.parametrize("forged", [*FORGED, FOREIGN], ids=lambda f: "-".join(f))
def test_nor_is_it_answered_by_hoop(
    world: World, clock: Callable[[float], None], forged: dict[str, Any], end: str
) -> None:
    approval = world.ask()
    world.park(approval)
    assert world.airflow.row is not None
    world.airflow.row |= forged
    if end == "approved":
        world.desk.answer(approval.id, ALICE, AnswerVerdict.APPROVE, "fine")
    else:
        world.desk.withdraw(approval.id, AGENT, "not needed")
    for _ in range(6):
        clock(20)
        world.turn()
    assert world.airflow.answered == []
    asked = world.airflow.asked
    clock(86_400)
    world.turn()
    assert world.airflow.asked == asked  # it is closed


def test_what_was_shown_for_one_statement_does_not_count_for_another(world: World) -> None:
    innocent, dangerous = world.ask("DELETE FROM PROD.FEATURES.TINY"), world.ask()
    world.park(innocent)  # is in Airflow
    world.show(dangerous)  # Hoop wrote another text for the task, which it did not put there
    world.airflow.respond("alice", "Approve")
    assert "not what Hoop had written" in world.look()["said"]
    assert world.status(dangerous) is ApprovalStatus.PENDING


def test_forms_as_airflow_3_1_kept_them_are_known(world: World) -> None:
    approval = world.ask()
    world.park(approval)
    assert world.airflow.row is not None
    bare = {"reason": {"value": "", "description": None, "schema": {}}}
    world.airflow.row |= {"params": bare}
    world.airflow.respond("alice", "Approve")
    assert world.look()["approvals"][0]["status"] == "approved"


# ---------------------------------------------------------------------- several who name one task

MALLORY = person("mallory", "ml-agents")


def test_what_another_identity_shows_at_the_same_task_changes_nothing_for_the_first(
    world: World,
) -> None:
    approval = world.ask()
    world.park(approval)
    hers = world.ask("SELECT 1", who=MALLORY)
    world.show(hers, caller=MALLORY)
    world.airflow.respond("alice", "Approve")
    assert world.look()["approvals"] == [{"id": approval.id, "status": "approved"}]
    assert world.logged("approval.answer_refused") == []
    assert world.status(hers) is ApprovalStatus.PENDING


def test_nor_does_it_bring_the_answer_to_her_request(world: World) -> None:
    world.park(world.ask())
    hers = world.ask("SELECT 1", who=MALLORY)
    world.show(hers, caller=MALLORY)
    world.airflow.respond("alice", "Approve")
    found = asyncio.run(world.bridge.look(MALLORY, None, PLACE))
    assert found["approvals"] == [{"id": hers.id, "status": "pending"}]
    assert "not what Hoop had written" in found["said"]


ACTING = replace(AGENT, actors=("https://id.test#some-program",))


@pytest.mark.parametrize(("shows", "looks"), [(AGENT, ACTING), (ACTING, AGENT)])
def test_what_somebody_shows_through_other_actors_is_not_theirs(
    world: World, shows: Identity, looks: Identity
) -> None:
    world.show(world.ask(who=shows), caller=shows)
    with pytest.raises(NoSuchApproval):
        asyncio.run(world.bridge.look(looks, None, PLACE))


def test_a_no_to_what_stands_there_counts_whatever_was_shown_since(world: World) -> None:
    first = world.ask()
    world.park(first)
    world.airflow.respond("alice", "Approve")
    world.look()
    second = world.ask("DELETE FROM PROD.FEATURES.OTHERS")
    world.park(second)  # Airflow keeps the first text
    world.airflow.respond("bob", "Reject", "wait")
    assert world.look()["approvals"] == [{"id": second.id, "status": "pending"}]
    assert world.status(first) is ApprovalStatus.REJECTED
    assert world.logged("approval.answer_refused") == []


def test_an_answer_to_the_text_of_a_later_try_is_not_refused_for_the_earlier(world: World) -> None:
    first, second = world.ask(), world.ask("DELETE FROM PROD.FEATURES.OTHERS")
    world.park(first, second)
    world.desk.answer(first.id, ALICE, AnswerVerdict.APPROVE, "in Hoop")
    world.airflow.row = None  # the task was cleared
    world.park(second)
    world.airflow.respond("alice", "Approve")
    assert world.look()["approvals"] == [{"id": second.id, "status": "approved"}]
    assert world.logged("approval.answer_refused") == []


# ---------------------------------------------------------------------- an answer given in Hoop


def test_a_decision_in_hoop_lets_the_task_go_on(
    world: World, clock: Callable[[float], None]
) -> None:
    approval = world.ask()
    world.park(approval)
    clock(4)
    world.turn()  # sees it wait
    clock(16)
    world.desk.answer(approval.id, ALICE, AnswerVerdict.APPROVE, "fine")
    world.turn()
    assert [a["chosen_options"] for a in world.airflow.answered] == [["Approve"]]
    assert "fine" not in json.dumps(world.airflow.answered)  # Airflow need not know more
    world.look()
    assert len(world.logged("approval.answered")) == 1  # Hoop's own answer there is nobody's voice
    assert world.logged("approval.answer_refused") == []


@pytest.mark.parametrize("end", ["rejected", "withdrawn"])
def test_so_does_any_other_end(world: World, clock: Callable[[float], None], end: str) -> None:
    approval = world.ask()
    world.park(approval)
    clock(4)
    world.turn()
    clock(16)
    if end == "rejected":
        world.desk.answer(approval.id, ALICE, AnswerVerdict.REJECT, "no")
    else:
        world.desk.withdraw(approval.id, AGENT, "not needed")
    world.turn()
    assert [a["chosen_options"] for a in world.airflow.answered] == [["Reject"]]


def test_a_task_is_left_alone_until_it_is_certainly_parked(
    world: World, clock: Callable[[float], None]
) -> None:
    approval = world.ask()
    world.park(approval)
    world.desk.answer(approval.id, ALICE, AnswerVerdict.APPROVE, "fine")
    world.airflow.state = "running"
    world.turn()
    clock(30)
    world.turn()
    assert world.airflow.answered == []
    world.airflow.state = "awaiting_input"
    clock(4)
    world.turn()
    clock(14)
    world.turn()
    assert world.airflow.answered == []
    clock(2)
    world.turn()
    assert len(world.airflow.answered) == 1


def test_of_several_statements_the_task_waits_for_the_last(
    world: World, clock: Callable[[float], None]
) -> None:
    first, second = world.ask(), world.ask("DELETE FROM PROD.FEATURES.OTHERS")
    world.park(first, second)
    clock(4)
    world.turn()
    clock(16)
    world.desk.answer(first.id, ALICE, AnswerVerdict.APPROVE, "fine")
    world.turn()
    assert world.airflow.answered == []
    world.desk.answer(second.id, ALICE, AnswerVerdict.APPROVE, "fine")
    world.turn()
    assert len(world.airflow.answered) == 1


def test_a_rejection_there_wins_over_an_approval_here_that_is_not_used(
    world: World, clock: Callable[[float], None]
) -> None:
    approval = world.ask()
    world.park(approval)
    clock(4)
    world.turn()
    clock(16)
    world.desk.answer(approval.id, ALICE, AnswerVerdict.APPROVE, "fine")

    def meanwhile(request: httpx.Request) -> None:
        if request.method == "PATCH":
            world.airflow.respond("bob", "Reject", "wait")

    world.airflow.before = meanwhile
    world.turn()
    assert world.status(approval) is ApprovalStatus.REJECTED


def test_an_approval_there_does_not_win_over_a_rejection_here(world: World) -> None:
    approval = world.ask()
    world.park(approval)
    world.desk.answer(approval.id, BOB, AnswerVerdict.REJECT, "no")
    world.airflow.respond("alice", "Approve")
    assert world.look()["approvals"][0]["status"] == "rejected"


# ---------------------------------------------------------------------- faults and replicas


def test_nothing_is_lost_while_airflow_is_down(
    world: World, clock: Callable[[float], None]
) -> None:
    approval = world.ask()
    world.park(approval)
    world.airflow.respond("alice", "Approve")
    world.airflow.down = True
    with pytest.raises(AirflowUnavailable):
        world.look()
    clock(5)
    world.turn()
    assert world.status(approval) is ApprovalStatus.PENDING
    world.airflow.down = False
    clock(60)
    world.turn()
    assert world.status(approval) is ApprovalStatus.APPROVED


def test_an_airflow_that_is_down_is_asked_less_and_less_often(
    world: World, clock: Callable[[float], None]
) -> None:
    world.park(world.ask())
    world.airflow.down = True
    for _ in range(600):
        clock(1)
        world.turn()
    assert world.airflow.asked < 15


def test_a_process_that_died_in_between_leaves_it_to_the_next(
    world: World, store: Store, log: AuditLog, clock: Callable[[float], None]
) -> None:
    approval = world.ask()
    world.park(approval)
    world.airflow.respond("alice", "Approve")
    clock(5)
    assert len(world.bridge._ledger.due("prod", 10)) == 1  # claimed, and then the process is gone
    other = world.replica(store, log)
    asyncio.run(other.turn("prod"))
    assert world.status(approval) is ApprovalStatus.PENDING
    clock(61)
    asyncio.run(other.turn("prod"))
    assert world.status(approval) is ApprovalStatus.APPROVED


def test_two_replicas_count_an_answer_once(
    world: World, store: Store, log: AuditLog, clock: Callable[[float], None]
) -> None:
    world.park(world.ask(quorum=2))
    world.airflow.respond("alice", "Approve")
    clock(5)
    other = world.replica(store, log)

    async def both() -> None:
        await asyncio.gather(world.bridge.turn("prod"), other.turn("prod"))

    asyncio.run(both())
    assert len(world.logged("approval.answered")) == 1
    assert world.logged("approval.answer_refused") == []


def test_replicas_that_read_an_answer_at_the_same_moment_count_it_once(
    world: World, store: Store, log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.park(world.ask(quorum=2))
    world.airflow.respond("alice", "Approve")
    other = world.replica(store, log)
    both = threading.Barrier(2)
    for bridge in (world.bridge, other):
        desk = bridge._counting.desk
        real = desk.answer

        def answer(*given: Any, real: Any = real, **named: Any) -> Any:
            both.wait(10)  # neither has seen the other's
            return real(*given, **named)

        monkeypatch.setattr(desk, "answer", answer)

    async def look() -> None:
        looks = [b.look(AGENT, "prod", PLACE) for b in (world.bridge, other)]
        assert [f["said"] for f in await asyncio.gather(*looks)] == [
            "alice answered in Airflow: approve."
        ] * 2

    asyncio.run(look())
    assert len(world.logged("approval.answered")) == 1
    assert world.logged("approval.answer_refused") == []


def test_what_has_ended_is_forgotten_after_a_while(
    world: World, clock: Callable[[float], None]
) -> None:
    approval = world.ask()
    world.park(approval)
    world.airflow.respond("alice", "Reject")
    world.look()
    ledger = world.bridge._ledger
    ledger.forget(timedelta(days=30))
    world.look()  # it is known still
    clock(31 * 86_400)
    ledger.forget(timedelta(days=30))
    with pytest.raises(NoSuchApproval):
        world.look()


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=["x"]),
        httpx.Response(200, json={"task_instance": 1}),
        httpx.Response(200, json={"subject": 1, "options": [], "task_instance": {}}),
        httpx.Response(302, headers={"location": "https://elsewhere.test/"}),
        httpx.Response(403, json={"detail": "no"}),
        httpx.Response(200, headers={"content-encoding": "br"}, content=b""),
        httpx.Response(200, content=b'{"subject": "' + b"x" * (5 << 20)),
        httpx.Response(200, content=b'{"subject": "\\ud800"}'),
    ],
    ids=[
        "html",
        "list",
        "not-a-row",
        "wrong-types",
        "redirect",
        "forbidden",
        "packed",
        "long",
        "surrogate",
    ],
)
def test_what_airflow_says_is_hostile_input(world: World, answer: httpx.Response) -> None:
    approval = world.ask()
    world.show(approval)
    world.airflow.before = lambda _: answer
    with pytest.raises(AirflowUnavailable) as caught:
        world.look()
    assert TOKEN not in str(caught.value)
    assert world.status(approval) is ApprovalStatus.PENDING


def test_hoop_signs_in_again_when_its_token_is_over(world: World, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("s3cret")
    settings = replace_settings(world.settings, username="hoop", password_file=password)
    signed_in: list[Any] = []

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/base/auth/token":
            signed_in.append(json.loads(request.content))
            return httpx.Response(201, json={"access_token": f"token-{len(signed_in)}"})
        if request.headers["authorization"] == "Bearer token-1":
            return httpx.Response(401, json={"detail": "expired"})
        return httpx.Response(404, json={})

    from hoop_core.bridges.airflow.remote import AirflowRemote

    remote = AirflowRemote(settings, httpx.MockTransport(handle))
    assert asyncio.run(remote.row(PLACE)) is None
    assert signed_in == [{"username": "hoop", "password": "s3cret"}] * 2


def replace_settings(settings: AirflowSettings, **values: Any) -> AirflowSettings:
    return AirflowSettings(**{**settings.model_dump(exclude={"token_file"}), **values})


# ---------------------------------------------------------------------- what a task may ask


def test_only_the_requester_has_its_requests_shown(world: World) -> None:
    approval = world.ask()
    with pytest.raises(NoSuchApproval):
        world.show(approval, caller=ALICE)
    world.park(approval)
    with pytest.raises(NoSuchApproval):
        asyncio.run(world.bridge.look(ALICE, None, PLACE))


def test_a_request_is_shown_in_its_own_run(world: World) -> None:
    with pytest.raises(BadRequest, match="another run"):
        world.show(world.ask(run_id="run-0"))


def test_what_is_decided_already_is_not_shown(world: World) -> None:
    approval = world.ask()
    world.desk.answer(approval.id, ALICE, AnswerVerdict.APPROVE, "fine")
    found = world.show(approval)
    assert found == {"action": None, "approvals": [{"id": approval.id, "status": "approved"}]}


def test_without_an_airflow_there_is_nothing_to_show(store: Store, log: AuditLog) -> None:
    desk = ApprovalDesk(store, log)
    bridge = AirflowBridge([], store, log, desk, public_url="https://hoop.test")
    with pytest.raises(NotServed):
        asyncio.run(bridge.show(AGENT, None, PLACE, ["apr_1"]))


def test_an_airflow_that_hoop_does_not_know_is_refused(world: World) -> None:
    with pytest.raises(BadRequest, match="prod"):
        asyncio.run(world.bridge.show(AGENT, "staging", PLACE, ["apr_1"]))


@pytest.mark.parametrize("name", ["", "~", "..", 7, None, "x" * 1001])
def test_a_place_is_one_task_instance(name: Any) -> None:
    with pytest.raises(BadRequest):
        Place.of({**PLACE.as_json(), "dag_id": name})


def test_names_cannot_leave_their_place_in_the_address() -> None:
    place = replace(PLACE, dag_id="a/../../x?y#z", run_id="manual__2026-01-01T00:00:00+00:00")
    assert "/dags/a%2F..%2F..%2Fx%3Fy%23z/dagRuns/manual__2026-01-01T00%3A00%3A00%2B00%3A00/" in (
        place.path
    )


def test_only_requests_for_one_use_are_shown_in_airflow(world: World) -> None:
    @dataclass
    class Standing:
        identity: Identity
        digest: str
        scope: str

    hour = timedelta(hours=1)
    terms = ApprovalTerms(approvers=("data-owners",), quorum=1, pending_for=hour, valid_for=hour)
    body = {"kind": "standing_approval", "run": {"orchestrator": "airflow", "fields": dict(RUN)}}
    asked = world.desk.ask(Standing(AGENT, "d" * 64, "s" * 64), terms, body, session_id=None)
    with pytest.raises(BadRequest, match="standing grant"):
        world.show(asked)


@pytest.mark.parametrize("name", ["a\x00", "apr_1", "~", "apr_" + "0" * 20 + "\n", "x" * 70_000])
def test_what_is_no_id_is_no_request(world: World, name: str) -> None:
    with pytest.raises(NoSuchApproval):
        asyncio.run(world.bridge.show(AGENT, None, PLACE, [name]))


@pytest.mark.parametrize("index", [2**31, -2, True, "1", 1.5])
def test_a_mapped_task_has_a_number_that_airflow_can_hold(index: Any) -> None:
    with pytest.raises(BadRequest):
        Place.of({**PLACE.as_json(), "map_index": index})


# ---------------------------------------------------------------------- how much there may be


def many(world: World, approval: Approval, places: range, who: Identity = MALLORY) -> None:
    async def show() -> None:
        for i in places:
            await world.bridge.show(who, None, replace(PLACE, map_index=i), [approval.id])

    asyncio.run(show())


def test_a_request_is_shown_at_few_tasks(world: World) -> None:
    approval = world.ask(who=MALLORY)
    many(world, approval, range(MOST_PLACES))
    many(world, approval, range(MOST_PLACES))  # the same ones again
    with pytest.raises(BadRequest, match="limit"):
        many(world, approval, range(MOST_PLACES, MOST_PLACES + 1))


def test_a_requester_shows_so_many_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "MOST_OPEN", 3)
    approval = world.ask(who=MALLORY)
    many(world, approval, range(3))
    with pytest.raises(BadRequest, match="limit"):
        many(world, approval, range(3, 4))
    world.park(world.ask())  # others are not concerned


def test_a_task_of_many_tries_is_followed_by_its_last_ones(world: World) -> None:
    asked = [world.ask(f"DELETE FROM PROD.FEATURES.T{n}") for n in range(7)]
    for n in range(7):  # each try waits for fewer
        world.show(*asked[n:])
    ledger = world.bridge._ledger
    owner = ledger_module.Owner.of("prod", PLACE, AGENT)
    assert [a.approvals[0] for a in ledger.of(owner) if a.open] == [a.id for a in asked[:2:-1]]


def test_nobodys_many_others_keep_a_decided_task_waiting(
    world: World, clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "MOST_PLACES", 200)
    approval = world.ask()
    world.park(approval)
    many(world, world.ask(who=MALLORY), range(200))
    elsewhere = httpx.Response(404, json={})
    world.airflow.before = lambda r: None if r.url.path.endswith(PATH) else elsewhere
    clock(400)
    world.desk.answer(approval.id, ALICE, AnswerVerdict.APPROVE, "fine")
    turns = 0
    while not world.airflow.answered and turns < 20:
        world.turn()
        clock(2)
        turns += 1
    assert turns <= 10  # 15 seconds are for Airflow to settle


def test_a_request_that_is_shown_elsewhere_is_seldom_looked_for_where_it_is_not(
    world: World, clock: Callable[[float], None]
) -> None:
    many(world, world.ask(who=MALLORY), range(MOST_PLACES))
    world.airflow.before = lambda _: httpx.Response(404, json={})
    for _ in range(600):
        clock(1)
        world.turn()
    assert world.airflow.asked <= 2 * MOST_PLACES


@pytest.mark.parametrize(("status", "asked"), [(503, 16), (403, 64)])
def test_a_turn_does_not_ask_an_airflow_that_does_not_answer_on(
    world: World,
    clock: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    asked: int,
) -> None:
    monkeypatch.setattr(ledger_module, "MOST_PLACES", 100)
    many(world, world.ask(who=MALLORY), range(100))
    world.airflow.before = lambda _: httpx.Response(status, json={})
    clock(10)
    world.turn()
    assert world.airflow.asked == asked


def test_a_turn_looks_at_so_many_that_ten_thousand_come_round_in_ten_minutes(
    world: World, clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "MOST_PLACES", 100)
    many(world, world.ask(who=MALLORY), range(80))
    world.airflow.before = lambda _: httpx.Response(404, json={})
    clock(10)
    world.turn()
    assert world.airflow.asked * 600 / world.settings.poll_seconds >= 10_000


def test_what_was_shown_is_not_written_out_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    approval = world.ask()
    first = world.show(approval)
    monkeypatch.delattr(bridge_module, "shown")
    assert world.show(approval) == first


@pytest.mark.parametrize("path", ["actions", "looks"])
def test_both_endpoints_count_as_statements_of_the_caller(world: World, path: str) -> None:
    approval = world.ask()
    counted: list[str] = []

    @contextmanager
    def asks(identity: str) -> Iterator[None]:
        counted.append(identity)
        if len(counted) > 1:
            raise TooMany("You have sent too much.", reason="TOO_FAST")
        yield

    def called(endpoint: Any) -> Any:
        async def call(request: Request) -> Any:
            try:
                return await endpoint(request, AGENT)
            except TooMany as e:
                return PlainTextResponse(e.reason, status_code=429)

        return call

    world.park(approval)
    app = Starlette(routes=AirflowApi(world.bridge, asks).routes(called))
    body = {**PLACE.as_json(), "approvals": [approval.id]}
    with TestClient(app) as client:
        answers = [client.post(f"/hoop/v1/airflow/{path}", json=body) for _ in range(2)]
    assert [a.status_code for a in answers] == [200, 429]
    assert counted == [AGENT.key] * 2


# ---------------------------------------------------------------------- ends


def test_a_turn_does_not_rest_on_the_sweeper(
    world: World, clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    approval = world.ask()
    world.park(approval)
    monkeypatch.setattr(ApprovalDesk, "expire_due", lambda _: pytest.fail("it is the sweeper's"))
    world.desk.answer(approval.id, ALICE, AnswerVerdict.APPROVE, "fine")
    for _ in range(3):
        clock(20)
        world.turn()
    assert len(world.airflow.answered) == 1


def test_a_request_that_is_late_lets_the_task_go_on(
    world: World, clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hoop_core.approvals import desk as desk_module

    world.park(world.ask())
    clock(7200)
    monkeypatch.setattr(desk_module, "utc_now", lambda: datetime.now(UTC) + timedelta(hours=2))
    for _ in range(3):
        clock(20)
        world.turn()
    assert [a["chosen_options"] for a in world.airflow.answered] == [["Reject"]]


@pytest.mark.parametrize("status", [400, 403, 422, 500])
def test_what_airflow_does_not_let_hoop_answer_ends_with_the_tasks_own_time(
    world: World, clock: Callable[[float], None], status: int
) -> None:
    approval = world.ask()
    world.park(approval)
    refused = httpx.Response(status, json={"detail": "no"})
    world.airflow.before = lambda r: refused if r.method == "PATCH" else None
    world.desk.withdraw(approval.id, AGENT, "not needed")
    for _ in range(30):
        clock(3600)
        world.turn()
    asked = world.airflow.asked
    assert asked < 20
    clock(86_400)
    world.turn()
    assert world.airflow.asked == asked


def test_so_does_a_task_that_somebody_ended_while_it_waited(
    world: World, clock: Callable[[float], None]
) -> None:
    approval = world.ask()
    world.park(approval)
    world.airflow.state = "failed"
    for _ in range(30):
        clock(60)
        world.turn()
    assert world.airflow.asked < 25
    world.desk.withdraw(approval.id, AGENT, "not needed")
    for _ in range(30):
        clock(3600)
        world.turn()
    asked = world.airflow.asked
    clock(86_400)
    world.turn()
    assert world.airflow.asked == asked


# ---------------------------------------------------------------------- settings


def test_plain_http_to_another_host_is_refused(world: World, store: Store) -> None:
    settings = world.settings.model_copy(update={"url": "http://airflow.test"})
    with pytest.raises(ConfigError, match="http://"):
        AirflowBridge([settings], store, world.log, world.desk, public_url="")


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"username": "hoop"},
        {"password_file": "/p"},
        {"username": "hoop", "password_file": "/p", "token_file": "/t"},
        {"username": "alice", "password_file": "/p", "users": SETTINGS.users},
    ],
)
def test_hoop_has_one_credential_there_and_is_nobody_else(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"give username|own user"):
        AirflowSettings(name="a", url="https://a.test", **given)
