"""Signing in to the pages: sessions in cookies, and what somebody else's browser or page could try."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from sqlalchemy import select, update
from starlette.requests import Request
from starlette.responses import Response

from hoop_core.config import PageSettings
from hoop_core.store import Store
from hoop_core.store.tables import web_sessions
from hoop_core.web.pages.people import People
from hoop_core.web.pages.ways import safe_way
from tests.pages_world import PagesWorld, Surfer, pages_world
from tests.sign_in_world import gateway, new_ports


@pytest.fixture(scope="module", params=["oidc", "saml"])
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PagesWorld]:
    with pages_world(request.param, tmp_path_factory.mktemp(request.param)) as made:
        yield made


@pytest.fixture
def world(shared: PagesWorld) -> Iterator[PagesWorld]:
    shared.idp.lies.clear()
    yield shared
    shared.idp.lies.clear()


def cookie(surfer: Surfer) -> str:
    return next(c.value or "" for c in surfer.client.cookies.jar if "session" in c.name)


def test_a_deep_link_leads_through_the_provider_to_its_page(world: PagesWorld) -> None:
    asked = world.ask()
    page = world.surfer("ann").get(f"/approvals/{asked.id}")
    assert page.status_code == 200
    assert urlsplit(str(page.url)).path == f"/approvals/{asked.id}"
    assert "nightly-scoring" in page.text


def test_the_store_holds_no_handle_and_scripts_cannot_read_it(world: PagesWorld) -> None:
    surfer = world.surfer("ann")
    surfer.get("/approvals")
    handle = cookie(surfer)
    with world.gateway.store.read() as connection:
        held = str(connection.execute(select(web_sessions)).all())
    assert handle not in held
    assert hashlib.sha256(handle.encode()).hexdigest() in held
    arrived = next(u for u in surfer.visited if "/sign-in/arrived" in u)
    assert "ticket=" in arrived
    jar = {c.name: c for c in surfer.client.cookies.jar if c.name.startswith("hoop-")}
    assert len(jar) == 2
    for one in jar.values():
        assert "HttpOnly" in str(one._rest)  # type: ignore[attr-defined]
        assert one._rest["SameSite"] == "lax"  # type: ignore[attr-defined]


def test_over_https_cookies_belong_to_the_host_alone(store: Store) -> None:
    people = People(PageSettings(), store, public_url="https://hoop.example")
    response = Response()
    people.bind(response, secrets.token_urlsafe(32), 60)
    told = response.headers["set-cookie"]
    assert told.startswith("__Host-hoop-sign-in=")
    assert all(part in told for part in ("Secure", "HttpOnly", "Path=/", "SameSite=lax"))
    assert "Domain" not in told


def test_every_sign_in_has_a_new_handle_and_ends_the_one_before(world: PagesWorld) -> None:
    surfer = world.surfer("ann")
    surfer.get("/approvals")
    first = cookie(surfer)
    surfer.get("/sign-in?next=/sessions")
    assert cookie(surfer) != first
    stale = httpx.get(f"{world.url}/approvals", cookies={f"hoop-session-{world.port}": first})
    assert stale.status_code == 303


def test_a_handle_that_was_planted_before_is_not_taken_over(world: PagesWorld) -> None:
    surfer, planted = world.surfer("ann"), "x" * 43
    surfer.client.cookies.set(f"hoop-session-{world.port}", planted, domain="127.0.0.1")
    surfer.get("/approvals")
    later = httpx.get(f"{world.url}/approvals", cookies={f"hoop-session-{world.port}": planted})
    assert later.status_code == 303


def test_signing_out_ends_the_session_in_the_store(world: PagesWorld) -> None:
    surfer = world.surfer("ann")
    surfer.get("/approvals")
    handle = cookie(surfer)
    out = surfer.client.post(f"{world.url}/sign-out", headers={"sec-fetch-site": "same-origin"})
    assert out.headers["location"] == "/signed-out"
    with world.gateway.store.read() as connection:
        known = connection.scalars(select(web_sessions.c.handle)).all()
    assert hashlib.sha256(handle.encode()).hexdigest() not in known
    again = httpx.get(f"{world.url}/approvals", cookies={f"hoop-session-{world.port}": handle})
    assert again.headers["location"].startswith("/sign-in")


def test_another_site_signs_nobody_out(world: PagesWorld) -> None:
    surfer = world.surfer("ann")
    surfer.get("/approvals")
    refused = surfer.client.post(f"{world.url}/sign-out", headers={"sec-fetch-site": "cross-site"})
    assert refused.status_code == 400
    assert surfer.raw("/approvals").status_code == 200


@pytest.mark.parametrize("which", ["idle", "absolute"])
def test_a_session_ends_unused_and_at_its_end(world: PagesWorld, which: str) -> None:
    surfer = world.surfer("ann")
    surfer.get("/approvals")
    digest = hashlib.sha256(cookie(surfer).encode()).hexdigest()
    ago = datetime.now(UTC) - timedelta(seconds=PageSettings().idle_seconds + 1)
    values: dict[str, Any] = {"seen_at": ago} if which == "idle" else {"expires_at": ago}
    with world.gateway.store.write() as connection:
        connection.execute(
            update(web_sessions).where(web_sessions.c.handle == digest).values(**values)
        )
    assert surfer.raw("/approvals").status_code == 303


def test_nobody_is_signed_in_with_what_another_browser_brought_back(world: PagesWorld) -> None:
    """Login CSRF: eve proves herself, and gives ann the address at which the proof is taken."""
    eve = world.surfer("eve")
    answer = eve.client.get(f"{world.url}/sign-in?next=/approvals")
    while not (answer.is_redirect and "/sign-in/arrived" in answer.headers["location"]):
        answer = _step(eve, answer)
    ticket = answer.headers["location"]
    ann = world.surfer("ann")
    refused = ann.client.get(ticket)
    assert refused.status_code == 403
    assert "another browser" in refused.text
    assert not [c for c in ann.client.cookies.jar if "session" in c.name]
    assert eve.follow(eve.client.get(ticket)).status_code == 200  # her own it is


def _step(surfer: Surfer, answer: httpx.Response) -> httpx.Response:
    """One step of `Surfer.follow`."""
    import html
    import re

    from lxml import etree

    if answer.is_redirect:
        return surfer.client.get(str(answer.next_request.url))  # type: ignore[union-attr]
    if "Who are you" in answer.text:
        mine = next(
            x for x in re.findall(r'href="([^"]+)"', answer.text) if x.endswith(f"as={surfer.who}")
        )
        return surfer.client.get(html.unescape(mine))
    root = etree.HTML(answer.text)
    fields = {i.get("name"): i.get("value") for i in root.iterfind(".//input")}
    return surfer.client.post(root.find(".//form").get("action"), data=fields)


def test_a_proof_is_taken_once(world: PagesWorld) -> None:
    surfer = world.surfer("ann")
    surfer.get("/approvals")
    arrived = next(u for u in surfer.visited if "/sign-in/arrived" in u)
    assert surfer.client.get(arrived).status_code == 403


def test_programs_and_pages_cannot_use_each_others_sign_ins(world: PagesWorld) -> None:
    key = secrets.token_urlsafe(32)
    asked = httpx.get(f"{world.url}/console/login?browser_mode_redirect_port=45678&proof_key={key}")
    surfer = world.surfer("ann")
    answer = surfer.client.get(asked.headers["location"])
    while not (answer.is_redirect and "localhost:45678" in answer.headers["location"]):
        answer = _step(surfer, answer)
    token = parse_qs(urlsplit(answer.headers["location"]).query)["token"][0]
    tried = httpx.get(
        f"{world.url}/sign-in/arrived?ticket={token}",
        cookies={f"hoop-sign-in-{world.port}": key},
    )
    assert tried.status_code == 403
    mine = world.surfer("ann")
    answer = mine.client.get(f"{world.url}/sign-in")
    while not (answer.is_redirect and "/sign-in/arrived" in answer.headers["location"]):
        answer = _step(mine, answer)
    ticket = parse_qs(urlsplit(answer.headers["location"]).query)["ticket"][0]
    bound = next(c.value for c in mine.client.cookies.jar if "sign-in" in c.name)
    driver = httpx.post(
        f"{world.url}/session/v1/login-request?request_id=r1",
        json={"data": {"AUTHENTICATOR": "EXTERNALBROWSER", "TOKEN": ticket, "PROOF_KEY": bound,
                       "ACCOUNT_NAME": "acme"}},
    ).json()  # fmt: skip
    assert not driver["success"]


@pytest.mark.parametrize(
    "given",
    ["https://evil.example/", "//evil.example", "/\\evil.example", "/approvals@evil.example/..",
     "javascript:alert(1)", "/approvals\r\nset-cookie: a=b", "/hoop/v1/approvals", "/sign-out",
     "/approvals/../../evil", "/approvals?x=<script>", "", "approvals", "/approvals/a/b"],
)  # fmt: skip
def test_nobody_is_sent_anywhere_but_to_a_page(given: str) -> None:
    assert safe_way(given) == "/approvals"


@pytest.mark.parametrize(
    "way", ["/approvals", "/approvals/apr_1?said=approve", "/sessions/ses_1", "/standing"]
)
def test_pages_are_come_back_to(way: str) -> None:
    assert safe_way(way) == way


def test_where_one_goes_on_to_is_not_told_by_the_address(world: PagesWorld) -> None:
    page = world.surfer("ann").get("/sign-in?next=https://evil.example/")
    assert str(page.url) == f"{world.url}/approvals"


def test_a_sign_in_that_the_provider_refuses_is_a_page(world: PagesWorld) -> None:
    world.idp.lies["answer"] = {"error": "access_denied", "code": ""}
    world.idp.lies["saml"] = {"status": "urn:oasis:names:tc:SAML:2.0:status:Responder"}
    page = world.surfer("ann").get("/approvals")
    assert page.status_code == 403
    assert "You are not signed in" in page.text
    assert world.log("signin.refused")


def test_a_session_of_one_replica_holds_at_another(world: PagesWorld) -> None:
    (port,) = new_ports(1)
    here = world.settings
    there = here.model_copy(
        update={"gateway": here.gateway.model_copy(
            update={"port": port, "replica": "other", "public_url": world.url})}
    )  # fmt: skip
    surfer = world.surfer("ann")
    surfer.get("/approvals")
    with gateway(there):
        page = surfer.client.get(f"http://127.0.0.1:{port}/approvals")
        assert page.status_code == 200
        assert "Sign out" in page.text


def test_without_a_provider_for_browsers_the_page_says_what_to_do(tmp_path: Path) -> None:
    with pages_world("oidc", tmp_path) as made:
        made.gateway.sign_in.browser.choices = ()
        page = httpx.get(f"{made.url}/sign-in")
    assert page.status_code == 403
    assert "client_id" in page.text
    assert "hoop approvals" in page.text


def test_what_a_form_says_of_itself_counts_only_without_the_browsers_word(store: Store) -> None:
    people = People(PageSettings(), store, public_url="https://hoop.example")

    def told(**headers: str) -> bool:
        raw = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
        return people.of_our_own(Request({"type": "http", "headers": raw}))

    assert told(sec_fetch_site="same-origin")
    assert told(origin="https://hoop.example")
    assert not told(sec_fetch_site="same-site", origin="https://hoop.example")
    assert not told(origin="https://hoop.example.evil")
    assert not told(origin="null")
    assert not told()
