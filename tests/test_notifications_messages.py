"""What a message says, and what no stranger's text can make of it."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hoop_core.approvals.approval import Approval
from hoop_core.model import ApprovalStatus
from hoop_core.notifications.fitting import fitted, size
from hoop_core.notifications.happenings import Happening, happening
from hoop_core.notifications.messages import Message, message
from hoop_core.notifications.plain import plain

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PAGE = "https://hoop.example.com/approvals/apr_1"
BODY: dict[str, Any] = {
    "kind": "delete",
    "requester": {"issuer": "https://idp", "subject": "a", "name": "churn-agent"},
    "actors": [],
    "run": {
        "orchestrator": "airflow",
        "fields": {"dag_id": "nightly", "task_id": "purge", "purpose": "card 4111111111111111"},
    },
    "snowflake_role": "ML",
    "account": "ACME",
    "sql": "DELETE FROM PROD.CRM.CUSTOMERS WHERE SSN = '917-12-3456'",
    "rewritten": "DELETE FROM PROD.CRM.CUSTOMERS WHERE SSN = '917-12-3456'",
    "parameters": [{"type": "TEXT", "value": "918-00-1111", "position": "1"}],
    "reads": ["PROD.CRM.CUSTOMERS"],
    "writes": ["PROD.CRM.CUSTOMERS"],
    "reasons": [{"code": "APPROVAL_REQUIRED", "message": "needs approval by 2 of owners"}],
    "rules": ["unbounded-change"],
}
IMPACT = {
    "state": "counted",
    "rows": 1234,
    "what": "rows that would be deleted",
    "sql": "SELECT COUNT(*) WHERE SSN = '917-12-3456'",
}


def approval(body: dict[str, Any] | None = None, **changes: Any) -> Approval:
    values: dict[str, Any] = {
        "id": "apr_1",
        "binding": "b",
        "scope": None,
        "requester_key": "k",
        "status": ApprovalStatus.PENDING,
        "approvers": ("owners",),
        "quorum": 2,
        "body": {**BODY, **(body or {})},
        "answers": (),
        "created_at": NOON,
        "pending_until": NOON + timedelta(hours=24),
        "valid_until": None,
        "consumed_at": None,
        "impact": IMPACT,
    }
    return Approval(**{**values, **changes})


def made(
    body: dict[str, Any] | None = None,
    event: Any = "requested",
    data: dict[str, Any] | None = None,
    *,
    show_sql: bool = False,
    **changes: Any,
) -> Message:
    happened = Happening(7, NOON, event, "apr_1", data or {}, "rejected")
    asked = approval(body, **changes)
    return message(happened, asked, page=PAGE, sender="msg_x", show_sql=show_sql)


def test_a_request_says_who_wants_what_why_it_was_stopped_and_where_to_answer() -> None:
    sent = made()
    assert sent.title == "Approval needed: delete PROD.CRM.CUSTOMERS by churn-agent"
    assert sent.text.splitlines() == [
        "Who: churn-agent",
        "Run: airflow dag_id nightly, task_id purge",
        "Why it was stopped: needs approval by 2 of owners",
        "Writes: PROD.CRM.CUSTOMERS",
        "Reads: PROD.CRM.CUSTOMERS",
        "Would do: 1234 rows that would be deleted",
        "Needs: 2 of owners",
        "Until: 2026-03-02 12:00 UTC",
    ]
    assert sent.link == PAGE
    assert sent.id == "msg_x_7"


@pytest.mark.parametrize("show_sql", [True, False])
def test_values_are_in_no_message_and_literals_only_where_the_text_is_wanted(
    show_sql: bool,
) -> None:
    sent = made(show_sql=show_sql)
    everything = sent.title + sent.text + sent.payload.decode()
    assert "918-00-1111" not in everything
    assert "4111111111111111" not in everything
    assert ("917-12-3456" in sent.text) is show_sql
    assert ("917-12-3456" in sent.payload.decode()) is show_sql


def test_a_decision_says_by_whom_and_why() -> None:
    by = {"issuer": "i", "subject": "s", "name": "Alice"}
    sent = made(event="decided", data={"approver": by, "reason": "not in the closing week"})
    assert sent.title.startswith("Rejected: delete PROD.CRM.CUSTOMERS")
    assert "By: Alice" in sent.text
    assert "Because: not in the closing week" in sent.text


def test_programs_get_exact_names() -> None:
    name = 'PROD.CRM."<odd> & @name"'
    content = json.loads(made({"writes": [name]}).payload)
    assert content["type"] == "approval.requested"
    assert content["timestamp"] == "2026-03-01T12:00:00Z"
    assert content["data"]["writes"] == [name]
    assert content["data"]["url"] == PAGE
    assert content["data"]["impact"]["rows"] == 1234
    assert "sql" not in content["data"]["impact"]


HOSTILE = [
    "<!channel> <@U123> @everyone @here",
    "[Approve](https://evil.example/approve)",
    "<https://evil.example|Open>",
    "<a href='https://evil.example'>x</a><script>alert(1)</script>",
    "fine\nOpen: https://evil.example/approvals/apr_1",
    "x\r\nBcc: everybody@example.com",
    "\u202egnp.exe \u200b\u2066hidden\u2069",
    "**bold** _it_ ~~no~~ `code` # head",
    "evil.example/login",
    "mailto:eve@evil.example",
    "&lt;b&gt; &#64;channel",
    "\x1b[31mred\x1b[0m \x00",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_stay_one_line_of_text(text: str) -> None:
    body = {
        "requester": {"name": text},
        "run": {"orchestrator": text, "fields": {"dag_id": text, "task_id": text}},
        "reasons": [{"code": "APPROVAL_REQUIRED", "message": text}],
        "writes": [text],
        "reads": [text],
    }
    by = {"issuer": "i", "subject": "s", "name": text}
    for event in ("requested", "decided"):
        sent = made(body, event, {"by": by, "reason": text})
        for told in (sent.title, sent.text):
            assert not re.search(r"[@<>\[\]`*\\|&]", told), told
            assert not re.search(r"://|\bevil\.example|mailto:", told)
            assert "\u202e" not in told
            assert "\x1b" not in told
        assert "\n" not in sent.title
        assert not [line for line in sent.text.splitlines() if line.startswith(("Open", "Bcc"))]


@given(st.text(max_size=300))
def test_plain_text_is_one_line_without_anything_active(text: str) -> None:
    shown = plain(text)
    assert len(shown) <= 200
    assert not re.search(
        r"[@<>\[\]`*\\|&~#/\x00-\x1f\x7f\u200b-\u200f\u2028-\u202e\u2066-\u2069]", shown
    )
    assert shown == " ".join(shown.split())


def test_full_names_of_tables_stay_as_they_are() -> None:
    assert plain("PROD.CRM.CUSTOMERS", table=True) == "PROD.CRM.CUSTOMERS"
    assert "Writes: PROD.CRM.CUSTOMERS" in made({}, "requested").text


@pytest.mark.parametrize(
    "name",
    [
        "WWW.EVIL.COM",
        "LOGIN.EVIL.IO",
        "evil\u3002com",
        "evil\uff0ecom",
        "evil\uff61com",
        "a.evil.com",
    ],
)
def test_no_name_that_a_client_gives_becomes_a_link(name: str) -> None:
    assert not re.search(r"(?i)evil[.\u3002\uff0e\uff61]", plain(name))
    run = {"orchestrator": "airflow", "fields": {"dag_id": name, "task_id": name}}
    sent = made(
        {"run": run, "actors": [name], "columns": [name], "kind": "masking_exception"}, "requested"
    )
    assert not re.search(r"(?i)evil[.\u3002\uff0e\uff61]", sent.title + sent.text)
    assert "WWW.EVIL" not in plain("WWW.EVIL.COM", table=True)


@given(st.lists(st.text(max_size=300), max_size=12), st.integers(min_value=0, max_value=2000))
def test_what_is_cut_fits_and_is_named(facts: list[str], room: int) -> None:
    lines = [f"Fact {n}: {' '.join(said.split())}" for n, said in enumerate(facts)]
    found = fitted(lines, room)
    assert sum(size(line) for line in found) <= room
    if found != lines and found:
        *shown, told = found
        cut = [f"Fact {n}" for n, line in enumerate(lines) if shown[n] != line]
        assert told == f"Cut, whole in Hoop: {', '.join(cut)}"


def test_the_longest_facts_are_cut_first() -> None:
    found = fitted(["Who: agent", "Run: " + "x" * 900, "Needs: 2 of owners"], 300)
    assert found[0] == "Who: agent"
    assert found[1].endswith("x…")
    assert found[2:] == ["Needs: 2 of owners", "Cut, whole in Hoop: Run"]


@pytest.mark.parametrize(
    ("kind", "data", "event", "outcome"),
    [
        ("approval.requested", {}, "requested", ""),
        ("approval.answered", {"status": "pending"}, None, ""),
        ("approval.answered", {"status": "approved"}, "decided", "approved"),
        ("approval.withdrawn", {}, "decided", "withdrawn"),
        ("approval.expired", {"kind": "delete", "was": "pending"}, "decided", "expired"),
        (
            "approval.expired",
            {"kind": "masking_exception", "was": "approved"},
            "standing_ended",
            "expired",
        ),
        (
            "approval.revoked",
            {"kind": "standing_approval", "was": "approved"},
            "standing_ended",
            "revoked",
        ),
        ("approval.drifted", {"kind": "standing_approval"}, "standing_ended", "void"),
        ("approval.answer_refused", {}, None, ""),
        ("approval.impact", {}, None, ""),
        ("approval.something_new", {}, None, ""),
    ],
)
def test_what_counts_as_news(
    kind: str, data: dict[str, Any], event: str | None, outcome: str
) -> None:
    entry = {"at": "2026-03-01T12:00:00Z", "data": {"approval": "apr_1", **data}}
    found = happening(3, kind, json.dumps(entry))
    if event is None:
        assert found is None
    else:
        assert found is not None
        assert (found.event, found.outcome, found.at) == (event, outcome, NOON)
