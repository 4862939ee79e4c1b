"""Several OIDC issuers, of which one is hostile: what it has sent here is never taken for another's.

RFC 9700 section 4.4: the mix-up attack, and a redirect URI of its own for each issuer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.pages_world import PagesWorld, PeopleIdp
from tests.sign_in_world import CLIENT, SECRET, gateway, new_ports, served, settings


def back(issuer: str) -> str:
    return "/hoop/sso/oidc/" + hashlib.sha256(issuer.encode()).hexdigest()[:16]


class SilentIdp(PeopleIdp):
    """Says nowhere whose its answers are, as most do."""

    async def discovery(self, _request: Request) -> Response:
        return JSONResponse(
            {
                "issuer": self.url,
                "jwks_uri": f"{self.url}/keys",
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
            }
        )

    async def authorize(self, request: Request) -> Response:
        answer = await super().authorize(request)
        if answer.status_code == 302:
            to = urlsplit(answer.headers["location"])
            query = {k: v[0] for k, v in parse_qs(to.query).items() if k != "iss"}
            answer.headers["location"] = to._replace(query=urlencode(query)).geturl()
        return answer


@dataclass
class Mallory:
    """An issuer that is trusted for its own people, and sends browsers on to the other one."""

    port: int
    other: str
    request: dict[str, str] = field(default_factory=dict)
    """Of a sign-in that the attacker has begun at the other issuer."""
    stolen: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self.discovery),
                Route("/keys", self.keys),
                Route("/authorize", self.authorize),
                Route("/token", self.token, methods=["POST"]),
            ]
        )

    async def keys(self, _request: Request) -> Response:
        return JSONResponse({"keys": []})

    async def discovery(self, _request: Request) -> Response:
        return JSONResponse(
            {
                "issuer": self.url,
                "jwks_uri": f"{self.url}/keys",
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
            }
        )

    async def authorize(self, request: Request) -> Response:
        query = {**self.request, "state": request.query_params["state"], "prompt": "none"}
        return RedirectResponse(f"{self.other}/authorize?{urlencode(query)}", 302)

    async def token(self, request: Request) -> Response:
        self.stolen.append((await request.body()).decode())
        return JSONResponse({"error": "invalid_grant"}, 400)


@dataclass
class Mixed(PagesWorld):
    mallory: Mallory


@contextmanager
def _two_issuers(folder: Path) -> Iterator[Mixed]:
    at_mallory, at_idp, at_hoop = new_ports(3)
    idp = SilentIdp(at_idp)
    idp.redirect_uris = {f"http://127.0.0.1:{at_hoop}{back(idp.url)}"}
    mallory = Mallory(at_mallory, idp.url)
    secret = folder / "secret"
    secret.write_text(SECRET)
    issuers = [
        {"issuer": mallory.url, "audience": "hoop", "client_id": "x", "group_prefix": "partner:"},
        {"issuer": idp.url, "audience": "hoop", "client_id": CLIENT, "client_secret_file": secret},
    ]
    unbound: dict[str, Any] = {"failures_per_minute": 0}
    chosen = settings(folder, at_hoop, identity=issuers, sign_in=unbound)
    with served(mallory.app(), at_mallory), served(idp.app(), at_idp), gateway(chosen) as made:
        yield Mixed(idp, made, at_hoop, folder, "oidc", chosen, mallory)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mixed]:
    with _two_issuers(tmp_path_factory.mktemp("mixed")) as made:
        yield made


def sign_in(world: Mixed, issuer: str) -> str:
    return f"{world.url}/sign-in?{urlencode({'provider': issuer})}"


def query_of(url: str) -> dict[str, str]:
    return {k: v[0] for k, v in parse_qs(urlsplit(url).query).items()}


def test_each_issuer_has_an_address_of_its_own(world: Mixed) -> None:
    for issuer in (world.mallory.url, world.idp.url):
        to = httpx.get(sign_in(world, issuer)).headers["location"]
        assert query_of(to)["redirect_uri"] == world.url + back(issuer)
    ann = world.surfer("ann")
    assert ann.get(sign_in(world, world.idp.url)).status_code == 200
    assert [v for v in ann.visited if urlsplit(v).path == back(world.idp.url)]


def test_a_code_that_comes_back_at_anothers_address_goes_to_no_token_endpoint(
    world: Mixed,
) -> None:
    """The attacker's sign-in at the other issuer, with the state of the victim's sign-in at the attacker's."""
    victim = world.surfer("ann")
    victim.get(sign_in(world, world.idp.url))
    attacker = httpx.Client(trust_env=False, follow_redirects=False)
    begun = attacker.get(sign_in(world, world.idp.url)).headers["location"]
    world.mallory.request = query_of(begun)
    answer = victim.client.get(sign_in(world, world.mallory.url))
    visited = []
    while answer.is_redirect:
        visited.append(answer.headers["location"])
        answer = victim.client.get(visited[-1])
    came = next(v for v in visited if urlsplit(v).path == back(world.idp.url))
    assert query_of(came)["code"]  # the issuer knew her, and gave one
    assert answer.status_code == 403
    assert "another identity provider" in answer.text
    assert world.mallory.stolen == []
    # at its own address it is of no use either: it was given for another one
    handle = query_of(httpx.get(sign_in(world, world.mallory.url)).headers["location"])["state"]
    code = query_of(came)["code"]
    for path in ("/hoop/sso/oidc", back("https://nobody.example"), back(world.idp.url)):
        tried = attacker.get(world.url + path, params={"state": handle, "code": code})
        assert tried.status_code == 403
    assert world.mallory.stolen == []
    assert not re.search(r'class="me-name"', answer.text)


@pytest.mark.parametrize("error", ["login_required", "access_denied"])
def test_an_error_is_taken_only_from_the_issuer_that_was_asked(world: Mixed, error: str) -> None:
    handle = query_of(httpx.get(sign_in(world, world.mallory.url)).headers["location"])["state"]
    refused = httpx.get(world.url + back(world.idp.url), params={"state": handle, "error": error})
    assert refused.status_code == 403
    assert "another identity provider" in refused.text


def test_the_only_issuer_keeps_the_address_without_a_name(tmp_path: Path) -> None:
    at_idp, at_hoop = new_ports(2)
    idp = PeopleIdp(at_idp, {f"http://127.0.0.1:{at_hoop}/hoop/sso/oidc"})
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    only = {
        "issuer": idp.url,
        "audience": "hoop",
        "client_id": CLIENT,
        "client_secret_file": secret,
    }
    machines = {"issuer": "https://machines.example", "audience": "hoop"}
    chosen = settings(tmp_path, at_hoop, identity=[only, machines])
    with served(idp.app(), at_idp), gateway(chosen) as made:
        world = PagesWorld(idp, made, at_hoop, tmp_path, "oidc", chosen)
        ann = world.surfer("ann")
        assert ann.get("/approvals").status_code == 200
        begun = httpx.get(f"{world.url}/sign-in").headers["location"]
        other = {"state": query_of(begun)["state"], "code": "x"}
        assert httpx.get(world.url + back(idp.url), params=other).status_code == 403
