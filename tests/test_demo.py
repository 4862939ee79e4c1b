"""The demo's checks: each must fail when its claim does not hold. And the demo itself, for real."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from hoop_core.cli.demo_report import Screen, show
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
from hoop_core.demo.answers import Decision, Desk, OwnAnswer, automatic
from hoop_core.demo.behind import Login, Ran, RevokedKey
from hoop_core.demo.checks import Check, ClaimFailed, Seen, check
from hoop_core.demo.job import DemoReport
from hoop_core.evidence.bundle import Bundle
from hoop_core.model import Reason, RunContext

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
    "key void": lambda: checks.key_void(RevokedKey("V_X", True, "390144: JWT token is invalid")),
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
    "a user of an agent left beside Hoop's own": lambda: checks.gone(
        ["V_JWT_ML_READER_X_1"], LOGINS, except_role="OBSERVER"
    ),
    "a revoked key that still opens": lambda: checks.key_void(RevokedKey("V_X", True, "")),
    "a key that never opened anything": lambda: checks.key_void(RevokedKey("V_X", False, "no")),
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


# ---------------------------------------------------------------------- the terminal

PENDING = replace(
    APPROVAL,
    status=ApprovalStatus.PENDING,
    sql="DELETE FROM T -- \x1b[2Kgone",
    rewritten='DELETE FROM "DB"."S"."T"',
    parameters={"1": {"type": "TEXT", "value": "bound-value"}},
    reasons=(Reason("APPROVAL_REQUIRED", "two data owners must agree"),),
    answers=(answer(ALICE),),
    run=RunContext("airflow", {"dag_id": "churn", "task_id": "clear", "purpose": "old scores"}),
)


def terminal(*typed: str) -> Console:
    """A console of 100 columns at which somebody types those lines."""
    lines = iter(typed)

    class Typed(Console):
        def input(self, prompt: Any = "", **_: Any) -> str:
            self.print(prompt, end="")
            return next(lines)

    return Typed(file=io.StringIO(), width=100)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_question_says_who_why_and_what_exactly() -> None:
    console = terminal("y", "", "they are of the old model")
    decision = Screen(console).ask("bob", PENDING)
    assert decision == Decision(AnswerVerdict.APPROVE, "they are of the old model")
    text = shown(console)
    for told in (
        "You are bob",
        "churn-agent (ml-agents)",
        "churn.clear",
        "old scores",
        "two data owners must agree",
        "alice: approve (fine)",
        "1 of 2",
        'DELETE FROM "DB"."S"."T"',
        "bound-value",
    ):
        assert told in text
    assert "\x1b" not in text, "a statement can paint over the question"


def test_a_no_needs_a_reason_too() -> None:
    console = terminal("n", "   ", "not tonight")
    decision = Screen(console).ask("alice", PENDING)
    assert decision == Decision(AnswerVerdict.REJECT, "not tonight")


REPORT = DemoReport(
    checks=(Check("job_done", "The DAG ran", True, "5 tasks"),),
    tasks={},
    seen=(SEEN,),
    approvals=(APPROVAL,),
    users=("V_JWT_ML_READER_X_1", "V_JWT_ML_READER_X_2"),
    left=("V_JWT_ML_READER_X_2",),
    bundle=Bundle(Path("/out/evidence.zip"), 56, 24, "c" * 64, "key"),
    seconds=41.0,
)


def report_text(report: DemoReport) -> str:
    console = terminal()
    show(report, console)
    return shown(console)


def test_the_report_shows_both_sides_the_answers_the_users_and_the_evidence() -> None:
    text = report_text(REPORT)
    for told in (
        "mail.example",
        "priya.singh1@mail.example",
        "920-16-3180",
        "alice: approve, 'fine'",
        "bob: approve, 'fine'",
        "c" * 64,
        "hoop audit verify /out/evidence.zip",
        "Every claim was seen to hold",
    ):
        assert told in text
    users = [line.split() for line in text.splitlines() if "V_JWT" in line]
    assert users == [["gone", "V_JWT_ML_READER_X_1"], ["still", "there", "V_JWT_ML_READER_X_2"]]


def test_a_rejection_is_told_as_what_it_is() -> None:
    no = replace(answer(ALICE), verdict=AnswerVerdict.REJECT, reason="not tonight")
    rejected = replace(APPROVAL, status=ApprovalStatus.REJECTED, answers=(no,))
    broken = Check("job_done", "The DAG ran", False, "the run is failed")
    report = replace(REPORT, approvals=(rejected,), checks=(broken,), seen=())
    text = report_text(report)
    assert "alice rejected 'DELETE FROM T': not tonight" in text
    assert "Hoop did not run it" in text
    assert not report.ok


def test_a_claim_that_failed_without_a_rejection_is_no_rejection() -> None:
    broken = Check("masked", "The agent saw no SSN", False, "the agent got a true SSN")
    text = report_text(replace(REPORT, checks=(broken,)))
    assert "1 of 1 claims did not hold" in text
    assert "rejected" not in text


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


def changed(bundle: Path, name: str, old: bytes, new: bytes) -> Path:
    """A copy of the bundle in which one byte of one file is another; its checksums are made to fit."""
    copy = bundle.with_name("changed.zip")
    with zipfile.ZipFile(bundle) as source, zipfile.ZipFile(copy, "w") as target:
        for item in source.infolist():
            content = source.read(item)
            if item.filename == name:
                assert old in content
                content = content.replace(old, new, 1)
            target.writestr(item, content)
    return copy


def verdict_on(bundle: Path) -> tuple[int, list[str]]:
    done = hoop("audit", "verify", str(bundle), "--json")
    return done.returncode, [f["place"] for f in json.loads(done.stdout)["faults"]]


@pytest.mark.e2e
@pytest.mark.airflow
def test_the_demo_sees_every_claim_hold_and_leaves_evidence_that_cannot_be_changed(
    tmp_path: Path,
) -> None:
    # Neither a real Airflow that the user has configured nor a proxy may get in the way.
    done = hoop(
        *("demo", "--auto-approve", "--out", str(tmp_path), "--json"),
        AIRFLOW__DATABASE__SQL_ALCHEMY_CONN="sqlite:////nowhere/airflow.db",
        HOOP_GATEWAY_URL="http://127.0.0.1:1",
        HTTP_PROXY="http://127.0.0.1:1",
        http_proxy="http://127.0.0.1:1",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["ok"]
    assert {c["name"] for c in report["checks"] if not c["passed"]} == set()
    assert report["users_left"] == []
    assert len(report["minted_users"]) >= 5, "each of the four tasks has its own, and Hoop's eyes"
    assert [a["kind"] for a in report["approvals"]] == ["create_table_as", "delete"]
    assert json.loads((tmp_path / "report.json").read_text()) == report

    bundle = tmp_path / "evidence.zip"
    assert verdict_on(bundle) == (0, [])
    with zipfile.ZipFile(bundle) as archive:
        names = archive.namelist()
        entries = archive.read("log/entries.jsonl").split(b"\n")
        everything = b"".join(archive.read(n) for n in names)
    asked = next(i for i, e in enumerate(entries) if b'"kind":"approval.requested"' in e)
    seq = json.loads(entries[asked])["seq"]
    before = b'"kind":"approval.requested"'
    code, places = verdict_on(
        changed(bundle, "log/entries.jsonl", before, before.replace(b"reque", b"rEque"))
    )
    assert (code, places[0]) == (1, f"entry {seq}")
    recording = next(n for n in names if n.endswith(".arrow"))
    with zipfile.ZipFile(bundle) as archive:
        content = archive.read(recording)
    flipped = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    code, places = verdict_on(changed(bundle, recording, content, flipped))
    assert (code, places[0]) == (1, recording)

    told = (done.stdout + done.stderr).encode() + (tmp_path / "report.json").read_bytes()
    assert b"eyJ" not in told + everything, "a token is in what the demo says or leaves"
    assert b"PRIVATE KEY" not in told + everything
