"""A masking exception from its request to its end, through a real gateway."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from snowflake.connector.errors import ProgrammingError

from hoop_core.audit.verify import verify_store
from hoop_core.client import Approval
from hoop_core.errors import ApprovalRefused, PolicyDenied, Refused
from tests.stack_people import as_person, log_entries

if TYPE_CHECKING:
    from snowflake.connector import SnowflakeConnection

    from hoop_core.devstack.stack import DevStack

pytestmark = pytest.mark.e2e
Connect = Callable[..., "SnowflakeConnection"]
Behind = Callable[[str], list[tuple[Any, ...]]]

EMAIL, BODY = "PROD.CRM.CUSTOMERS.EMAIL", "PROD.CRM.SUPPORT_NOTES.BODY"
READS = "SELECT EMAIL, CARD_NUMBER, SSN FROM PROD.CRM.CUSTOMERS WHERE CUSTOMER_ID = 11"
NOTE = "SELECT BODY FROM PROD.CRM.SUPPORT_NOTES WHERE NOTE_ID = 11"


def ask(stack: DevStack, *columns: str, minutes: int = 10) -> Approval:
    with as_person(stack, "churn-agent") as hoop:
        return hoop.request_masking_exception(
            columns, timedelta(minutes=minutes), f"campaign {uuid.uuid4()}"
        )


def answer(stack: DevStack, approval: Approval, who: str, verdict: str = "approve") -> Approval:
    with as_person(stack, who) as hoop:
        return hoop.answer(approval.id, verdict, f"{who} says {verdict}")


def seen(connection: SnowflakeConnection, sql: str = READS) -> tuple[Any, ...]:
    row = connection.cursor().execute(sql).fetchone()
    assert isinstance(row, tuple)
    return row


@pytest.fixture(autouse=True)
def nothing_stays_open(stack: DevStack) -> Iterator[None]:
    """The stack is shared: what one test was granted must not show in another."""
    yield
    with as_person(stack, "alice") as hoop:
        for left in hoop.masking_exceptions():
            if left.status in {"pending", "approved"}:
                hoop.revoke_masking_exception(left.id, "the test is over")


def test_an_approved_exception_shows_raw_values_on_record_until_it_is_revoked(
    connect: Connect, stack: DevStack, behind: Behind
) -> None:
    true = behind(READS)[0]
    connection = connect()
    masked = seen(connection)
    assert masked[0] != true[0]
    asked = ask(stack, EMAIL)
    assert seen(connection) == masked
    answer(stack, asked, "alice")
    assert seen(connection) == (true[0], *masked[1:])
    intent = log_entries(stack, "statement.intent")[-1]
    assert intent["exceptions"] == [asked.id]
    exposed = [e for e in intent["decision"]["exposed"] if e["exception"]]
    assert exposed == [
        {
            "table": "PROD.CRM.CUSTOMERS",
            "column": "EMAIL",
            "mask": "email_domain",
            "exception": asked.id,
        }
    ]
    said = {r["code"]: r["message"] for r in intent["decision"]["reasons"]}
    assert asked.id in said["MASKING_EXCEPTION"] and "alice" in said["MASKING_EXCEPTION"]
    assert log_entries(stack, "statement.outcome")[-1]["not_kept"] == ["PROD.CRM.CUSTOMERS"]
    with as_person(stack, "churn-agent") as hoop:
        assert hoop.revoke_masking_exception(asked.id, "done").status == "revoked"
    assert seen(connection) == masked
    assert log_entries(stack, "statement.intent")[-1]["exceptions"] == []
    assert verify_store(stack.store_url).ok


def test_a_result_shown_by_an_exception_is_not_shown_again_once_it_is_revoked(
    connect: Connect, stack: DevStack, behind: Behind
) -> None:
    asked = ask(stack, EMAIL)
    answer(stack, asked, "alice")
    connection = connect()
    cursor = connection.cursor()
    assert cursor.execute(READS).fetchall()[0][0] == behind(READS)[0][0]
    scan = f"SELECT * FROM TABLE(RESULT_SCAN('{cursor.sfqid}'))"
    assert seen(connection, scan)[0] == behind(READS)[0][0]
    with as_person(stack, "churn-agent") as hoop:
        hoop.revoke_masking_exception(asked.id, "done")
    with pytest.raises(ProgrammingError, match="ended"):
        seen(connection, scan)


def test_a_result_that_nobody_has_fetched_yet_is_not_shown_once_its_exception_is_revoked(
    connect: Connect, stack: DevStack
) -> None:
    asked = ask(stack, EMAIL)
    answer(stack, asked, "alice")
    connection = connect()
    cursor = connection.cursor()
    cursor.execute_async(READS)
    query_id = cursor.sfqid
    assert query_id is not None
    while connection.is_still_running(connection.get_query_status(query_id)):
        pass
    with as_person(stack, "churn-agent") as hoop:
        hoop.revoke_masking_exception(asked.id, "done")
    with pytest.raises(ProgrammingError, match="has ended"):
        cursor.get_results_from_sfqid(query_id)
        cursor.fetchall()


def test_another_identity_still_sees_the_mask(
    connect: Connect, stack: DevStack, behind: Behind
) -> None:
    true = behind(NOTE)[0]
    asked = ask(stack, BODY)
    assert answer(stack, asked, "alice").status == "pending"
    assert answer(stack, asked, "bob").status == "approved"
    assert seen(connect(), NOTE) == true
    assert seen(connect("pia"), NOTE) == ("[free text withheld]",)


def test_an_exception_that_has_run_out_shows_nothing(
    connect: Connect, stack: DevStack, behind: Behind
) -> None:
    true = behind(READS)[0]
    with as_person(stack, "churn-agent") as hoop:
        asked = hoop.request_masking_exception([EMAIL], timedelta(seconds=1), "a short look")
    approved = answer(stack, asked, "alice")
    assert approved.valid_until is not None
    connection = connect()
    masked = "***@" + true[0].split("@")[1]
    while True:  # its one second passes while statements run
        try:
            assert seen(connection)[0] in {true[0], masked}
        except ProgrammingError as e:  # it ended between the decision and the intent
            assert "has ended" in str(e)
        with as_person(stack, "alice") as hoop:
            if hoop.approval(asked.id).status == "expired":
                break
    assert seen(connection)[0] == masked


def test_values_shown_by_an_exception_are_written_masked(
    connect: Connect, stack: DevStack, behind: Behind
) -> None:
    answer(stack, ask(stack, EMAIL), "alice")
    connection = connect()
    true = behind(READS)[0][0]
    assert seen(connection)[0] == true
    with as_person(stack, "churn-agent") as hoop:
        ahead = hoop.request_approval(
            f"CREATE TABLE PROD.FEATURES.COPY_{uuid.uuid4().hex} AS SELECT EMAIL FROM "
            "PROD.CRM.CUSTOMERS"
        )
    assert ahead is not None and ahead.rewritten is not None
    assert "SPLIT_PART" in ahead.rewritten
    assert [r.code for r in ahead.reasons].count("EXCEPTION_NOT_APPLIED") == 1


def test_the_requester_cannot_approve_their_own_exception(
    connect: Connect, stack: DevStack
) -> None:
    asked = ask(stack, EMAIL)
    with pytest.raises(ApprovalRefused, match="own request"):
        answer(stack, asked, "churn-agent")
    assert seen(connect())[0].startswith("***@")


@pytest.mark.parametrize(
    ("columns", "minutes", "reason"),
    [
        (["PROD.CRM.CUSTOMERS.SSN"], 10, "EXCEPTION_NOT_OFFERED"),
        (["PROD.CRM.CUSTOMERS.REGION"], 10, "NOTHING_TO_EXCEPT"),
        (["PROD.HR.SALARIES.SALARY"], 10, "NOT_GRANTED"),
        ([EMAIL], 10_000, "EXCEPTION_TOO_LONG"),
    ],
)
def test_a_request_that_the_policy_does_not_offer_is_refused_and_logged(
    stack: DevStack, columns: list[str], minutes: int, reason: str
) -> None:
    with pytest.raises(PolicyDenied) as caught:
        ask(stack, *columns, minutes=minutes)
    assert caught.value.reason == reason
    logged = log_entries(stack, "approval.request_refused")[-1]
    assert (logged["reason"], logged["columns"]) == (reason, columns)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"columns": [], "seconds": 60, "reason": "x"},
        {"columns": ["PROD.CRM.CUSTOMERS.*"], "seconds": 60, "reason": "x"},
        {"columns": "EMAIL", "seconds": 60, "reason": "x"},
        {"columns": [EMAIL], "seconds": True, "reason": "x"},
        {"columns": [EMAIL], "seconds": 0, "reason": "x"},
        {"columns": [EMAIL], "seconds": 60, "reason": "  "},
        {"columns": [EMAIL] * 101, "seconds": 60, "reason": "x"},
    ],
)
def test_a_malformed_request_is_a_bad_request(stack: DevStack, body: dict[str, Any]) -> None:
    answered = httpx.post(
        f"{stack.info.gateway_url}/hoop/v1/masking-exceptions",
        json=body,
        headers={"Authorization": f"Bearer {stack.token('churn-agent')}"},
    )
    assert answered.status_code == 400, answered.text


def test_a_stranger_neither_sees_nor_ends_an_exception(stack: DevStack) -> None:
    asked = ask(stack, EMAIL)
    with as_person(stack, "pia") as hoop:
        assert asked.id not in {a.id for a in hoop.masking_exceptions()}
        with pytest.raises(Refused, match="no approval"):
            hoop.revoke_masking_exception(asked.id, "x")


def test_a_request_for_one_statement_cannot_be_revoked_as_an_exception(stack: DevStack) -> None:
    with as_person(stack, "churn-agent") as hoop:
        ahead = hoop.request_approval(f"DELETE FROM PROD.FEATURES.CHURN_STAGING -- {uuid.uuid4()}")
        assert ahead is not None
        with pytest.raises(ApprovalRefused, match="cannot be revoked"):
            hoop.revoke_masking_exception(ahead.id, "x")
    answer(stack, ahead, "alice", "reject")


def test_the_command_line_asks_lists_and_revokes(stack: DevStack) -> None:
    def hoop(*arguments: str, who: str = "churn-agent", as_json: bool = True) -> tuple[int, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "hoop_core.cli", *arguments, *(["--json"] * as_json)],
            env={**os.environ, **stack.info.env(), "HOOP_TOKEN": stack.token(who),
                 "COLUMNS": "120"},
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        return done.returncode, json.loads(done.stdout) if as_json else done.stdout + done.stderr

    code, asked = hoop("masking", "request", "--columns", f"{EMAIL},{BODY}", "--for", "30m",
                       "--reason", "quarterly check")  # fmt: skip
    assert (code, asked["kind"], asked["seconds"]) == (0, "masking_exception", 1800)
    code, shown = hoop("approvals", "show", asked["id"], who="alice", as_json=False)
    assert code == 0
    for part in (
        "CUSTOMERS.EMAIL",
        "SUPPORT_NOTES.BODY",
        "30m",
        "quarterly check",
        "churn-agent",
    ):
        assert part in shown
    code, listed = hoop("approvals", "list", who="alice", as_json=False)
    assert asked["id"] in listed and "30m" in listed
    for who in ("alice", "bob"):
        code, _ = hoop("approvals", "approve", asked["id"], "--reason", "checked", who=who)
        assert code == 0
    _, mine = hoop("masking", "list")
    assert {(a["id"], a["in_force"]) for a in mine["masking_exceptions"]} >= {(asked["id"], True)}
    code, refused = hoop("masking", "revoke", asked["id"])
    assert code == 1 and "reason" in refused["error"]["message"]
    code, ended = hoop("masking", "revoke", asked["id"], "--reason", "done", who="bob")
    assert (code, ended["status"], ended["revocation"]["by"]["name"]) == (0, "revoked", "bob")
    code, said = hoop("masking", "request", "--columns", EMAIL, "--for", "soon", "--reason", "x",
                      as_json=False)  # fmt: skip
    assert code == 2 and "30m" in said
