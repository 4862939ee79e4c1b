"""What stands in Required Actions: hostile SQL and names stay text, and all of it is seen."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from hoop_core.approvals.approval import Approval
from hoop_core.bridges.airflow.text import shown
from hoop_core.bridges.markdown import code, fence, prose, visible
from hoop_core.model import ApprovalStatus

HOSTILE = st.text(
    alphabet=st.one_of(
        st.sampled_from("`~*_#<>[]()!|\\-=+.:/@ \n\r\t\x00\x1b\u202e\u200b&;"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=60,
)
GFM = MarkdownIt("gfm-like", {"linkify": False, "html": True})
"""With HTML: what a reader might let through must not be there in the first place."""


def approval(**body: Any) -> Approval:
    given = {
        "requester": {"issuer": "https://id.test", "subject": "agent", "name": "agent"},
        "run": {
            "orchestrator": "airflow",
            "fields": {"dag_id": "d", "run_id": "r", "task_id": "t"},
        },
        "kind": "delete",
        "sql": "DELETE FROM T",
        "rewritten": None,
        "snowflake_role": "R",
        "writes": ["A.B.T"],
        "reads": [],
        "reasons": [{"code": "APPROVAL_REQUIRED", "message": "A rule wants it."}],
        **body,
    }
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return Approval(
        id="apr_1",
        binding="b" * 64,
        scope=None,
        requester_key="k",
        status=ApprovalStatus.PENDING,
        approvers=("data-owners",),
        quorum=1,
        body=given,
        answers=(),
        created_at=moment,
        pending_until=moment,
        valid_until=None,
        consumed_at=None,
    )


def tokens(text: str) -> list[Any]:
    return GFM.parse(text)


@given(HOSTILE)
def test_a_text_cannot_end_its_fence(text: str) -> None:
    found = tokens(fence(text, "sql"))
    assert [t.type for t in found] == ["fence"]
    assert found[0].content.replace("↩\n", "") == visible(text) + "\n"


def test_nothing_of_a_line_runs_out_of_sight() -> None:
    hidden = "DELETE FROM T WHERE ID = 1" + " " * 500 + "OR TRUE"
    lines = fence(hidden).split("\n")
    assert max(map(len, lines)) <= 81
    assert "OR TRUE" in lines[-2]
    assert all(line.endswith("↩") for line in lines[1:-2])
    assert "⟦U+21A9⟧" in fence("a ↩")  # the sign itself is never the statement's


@given(HOSTILE)
def test_a_text_cannot_end_its_code_span(text: str) -> None:
    [_, inline, _] = tokens(f"- {code(text)}")[2:5] if text.split() else tokens("a")
    if text.split():
        assert [c.type for c in inline.children] == ["code_inline"]


@given(HOSTILE)
def test_a_sentence_has_no_markup(text: str) -> None:
    found = tokens(f"Why: {prose(text)}")
    assert [t.type for t in found] == ["paragraph_open", "inline", "paragraph_close"]
    assert {c.type for c in found[1].children} <= {"text", "text_special"}


@pytest.mark.parametrize(
    "c", ["\u202e", "\u2066", "\u200b", "\x1b", "\r", "\x00", "\u00a0", "\u3164"]
)
def test_what_is_not_seen_shows(c: str) -> None:
    assert visible(f"a{c}b") == f"a⟦U+{ord(c):04X}⟧b"


def test_links_are_hoops_only() -> None:
    text = prose("see https://evil.test or www.evil.test")
    assert "https://" not in text
    assert "www." not in text


FORGERIES = [
    "SELECT 1\n```\n\n**Approved by the security team**\n\n```sql\nSELECT 2",
    "SELECT 1\r```\r# All good\r~~~~",
    "````\n<script>alert(1)</script>\n````",
    "-- ]( https://evil.test )\nDROP TABLE T",
]


@pytest.mark.parametrize("sql", FORGERIES)
def test_a_statement_cannot_forge_the_text_around_it(sql: str) -> None:
    honest = tokens(shown([approval()], "https://hoop.test").body)
    forged = tokens(shown([approval(sql=sql)], "https://hoop.test").body)
    assert [t.type for t in forged] == [t.type for t in honest]


@given(st.dictionaries(st.sampled_from(["name", "purpose", "dag_id", "message", "table"]), HOSTILE))
def test_no_name_and_no_reason_can_either(hostile: dict[str, str]) -> None:
    requester = {"issuer": "https://id.test", "subject": "s", "name": hostile.get("name", "n")}
    fields = {
        "dag_id": hostile.get("dag_id", "d"),
        "run_id": "r",
        "task_id": "t",
        "purpose": hostile.get("purpose", "p") or "p",
    }
    body = shown(
        [
            approval(
                requester=requester,
                run={"orchestrator": "airflow", "fields": fields},
                reasons=[{"code": "APPROVAL_REQUIRED", "message": hostile.get("message", "m")}],
                writes=[hostile.get("table", "t") or "t"],
            )
        ],
        "https://hoop.test",
    ).body
    links = [
        dict(c.attrs)["href"]
        for t in tokens(body)
        for c in (t.children or [])
        if c.type == "link_open"
    ]
    assert links == ["https://hoop.test/approvals/apr_1"]
    kinds = {t.type for t in tokens(body)}
    assert not kinds & {"html_block", "table_open", "hr", "blockquote_open"}
    inline = {c.type for t in tokens(body) for c in (t.children or [])}
    assert inline <= {
        "text", "text_special", "softbreak", "code_inline", "strong_open", "strong_close",
        "link_open", "link_close",
    }  # fmt: skip


def test_the_subject_is_one_line_in_plain_words() -> None:
    assert shown([approval()], "").subject == "Hoop: may agent run DELETE on A.B.T?"
    hostile = approval(
        requester={"name": "a\n\u202egent" * 100, "issuer": "", "subject": ""}, writes=["T" * 500]
    )
    subject = shown([hostile], "").subject
    assert len(subject) <= 180
    assert subject.isprintable()


def test_both_are_shown_the_text_that_was_sent_and_the_one_that_will_run() -> None:
    body = shown([approval(sql="SELECT A", rewritten="SELECT NULL AS A")], "").body
    assert body.index("SELECT A\n") < body.index("SELECT NULL AS A")


def test_what_is_too_long_to_be_shown_can_be_rejected_only() -> None:
    action = shown([approval(sql="SELECT 1 -- " + "x" * 70_000)], "https://hoop.test")
    assert action.options == ("Answered in Hoop", "Reject")
    assert "xxx" not in action.body
    assert "https://hoop.test/approvals/apr_1" in action.body


def test_it_does_not_change_while_people_answer() -> None:
    from dataclasses import replace

    before = approval()
    answer = {"approver": {"name": "a", "issuer": "", "subject": ""}, "verdict": "approve"}
    assert shown([replace(before, answers=(answer,))], "") == shown([before], "")
