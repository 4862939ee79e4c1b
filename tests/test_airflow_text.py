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


# ---------------------------------------------------------------------- characters


def test_every_character_that_hoops_pages_mark_is_marked_in_airflow_too() -> None:
    from hoop_airflow.pages import _plainly
    from hoop_core.web.pages.plain import unseen

    planes = (*range(0x20000), *range(0xE0000, 0xE1000), 0x10FFFD)  # the others hold no other kinds
    marked = {c for c in map(chr, planes) if unseen(c)}
    assert len(marked) > 10_000
    text = "".join(sorted(marked))
    assert marked & set(fence(text)) == set()
    assert marked & set(_plainly(text)) == set()


@pytest.mark.parametrize(
    "c",
    [
        *("\ufe0f", "\U000e0101", "\u034f", "\u05d0", "\u0627", "\ufdfd", "\u0301", "\u0489"),
        *("\u180b", "\u2800", "\U0001d159", "\U00016fe4", "\u2065", "\U00013441"),
    ],
)
def test_marks_and_what_runs_from_right_to_left_show(c: str) -> None:
    assert visible(f"a{c}b") == f"a⟦U+{ord(c):04X}⟧b"


def test_letters_that_may_pass_for_others_stand_above_the_statement() -> None:
    sql = "DELETE FROM T WHERE NAME = 'p\u0430y'"
    body = shown([approval(sql=sql)], "https://hoop.test").body
    named = "\u0430 U\\+0430 CYRILLIC SMALL LETTER A"
    assert body.index(named) < body.index(sql)
    assert "ASCII" not in shown([approval()], "https://hoop.test").body


def test_the_rarest_letter_is_not_lost_among_many() -> None:
    sql = "".join(chr(n) * 2 for n in range(0x4E00, 0x4F00)) + "\u0430"
    body = shown([approval(sql=sql)], "https://hoop.test").body
    assert "CYRILLIC SMALL LETTER A" in body
    assert "and 237 more" in body


def test_a_sentence_that_is_cut_says_so() -> None:
    assert prose("a" * 1990 + " but drops all of it afterwards").endswith("…")
    assert prose("a" * 2000) == "a" * 2000


def test_that_it_does_not_fit_is_found_without_writing_it_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from hoop_core.bridges.airflow import text

    written: list[int] = []
    real = text.fence
    monkeypatch.setattr(
        text, "fence", lambda t, language="": written.append(1) or real(t, language)
    )
    assert shown([approval(sql="é" * 1_000_000)] * 20, "").options == ("Answered in Hoop", "Reject")
    assert written == []
