"""Hoop's pages in a real Chromium: by mouse and keyboard, with scripts and without, in light and dark, under attack."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from hoop_core.model import ApprovalStatus
from tests.chromium import chromium, context, serious
from tests.pages_world import PagesWorld, pages_world
from tests.sign_in_world import new_ports, served

if TYPE_CHECKING:
    from collections.abc import Callable

    from hoop_core.devstack.stack import DevStack

pytestmark = pytest.mark.browser
HOSTILE = "</pre><script>document.title='forged'</script>\u202e<img src=x onerror=\"document.title='forged'\">"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module", params=["oidc", "saml"])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PagesWorld]:
    """The provider is another site than Hoop, so cookies and forms behave as in the world."""
    folder = tmp_path_factory.mktemp(f"browser-{request.param}")
    with pages_world(request.param, folder, host="localhost") as made:
        yield made


@pytest.fixture(scope="module")
def oidc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PagesWorld]:
    with pages_world("oidc", tmp_path_factory.mktemp("browser"), host="localhost") as made:
        yield made


def signed_in(browser: Browser, world: PagesWorld, who: str = "ann", **options: Any) -> Page:
    page = context(browser, **options).new_page()
    page.goto(f"{world.url}/approvals")
    pass_provider(page, who)
    page.wait_for_url(f"{world.url}/approvals")
    return page


def pass_provider(page: Page, who: str) -> None:
    """The provider's page; with SAML it posts by itself only where there are scripts."""
    page.get_by_role("link", name=who, exact=True).click()
    confirm(page)


def confirm(page: Page) -> None:
    if "localhost" in page.url and page.get_by_role("button", name="Continue").count():
        page.get_by_role("button", name="Continue").click()


@pytest.mark.parametrize("scripts", [True, pytest.param(False, marks=pytest.mark.nightly)])
def test_a_request_is_approved_by_clicking(
    browser: Browser, world: PagesWorld, scripts: bool
) -> None:
    """With SAML the provider's form comes from another site: no cookie of ours comes with it."""
    asked = world.ask()
    page = signed_in(browser, world, java_script_enabled=scripts)
    row = page.locator(f"a[href='/approvals/{asked.id}']")
    expect(row).to_contain_text("nightly-scoring wants to DELETE from PROD.FEATURES.SCORES")
    row.click()
    page.get_by_label("Reason").fill("Rebuilt by the next task.")
    page.get_by_role("button", name="Approve").click()
    page.wait_for_url("**/saml?**" if world.kind == "saml" else "**said=approve")
    confirm(page)
    page.wait_for_url("**said=approve")
    expect(page.get_by_text("Your answer is recorded.")).to_be_visible()
    found = world.get(asked.id)
    assert found.status is ApprovalStatus.APPROVED
    assert found.answers[0]["reason"] == "Rebuilt by the next task."
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Browser, oidc: PagesWorld, scheme: str) -> None:
    asked = oidc.ask(
        f"DELETE FROM t WHERE a = '{HOSTILE}'",
        quorum=2,
        break_glass=True,
        rewritten="DELETE FROM t WHERE b = 'other' AND c IN (SELECT 1)",
        parameters=[{"type": "FIXED", "value": "7", "position": "1"}],
        reason="please",
    )
    oidc.ask("", kind="masking_exception", rewritten="", columns=["A.B.C.D"], seconds=60)
    oidc.surfer("ben").answer(asked.id, reason="fine")
    identifier = f"ses_axe_{scheme}"
    oidc.session(oidc.person("eve", "ml-agents"), identifier)
    for kind in ("session.opened", "statement.refused", "statement.outcome"):
        entry = {"sql": "SELECT 1 FROM t -- x", "rows": 1}
        oidc.gateway.log.append(kind, entry, session_id=identifier)
    page = signed_in(browser, oidc, who="cat", scheme=scheme)
    for way in (f"/sessions/{identifier}", "/approvals", f"/approvals/{asked.id}", "/standing", "/sessions", "/approvals/no",
                "/signed-out", "/approvals?show=mine"):  # fmt: skip
        page.goto(oidc.url + way)
        for summary in page.locator("details > summary").all():
            summary.click()
        assert serious(page) == [], way
    page.context.close()


@pytest.mark.nightly
def test_a_hostile_statement_runs_nothing_and_moves_nothing(
    browser: Browser, oidc: PagesWorld
) -> None:
    asked = oidc.ask(
        f"DELETE FROM t WHERE a = '{HOSTILE}' -- \u05d0 = \u05d1\x1b[31m",
        who=oidc.person(HOSTILE.replace("#", ""), "ml-agents"),
        reason=HOSTILE,
    )
    told: list[ConsoleMessage] = []
    page = signed_in(browser, oidc)
    page.on("console", lambda m: told.append(m))
    page.goto(f"{oidc.url}/approvals/{asked.id}")
    assert "forged" not in page.title().replace("document.title='forged'", "")
    statement = page.locator("pre.sql").first
    expect(statement).to_contain_text("<script>document.title='forged'</script>[U+202E]")
    expect(statement).to_contain_text("[U+001B][31m")
    # letters that are written from right to left stand in the order in which they run
    assert statement.evaluate("e => getComputedStyle(e).unicodeBidi") == "bidi-override"
    order = statement.evaluate(
        """e => { const w = document.createTreeWalker(e, NodeFilter.SHOW_TEXT); const at = {};
        while (w.nextNode()) for (let i = 0; i < w.currentNode.data.length; i++) {
          const c = w.currentNode.data[i]; if (c !== '\u05d0' && c !== '\u05d1') continue;
          const r = document.createRange(); r.setStart(w.currentNode, i); r.setEnd(w.currentNode, i + 1);
          at[c] = r.getBoundingClientRect().left; }
        return at; }"""
    )
    assert order["\u05d0"] < order["\u05d1"]
    assert not [m.text for m in told if m.type == "error"]
    page.context.close()


class Evil:
    """Somebody else's site, with a page of its choosing."""

    def __init__(self, port: int) -> None:
        self.port, self.page = port, ""

    def app(self) -> Starlette:
        async def show(_request: Request) -> Response:
            return HTMLResponse(self.page)

        return Starlette(routes=[Route("/", show)])


@pytest.fixture(scope="module")
def evil() -> Iterator[Evil]:
    (port,) = new_ports(1)
    site = Evil(port)
    with served(site.app(), port):
        yield site


@pytest.mark.parametrize(
    "host", ["localhost", pytest.param("127.0.0.1", marks=pytest.mark.nightly)]
)
def test_a_form_of_another_origin_answers_nothing(
    browser: Browser, oidc: PagesWorld, evil: Evil, host: str
) -> None:
    """From another site no cookie comes along; from another port of this host it does, and is not enough."""
    asked = oidc.ask()
    page = signed_in(browser, oidc)
    page.goto(f"{oidc.url}/approvals/{asked.id}")
    state = page.locator("input[name=state]").first.get_attribute("value")
    csrf = page.locator("input[name=csrf]").first.get_attribute("value")
    evil.page = (
        f'<form method="post" action="{oidc.url}/approvals/{asked.id}"><input name="do" value="approve">'
        f'<input name="reason" value="x"><input name="state" value="{state}">'
        f'<input name="csrf" value="{csrf}"><button>win a prize</button></form>'
    )
    page.goto(f"http://{host}:{evil.port}/")
    page.get_by_role("button").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(
        "This answer did not come from Hoop's own page"
    )
    assert not oidc.get(asked.id).answers
    entry = next(e for e in oidc.log("approval.answer_refused") if e["approval"] == asked.id)
    assert entry["reason"] == "CROSS_SITE"
    assert (entry["identity"] is None) == (host == "localhost")
    page.context.close()


@pytest.mark.nightly
def test_no_other_page_can_frame_ours(browser: Browser, oidc: PagesWorld, evil: Evil) -> None:
    page = signed_in(browser, oidc)
    evil.page = f'<iframe src="{oidc.url}/approvals"></iframe>'
    page.goto(f"http://127.0.0.1:{evil.port}/")
    page.wait_for_timeout(300)
    assert "Approvals" not in page.frames[1].content()
    page.context.close()


@pytest.mark.nightly
def test_an_open_page_hears_of_changes_and_keeps_what_is_written(
    browser: Browser, oidc: PagesWorld
) -> None:
    asked = oidc.ask(quorum=2)
    page = signed_in(browser, oidc)
    inbox = page.context.new_page()
    inbox.goto(f"{oidc.url}/approvals")
    inbox.bring_to_front()
    inbox.wait_for_timeout(1500)  # the stream is open
    later = oidc.ask("DELETE FROM later")
    expect(inbox.locator(f"a[href='/approvals/{later.id}']")).to_be_visible(timeout=10_000)
    expect(inbox.locator("#said")).to_have_text("The list has changed.")
    page.goto(f"{oidc.url}/approvals/{asked.id}")
    page.bring_to_front()
    page.get_by_label("Reason").fill("half a sent")
    page.wait_for_timeout(1500)
    oidc.surfer("ben").answer(asked.id, reason="Yes, from me.")
    expect(page.locator("#changed")).to_be_visible(timeout=10_000)
    expect(page.get_by_text("Yes, from me.")).to_be_visible()
    expect(page.get_by_label("Reason")).to_have_value("half a sent")
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_role("alert")).to_contain_text("it was pending with 0 answers")
    expect(page.get_by_label("Reason")).to_have_value("half a sent")
    page.context.close()


@pytest.mark.nightly
def test_everything_can_be_done_with_the_keyboard(browser: Browser, oidc: PagesWorld) -> None:
    asked = oidc.ask()
    page = signed_in(browser, oidc)
    page.goto(f"{oidc.url}/approvals/{asked.id}")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "reason":
            break
    assert page.evaluate("document.activeElement.id") == "reason"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.type("By keyboard.")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Approve")).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_url("**said=approve")
    assert oidc.get(asked.id).status is ApprovalStatus.APPROVED
    page.context.close()


@pytest.mark.nightly
@pytest.mark.parametrize("way", ["/approvals", "request", "/standing", "/sessions"])
def test_nothing_is_wider_than_a_phone(browser: Browser, oidc: PagesWorld, way: str) -> None:
    long = "X" * 300
    asked = oidc.ask(f"DELETE FROM {long}", writes=[f"A.B.{long}"], rules=[long])
    page = signed_in(browser, oidc, width=360)
    page.goto(f"{oidc.url}/approvals/{asked.id}" if way == "request" else oidc.url + way)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.context.close()


# ---------------------------------------------------------------------- the whole stack


@pytest.mark.e2e
def test_two_people_click_a_statement_through(
    browser: Browser, stack: DevStack, connect: Callable[..., Any]
) -> None:
    """A newcomer's way: HOOP_UI_URL, a name, a reason; and the job that waited goes on."""
    done: list[Any] = []

    def run() -> None:
        with connect("churn-agent") as connection:
            done.append(
                connection.cursor().execute("DELETE FROM prod.features.churn_staging").fetchall()
            )

    job = threading.Thread(target=run, daemon=True)
    job.start()
    for who in ("alice", "bob"):
        page = context(browser).new_page()
        page.goto(stack.info.ui_url)
        expect(page.get_by_text("Development stack only")).to_be_visible()
        assert serious(page) == []
        page.get_by_role("link", name=who).click()
        row = page.get_by_role("link").filter(has_text="DELETE from PROD.FEATURES.CHURN_STAGING")
        for _ in range(40):
            if row.count():
                break
            time.sleep(0.25)
            page.reload()
        expect(row.first).to_contain_text("no WHERE clause")
        row.first.click()
        page.get_by_label("Reason").fill(f"{who} agrees.")
        page.get_by_role("button", name="Approve").click()
        page.wait_for_url("**said=approve")
        page.context.close()
    job.join(30)
    assert done, "the statement did not run"
