"""What an approver signs stands on the page that offers to sign it: all of it, and so that it can be seen."""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lxml import etree

from hoop_core.approvals import schedules
from hoop_core.approvals.approval import Approval
from hoop_core.approvals.schedules import StandingBinding
from hoop_core.characters import unseen
from hoop_core.model import ApprovalStatus, Identity, NameContext, RunContext
from hoop_core.records import person_json
from hoop_core.sql.templates import LONGEST_CHOICE, MOST_CHOICES, Template
from hoop_core.web.pages import alignment
from hoop_core.web.pages.alignment import aligned
from hoop_core.web.pages.asked import asked
from hoop_core.web.pages.people import Visitor
from hoop_core.web.pages.plain import marked, odd_characters
from hoop_core.web.pages.rendering import Rendering
from hoop_core.web.pages.statements import compared
from tests.test_approvals_schedules import AGENT, bound, judged

OWNER = Identity("https://idp", "ann", "ann", ("owners",), "oidc", "")
RENDERING = Rendering()
TEXTS = st.text(
    st.characters(categories=("L", "N", "P", "S"), exclude_characters="'\\").filter(
        lambda c: not unseen(c)
    ),
    min_size=1,
    max_size=LONGEST_CHOICE,
)


def leaves(given: Any) -> Iterator[str]:
    if isinstance(given, dict):
        for value in given.values():
            yield from leaves(value)
    elif isinstance(given, list | tuple):
        for value in given:
            yield from leaves(value)
    else:
        yield str(given)


def page_of(approval: Approval) -> str:
    visitor = Visitor(OWNER, "h" * 64, "c" * 64)
    page = RENDERING.page(
        "request.html", visitor=visitor, at="standing", mine=None, outdated=False, done=False, said="",
        fault="", reason="", asked=asked(approval, OWNER, datetime.now(UTC)),
    )  # fmt: skip
    return bytes(page.body).decode()


def read(page: str) -> str:
    """As a reader has it: with nothing of what is for machines, and nothing of the colours."""
    root = etree.HTML(page)
    return "".join(root.find(".//main").itertext())


def standing(template: Template, settings: dict[str, Any], run: dict[str, str]) -> Approval:
    run_context = RunContext("airflow", {"dag_id": "d", "task_id": "t", **run})
    binding = bound(settings=tuple(settings.items()), run=run_context)
    terms = StandingBinding(
        binding, NameContext("A_DATABASE", "A_SCHEMA"), template, 77, 55, timedelta(days=9)
    )
    groups = ["ml", *(f"group-{n}" for n in range(60))]
    requester = person_json(replace(AGENT, groups=tuple(groups)))
    body = schedules.question(terms, judged(), {}, requester, "nightly")
    wanted = [
        *leaves(terms.rests_on()),
        *leaves(schedules.schedule_of(run_context)),
        *settings,
        *groups,
    ]
    made = Approval(
        "apr_1", "b", terms.scope, AGENT.key, ApprovalStatus.PENDING, ("owners",), 1, body, (),
        datetime.now(UTC), datetime.now(UTC) + timedelta(hours=1), None, None,
    )  # fmt: skip
    page = page_of(made)
    assert 'value="approve"' in page
    text = read(page)
    missing = [w for w in wanted if w not in text]
    assert not missing
    return made


@given(
    st.lists(TEXTS, min_size=1, max_size=60, unique=True),
    st.dictionaries(st.from_regex(r"[A-Z_]{1,30}", fullmatch=True), TEXTS, max_size=6),
    TEXTS,
)
@example(
    [f"REGION_{n:03d}" for n in range(60)] + ["ALL_CUSTOMERS"], {"X": "Y" * 199 + "Z"}, "d" * 199
)
@example([f"{n:0200d}" for n in range(1000)], {}, "x")
def test_all_that_a_standing_approval_rests_on_stands_on_its_page(
    choices: list[str], settings: dict[str, str], job: str
) -> None:
    assert len(choices) <= MOST_CHOICES
    limits = {
        "region": {"type": "text", "one_of": choices},
        "day": {"type": "date", "days_before": 31, "days_after": 17},
        "n": {"type": "number", "min": -12345, "max": 98765},
    }
    text = "DELETE FROM T WHERE REGION = {region} AND DAY > {day} AND N < {n}"
    standing(Template.read(text, limits), settings, {"dag_id": job})


def test_a_list_says_how_long_it_is_and_where_each_value_ends() -> None:
    limits = {"r": {"type": "text", "one_of": ["a", "b or c", "d, e"]}}
    made = standing(Template.read("DELETE FROM T WHERE R = {r}", limits), {}, {})
    root = etree.HTML(page_of(made))
    (place,) = [d for d in root.iterfind(".//dl/div") if (d.findtext("dt") or "") == "r"]
    assert "one of (3)" in "".join(place.itertext())
    assert [c.text for c in place.iterfind(".//li/code")] == ["a", "b or c", "d, e"]


def test_the_account_and_the_tables_of_a_request_stand_on_its_page() -> None:
    template = Template.read(
        "DELETE FROM T WHERE N = {n}", {"n": {"type": "number", "min": 0, "max": 9}}
    )
    made = standing(template, {}, {})
    made = replace(
        made, body={**made.body, "account": "prod-eu", "reads": [f"A.B.T{n}" for n in range(300)]}
    )
    text = read(page_of(made))
    assert "prod-eu" in text
    assert "A.B.T299" in text


# ---------------------------------------------------------------------- white space

BLANKS = st.lists(st.sampled_from([" ", "\t", "\n"]), max_size=120).map("".join)


def _widest(run: str) -> int:
    return max(len(line.expandtabs(4)) for line in run.split("\n"))


@given(BLANKS)
@example("\t" * 3000)
@example("\n " * 3000)
@example((" " * 39 + "\t") * 100)
@example("\n" + " " * 39)
def test_white_space_that_pushes_text_out_of_sight_is_counted(run: str) -> None:
    made = str(marked(f"a{run}b"))
    hides = run.count("\n") >= 6 or _widest(run) >= 40
    assert ("unseen" in made) == hides
    if hides:
        for name, count in (("space", run.count(" ")), ("tab", run.count("\t")),
                            ("line end", run.count("\n"))):  # fmt: skip
            assert (f"{count} {name}" in made) == (count > 0)
        shown = re.sub(r"<[^>]*>", "", made)
        assert _widest("".join(c for c in shown if c.isspace())) < 40
    else:
        assert made == f"a{run}b"


@given(st.integers(0, 0x10FFFF).map(chr))
@example("\U0001d159")
@example("\U00016fe4")
@example("\u180b")
@example("\u115f")
@example("\u00ad")
def test_nothing_that_nobody_sees_is_shown_as_it_is(character: str) -> None:
    made = str(marked(f"a{character}b"))
    if unseen(character):
        assert made.endswith(f">[U+{ord(character):04X}]</span>b")
        assert character not in made
    else:
        assert html.unescape(re.sub(r"<[^>]*>", "", made)) == f"a{character}b"


def test_the_one_letter_that_deceives_is_listed_before_those_that_abound() -> None:
    decoys = "".join(chr(0xE0 + n) * 2 for n in range(30) if n != 23)
    told = odd_characters(f"x = '{decoys}' AND \u0441ol = 1")
    assert told.listed[0].code == "U+0441"
    assert len(told.listed) + told.more == 30


# ---------------------------------------------------------------------- comparing

WORDS = st.lists(st.sampled_from("abcde"), max_size=14)


def _longest(a: list[str], b: list[str]) -> int:
    """The longest common subsequence, from its definition."""
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, k in itertools.product(range(len(a)), range(len(b))):
        table[i + 1][k + 1] = (
            table[i][k] + 1 if a[i] == b[k] else max(table[i][k + 1], table[i + 1][k])
        )
    return table[-1][-1]


@given(WORDS, WORDS)
def test_an_alignment_is_the_longest_in_order(a: list[str], b: list[str]) -> None:
    found = aligned(a, b)
    assert found is not None
    assert len(found) == _longest(a, b)
    assert all(a[i] == b[k] for i, k in found)
    assert all(i < j and k < m for (i, k), (j, m) in itertools.pairwise(found))


def test_an_alignment_takes_a_bounded_number_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 0
    start = alignment._start

    def counted(reached: dict[int, int], k: int, edits: int) -> int:
        nonlocal taken
        taken += 1
        return start(reached, k, edits)

    monkeypatch.setattr(alignment, "_start", counted)
    for size in (100, 1000, 20_000):
        taken = 0
        assert (aligned(["a", "b"] * size, ["b", "b", "a", "a"] * (size // 2)) is None) == (
            size > 500
        )
        assert taken <= alignment._MOST_STEPS + 4 * size


@pytest.mark.parametrize("items", [10, 430, 3000])
def test_comments_alone_make_no_difference(items: int) -> None:
    after = "SELECT " + ", ".join(["1", "2"] * items) + " FROM T"
    before = after.replace("2", "2/*c*/").replace(" FROM", " -- all of it\nFROM")
    found = compared(before, after)
    assert found is not None
    assert (found.removed, found.added) == (0, 0)
    assert "/*" not in found.inline
    assert "<del>" not in found.inline


def test_masks_all_over_a_long_list_are_each_marked() -> None:
    names = [f"COLUMN_{n}" for n in range(400)]
    before = f"SELECT {', '.join(names)} FROM T"
    after = (
        f"SELECT {', '.join(n if k % 2 else f'NULL AS {n}' for k, n in enumerate(names))} FROM T"
    )
    found = compared(before, after)
    assert found is not None
    assert (found.removed, found.added) == (200, 200)
