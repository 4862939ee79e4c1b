"""Signing in with a browser: the unmodified driver, an identity provider, and what could come in between."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import snowflake.connector
import snowflake.connector.auth.webbrowser as driver_browser
from snowflake.connector.errors import DatabaseError

from hoop_core.identity import saml
from hoop_core.identity.throttle import Throttle
from hoop_core.server.app import Gateway
from tests.saml_world import HOOP, SIGNER
from tests.sign_in_world import (
    CLIENT,
    SECRET,
    Browser,
    Idp,
    gateway,
    new_ports,
    served,
    settings,
)


class World:
    """A gateway that trusts one provider, by OIDC or by SAML."""

    def __init__(self, idp: Idp, made: Gateway, port: int, folder: Path) -> None:
        self.idp, self.gateway, self.port, self.folder = idp, made, port, folder
        self.browser = Browser()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, port: object = "45678", **data: Any) -> Any:
        body = {"data": {"AUTHENTICATOR": "EXTERNALBROWSER", "BROWSER_MODE_REDIRECT_PORT": port}}
        body["data"] |= data
        return httpx.post(f"{self.url}/session/authenticator-request", json=body).json()

    def walk(self, page: str) -> str:
        """The way of a browser; the token that it would bring to the program, or nothing."""
        end = self.browser.go(page, stop_before="http://localhost:4")
        return parse_qs(urlsplit(end).query).get("token", [""])[0]

    def login(self, token: str, key: str, request: str = "r1") -> Any:
        data = {"AUTHENTICATOR": "EXTERNALBROWSER", "TOKEN": token, "PROOF_KEY": key}
        return httpx.post(
            f"{self.url}/session/v1/login-request",
            params={"request_id": request},
            json={"data": {**data, "ACCOUNT_NAME": "acme"}},
        ).json()

    def connect(self, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
        monkeypatch.setattr(driver_browser.webbrowser, "open_new", self.browser.open_new)
        return snowflake.connector.connect(
            host="127.0.0.1", port=self.port, protocol="http", account="acme", user="una",
            authenticator="externalbrowser", login_timeout=20, **options,
        )  # fmt: skip


def _provider(kind: str, idp: Idp, folder: Path) -> dict[str, Any]:
    if kind == "oidc":
        secret = folder / "secret"
        secret.write_text(SECRET + "\n")
        section = {
            "issuer": idp.url,
            "audience": "hoop",
            "client_id": CLIENT,
            "client_secret_file": secret,
        }
        return {"identity": [section]}
    section = {"entity_id": f"{idp.url}/saml", "certificates": [SIGNER.file(folder)], "audience": HOOP,
               "sso_url": f"{idp.url}/saml"}  # fmt: skip
    return {"saml": [section]}


@pytest.fixture(scope="module", params=["oidc", "saml"])
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp(request.param)
    at_idp, at_hoop = new_ports(2)
    idp = Idp(at_idp, {f"http://127.0.0.1:{at_hoop}/hoop/sso/{request.param}"})
    chosen = settings(folder, at_hoop, **_provider(request.param, idp, folder),
                      sign_in={"failures_per_minute": 0})  # fmt: skip
    with served(idp.app(), at_idp), gateway(chosen) as made:
        yield World(idp, made, at_hoop, folder)


@pytest.fixture
def world(shared: World) -> Iterator[World]:
    shared.browser = Browser()
    shared.idp.lies = {}
    yield shared
    shared.idp.lies = {}


def _is_saml(world: World) -> bool:
    return bool(world.gateway.settings.saml)


@pytest.mark.parametrize("console", [True, False])
def test_the_unmodified_driver_signs_in_with_a_browser(
    world: World, monkeypatch: pytest.MonkeyPatch, console: bool
) -> None:
    connection = world.connect(monkeypatch, disable_console_login=not console)
    connection.close()
    assert world.browser.visited[-1].startswith(f"{world.url}/hoop/sso/")
    opened = [e for e in world.gateway.log.entries() if '"session.opened"' in e.text]
    assert ('"method":"saml"' if _is_saml(world) else '"method":"oidc"') in opened[-1].text


def test_the_token_opens_one_session_for_the_program_that_asked(world: World) -> None:
    asked = world.ask()["data"]
    token = world.walk(asked["ssoUrl"])
    assert token
    assert "not known" in world.login(token, "x" * 43)["message"]
    assert "not known" in world.login("x" * 43, asked["proofKey"])["message"]
    assert world.login(token, asked["proofKey"])["success"]
    assert world.login(token, asked["proofKey"])["success"]  # the same request again
    again = world.login(token, asked["proofKey"], "r2")
    assert not again["success"]
    assert "used before" in again["message"]


def test_a_page_can_be_walked_once(world: World) -> None:
    page = world.ask()["data"]["ssoUrl"]
    assert world.walk(page)
    assert not world.walk(page)
    assert world.browser.last is not None
    assert world.browser.last.status_code == 403


def test_an_answer_cannot_be_brought_twice(world: World) -> None:
    page = world.ask()["data"]["ssoUrl"]
    assert world.walk(page)
    back = next(r for r in reversed(world.browser.visited) if "/hoop/sso/" in r)
    if _is_saml(world):
        answer = httpx.post(back, data={"SAMLResponse": "x", "RelayState": "y"})
    else:
        answer = httpx.get(back)
    assert answer.status_code == 403
    assert "localhost" not in answer.text


@pytest.mark.parametrize(
    "port", ["80", "0", "65536", "-1", "4567x", "", None, "1024@evil.example", "١٢٣٤٥", True, ["1"]]
)
def test_the_browser_is_sent_to_a_port_of_its_own_host_and_nowhere_else(
    world: World, port: object
) -> None:
    answer = world.ask(port)
    assert not answer["success"]
    assert "BROWSER_MODE_REDIRECT_PORT" in answer["message"]


def test_one_address_does_not_take_the_places_of_all_browsers(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()  # and so it stays
    mine = Throttle(3, clock=lambda: now)
    monkeypatch.setattr(world.gateway.sign_in.browser, "_begun", mine)
    query = f"?browser_mode_redirect_port=5000&proof_key={'x' * 43}"
    console = [httpx.get(f"{world.url}/console/login{query}") for _ in range(4)]
    assert [c.status_code for c in console] == [303, 303, 303, 503]
    assert "from your address" in world.ask()["message"]
    elsewhere = httpx.HTTPTransport(local_address="127.0.0.3")
    with httpx.Client(transport=elsewhere) as client:
        assert client.get(f"{world.url}/console/login{query}").status_code == 303


@pytest.mark.parametrize("path", ["/hoop/sso/start?login=x", "/hoop/sso/start", "/hoop/sso/oidc?state=x&code=y",
                                  "/hoop/sso/oidc", "/console/login?browser_mode_redirect_port=5000",
                                  "/hoop/sso/start?login=" + "x" * 5000])  # fmt: skip
def test_pages_that_nobody_asked_for_lead_nowhere(world: World, path: str) -> None:
    answer = httpx.get(world.url + path)
    assert answer.status_code == 403
    assert "You are not signed in" in answer.text
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"SAMLResponse=x&RelayState=y", "application/json"),
        (b"RelayState=a&RelayState=b", "application/x-www-form-urlencoded"),
        (b"&".join(b"a%d=1" % n for n in range(50)), "application/x-www-form-urlencoded"),
        (b"SAMLResponse=%ff&RelayState=y", "application/x-www-form-urlencoded"),
        (b"SAMLResponse=" + b"x" * 300_000, "application/x-www-form-urlencoded"),
    ],
)
def test_what_is_no_form_of_a_provider_is_refused(world: World, body: bytes, kind: str) -> None:
    answer = httpx.post(f"{world.url}/hoop/sso/saml", content=body, headers={"content-type": kind})
    assert answer.status_code == 403


@pytest.mark.parametrize(
    "lie",
    [
        {"claims": {"nonce": "other"}},
        {"claims": {"aud": "hoop"}},
        {"claims": {"azp": "other"}},
        {"claims": {"iss": "https://evil.example"}},
        {"claims": {"exp": 1_000_000_000}},
        {"answer": {"iss": "https://evil.example"}},
        {"answer": {"code": "made-up"}},
        {"answer": {"error": "access_denied"}},
        {"answer": {"state": "made-up"}},
    ],
)
def test_an_oidc_answer_that_does_not_fit_signs_nobody_in(
    world: World, lie: dict[str, Any]
) -> None:
    if _is_saml(world):
        lie = {"saml": {"audience": "https://other.example"}} if "claims" in lie else {"relay": "x"}
    world.idp.lies = lie
    assert not world.walk(world.ask()["data"]["ssoUrl"])
    assert world.browser.last is not None
    assert world.browser.last.status_code == 403


def test_an_answer_to_another_browsers_request_is_refused(world: World) -> None:
    """Somebody who signed in as themselves cannot put their answer into another one's sign-in."""
    first, second = (world.ask()["data"]["ssoUrl"] for _ in range(2))
    handle = parse_qs(urlsplit(second).query)["login"][0]
    httpx.get(second)  # it is on its way too
    world.idp.lies = {"relay": handle, "answer": {"state": handle}}
    assert not world.walk(first)


def test_no_drivers_page_is_read_where_no_driver_could_have_it_from(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(_page: str) -> str:
        raise AssertionError("the page is read")

    monkeypatch.setattr(saml, "response_of", read)
    data = {"ACCOUNT_NAME": "acme", "RAW_SAML_RESPONSE": "<" + "<a " * 5_000}
    url = f"{world.url}/session/v1/login-request?request_id=r1"
    answer = httpx.post(url, json={"data": data}).json()
    assert not answer["success"]
    assert ("not base64" if _is_saml(world) else "No SAML provider") in answer["message"]


def test_a_driver_that_asks_for_an_unknown_provider_is_told(world: World) -> None:
    answer = world.ask(AUTHENTICATOR="https://corp.okta.example")
    assert not answer["success"]
    assert "native_sso_url" in answer["message"]


def test_a_group_without_a_role_is_refused_after_the_browser(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.idp.lies = {"claims": {"groups": ["others"]}, "saml": {"groups": ("others",)}}
    with pytest.raises(DatabaseError, match="No Snowflake role"):
        world.connect(monkeypatch)


def test_the_steps_may_come_to_different_replicas(shared: World) -> None:
    (port,) = new_ports(1)
    here = shared.gateway.settings
    there = here.model_copy(
        update={"gateway": here.gateway.model_copy(
            update={"port": port, "replica": "other", "public_url": shared.url})}
    )  # fmt: skip
    shared.browser = Browser()
    with gateway(there) as made:
        other = World(shared.idp, made, port, shared.folder)
        asked = other.ask()["data"]  # at the second replica
        token = shared.walk(asked["ssoUrl"])  # the browser at the first one
        assert other.login(token, asked["proofKey"])["success"]


def test_a_person_chooses_where_there_are_several_providers(tmp_path: Path) -> None:
    at_idp, at_hoop = new_ports(2)
    idp = Idp(at_idp, {f"http://127.0.0.1:{at_hoop}/hoop/sso/{k}" for k in ("oidc", "saml")})
    both = {**_provider("oidc", idp, tmp_path), **_provider("saml", idp, tmp_path)}
    with served(idp.app(), at_idp), gateway(settings(tmp_path, at_hoop, **both)) as made:
        world = World(idp, made, at_hoop, tmp_path)
        page = world.ask()["data"]["ssoUrl"]
        shown = httpx.get(page)
        assert shown.status_code == 200
        assert shown.text.count("<li>") == 2
        assert httpx.get(page, params={"provider": "https://evil.example"}).status_code == 403
        assert world.walk(f"{page}&provider={idp.url}/saml")
