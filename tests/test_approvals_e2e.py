"""Requests from the first statement to the last use, through a real gateway: impact, emergencies, standing approvals."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from snowflake.connector.errors import ProgrammingError
from sqlalchemy import select

from hoop_core.audit.verify import verify_store
from hoop_core.client import Approval, HoopClient
from hoop_core.errors import ApprovalRefused, PolicyDenied, Refused, StatementRefused
from hoop_core.model import RunContext
from hoop_core.store import Store
from hoop_core.store.tables import leases
from tests.stack_people import as_person, log_entries

if TYPE_CHECKING:
    from snowflake.connector import SnowflakeConnection

    from hoop_core.devstack.stack import DevStack

pytestmark = pytest.mark.e2e
Connect = Callable[..., "SnowflakeConnection"]
Behind = Callable[[str], list[tuple[Any, ...]]]

DELETE_ALL = "DELETE FROM PROD.FEATURES.CHURN_STAGING"
TEMPLATE = (
    "CREATE OR REPLACE TABLE PROD.FEATURES.SPENT AS SELECT CUSTOMER_ID, SUM(AMOUNT) AS SPENT "
    "FROM PROD.CRM.ORDERS WHERE CUSTOMER_ID < {most} GROUP BY CUSTOMER_ID"
)
BOUNDS = {"most": {"type": "number", "min": 10, "max": 500}}
RUN = RunContext("airflow", {"dag_id": "spent", "task_id": "build", "run_id": "r1"})


def eventually(found: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.1)
    return result


@pytest.fixture(autouse=True)
def nothing_stays_open(stack: DevStack) -> Iterator[None]:
    """The stack is shared: what one test has asked for must not be in the way of another."""
    yield
    with as_person(stack, "churn-agent") as hoop:
        for left in hoop.approvals():
            if left.status in {"pending", "approved"} and left.kind != "masking_exception":
                hoop.withdraw(left.id, "the test is over")


def ask(stack: DevStack, sql: str = DELETE_ALL, **options: Any) -> Approval:
    with as_person(stack, "churn-agent") as hoop:
        asked = hoop.request_approval(sql, database="PROD", schema="FEATURES", **options)
    assert asked is not None
    return asked


def counted(stack: DevStack, identifier: str) -> Approval:
    def look() -> Approval | None:
        with as_person(stack, "alice") as hoop:
            found = hoop.approval(identifier)
        return found if found.impact else None

    return eventually(look)  # type: ignore[no-any-return]


class Held:
    """A statement of the agent's, sent by a thread of its own."""

    def __init__(self, connection: SnowflakeConnection, sql: str) -> None:
        self.failed: list[ProgrammingError] = []
        self._connection, self._sql = connection, sql
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._connection.cursor().execute(self._sql)
        except ProgrammingError as e:
            self.failed.append(e)

    def asked(self, owner: HoopClient) -> Approval:
        def look() -> Approval | None:
            return next((a for a in owner.approvals("pending") if a.sql == self._sql), None)

        return eventually(look)  # type: ignore[no-any-return]

    def ended(self) -> list[ProgrammingError]:
        self._thread.join(30)
        return self.failed


def test_a_request_says_how_many_rows_it_would_touch_and_the_count_is_on_record(
    stack: DevStack, behind: Behind
) -> None:
    there = behind(DELETE_ALL.replace("DELETE", "SELECT COUNT(*)"))[0][0]
    asked = ask(stack)
    impact = counted(stack, asked.id).impact
    assert impact is not None
    assert (impact.rows, impact.what) == (there, "rows that would be deleted")
    assert "BEFORE (STATEMENT" in impact.restore
    assert (impact.partitions, impact.partitions_total) == (1, 1)
    assert impact.bytes
    counts = [e for e in log_entries(stack, "statement.intent") if e.get("counted_for") == asked.id]
    assert [c["sql"] for c in counts] == [impact.sql]
    assert counts[0]["decision"]["decision"] == "allow"
    explained = [e for e in log_entries(stack, "approval.explaining") if e["approval"] == asked.id]
    assert explained[0]["executed"] == f"EXPLAIN USING JSON {asked.rewritten}"


def states_of_users(stack: DevStack, session_id: str) -> set[str]:
    """Of the users that were minted for sessions of such an id."""
    store = Store(stack.store_url)
    store.attach()
    try:
        query = select(leases.c.state).where(leases.c.session_id.like(session_id))
        with store.read() as connection:
            return set(connection.scalars(query))
    finally:
        store.close()


def test_a_count_leaves_no_user_behind(stack: DevStack) -> None:
    counted(stack, ask(stack).id)
    assert eventually(lambda: states_of_users(stack, "ask_%") == {"gone"})


def test_one_person_on_call_lets_it_run_and_another_reviews_it(
    stack: DevStack, connect: Connect
) -> None:
    held = Held(connect("churn-agent", schema="FEATURES"), f"{DELETE_ALL} WHERE 1 = 1")
    with as_person(stack, "alice") as owner, as_person(stack, "olga") as on_call:
        asked = held.asked(owner)
        assert on_call.approval(asked.id).id == asked.id
        with pytest.raises(ApprovalRefused, match="none of the groups"):
            owner.break_glass(asked.id, "the nightly run is stuck")
        with pytest.raises(ApprovalRefused, match="needs a reason"):
            on_call.break_glass(asked.id, " ")
        broken = on_call.break_glass(asked.id, "the nightly run is stuck")
        assert broken.status == "approved"
        assert held.ended() == []
        with pytest.raises(ApprovalRefused, match="cannot review"):
            on_call.review(asked.id, "I was right")
        used = owner.approval(asked.id)
        assert used.status == "consumed"
        assert used.emergency is not None
        assert used.emergency.review is None
        reviewed = owner.review(asked.id, "looked at the log: fine")
        assert reviewed.emergency is not None
        assert reviewed.emergency.review is not None
        assert reviewed.emergency.review.by.name == "alice"
    assert log_entries(stack, "approval.broken_glass")[-1]["approval"] == asked.id


def test_who_asked_takes_it_back_and_the_waiting_statement_is_told(
    stack: DevStack, connect: Connect
) -> None:
    held = Held(connect("churn-agent", schema="FEATURES"), f"{DELETE_ALL} WHERE 2 = 2")
    with as_person(stack, "alice") as owner, as_person(stack, "churn-agent") as agent:
        asked = held.asked(owner)
        counted(stack, asked.id)
        assert states_of_users(stack, str(asked.session_id)) == set()  # while it waits
        with pytest.raises(ApprovalRefused, match="did not ask"):
            owner.withdraw(asked.id, "not mine")
        assert agent.withdraw(asked.id, "wrong table").status == "withdrawn"
        with pytest.raises(ApprovalRefused, match="withdrawn already"):
            owner.answer(asked.id, "approve", "too late")
    assert "withdrawn by churn-agent: wrong table" in str(held.ended()[0])


def standing(stack: DevStack, *, approve: bool = True, **options: Any) -> Approval:
    given: dict[str, Any] = {
        "rows_at_most": 1000,
        "uses_at_most": 10,
        "span": timedelta(days=7),
        "reason": "the nightly feature build",
        "database": "PROD",
        "schema": "CRM",
        "run": RUN,
        **options,
    }
    with as_person(stack, "churn-agent") as agent:
        asked = agent.request_standing_approval(TEMPLATE, BOUNDS, {"most": 20}, **given)
    if not approve:
        return asked
    with as_person(stack, "alice") as owner:
        return owner.answer(asked.id, "approve", "looks right")


def scheduled(connect: Connect, run: RunContext = RUN) -> SnowflakeConnection:
    from hoop_core.client import hoop_context

    return connect(
        "churn-agent", session_parameters={"HOOP_CONTEXT": _text(hoop_context(run, None))}
    )


def _text(context: Any) -> str:
    import json

    return context if isinstance(context, str) else json.dumps(context)


def test_a_standing_approval_lets_later_runs_through_and_counts_them(
    stack: DevStack, connect: Connect, behind: Behind
) -> None:
    granted = standing(stack)
    assert granted.status == "approved"
    for number, most in enumerate((30, 40), 1):
        run = RunContext("airflow", {**RUN.fields, "run_id": f"r{number}"})
        scheduled(connect, run).cursor().execute(TEMPLATE.replace("{most}", str(most)))
    with as_person(stack, "alice") as owner:
        assert owner.approval(granted.id).uses == 2
    counts = [
        e for e in log_entries(stack, "statement.intent") if e.get("counted_for") == granted.id
    ]
    assert len(counts) == 4  # of the sample, of each run, and of the table that the second replaces
    explained = [
        e for e in log_entries(stack, "approval.explaining") if e["approval"] == granted.id
    ]
    assert len(explained) == 1  # people ask for plans, runs do not
    used = [e for e in log_entries(stack, "statement.intent") if e.get("approval") == granted.id]
    assert [u["standing"]["values"] for u in used] == [{"most": "30"}, {"most": "40"}]
    assert behind("SELECT COUNT(*) FROM PROD.FEATURES.SPENT")[0][0] > 0
    assert verify_store(stack.store_url).faults == ()


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        (TEMPLATE.replace("{most}", "501"), "most is above 500"),
        (TEMPLATE.replace("{most}", "20 OR 1 = 1"), "another text"),
    ],
)
def test_what_a_standing_approval_does_not_cover_is_asked_about(
    stack: DevStack, sql: str, says: str
) -> None:
    standing(stack)
    with as_person(stack, "churn-agent") as agent:
        asked = agent.request_approval(sql, database="PROD", schema="CRM", run=RUN)
    assert asked is not None
    assert asked.status == "pending"
    assert any(says in r.message for r in asked.reasons)


def test_more_rows_than_were_approved_are_asked_about(stack: DevStack) -> None:
    granted = standing(stack, rows_at_most=0)
    with as_person(stack, "churn-agent") as agent:
        asked = agent.request_approval(
            TEMPLATE.replace("{most}", "25"), database="PROD", schema="CRM", run=RUN
        )
    assert asked is not None
    assert asked.status == "pending"
    assert any(f"{granted.id} does not cover it" in r.message for r in asked.reasons)


def test_another_schedule_is_asked_about(stack: DevStack) -> None:
    standing(stack)
    other = RunContext("airflow", {**RUN.fields, "task_id": "other"})
    with as_person(stack, "churn-agent") as agent:
        asked = agent.request_approval(
            TEMPLATE.replace("{most}", "30"), database="PROD", schema="CRM", run=other
        )
    assert asked is not None
    assert asked.status == "pending"


def test_another_text_of_the_same_work_ends_a_standing_approval_when_it_runs(
    stack: DevStack, connect: Connect
) -> None:
    granted = standing(stack)
    other = TEMPLATE.replace("{most}", "30").replace("SUM", "MAX")
    with as_person(stack, "churn-agent") as agent, as_person(stack, "alice") as owner:
        ahead = agent.request_approval(other, database="PROD", schema="CRM", run=RUN)
        assert ahead is not None
        assert "STANDING_ENDS" in {r.code for r in ahead.reasons}
        assert agent.approval(granted.id).status == "approved"  # to ask is not to run
        owner.answer(ahead.id, "approve", "the maximum it is")
        scheduled(connect).cursor().execute(other)
        ended = agent.approval(granted.id)
    assert ended.status == "revoked"
    assert ended.revocation is not None
    assert "another text" in ended.revocation.reason
    drifted = log_entries(stack, "approval.drifted")[-1]
    assert drifted["approval"] == granted.id
    ran = next(e for e in log_entries(stack, "statement.intent") if e["approval"] == ahead.id)
    assert drifted["seq"] < ran["seq"]  # from its intent on nothing but the statement may fail


def test_another_policy_ends_a_standing_approval(stack: DevStack, connect: Connect) -> None:
    granted = standing(stack)
    before = stack.policy_file.read_text()
    loaded = len(log_entries(stack, "policy.loaded"))
    try:
        stack.policy_file.write_text(before.replace("longest: 30d", "longest: 29d"))
        eventually(lambda: len(log_entries(stack, "policy.loaded")) > loaded)
        held = Held(scheduled(connect), TEMPLATE.replace("{most}", "31"))
        with as_person(stack, "alice") as owner:
            asked = held.asked(owner)
            ended = owner.approval(granted.id)
            owner.answer(asked.id, "reject", "the test is over")
        assert held.ended()
        assert ended.status == "revoked"
        assert ended.revocation is not None
        assert "policy has changed" in ended.revocation.reason
    finally:
        stack.policy_file.write_text(before)
        eventually(lambda: len(log_entries(stack, "policy.loaded")) > loaded + 1)


def test_who_only_asks_ends_no_standing_approval(stack: DevStack) -> None:
    granted = standing(stack)
    before = stack.policy_file.read_text()
    loaded = len(log_entries(stack, "policy.loaded"))
    try:
        stack.policy_file.write_text(before.replace("longest: 30d", "longest: 28d"))
        eventually(lambda: len(log_entries(stack, "policy.loaded")) > loaded)
        with as_person(stack, "churn-agent") as agent:
            agent.request_approval(
                TEMPLATE.replace("{most}", "30"), database="PROD", schema="CRM", run=RUN
            )
            assert agent.approval(granted.id).status == "approved"
    finally:
        stack.policy_file.write_text(before)
        eventually(lambda: len(log_entries(stack, "policy.loaded")) > loaded + 1)


def test_a_standing_approval_is_used_as_often_as_was_approved(
    stack: DevStack, connect: Connect
) -> None:
    granted = standing(stack, uses_at_most=1)
    scheduled(connect).cursor().execute(TEMPLATE.replace("{most}", "32"))
    with as_person(stack, "churn-agent") as agent:
        asked = agent.request_approval(
            TEMPLATE.replace("{most}", "33"), database="PROD", schema="CRM", run=RUN
        )
    assert asked is not None
    assert asked.id != granted.id
    assert any("as often as was approved" in r.message for r in asked.reasons)


@pytest.mark.parametrize(
    "run",
    [
        RunContext(),
        RunContext("prefect", {"flow": "nightly"}),
        RunContext("airflow", {"dag_id": "spent"}),
    ],
)
def test_a_standing_approval_is_for_one_task_of_a_schedule(
    stack: DevStack, run: RunContext
) -> None:
    with pytest.raises(Refused, match="one task of a schedule"):
        standing(stack, approve=False, run=run)


def test_a_grant_does_not_fit_when_more_people_have_to_answer_now(
    stack: DevStack, connect: Connect
) -> None:
    """Conditions may look at what no grant is bound to, as the purpose or the hour."""
    before = stack.policy_file.read_text()
    loaded = len(log_entries(stack, "policy.loaded"))
    stricter = (
        "  - {name: backfills, kinds: [create_table_as], when: \"run.purpose == 'backfill'\", "
        "then: require_approval, approval: {approvers: [data-owners], quorum: 2}}\n\n# Nothing grants"
    )
    try:
        stack.policy_file.write_text(before.replace("# Nothing grants", stricter))
        eventually(lambda: len(log_entries(stack, "policy.loaded")) > loaded)
        sql = (
            "CREATE OR REPLACE TABLE PROD.FEATURES.MORE AS SELECT CUSTOMER_ID FROM PROD.CRM.ORDERS"
        )
        with as_person(stack, "churn-agent") as agent, as_person(stack, "alice") as owner:
            asked = agent.request_approval(sql, database="PROD", schema="CRM", run=RUN)
            assert asked is not None
            owner.answer(asked.id, "approve", "fine")
            backfill = RunContext("airflow", {**RUN.fields, "purpose": "backfill"})
            held = Held(scheduled(connect, backfill), sql)
            again = held.asked(owner)
            assert (again.quorum, again.id == asked.id) == (2, False)
            owner.answer(again.id, "reject", "the test is over")
        assert held.ended()
    finally:
        stack.policy_file.write_text(before)
        eventually(lambda: len(log_entries(stack, "policy.loaded")) > loaded + 1)


def test_revoked_it_lets_nothing_through(stack: DevStack) -> None:
    granted = standing(stack)
    with as_person(stack, "alice") as owner:
        assert owner.revoke_standing_approval(granted.id, "not any more").status == "revoked"
    with as_person(stack, "churn-agent") as agent:
        asked = agent.request_approval(
            TEMPLATE.replace("{most}", "30"), database="PROD", schema="CRM", run=RUN
        )
    assert asked is not None
    assert asked.id != granted.id


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"span": timedelta(days=31)}, PolicyDenied, "at most 30d"),
        ({"rows_at_most": 10_001}, PolicyDenied, "at most 10000 rows"),
        ({"reason": " "}, Refused, "needs a reason"),
    ],
)
def test_a_standing_approval_stays_within_what_the_policy_offers(
    stack: DevStack, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        standing(stack, approve=False, **options)


def test_where_the_policy_offers_none_there_is_no_standing_approval(stack: DevStack) -> None:
    with (
        as_person(stack, "churn-agent") as agent,
        pytest.raises((PolicyDenied, StatementRefused)) as e,
    ):
        agent.request_standing_approval(
            "UPDATE PROD.FEATURES.CHURN_STAGING SET SCORE = {s}",
            {"s": {"type": "number", "min": 0, "max": 1}},
            {"s": 0},
            rows_at_most=1,
            uses_at_most=1,
            span=timedelta(days=1),
            reason="why not",
            run=RUN,
        )
    assert "offers no standing approval" in str(e.value)
