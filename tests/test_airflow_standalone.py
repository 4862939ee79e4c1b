"""A risky DAG run in a real Airflow: parked, answered there or in Hoop, and what comes of it.

Minutes long: nightly. `test_airflow_e2e.py` has what every change is tested by.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from hoop_core.client import AnswerVerdict, ApprovalStatus
from hoop_core.errors import ApprovalRefused
from tests.airflow_world import AirflowWorld, airflow_world

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.browser,
    pytest.mark.e2e,
    pytest.mark.nightly,
    pytest.mark.timeout(600),
]

CHROMIUM = Path("/usr/bin/chromium")
IMAGES = Path(__file__).parents[1] / "docs" / "images"
LOADED_SECONDS = 30


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowWorld]:
    dags = Path(__file__).with_name("dags_for_airflow")
    with airflow_world(tmp_path_factory.mktemp("airflow") / "home", dags) as running:
        yield running


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.fail("Chromium is not there: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture
def page_of(world: AirflowWorld, chromium: Browser) -> Iterator[Callable[[str], Page]]:
    """A browser in which this Airflow user has signed in."""
    contexts = []

    def sign_in(user: str) -> Page:
        context = chromium.new_context(viewport={"width": 1280, "height": 1000})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(LOADED_SECONDS * 1000)
        page.goto(world.url)
        page.fill("input[name=username]", user)
        page.fill("input[name=password]", world.passwords[user])
        page.keyboard.press("Enter")
        page.wait_for_url(re.compile(r"/$"))
        return page

    yield sign_in
    for context in contexts:
        context.close()


def rows(behind: Any, table: str) -> int | None:
    """How many rows are in a feature table; None: there is no such table."""
    found = behind(f"SHOW TABLES LIKE '{table}' IN SCHEMA PROD.FEATURES")
    return behind(f"SELECT COUNT(*) FROM PROD.FEATURES.{table}")[0][0] if found else None


@pytest.fixture
def behind(world: AirflowWorld) -> Iterator[Callable[[str], list[tuple[Any, ...]]]]:
    """SQL at the emulator as its administrator, behind Hoop's back."""
    import snowflake.connector

    info = world.stack.info
    connection = snowflake.connector.connect(
        host=info.snowflake_host,
        port=info.snowflake_port,
        protocol="http",
        account=info.snowflake_account,
        user=info.admin_user,
        password=info.admin_password,
    )
    yield lambda sql: connection.cursor().execute(sql).fetchall()
    connection.close()


def keep(page: Page, name: str) -> None:
    """A picture for the docs; only when asked for, as it differs each time."""
    if os.environ.get("HOOP_TEST_PICTURES") == "1":
        page.screenshot(path=IMAGES / f"{name}.png")


# ---------------------------------------------------------------------- in the browser


def test_a_risky_run_is_approved_in_required_actions_and_finishes(
    world: AirflowWorld, page_of: Callable[[str], Page], behind: Any
) -> None:
    world.trigger("risky", "browser")
    world.await_parked("risky", "browser", "build")
    page = page_of("alice")

    page.goto(f"{world.url}/plugin/hoop-inbox")
    inbox = page.frame_locator("iframe[title='Hoop inbox']")
    heading = "CREATE TABLE AS on PROD.FEATURES.RISKY_BROWSER"
    expect(inbox.get_by_role("heading", name=heading)).to_be_visible()
    keep(page, "airflow-inbox")

    page.goto(f"{world.url}/required_actions")
    subject = "Hoop: may churn-agent run CREATE TABLE AS on PROD.FEATURES.RISKY_BROWSER?"
    page.get_by_text(subject).first.click()
    expect(page.get_by_text("Why it was stopped")).to_be_visible()
    expect(page.locator("body")).to_contain_text("SELECT CUSTOMER_ID, EMAIL, REGION FROM")
    approve = page.get_by_test_id("hitl-option-Approve")
    expect(approve).to_be_disabled()  # without a reason
    page.fill("#element_reason", "The scores are stale")
    expect(approve).to_be_enabled()
    page.set_viewport_size({"width": 1280, "height": 1500})
    keep(page, "airflow-required-action")
    approve.click()
    world.await_state("risky", "browser", "build", "success")

    assert rows(behind, "RISKY_BROWSER") == 50_000
    [request] = world.requests("risky", "browser")
    assert [(a.approver.name, a.reason) for a in request.answers] == [
        ("alice", "The scores are stale")
    ]
    assert request.status is ApprovalStatus.CONSUMED
    [entry] = [e for e in world.logged("approval.answered") if e["approval"] == request.id]
    assert entry["by_way_of"]["user"]["id"] == "alice"

    page.goto(f"{world.url}/dags/risky/runs/browser/tasks/build/plugin/hoop")
    tab = page.frame_locator("iframe[title='Hoop']")
    expect(tab.get_by_text("Approved by alice")).to_be_visible()
    expect(tab.get_by_text("The scores are stale")).to_be_visible()
    keep(page, "airflow-task-tab")
    with page.context.expect_page() as opened:
        tab.get_by_role("link", name="Open in Hoop").click()
    assert request.id in opened.value.url or opened.value.url.startswith("http")
    path = "/dags/risky/dagRuns/browser/taskInstances/build/links"
    links = world.call("GET", path).json()["extra_links"]
    assert links == {"Hoop approval": f"{world.stack.info.gateway_url}/approvals/{request.id}"}


def test_a_risky_run_is_approved_in_hoops_pages_and_finishes(
    world: AirflowWorld, chromium: Browser, behind: Any
) -> None:
    world.trigger("risky", "pages")
    world.await_state("risky", "pages", "build", "awaiting_input")
    context = chromium.new_context(viewport={"width": 1280, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(LOADED_SECONDS * 1000)
    page.goto(world.stack.info.ui_url)
    page.get_by_role("link", name="alice").click()
    page.get_by_role("link", name=re.compile("RISKY_PAGES")).first.click()
    expect(page.locator("body")).to_contain_text("risky / build")
    page.get_by_label("Reason").fill("The scores are stale")
    page.get_by_role("button", name="Approve").click()
    page.wait_for_url("**said=approve")
    world.await_state("risky", "pages", "build", "success")
    assert rows(behind, "RISKY_PAGES") == 50_000
    [request] = world.requests("risky", "pages")
    assert [(a.approver.name, a.reason) for a in request.answers] == [
        ("alice", "The scores are stale")
    ]
    [proof] = [e for e in world.logged("approval.proof") if e["approval"] == request.id]
    assert proof["method"]
    context.close()


def test_no_page_of_the_plugin_is_shown_to_who_is_not_signed_in(world: AirflowWorld) -> None:
    import httpx

    for path in ("inbox", "task/risky/browser/build/-1"):
        answer = httpx.get(f"{world.url}/hoop/{path}")
        assert answer.status_code == 401
        assert "RISKY" not in answer.text
        assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]


def test_approved_in_airflow_while_rejected_in_hoop_does_not_run(
    world: AirflowWorld, page_of: Callable[[str], Page], behind: Any
) -> None:
    world.trigger("risky", "torn")
    world.await_parked("risky", "torn", "build")
    page = page_of("alice")
    page.goto(f"{world.url}/dags/risky/runs/torn/tasks/build/required_actions")
    page.fill("#element_reason", "Fine by me")
    [request] = world.requests("risky", "torn")
    with world.hoop("bob") as bob:
        bob.answer(request.id, AnswerVerdict.REJECT, "not tonight")
    page.get_by_test_id("hitl-option-Approve").click()
    world.await_state("risky", "torn", "build", "failed")
    assert "rejected by bob: not tonight" in world.task_log("risky", "torn", "build")
    assert rows(behind, "RISKY_TORN") is None


def test_rejected_in_airflow_while_approved_in_hoop_does_not_run(
    world: AirflowWorld, page_of: Callable[[str], Page], behind: Any
) -> None:
    world.trigger("risky", "torn2")
    world.await_state("risky", "torn2", "build", "awaiting_input")
    page = page_of("bob")
    page.goto(f"{world.url}/dags/risky/runs/torn2/tasks/build/required_actions")
    page.fill("#element_reason", "not tonight")
    [request] = world.requests("risky", "torn2")
    with world.hoop("alice") as alice:
        alice.answer(request.id, AnswerVerdict.APPROVE, "fine")
    page.get_by_test_id("hitl-option-Reject").click()
    world.await_state("risky", "torn2", "build", "failed")
    assert "rejected by bob: not tonight" in world.task_log("risky", "torn2", "build")
    assert rows(behind, "RISKY_TORN2") is None


# ---------------------------------------------------------------------- in Hoop, and who does not count


def test_an_approval_in_hoop_lets_the_parked_task_go_on(world: AirflowWorld, behind: Any) -> None:
    world.trigger("risky", "inhoop")
    world.await_state("risky", "inhoop", "build", "awaiting_input")
    [request] = world.requests("risky", "inhoop")
    with world.hoop("alice") as alice:
        alice.answer(request.id, AnswerVerdict.APPROVE, "fine")
    world.await_state("risky", "inhoop", "build", "success")
    assert rows(behind, "RISKY_INHOOP") == 50_000
    row = world.action("risky", "inhoop", "build").json()
    assert row["responded_by_user"]["id"] == "hoop"
    assert [a.approver.name for a in world.requests("risky", "inhoop")[0].answers] == ["alice"]


@pytest.mark.parametrize(
    ("user", "why"),
    [("stranger", "nobody that Hoop knows"), ("agent", "Nobody may answer their own request")],
)
def test_an_answer_of_somebody_else_parks_the_task_again(
    world: AirflowWorld, user: str, why: str, behind: Any
) -> None:
    run = f"of_{user}"
    world.trigger("risky", run)
    world.await_parked("risky", run, "build")
    world.answer("risky", run, "build", "Approve", "let me", user=user).raise_for_status()
    world.await_state("risky", run, "build", "scheduled", "queued", "running")
    world.await_parked("risky", run, "build")
    [request] = world.requests("risky", run)
    assert request.status is ApprovalStatus.PENDING
    refused = [e for e in world.logged("approval.answer_refused") if e["approval"] == request.id]
    assert len(refused) == 1
    assert why in refused[0]["why"]
    assert rows(behind, f"RISKY_OF_{user.upper()}") is None
    world.answer("risky", run, "build", "Reject", "no", user="alice").raise_for_status()
    world.await_state("risky", run, "build", "failed")


def test_a_forged_text_is_not_what_an_answer_counts_for(world: AirflowWorld, behind: Any) -> None:
    world.trigger("forged", "f1")
    world.await_parked("forged", "f1", "build")
    assert world.action("forged", "f1", "build").json()["body"] == "Nothing to see."
    world.answer("forged", "f1", "build", "Approve", "sure", user="alice").raise_for_status()
    world.await_state("forged", "f1", "build", "scheduled", "queued", "running")
    world.await_parked("forged", "f1", "build")
    [request] = world.requests("forged", "f1")
    assert request.status is ApprovalStatus.PENDING
    [entry] = [e for e in world.logged("approval.answer_refused") if e["approval"] == request.id]
    assert "not what Hoop had written" in entry["why"]
    assert rows(behind, "FORGED_F1") is None


def test_two_voices_are_two_answers_in_airflow(world: AirflowWorld, behind: Any) -> None:
    before = rows(behind, "CHURN_STAGING")
    assert before
    world.trigger("two_voices", "v1")
    world.await_parked("two_voices", "v1", "build")
    world.answer("two_voices", "v1", "build", "Approve", "one", user="alice").raise_for_status()
    world.await_state("two_voices", "v1", "build", "scheduled", "queued", "running")
    world.await_parked("two_voices", "v1", "build")
    assert rows(behind, "CHURN_STAGING") == before
    world.answer("two_voices", "v1", "build", "Approve", "two", user="bob").raise_for_status()
    world.await_state("two_voices", "v1", "build", "success")
    assert rows(behind, "CHURN_STAGING") == 0


def test_one_answer_counts_for_all_statements_that_were_shown(
    world: AirflowWorld, behind: Any
) -> None:
    world.trigger("both", "b1")
    world.await_parked("both", "b1", "build")
    body = world.action("both", "b1", "build").json()["body"]
    assert "Statement 1 of 2" in body
    assert "BOTH_B_B1" in body
    world.answer("both", "b1", "build", "Approve", "both", user="alice").raise_for_status()
    world.await_state("both", "b1", "build", "success")
    assert rows(behind, "BOTH_A_B1") == 100_000
    assert rows(behind, "BOTH_B_B1") == 50_000


def test_the_sensor_is_answered_in_required_actions_for_the_other_task(
    world: AirflowWorld, behind: Any
) -> None:
    world.trigger("sensed", "s1")
    world.await_parked("sensed", "s1", "ask")
    world.answer("sensed", "s1", "ask", "Approve", "ok", user="alice").raise_for_status()
    world.await_state("sensed", "s1", "ask", "success")
    world.await_state("sensed", "s1", "build", "success")
    assert rows(behind, "SENSED_S1") == 50_000
    [request] = world.requests("sensed", "s1")
    assert request.run.fields["task_id"] == "build"


def test_each_mapped_task_has_its_own_request(world: AirflowWorld, behind: Any) -> None:
    world.trigger("mapped", "m1")
    for index in (0, 1):
        world.await_parked("mapped", "m1", "build", index)
    assert "mapped `1`" in world.action("mapped", "m1", "build", 1).json()["body"]
    for index, option in ((0, "Approve"), (1, "Reject")):
        given = world.answer("mapped", "m1", "build", option, "seen", user="alice", index=index)
        given.raise_for_status()
    world.await_state("mapped", "m1", "build", "success", index=0)
    world.await_state("mapped", "m1", "build", "failed", index=1)
    assert rows(behind, "MAPPED_A") == 50_000
    assert rows(behind, "MAPPED_B") is None


def test_a_cleared_task_finds_its_request_again(world: AirflowWorld, behind: Any) -> None:
    world.trigger("risky", "again")
    world.await_parked("risky", "again", "build")
    [request] = world.requests("risky", "again")
    cleared = {"dry_run": False, "dag_run_id": "again", "task_ids": ["build"], "only_failed": False}
    world.call("POST", "/dags/risky/clearTaskInstances", cleared).raise_for_status()
    time.sleep(2)
    world.await_parked("risky", "again", "build")
    assert world.requests("risky", "again") == (request,)
    with world.hoop("alice") as alice:
        alice.answer(request.id, AnswerVerdict.APPROVE, "fine")
        with pytest.raises(ApprovalRefused):
            alice.answer(request.id, AnswerVerdict.APPROVE, "twice")
    # approved, and cleared again before it ran: it runs at once
    world.call("POST", "/dags/risky/clearTaskInstances", cleared).raise_for_status()
    world.await_state("risky", "again", "build", "success")
    assert rows(behind, "RISKY_AGAIN") == 50_000
    assert len(world.requests("risky", "again")) == 1
