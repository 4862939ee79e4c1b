"""The demo's checks: each must fail when its claim does not hold. And the demo itself, for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from hoop_core.client import (
    Answer,
    AnswerVerdict,
    Approval,
    ApprovalStatus,
    GivenToken,
    HoopClient,
    Person,
)
from hoop_core.demo import checks
from hoop_core.demo.airflow import TASKS, AirflowResult, example_dag
from hoop_core.demo.answers import Desk, OwnAnswer, automatic
from hoop_core.demo.behind import Login, Ran
from hoop_core.demo.checks import ClaimFailed, Seen, check
from hoop_core.model import RunContext

NOW = datetime(2026, 1, 1, tzinfo=UTC)
AGENT = Person("https://id", "agent", "churn-agent", ("ml-agents",))
ALICE = Person("https://id", "alice", "alice", ("data-owners",))
BOB = Person("https://id", "bob", "bob", ("data-owners",))

DONE = AirflowResult("run-1", "success", dict.fromkeys(TASKS, "success"), {})
SEEN = Seen(
    agent={
        "CUSTOMER_ID": "1",
        "EMAIL": "mail.example",
        "SSN": None,
        "CARD_NUMBER": "************4884",
        "REGION": "EU",
        "SEGMENT": "consumer",
        "MRR": "7.47",
    },
    table={
        "CUSTOMER_ID": 1,
        "EMAIL": "priya.singh1@mail.example",
        "SSN": "920-16-3180",
        "CARD_NUMBER": "4000006849234884",
        "REGION": "EU",
        "SEGMENT": "consumer",
        "MRR": 7.47,
    },
)
OTHERS = frozenset({"HOOP_ADMIN", "VAULT_MINTER_SVC"})
LOGINS = (Login("HOOP_ADMIN", True), Login("V_JWT_ML_READER_X_1", True))
HISTORY = tuple(
    Ran("V_JWT_ML_READER_X_1", "ML_READER", text, "SUCCESS")
    for text in ("create or replace table T as select 1", "MERGE INTO T", "DELETE FROM T")
)


def answer(person: Person) -> Answer:
    return Answer(person, AnswerVerdict.APPROVE, "fine", NOW)


APPROVAL = Approval(
    id="apr_1",
    status=ApprovalStatus.CONSUMED,
    requester=AGENT,
    kind="delete",
    sql="DELETE FROM T",
    rewritten="DELETE FROM T",
    parameters=None,
    reasons=(),
    rules=(),
    reads=(),
    writes=("T",),
    masked=(),
    approvers=("data-owners",),
    quorum=2,
    answers=(answer(ALICE), answer(BOB)),
    created_at=NOW,
    pending_until=NOW,
    valid_until=NOW,
    consumed_at=NOW,
    run=RunContext(),
    session_id=None,
    fingerprint="",
)


def agent_saw(**values: object) -> list[Seen]:
    return [replace(SEEN, agent={**SEEN.agent, **values})]


def event(outputs: list[dict[str, Any]]) -> str:
    inputs = [{"name": "PROD.CRM.CUSTOMERS"}, {"name": "PROD.CRM.ORDERS"}]
    return json.dumps({"inputs": inputs, "outputs": outputs})


WRITTEN = {"name": "PROD.FEATURES.CHURN_FEATURES", "facets": {"columnLineage": {}}}

HOLDING: dict[str, Callable[[], str]] = {
    "job": lambda: checks.job_done(DONE),
    "masked": lambda: checks.masked_for_the_agent([SEEN]),
    "untouched": lambda: checks.the_rest_is_untouched([SEEN]),
    "features": lambda: checks.features_written(5, 5, 0),
    "approved": lambda: checks.approved([APPROVAL], "delete", 2),
    "cleared": lambda: checks.staging_cleared(500, 0),
    "four eyes": lambda: checks.four_eyes([OwnAnswer("apr_1", True, "no")]),
    "minted": lambda: checks.only_minted_users(LOGINS, HISTORY, OTHERS),
    "gone": lambda: checks.gone(["HOOP_ADMIN"], LOGINS),
    "gone but Hoop's own": lambda: checks.gone(
        ["V_JWT_HOOP_OBSERVER_Y_2"], LOGINS, except_role="OBSERVER"
    ),
    "lineage": lambda: checks.lineage_written([event([WRITTEN])]),
}

BROKEN: dict[str, Callable[[], str]] = {
    "a failed run": lambda: checks.job_done(replace(DONE, state="failed")),
    "a task left out": lambda: checks.job_done(replace(DONE, tasks={TASKS[0]: "success"})),
    "a whole e-mail address": lambda: checks.masked_for_the_agent(
        agent_saw(EMAIL="priya.singh1@mail.example")
    ),
    "a true SSN in another column": lambda: checks.masked_for_the_agent(
        agent_saw(SEGMENT="920-16-3180")
    ),
    "a card number": lambda: checks.masked_for_the_agent(agent_saw(CARD_NUMBER="4000006849234884")),
    "nothing protected in the table": lambda: checks.masked_for_the_agent(
        [replace(SEEN, table={**SEEN.table, "SSN": None})]
    ),
    "an open column changed": lambda: checks.the_rest_is_untouched(agent_saw(MRR="9.99")),
    "an open column emptied": lambda: checks.the_rest_is_untouched(agent_saw(REGION=None)),
    "rows missing": lambda: checks.features_written(5, 4, 0),
    "an address in the features": lambda: checks.features_written(5, 5, 1),
    "no request": lambda: checks.approved([], "delete", 2),
    "one person twice": lambda: checks.approved(
        [replace(APPROVAL, answers=(answer(ALICE), answer(ALICE)))], "delete", 2
    ),
    "the requester among them": lambda: checks.approved(
        [replace(APPROVAL, answers=(answer(ALICE), answer(AGENT)))], "delete", 2
    ),
    "a grant that was not used": lambda: checks.approved(
        [replace(APPROVAL, status=ApprovalStatus.APPROVED, consumed_at=None)], "delete", 2
    ),
    "a smaller quorum": lambda: checks.approved([replace(APPROVAL, quorum=1)], "delete", 2),
    "rows left": lambda: checks.staging_cleared(500, 1),
    "nothing to delete": lambda: checks.staging_cleared(0, 0),
    "own answer taken": lambda: checks.four_eyes([OwnAnswer("apr_1", False, "taken")]),
    "own answer never tried": lambda: checks.four_eyes([]),
    "a stranger signed in": lambda: checks.only_minted_users(
        (*LOGINS, Login("SHARED_SVC", True)), HISTORY, OTHERS
    ),
    "a stranger ran something": lambda: checks.only_minted_users(
        LOGINS, (*HISTORY, Ran("SHARED_SVC", "R", "SELECT 1", "SUCCESS")), OTHERS
    ),
    "the DELETE ran elsewhere": lambda: checks.only_minted_users(LOGINS, HISTORY[:2], OTHERS),
    "a user left": lambda: checks.gone(["V_JWT_ML_READER_X_1"], LOGINS),
    "nobody ever signed in": lambda: checks.gone([], LOGINS[:1]),
    "no lineage": lambda: checks.lineage_written([]),
    "no column lineage": lambda: checks.lineage_written([event([{"name": WRITTEN["name"]}])]),
    "lineage of another table": lambda: checks.lineage_written([event([{"name": "OTHER"}])]),
}


@pytest.mark.parametrize("look", HOLDING.values(), ids=HOLDING.keys())
def test_a_claim_that_holds_passes(look: Callable[[], str]) -> None:
    assert look()


@pytest.mark.parametrize("look", BROKEN.values(), ids=BROKEN.keys())
def test_a_claim_that_does_not_hold_fails(look: Callable[[], str]) -> None:
    with pytest.raises(ClaimFailed):
        look()


def test_a_look_that_crashes_is_a_failed_check_and_no_crash() -> None:
    def crash() -> str:
        raise KeyError("x")

    found = check("name", "claim", crash)
    assert not found.passed
    assert "KeyError" in found.detail


def test_an_agent_without_rows_is_no_masked_result() -> None:
    with pytest.raises(ClaimFailed, match="no rows"):
        checks.pair(DONE, lambda _: {})


# ---------------------------------------------------------------------- answers


def wire(approval: Approval) -> dict[str, Any]:
    def person(p: Person) -> dict[str, Any]:
        return {"issuer": p.issuer, "subject": p.subject, "name": p.name, "groups": list(p.groups)}

    return {
        "id": approval.id,
        "status": str(approval.status),
        "requester": person(approval.requester),
        "kind": approval.kind,
        "sql": approval.sql,
        "approvers": list(approval.approvers),
        "quorum": approval.quorum,
        "answers": [
            {"approver": person(a.approver), "verdict": "approve", "reason": "", "at": "2026-01-01"}
            for a in approval.answers
        ],
        "created_at": "2026-01-01T00:00:00+00:00",
    }


class World:
    """One pending request; who answered it, and what Hoop says to the requester."""

    def __init__(self, agent_status: int = 409) -> None:
        self.approval = replace(APPROVAL, status=ApprovalStatus.PENDING, answers=())
        self.answered: list[str] = []
        self.agent_status = agent_status

    def client(self, person: Person) -> HoopClient:
        def handle(request: httpx.Request) -> httpx.Response:
            if request.method == "GET":
                pending = self.approval.status is ApprovalStatus.PENDING
                return httpx.Response(
                    200, json={"approvals": [wire(self.approval)] if pending else []}
                )
            if person is AGENT and self.agent_status != 200:
                reason = "APPROVAL" if self.agent_status == 409 else "STORE_UNAVAILABLE"
                error = {"reason": reason, "message": "Not your own.", "hint": ""}
                return httpx.Response(self.agent_status, json={"error": error})
            self.answered.append(person.name)
            answers = (*self.approval.answers, answer(person))
            enough = len(answers) >= self.approval.quorum
            status = ApprovalStatus.APPROVED if enough else ApprovalStatus.PENDING
            self.approval = replace(self.approval, answers=answers, status=status)
            return httpx.Response(200, json=wire(self.approval))

        transport = httpx.MockTransport(handle)
        return HoopClient("https://hoop.test", GivenToken("a.b.c"), transport=transport)

    def desk(self) -> Desk:
        persons = {p.name: self.client(p) for p in (ALICE, BOB)}
        return Desk(persons, self.client(AGENT), automatic, heard=lambda _: None)


def test_two_persons_answer_a_request_that_wants_two() -> None:
    world = World()
    desk = world.desk()
    desk.look()
    desk.look()
    assert world.answered == ["alice", "bob"]
    assert [o.refused for o in desk.own_answers] == [True]


def test_one_person_answers_a_request_that_wants_one() -> None:
    world = World()
    world.approval = replace(world.approval, quorum=1)
    world.desk().look()
    assert world.answered == ["alice"]


def test_an_own_answer_that_is_taken_is_noticed() -> None:
    desk = World(agent_status=200).desk()
    desk.look()
    assert [o.refused for o in desk.own_answers] == [False]


def test_an_own_answer_that_fails_for_another_reason_is_no_proof() -> None:
    desk = World(agent_status=503).desk()
    desk.look()
    assert [o.refused for o in desk.own_answers] == [False]


# ---------------------------------------------------------------------- the command


def test_the_example_dag_is_found() -> None:
    assert example_dag().is_file()


def hoop(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hoop_core.cli", *arguments],
        env={**os.environ, "COLUMNS": "200", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )


def test_without_a_terminal_somebody_must_be_named_to_answer() -> None:
    done = hoop("demo")
    assert done.returncode == 2
    assert "--auto-approve" in done.stderr


@pytest.mark.e2e
@pytest.mark.airflow
def test_the_demo_runs_and_sees_every_claim_hold(tmp_path: Path) -> None:
    # What the user has configured for a real Airflow must not be touched.
    done = hoop(
        *("demo", "--auto-approve", "--out", str(tmp_path), "--json"),
        AIRFLOW__DATABASE__SQL_ALCHEMY_CONN="sqlite:////nowhere/airflow.db",
        HOOP_GATEWAY_URL="http://127.0.0.1:1",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["ok"]
    assert {c["name"] for c in report["checks"] if not c["passed"]} == set()
    assert report["users_left"] == []
    assert len(report["approvals"]) == 2
    verified = hoop("audit", "verify", str(tmp_path / "evidence.zip"), "--json")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    for name in ("evidence.zip", "report.json"):
        assert b"eyJ" not in (tmp_path / name).read_bytes(), "a token is in what the demo leaves"
