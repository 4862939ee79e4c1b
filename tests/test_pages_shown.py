"""What pages show: to whom, in which order, and never what a hostile text would have them show."""

from __future__ import annotations

import asyncio
import hashlib
import html
import re
import threading
import unicodedata
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from hoop_core.audit.log import utc_now
from hoop_core.characters import unseen
from hoop_core.store import Store
from hoop_core.web.pages.asked import asked as shown_request
from hoop_core.web.pages.asked import line_of
from hoop_core.web.pages.live import ALL, Live
from hoop_core.web.pages.plain import marked, odd_characters
from hoop_core.web.pages.rendering import HEADERS, distance
from hoop_core.web.pages.statements import coloured, compared, laid_out, pieces
from tests.pages_world import OWNERS, PagesWorld, Surfer, pages_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PagesWorld]:
    with pages_world("oidc", tmp_path_factory.mktemp("shown")) as made:
        yield made


@pytest.fixture(scope="module")
def ann(world: PagesWorld) -> Surfer:
    surfer = world.surfer("ann")
    surfer.get("/approvals")
    return surfer


def text_of(page: httpx.Response | str) -> str:
    root = etree.HTML(page if isinstance(page, str) else page.text)
    return " ".join("".join(root.itertext()).split())


# ---------------------------------------------------------------------- hostile texts

HOSTILE = {
    "html": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "attribute": '"\' onmouseover=alert(1) x="',
    "template": "{{ 7*7 }}{% raw %}",
    "close the page": "</pre></main></body></html><h1>Approved</h1>",
    "bidi": "abc\u202edrowssap\u202c",
    "isolate": "\u2066\u2067x\u2069",
    "zero width": "pay\u200bpal\u200d\ufeff",
    "ansi": "\x1b[2J\x1b[31mred\x07",
    "control": "a\x00b\x08c\x7fd\x85e",
    "homoglyph": "p\u0430yp\u0430l",
    "line separators": "one\u2028two\u2029three\r\nfour",
    "tags": "a\U000e0041\U000e007fb",
    "blank letters": "a\u3164b\u115fc\u2800d",
    "accents": "Z" + "\u0301" * 60,
    "surrogate": "a\ud800b",
    "long": "x" * 5000,
    "space": "a" + " " * 500 + "; DROP TABLE t",
    "lines": "a" + "\n" * 300 + "; DROP TABLE t",
}


@pytest.mark.parametrize("name", [n for n in HOSTILE if n != "surrogate"])
def test_no_text_of_a_stranger_forges_the_page(world: PagesWorld, ann: Surfer, name: str) -> None:
    evil = HOSTILE[name]
    asked = world.ask(
        f"DELETE FROM t WHERE a = '{evil}' -- {evil}",
        who=world.person(evil.replace("#", ""), "ml-agents"),
        reason=evil,
        reasons=[{"code": evil, "message": evil}],
        rules=[evil],
        writes=[evil],
        snowflake_role=evil,
        run={"orchestrator": evil, "fields": {"dag_id": evil, evil[:40]: evil}},
        filtered=[{"table": evil, "where": evil}],
        masked=[{"table": evil, "column": evil, "mask": evil, "used": True}],
        staged=[{"file": evil, "sha256": evil, "bytes": 1}],
        settings={"TIMEZONE": evil},
        parameters=[{"type": evil, "value": evil, "position": "1", "hidden": None, "length": 9}],
    )
    plain = world.ask(who=world.person("plain", "ml-agents"), reason="x",
                      rules=["x"], staged=[{"file": "x", "sha256": "x", "bytes": 1}])  # fmt: skip
    for path in (f"/approvals/{asked.id}", "/approvals?show=all"):
        page = ann.get(path)
        assert page.status_code == 200
        root = etree.HTML(page.text)
        assert [s.get("src") for s in root.iterfind(".//script")] == [
            s.get("src")
            for s in etree.HTML(ann.get(f"/approvals/{plain.id}").text).iterfind(".//script")
        ]
        assert not root.xpath("//@*[starts-with(name(), 'on')]")
        assert len(root.findall(".//main")) == len(root.findall(".//h1")) == 1
        assert not [c for c in page.text if unseen(c)]
    world.gateway.guard.desk.withdraw(asked.id, world.person(evil.replace("#", "")), "over")


def test_a_hostile_reason_of_an_approver_is_shown_as_text(world: PagesWorld, ann: Surfer) -> None:
    asked = world.ask(quorum=2)
    evil = "<b>fine</b>\u202e\x1b[31m </blockquote><h1>Approved</h1>"
    ann.answer(asked.id, reason=evil)
    page = ann.get(f"/approvals/{asked.id}")
    assert "<b>fine</b>[U+202E][U+001B][31m </blockquote><h1>Approved</h1>" in text_of(page)
    assert world.get(asked.id).answers[0]["reason"] == evil


@given(st.text(max_size=200), st.booleans())
def test_marking_leaves_nothing_out_and_nothing_unseen(text: str, foreign: bool) -> None:
    made = str(marked(text, foreign=foreign))
    read = html.unescape(re.sub(r"<[^>]*>", "", made))
    assert not any(unseen(c) for c in read)
    back = re.sub(r"\[U\+([0-9A-F]{4,6})\]", lambda m: chr(int(m[1], 16)), read)
    if "[U+" not in text and "[" not in text:
        kept = re.sub(r" {40,}|\n{6,}", "", text)
        assert re.sub(r"\s*\[\d+ (spaces|line ends)\]\s*", "", back).replace(" ", "").replace(
            "\n", ""
        ) == kept.replace(" ", "").replace("\n", "")


def test_ordinary_names_of_all_languages_stay_readable() -> None:
    for name in ("Zoë Müller", "Łukasz", "山田太郎", "Дмитрий", "محمد", "José Ángel"):
        assert unicodedata.normalize("NFC", name) in str(marked(unicodedata.normalize("NFC", name)))


def test_a_letter_that_looks_like_another_is_named() -> None:
    told = odd_characters('SELECT * FROM "p\u0430yments"')
    assert [(o.code, o.name) for o in told.listed] == [("U+0430", "CYRILLIC SMALL LETTER A")]
    assert 'class="foreign"' in str(coloured("SELECT '\u0430'"))


# ---------------------------------------------------------------------- the statement

SQL = st.lists(
    st.sampled_from(
        ["SELECT", "a", ",", " ", "\n", "FROM", "(", ")", "'x -- y'", '"A b"', "$$ /* $$", "-- c\n",
         "/* c\n */", "// c\n", "WHERE", "=", "1", "GROUP BY", "JOIN", "t", "AND", "''", "'\\''", ";"]
    ),
    max_size=60,
).map(" ".join)  # fmt: skip


@given(SQL)
def test_laying_out_changes_white_space_only(sql: str) -> None:
    assert "".join(p.text for p in pieces(sql)) == sql
    made = "".join(p.text for p in laid_out(pieces(sql)))
    assert re.sub(r"\s", "", made) == re.sub(r"\s", "", sql)


@given(SQL, SQL)
def test_both_sides_of_a_comparison_are_whole(before: str, after: str) -> None:
    found = compared(before, after)
    assert found is not None
    for side, text in ((found.before, before), (found.after, after)):
        read = html.unescape(re.sub(r'<span class="sr">[^<]*</span>|<[^>]*>', "", str(side)))
        assert re.sub(r"\s", "", read) == re.sub(r"\s", "", text)


def test_a_string_that_another_reader_would_take_for_a_comment_is_a_string() -> None:
    made = str(coloured("DELETE FROM t WHERE a = '\\' -- ' OR b = 1"))
    assert "t-comment" not in made
    assert '<span class="t-string">&#39;\\&#39; -- &#39;</span>' in made


def test_a_comparison_marks_items_and_passes_over_names_written_in_full() -> None:
    before = "select email, ssn from prod.crm.customers c"
    after = 'select email, NULL::VARCHAR AS "SSN" from "PROD"."CRM"."CUSTOMERS" c'
    found = compared(before, after)
    assert found is not None
    assert (found.removed, found.added) == (1, 1)
    assert "<del>" in found.inline
    assert "CUSTOMERS" not in str(re.findall(r"<(?:ins|del)>.*?</(?:ins|del)>", str(found.inline)))
    same = compared("delete from prod.x.t", 'delete from "PROD"."X"."T"')
    assert same is not None
    assert (same.removed, same.added) == (0, 0)


def test_a_very_long_statement_stands_there_whole() -> None:
    sql = "DELETE FROM t /*" + "x" * 200_000 + "*/ WHERE hidden_at_the_end = 1"
    assert html.unescape(str(coloured(sql))) == sql


@pytest.mark.parametrize(
    ("before", "after"),
    [("(" * 3000, ")" * 3000), ("a," * 20_000, "b," * 20_000), ("'" * 50_000, '"' * 50_000)],
)
def test_hostile_statements_are_compared_quickly_or_not_at_all(before: str, after: str) -> None:
    compared(before, after)


def test_the_exact_text_can_be_fetched_byte_for_byte(world: PagesWorld, ann: Surfer) -> None:
    sql = "DELETE  FROM t\r\n\tWHERE a = '\u202e\u0430' -- <b>\x1b[0m"
    asked = world.ask(sql)
    page = ann.get(f"/approvals/{asked.id}")
    file = ann.raw(f"/approvals/{asked.id}/statement.sql")
    assert file.content == sql.encode()
    assert hashlib.sha256(file.content).hexdigest() in page.text
    assert file.headers["content-type"].startswith("text/plain")
    assert "attachment" in file.headers["content-disposition"]
    assert "sandbox" in file.headers["content-security-policy"]


# ---------------------------------------------------------------------- in five seconds


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "nightly-scoring wants to DELETE from PROD.FEATURES.SCORES no WHERE clause"),
        ({"facts": {"has_where": True}}, "wants to DELETE from PROD.FEATURES.SCORES"),
        ({"facts": {"has_where": True, "is_unbounded": True}}, "a WHERE clause that excludes nothing"),
        ({"kind": "create_table", "facts": {"replaces": True}}, "replaces it if it is there"),
        ({"kind": "truncate"}, "TRUNCATE PROD.FEATURES.SCORES (remove every row)"),
        ({"kind": "create_table_as", "reads": ["A.B.C"]}, "PROD.FEATURES.SCORES from A.B.C"),
        ({"kind": "select", "reads": ["A.B.C", "A.B.D", "A.B.E"]}, "read A.B.C, A.B.D and 1 more"),
    ],
)  # fmt: skip
def test_the_headline_says_who_wants_what(
    world: PagesWorld, ann: Surfer, body: dict[str, Any], says: str
) -> None:
    page = ann.get(f"/approvals/{world.ask('DELETE FROM x', **body).id}")
    headline = " ".join("".join(etree.HTML(page.text).find(".//h1").itertext()).split())
    assert says in headline


def test_what_the_job_says_of_itself_is_called_that(world: PagesWorld, ann: Surfer) -> None:
    page = text_of(ann.get(f"/approvals/{world.ask().id}"))
    assert "Airflow, as the job says" in page
    assert "in nightly / score (as the job says)" in page


def test_who_acts_for_whom_is_told(world: PagesWorld, ann: Surfer) -> None:
    from dataclasses import replace

    agent = replace(world.person("una", "ml-agents"), actors=("https://idp#copilot",))
    page = text_of(ann.get(f"/approvals/{world.ask('DELETE FROM y', who=agent).id}"))
    assert "Asked by https://idp#copilot on behalf of una" in page


def test_the_impact_stands_beside_it(world: PagesWorld, ann: Surfer) -> None:
    asked = world.ask()
    assert "Not counted yet" in ann.get(f"/approvals/{asked.id}").text
    world.gateway.guard.desk.foresee(
        asked.id,
        {"state": "counted", "rows": 1284310, "what": "rows that would be deleted",
         "sql": "SELECT COUNT(*) FROM t", "partitions": 3, "partitions_total": 9, "bytes": 4096,
         "restore": "AT(TIMESTAMP => ...)", "why": None, "at": utc_now().isoformat()},
    )  # fmt: skip
    page = text_of(ann.get(f"/approvals/{asked.id}"))
    assert "1,284,310" in page
    assert "partitions read of 9" in page
    assert "SELECT COUNT(*) FROM t" in page
    assert "AT(TIMESTAMP => ...)" in page


def test_a_question_of_another_policy_is_called_outdated(world: PagesWorld, ann: Surfer) -> None:
    asked = world.ask(policy_digest="another")
    assert "The policy has changed" in ann.get(f"/approvals/{asked.id}").text


# ---------------------------------------------------------------------- to whom


def test_one_sees_what_one_asked_for_or_may_answer(world: PagesWorld) -> None:
    asked = world.ask(approvers=("hr-owners",))
    own = world.ask("DELETE FROM mine", who=world.person("eve", "ml-agents"))
    eve, rita = world.surfer("eve"), world.surfer("rita")
    refused = eve.get(f"/approvals/{asked.id}")
    assert refused.status_code == 404
    unknown = eve.get("/approvals/apr_00000000000000000000")
    assert refused.text == unknown.text.replace("apr_00000000000000000000", asked.id)
    assert eve.raw(f"/approvals/{asked.id}/statement.sql").status_code == 404
    assert eve.raw(f"/live?approval={asked.id}").status_code == 404
    listed = eve.get("/approvals?show=all").text
    assert own.id in listed
    assert asked.id not in listed
    assert rita.get(f"/approvals/{asked.id}").status_code == 200  # an auditor reads all
    assert 'value="approve"' not in rita.get(f"/approvals/{asked.id}").text


def test_the_inbox_is_paged_and_nothing_is_twice_or_missing(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with pages_world("oidc", tmp_path_factory.mktemp("paged")) as made:
        asked = [made.ask(f"DELETE FROM t{n}").id for n in range(60)]
        ann = made.surfer("ann")
        seen: list[str] = []
        way = "/approvals"
        while way:
            page = etree.HTML(ann.get(way).text)
            seen += [a.get("href").rpartition("/")[2] for a in page.iterfind(".//li//h2/a")]
            older = page.find(".//p[@class='pager']/a")
            way = "" if older is None else older.get("href")
        assert seen == asked  # the oldest first, so that none is forgotten
        assert ">60<" in ann.get("/approvals").text


@pytest.mark.parametrize("show", ["waiting", "mine", "decided", "all"])
def test_each_list_has_what_its_name_says(world: PagesWorld, show: str) -> None:
    ben = world.surfer("ben")
    waiting, mine = world.ask(), world.ask("DELETE FROM m", who=world.person("ben", OWNERS))
    decided = world.ask("DELETE FROM d")
    world.surfer("cat").answer(decided.id)
    listed = {
        i: i in _all_pages(ben, f"/approvals?show={show}")
        for i in (waiting.id, mine.id, decided.id)
    }
    expected = {"waiting": {waiting.id}, "mine": {mine.id}, "decided": {decided.id},
                "all": {waiting.id, mine.id, decided.id}}[show]  # fmt: skip
    assert {i for i, there in listed.items() if there} == expected


def _all_pages(surfer: Surfer, way: str) -> str:
    told = ""
    while way:
        page = surfer.get(way)
        told += page.text
        older = etree.HTML(page.text).find(".//p[@class='pager']/a")
        way = "" if older is None else older.get("href")
    return told


@pytest.mark.parametrize(
    "way", ["/approvals?show=nothing", "/approvals?before=x", "/approvals?before=2026-01-01~a",
            "/sessions?before=~", "/standing?before=99999-01-01~a"],
)  # fmt: skip
def test_addresses_that_mean_nothing_are_refused(ann: Surfer, way: str) -> None:
    assert ann.get(way).status_code == 400


@pytest.mark.parametrize(
    "way", ["/", "/approvals", "/approvals/apr_no", "/standing", "/sessions", "/sessions/no",
            "/sign-in", "/sign-in/arrived?ticket=x", "/signed-out", "/hoop/sso/start?login=x",
            "/hoop/sso/oidc?state=x", "/assets/none.css", "/approvals?show=x"],
)  # fmt: skip
def test_every_page_has_all_headers(world: PagesWorld, ann: Surfer, way: str) -> None:
    for page in (ann.raw(way), httpx.get(world.url + way)):
        for name, value in HEADERS.items():
            assert page.headers[name] == value, (way, name)
    assert "unsafe" not in HEADERS["content-security-policy"]


def test_files_of_the_pages_are_kept_by_browsers_and_change_their_names(
    world: PagesWorld, ann: Surfer
) -> None:
    page = etree.HTML(ann.get("/approvals").text)
    for path in [
        page.find(".//link[@rel='stylesheet']").get("href"),
        page.find(".//script").get("src"),
    ]:
        file = httpx.get(world.url + path)
        assert file.status_code == 200
        assert "immutable" in file.headers["cache-control"]
        assert hashlib.sha256(file.content).hexdigest()[:12] in path


def test_pages_hold_no_inline_script_or_style_and_nothing_from_elsewhere(
    world: PagesWorld, ann: Surfer
) -> None:
    page = etree.HTML(ann.get(f"/approvals/{world.ask().id}").text)
    assert all(s.get("src") and not s.text for s in page.iterfind(".//script"))
    assert not page.findall(".//style")
    assert not page.xpath("//@style")
    for address in page.xpath("//@href | //@src | //@action"):
        assert address.startswith(("/", "#"))
        assert not address.startswith("//")


# ---------------------------------------------------------------------- live


class _Counted(Live):
    looks = 0

    def _read(self, subjects: list[str]) -> dict[str, str]:
        self.looks += 1
        return super()._read(subjects)


def test_open_pages_hear_of_a_change_and_cost_no_thread(
    world: PagesWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hoop_core.web.pages.live._LOOK_SECONDS", 0.02)
    asked = world.ask(quorum=2)

    async def follow() -> tuple[list[bytes], int, int]:
        live = _Counted(world.gateway.store, most=1000, stopping=lambda: False)
        streams = [live.events(asked.id) for _ in range(300)] + [live.events(ALL)]
        firsts = await asyncio.gather(*(_stamp(s) for s in streams))
        before = threading.active_count()
        waiting = [asyncio.create_task(_stamp(s)) for s in streams]
        await asyncio.sleep(0.1)
        looks = live.looks
        assert not any(w.done() for w in waiting)
        await asyncio.to_thread(
            world.gateway.guard.desk.answer, asked.id, world.person("ann", OWNERS), "approve", "x"
        )
        seconds = await asyncio.gather(*waiting)
        assert all(a != b for a, b in zip(firsts, seconds, strict=True))
        for s in streams:
            await s.aclose()  # type: ignore[attr-defined]
        return seconds, looks, threading.active_count() - before

    _, looks, threads = asyncio.run(follow())
    assert threads <= 2
    assert looks < 30  # one for all 301 of them each time


async def _stamp(stream: Any) -> bytes:
    async for told in stream:
        if b"event: stamp" in told:
            return bytes(told)
    raise AssertionError("the stream has ended")


def test_streams_end_when_the_process_is_about_to(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hoop_core.web.pages.live._LOOK_SECONDS", 0.01)

    async def follow() -> list[bytes]:
        stopping = False
        live = Live(store, most=1, stopping=lambda: stopping)
        stream = live.events(ALL)
        told = [await anext(stream), await anext(stream)]
        assert live.full
        stopping = True
        told += [piece async for piece in stream]
        assert not live.full
        return told

    assert len(asyncio.run(follow())) == 2


def test_the_stream_is_for_those_who_are_signed_in(world: PagesWorld, ann: Surfer) -> None:
    assert httpx.get(f"{world.url}/live").status_code == 401
    with ann.client.stream("GET", f"{world.url}/live") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert next(answer.iter_lines()) == "retry: 2000"


# ---------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("seconds", "says"),
    [
        (10, "less than a minute"),
        (60, "1 min"),
        (3700, "1 h 1 min"),
        (90_061, "1 d 1 h"),
        (-5, "less than a minute"),
    ],
)
def test_spans_in_words(seconds: int, says: str) -> None:
    assert distance(timedelta(seconds=seconds)) == says


@pytest.mark.parametrize("kind", ["masking_exception", "standing_approval"])
def test_standing_grants_have_a_page(world: PagesWorld, ann: Surfer, kind: str) -> None:
    body = {
        "columns": ["PROD.CRM.CUSTOMERS.EMAIL"], "seconds": 14400, "reason": "campaign",
        "template": "DELETE FROM t WHERE day = :day", "rows_at_most": 500,
        "bounds": {"day": {"type": "date", "days_before": 7, "one_of": ["a", "b"]}},
        "schedule": {"orchestrator": "airflow", "dag_id": "nightly"},
    }  # fmt: skip
    asked = world.ask("", kind=kind, rewritten="", **body)
    page = text_of(ann.get(f"/approvals/{asked.id}"))
    if kind == "masking_exception":
        assert "wants to see PROD.CRM.CUSTOMERS.EMAIL unmasked for 4h" in page
    else:
        assert "DELETE FROM t WHERE day = :day" in page
        assert "date, days before 7, one of (2):" in page
        assert "Rows at most500" in page.replace(" 500", "500")
    made = shown_request(world.get(asked.id), world.person("ann", OWNERS), utc_now())
    assert made.can["approve"] is None
    assert line_of(world.get(asked.id), utc_now()).kind == kind


# ---------------------------------------------------------------------- sessions


def test_a_session_tells_its_statements_refusals_answers_and_digests_in_order(
    world: PagesWorld, ann: Surfer
) -> None:
    """For those who may read it; for others there is no such session."""
    who = world.person("eve", "ml-agents")
    identifier = "ses_" + hashlib.sha256(b"told").hexdigest()[:20]
    world.session(who, identifier, application=EVIL)
    log = world.gateway.log
    log.append("session.opened", {"snowflake_role": "ML_READER"}, session_id=identifier)
    log.append("statement.refused", {"sql": EVIL, "message": EVIL}, session_id=identifier)
    asked = world.ask("DELETE FROM s", who=who)
    log.append("approval.requested", {"approval": asked.id}, session_id=identifier)
    world.surfer("ben").answer(asked.id, reason="Agreed.")
    log.append(
        "statement.intent",
        {"executed": "DELETE FROM s", "approval": asked.id},
        session_id=identifier,
    )
    recording = [{"path": "x/00001.arrow", "sha256": "d" * 64, "size": 1}]
    log.append("statement.outcome", {"status": "succeeded", "rows": 7, "recording": recording},
               session_id=identifier)  # fmt: skip
    page = world.surfer("rita").get(f"/sessions/{identifier}")
    told = text_of(page)
    parts = ["Session opened", "Statement refused", "[U+202E]", "Approval asked for", "by ben", "Agreed.",
             "Statement sent to Snowflake", "DELETE FROM s", "Result", "SHA-256 " + "d" * 64]  # fmt: skip
    places = [told.index(p) for p in parts]
    assert places == sorted(places)
    assert "<script>alert" not in page.text
    assert identifier in world.surfer("eve").get("/sessions").text
    refused = world.surfer("ben").get(f"/sessions/{identifier}")
    assert refused.status_code == (200 if OWNERS in world.settings.gateway.readers else 404)
    other = world.surfer("pat_nobody")
    world.idp.groups["pat_nobody"] = ["guests"]
    assert other.get(f"/sessions/{identifier}").status_code == 404
    assert identifier not in other.get("/sessions").text


EVIL = "<script>alert(1)</script>\u202e"


@pytest.mark.parametrize(
    "before",
    ["x", "2026-11-23T00:00:00~a", "0001-01-01T00:00:00%2B23:59~a", "2026-11-23T00:00:00Z~"],
)
@pytest.mark.parametrize("path", ["/approvals?show=all&", "/standing?", "/sessions?"])
def test_a_page_of_a_list_that_cannot_be_is_refused(ann: Surfer, path: str, before: str) -> None:
    answer = ann.get(f"{path}before={before}")
    assert answer.status_code == 400
