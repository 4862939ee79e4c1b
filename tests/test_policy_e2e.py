"""A policy that changes under a running gateway: row filters arrive, mistakes do not, grants end."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from snowflake.connector.errors import Error

from hoop_core.audit.stored import stored_entries
from hoop_core.client import HoopClient, token_source
from hoop_core.policy.file import parse_policy
from hoop_core.store import Store

if TYPE_CHECKING:
    from snowflake.connector import SnowflakeConnection

    from hoop_core.devstack.stack import DevStack

pytestmark = pytest.mark.e2e
Connect = Callable[..., "SnowflakeConnection"]
FILTER = """
row_filters:
  - {table: "PROD.CRM.CUSTOMERS", where: "REGION = 'EU' AND {identity.subject} <> 'nobody'", except_groups: [pii-readers]}
"""


def logged(stack: DevStack, kind: str) -> list[dict[str, Any]]:
    store = Store(stack.store_url)
    store.attach()
    try:
        return [json.loads(e.text)["data"] for e in stored_entries(store) if e.kind == kind]
    finally:
        store.close()


class Editor:
    """Writes the gateway's policy, and waits until the log says what became of it."""

    def __init__(self, stack: DevStack) -> None:
        self.stack, self.original = stack, stack.policy_file.read_text()

    def write(self, text: str, kind: str = "policy.loaded") -> dict[str, Any]:
        before = len(logged(self.stack, kind))
        fresh = self.stack.policy_file.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.stack.policy_file)
        for _ in range(200):
            found = logged(self.stack, kind)
            if len(found) > before:
                return found[-1]
            time.sleep(0.05)
        raise AssertionError(f"no {kind} in the log")


@pytest.fixture
def policy(stack: DevStack) -> Iterator[Editor]:
    editor = Editor(stack)
    yield editor
    if stack.policy_file.read_text() != editor.original:
        editor.write(editor.original)


def regions(connection: SnowflakeConnection) -> list[str]:
    sql = "SELECT DISTINCT region FROM PROD.CRM.CUSTOMERS ORDER BY 1"
    return [r[0] for r in connection.cursor().execute(sql).fetchall()]


def test_a_row_filter_holds_from_the_moment_its_policy_is_in_the_log(
    stack: DevStack, connect: Connect, policy: Editor
) -> None:
    agent = connect()
    assert regions(agent) == ["APAC", "EU", "LATAM", "NA"]
    text = policy.original + FILTER
    assert policy.write(text) == {"digest": parse_policy(text, "p").digest, "text": text}
    assert regions(agent) == ["EU"]
    assert regions(connect("pia")) == ["APAC", "EU", "LATAM", "NA"]
    intents = logged(stack, "statement.intent")[-2:]
    assert [i["decision"]["filtered"] for i in intents] == [
        [
            {
                "table": "PROD.CRM.CUSTOMERS",
                "where": "REGION = 'EU' AND {identity.subject} <> 'nobody'",
            }
        ],
        [],
    ]
    exposed = [(e["column"], e["mask"]) for e in intents[1]["decision"]["exposed"]]
    assert ("*", "row_filter") in exposed


def test_a_filter_that_settings_could_change_is_refused_to_a_session_that_set_them(
    stack: DevStack, connect: Connect, policy: Editor
) -> None:
    where = "SIGNED_UP >= TO_DATE('2000-01-01', 'YYYY-MM-DD') AND REGION = 'EU'"
    policy.write(
        f'{policy.original}\nrow_filters:\n  - {{table: "PROD.CRM.CUSTOMERS", where: "{where}"}}\n'
    )
    agent = connect()
    assert regions(agent) == ["EU"]
    agent.cursor().execute("ALTER SESSION SET TIMEZONE = 'UTC'")
    with pytest.raises(Error, match="what the session was set to: TIMEZONE"):
        regions(agent)
    assert logged(stack, "statement.refused")[-1]["reason"] == "ROW_FILTER_SESSION"
    with pytest.raises(Error, match="what the session was set to: TIMEZONE"):
        regions(connect(session_parameters={"TIMEZONE": "UTC"}))
    agent.cursor().execute("ALTER SESSION UNSET TIMEZONE")
    assert regions(agent) == ["EU"]


def test_a_policy_with_a_mistake_changes_nothing(
    stack: DevStack, connect: Connect, policy: Editor
) -> None:
    before = logged(stack, "policy.loaded")[-1]["digest"]
    text = policy.original.replace("then: allow", "then: alow", 1)
    rejected = policy.write(text, "policy.rejected")
    assert rejected["kept"] == before
    assert "Did you mean `allow`?" in rejected["error"]
    assert regions(connect()) == ["APAC", "EU", "LATAM", "NA"]


def test_a_role_withdrawn_from_a_group_ends_its_open_sessions(
    connect: Connect, policy: Editor
) -> None:
    agent = connect()
    assert regions(agent)
    policy.write(
        policy.original.replace("groups: [ml-agents], vault_role", "groups: [x], vault_role")
    )
    with pytest.raises(Error, match="no longer mapped"):
        regions(agent)
    with pytest.raises(Error, match="No Snowflake role is mapped"):
        connect()


def test_a_question_that_waits_is_asked_anew_under_another_policy(
    stack: DevStack, connect: Connect, policy: Editor
) -> None:
    mark = uuid.uuid4().hex
    sql = f"UPDATE PROD.FEATURES.CHURN_STAGING SET score = 0 /* {mark} */"
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(connect().cursor().execute(sql).fetchall())
        except Error as e:
            outcome.append(e)

    def pending(not_in: tuple[str, ...] = ()) -> str:
        with HoopClient(stack.info.gateway_url, token_source(stack.token("alice"))) as hoop:
            for _ in range(200):
                for approval in hoop.approvals("pending"):
                    if mark in approval.sql and approval.id not in not_in:
                        return str(approval.id)
                time.sleep(0.05)
        raise AssertionError("the statement was never asked for")

    def answer(approval: str, verdict: str, *people: str) -> None:
        for who in people:
            with HoopClient(stack.info.gateway_url, token_source(stack.token(who))) as hoop:
                hoop.answer(approval, verdict, "because")

    waiting = threading.Thread(target=run)
    waiting.start()
    first = pending()
    policy.write(policy.original + FILTER)
    answer(first, "approve", "alice", "bob")
    second = pending(not_in=(first,))
    assert outcome == []
    answer(second, "reject", "alice")
    waiting.join(60)
    assert not waiting.is_alive()
    assert isinstance(outcome[0], Error)
