"""One person's pages, forms and tabs cost the others nothing, and what a page says of itself is so."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from lxml import etree
from sqlalchemy import func, select, update

from hoop_core.identity.throttle import Throttle
from hoop_core.model import ApprovalStatus
from hoop_core.signin.browser import BrowserSignIn
from hoop_core.store import Store
from hoop_core.store.sign_ins import Journeys
from hoop_core.store.tables import browser_sign_ins, pending_answers, web_sessions
from hoop_core.store.web_sessions import PendingAnswers
from hoop_core.web.pages import evidence, making
from hoop_core.web.pages.making import TooManyPages, Workshop
from tests.identity_world import token
from tests.pages_world import PagesWorld, Surfer, pages_world
from tests.postgres_server import BOTH

DATABASES = BOTH


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PagesWorld]:
    settings = {"failures_per_minute": 0, "logged_per_minute": 1000}
    with pages_world("oidc", tmp_path_factory.mktemp("limits"), sign_in=settings) as made:
        yield made


@pytest.fixture
def ann(world: PagesWorld) -> Surfer:
    surfer = world.surfer("ann")
    surfer.get("/approvals")
    return surfer


def rows(world: PagesWorld, table: Any) -> int:
    with world.gateway.store.read() as connection:
        return int(connection.scalar(select(func.count()).select_from(table)) or 0)


# ---------------------------------------------------------------------- making pages


def test_a_persons_pages_take_turns_and_leave_room_for_others() -> None:
    async def scene() -> None:
        workshop, done = Workshop(), threading.Event()
        at_work: list[str] = []

        def slow() -> None:
            at_work.append(threading.current_thread().name)
            done.wait(30)

        eve = [asyncio.create_task(workshop.make("eve", slow)) for _ in range(making._MOST_WAITING)]
        while len(at_work) < making._AT_ONCE:
            await asyncio.sleep(0.001)
        assert await workshop.make("ann", lambda: "a page") == "a page"
        with pytest.raises(TooManyPages, match="20 pages"):
            await workshop.make("eve", slow)
        assert len(at_work) == making._AT_ONCE
        assert all(name.startswith("pages") for name in at_work)  # the store has threads of its own
        done.set()
        await asyncio.gather(*eve)
        assert not workshop._turns
        assert await workshop.make("eve", lambda: "a page") == "a page"

    asyncio.run(scene())


def test_a_page_that_fails_gives_its_turn_back() -> None:
    async def scene() -> None:
        workshop = Workshop()

        def fails() -> None:
            raise ValueError

        for _ in range(making._MOST_WAITING + 1):
            with pytest.raises(ValueError):
                await workshop.make("eve", fails)
        assert not workshop._asked

    asyncio.run(scene())


def test_requests_and_sessions_are_made_in_the_pages_threads(
    world: PagesWorld, ann: Surfer, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    render = world.gateway.pages.rendering.page

    def noted(name: str, *args: Any, **values: Any) -> Any:
        made.append(threading.current_thread().name)
        return render(name, *args, **values)

    monkeypatch.setattr(world.gateway.pages.rendering, "page", noted)
    session = "ses_threads"
    world.session(world.person("ann"), session)
    for path in (f"/approvals/{world.ask().id}", "/approvals", "/standing", f"/sessions/{session}"):
        assert ann.raw(path).status_code == 200
    assert len(made) == 4
    assert all(name.startswith("pages") for name in made)


def test_a_session_full_of_long_statements_is_read_in_parts_and_none_is_left_out(
    world: PagesWorld, ann: Surfer
) -> None:
    world.session(world.person("ann"), "ses_long")
    sql = "SELECT " + "1," * 9900 + "1"
    for n in range(30):
        entry = {"sql": f"{sql} AS N{n}", "reason": "X"}
        world.gateway.log.append("statement.refused", entry, session_id="ses_long")
    way, seen, pages = "/sessions/ses_long", list[str](), 0
    while way:
        page = ann.raw(way)
        assert len(page.content) < 4 * evidence._ROOM
        root = etree.HTML(page.text)
        steps = root.findall(".//li[@class='step no']")
        seen += [step.find(".//span").text for step in steps]
        for step in steps:
            shown = "".join(step.find(".//pre").itertext())
            assert len("".join(shown.split())) <= evidence._MOST_SQL
            assert "hoop audit export" in "".join(step.itertext())
        older = root.find(".//p[@class='pager']/a")
        way = "" if older is None else older.get("href")
        pages += 1
    assert len(seen) == len(set(seen)) == 30
    assert pages == 4  # of 200,000 characters each


# ---------------------------------------------------------------------- answers that wait


def test_of_one_person_only_the_newest_answers_wait(store: Store) -> None:
    pending, journeys = PendingAnswers(store), Journeys(store)
    of_ann = pending.handle_for("https://idp#ann")
    pending.put(of_ann, {"journey": "x"}, 60)
    handles, ways = [], []
    for n in range(30):
        handles.append(pending.handle_for("https://idp#eve"))
        ways.append(secrets.token_hex(32))
        journeys.begin(ways[-1], "k" * 64, 0, 60)
        pending.put(handles[-1], {"n": n, "journey": ways[-1]}, 60 + n)
    assert [journeys.by_handle(w) is not None for w in ways] == [False] * 10 + [True] * 20
    kept = [(pending.take(h) or {}).get("n") for h in handles]
    assert kept == [None] * 10 + list(range(10, 30))
    assert pending.take(of_ann) is not None


def test_handles_of_one_person_share_a_part_and_nobody_elses() -> None:
    pending = PendingAnswers.__new__(PendingAnswers)
    eve = {pending.handle_for("eve") for _ in range(50)}
    assert len(eve) == 50
    assert len({h[:24] for h in eve}) == 1
    assert all(len(h) == 64 for h in eve)
    assert pending.handle_for("ann")[:24] != next(iter(eve))[:24]


def test_who_begins_too_many_answers_leaves_nothing_behind_and_holds_up_nobody(
    world: PagesWorld, ann: Surfer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()  # and so it stays
    browser: BrowserSignIn = world.gateway.sign_in.browser
    monkeypatch.setattr(browser, "_proofs", Throttle(3, clock=lambda: now))
    monkeypatch.setattr(browser, "_begun", Throttle(2, clock=lambda: now))
    asked = world.ask(who=world.person("eve", "ml-agents"))
    ben = world.surfer("ben")
    ben.get("/approvals")
    eve = world.surfer("eve")
    eve.get("/approvals")
    fields = eve.form(eve.raw(f"/approvals/{asked.id}"))
    before = rows(world, pending_answers), rows(world, browser_sign_ins)
    codes = [eve.send(asked.id, "withdraw", fields=fields).status_code for _ in range(10)]
    assert codes == [200] * 3 + [503] * 7
    assert (rows(world, pending_answers), rows(world, browser_sign_ins)) == (
        before[0] + 3,
        before[1] + 3,
    )
    # the others behind her address sign in and answer as ever
    assert ann.answer(asked.id).status_code == 200
    assert world.get(asked.id).status is ApprovalStatus.APPROVED


def test_an_answer_whose_place_was_taken_is_not_given(world: PagesWorld, ann: Surfer) -> None:
    asked = world.ask()
    first = ann.send(asked.id)
    pending = PendingAnswers(world.gateway.store)
    who = world.person("ann").key
    for _ in range(20):
        pending.put(pending.handle_for(who), {"journey": "x"}, 600)
    page = ann.follow(first)
    assert page.status_code == 403
    assert not world.get(asked.id).answers


# ---------------------------------------------------------------------- sessions


def _ago(world: PagesWorld, seconds: float) -> None:
    with world.gateway.store.write() as connection:
        connection.execute(
            update(web_sessions).values(seen_at=datetime.now(UTC) - timedelta(seconds=seconds))
        )


def _seen(world: PagesWorld) -> float:
    with world.gateway.store.read() as connection:
        at = connection.scalar(select(func.max(web_sessions.c.seen_at)))
    assert at is not None
    return (datetime.now(UTC) - at).total_seconds()


def test_an_open_page_that_nobody_looks_at_keeps_no_session_alive(
    world: PagesWorld, ann: Surfer
) -> None:
    _ago(world, 500)
    with ann.client.stream("GET", f"{world.url}/live") as answer:
        assert answer.status_code == 200
    ann.raw("/approvals", **{"x-hoop-live": "1"})
    assert _seen(world) > 400
    ann.raw("/approvals")
    assert _seen(world) < 400
    _ago(world, world.settings.pages.idle_seconds + 1)
    assert httpx.get(f"{world.url}/live", cookies=dict(ann.client.cookies)).status_code == 401


# ---------------------------------------------------------------------- what a page says


@pytest.mark.parametrize(
    "said", ["approve", "reject", "withdraw", "revoke", "break_glass", "review", "x"]
)
def test_an_address_cannot_say_that_something_was_done(
    world: PagesWorld, ann: Surfer, said: str
) -> None:
    asked = world.ask()
    page = ann.raw(f"/approvals/{asked.id}?said={said}").text
    assert "Done." not in page
    assert "is recorded" not in page
    world.surfer("ben").answer(asked.id)
    page = ann.raw(f"/approvals/{asked.id}?said={said}").text
    assert "Done." not in page
    assert "is recorded" not in page


def test_what_was_done_is_said_to_whom_did_it(world: PagesWorld, ann: Surfer) -> None:
    asked = world.ask()
    assert "Your answer is recorded" in ann.answer(asked.id, "reject").text
    assert "is recorded" not in ann.raw(f"/approvals/{asked.id}?said=approve").text
    own = world.ask("DELETE FROM own", who=world.person("ann"))
    assert "Done." in ann.answer(own.id, "withdraw").text
    assert "Done." not in ann.raw(f"/approvals/{own.id}?said=revoke").text


@pytest.mark.parametrize("count", ["9" * 5000, "\u0661", "-1", "1e9", ""])
def test_a_form_of_a_state_that_never_was_is_stale_and_on_record(
    world: PagesWorld, ann: Surfer, count: str
) -> None:
    asked = world.ask()
    fields = ann.form(ann.raw(f"/approvals/{asked.id}"))
    page = ann.send(asked.id, fields={**fields, "state": f"pending.{count}.x"})
    assert page.status_code == 409
    assert "has changed since" in page.text
    told = [e["reason"] for e in world.log("approval.answer_refused") if e["approval"] == asked.id]
    assert told == ["STALE_FORM"]


def test_rest_does_not_say_which_requests_there_are(world: PagesWorld) -> None:
    asked = world.ask()
    bearer = {"authorization": "Bearer " + token(iss=world.idp.url, sub="zoe", groups=[])}
    there, nowhere = (
        httpx.get(f"{world.url}/hoop/v1/approvals/{i}", headers=bearer)
        for i in (asked.id, "apr_" + "0" * 20)
    )
    assert (there.status_code, nowhere.status_code) == (404, 404)
    assert there.text == nowhere.text.replace("apr_" + "0" * 20, asked.id)


# ---------------------------------------------------------------------- links of strangers


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_link_of_another_site_signs_no_program_in_without_a_question(
    world: PagesWorld, site: str
) -> None:
    before = rows(world, browser_sign_ins)
    way = f"/console/login?browser_mode_redirect_port=5000&proof_key={'x' * 43}"
    asked = httpx.get(world.url + way, headers={"sec-fetch-site": site})
    assert asked.status_code == 200
    assert "Do you want to sign in a program?" in asked.text
    assert rows(world, browser_sign_ins) == before
    button = etree.HTML(asked.text).find(".//main//a").get("href")
    assert button == way
    begun = httpx.get(world.url + button, headers={"sec-fetch-site": "same-origin"})
    assert begun.status_code == 303
    page = begun.headers["location"]
    assert "Do you want" in httpx.get(page, headers={"sec-fetch-site": site}).text
    assert httpx.get(page, headers={"sec-fetch-site": "none"}).status_code == 303


def test_the_question_is_no_place_for_a_strangers_markup(world: PagesWorld) -> None:
    way = '/hoop/sso/start?login="><script>alert(1)</script>'
    asked = httpx.get(world.url + way, headers={"sec-fetch-site": "cross-site"})
    root = etree.HTML(asked.text)
    assert not root.findall(".//main//script")
    (link,) = root.findall(".//main//a")
    assert link.get("href").startswith("/hoop/sso/start?login=")
