"""A gateway that people sign in to, an identity provider on loopback, and a browser that follows it.

Nothing is minted: no statement is ever sent.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import html
import json
import secrets
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode

import httpx
import uvicorn
from lxml import etree
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from hoop_core.config import Settings
from hoop_core.devstack.processes import free_port
from hoop_core.server.app import Gateway, build_gateway, routes_of
from tests.identity_world import KEY, signed
from tests.saml_world import HOOP, NS, encoded, response, sign

CLIENT, SECRET = "hoop-browser", "s/ecr:et"
POLICY = """
version: 1
roles:
  - {groups: [ml-agents], vault_role: ml-reader, snowflake_role: ML_READER}
rules:
  - {name: all, groups: [ml-agents], reads: ["PROD.CRM.*"], then: allow}
"""


@dataclass
class Idp:
    """OIDC and SAML. Strict about what a client must send; `lies` says what it then does wrong."""

    port: int
    redirect_uris: set[str] = field(default_factory=set)
    lies: dict[str, Any] = field(default_factory=dict)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)

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
                Route("/saml", self.saml),
            ]
        )

    async def discovery(self, _request: Request) -> Response:
        return JSONResponse(
            {
                "issuer": self.url,
                "jwks_uri": f"{self.url}/keys",
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "authorization_response_iss_parameter_supported": True,
            }
        )

    async def keys(self, _request: Request) -> Response:
        return JSONResponse({"keys": [KEY.as_dict(private=False)]})

    async def authorize(self, request: Request) -> Response:
        asked = dict(request.query_params)
        assert asked["response_type"] == "code"
        assert asked["client_id"] == CLIENT
        assert asked["redirect_uri"] in self.redirect_uris
        assert asked["code_challenge_method"] == "S256"
        assert len(asked["code_challenge"]) == 43
        assert "openid" in asked["scope"].split()
        assert asked["nonce"]
        assert asked["state"]
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        answer = {"code": code, "state": asked["state"], "iss": self.url}
        answer |= self.lies.get("answer", {})
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode(answer)}", 302)

    async def token(self, request: Request) -> Response:
        scheme, _, proof = request.headers["authorization"].partition(" ")
        client, _, secret = base64.b64decode(proof).decode().partition(":")
        assert (scheme, unquote(client), unquote(secret)) == ("Basic", CLIENT, SECRET)
        form = {k: v[0] for k, v in parse_qs((await request.body()).decode()).items()}
        asked = self.codes.pop(form["code"], None)
        verifier = hashlib.sha256(form["code_verifier"].encode()).digest()
        challenge = base64.urlsafe_b64encode(verifier).decode().rstrip("=")
        if (
            asked is None
            or asked["code_challenge"] != challenge
            or asked["redirect_uri"] != form["redirect_uri"]
            or form["grant_type"] != "authorization_code"
        ):
            return JSONResponse({"error": "invalid_grant"}, 400)
        now = int(time.time())
        claims = {
            "iss": self.url, "aud": CLIENT, "sub": "una", "exp": now + 300, "iat": now,
            "nonce": asked["nonce"], "groups": ["ml-agents"], **self.lies.get("claims", {}),
        }  # fmt: skip
        return JSONResponse(
            {"id_token": signed(json.dumps(claims).encode()), "token_type": "Bearer"}
        )

    async def saml(self, request: Request) -> Response:
        packed = base64.b64decode(request.query_params["SAMLRequest"])
        asked = etree.fromstring(zlib.decompress(packed, wbits=-15))
        assert asked.find("saml:Issuer", NS).text == HOOP
        assert asked.get("Destination") == f"{self.url}/saml"
        acs = asked.get("AssertionConsumerServiceURL")
        assert acs in self.redirect_uris
        given = {"answers": asked.get("ID"), "recipient": acs, "issuer": f"{self.url}/saml",
                 "assertion_id": "_" + secrets.token_hex(8), **self.lies.get("saml", {})}  # fmt: skip
        page = encoded(sign(response(**given)))
        relay = self.lies.get("relay", request.query_params["RelayState"])
        return HTMLResponse(
            f'<form method="post" action="{html.escape(acs)}">'
            f'<input type="hidden" name="SAMLResponse" value="{html.escape(page)}"/>'
            f'<input type="hidden" name="RelayState" value="{html.escape(relay)}"/></form>'
        )


class Browser:
    """Follows redirects and posts forms, as a browser with scripts does. Keeps what it was shown last."""

    def __init__(self) -> None:
        self.visited: list[str] = []
        self.last: httpx.Response | None = None
        self.threads: list[threading.Thread] = []

    def open_new(self, url: str) -> bool:
        """In the place of `webbrowser.open_new`."""
        thread = threading.Thread(target=self.go, args=(url,), daemon=True)
        self.threads.append(thread)
        thread.start()
        return True

    def go(self, url: str, *, stop_before: str = "http://localhost") -> str:
        """Where the way ends: at an address that begins so, else at the last page."""
        with httpx.Client(trust_env=False, timeout=10) as client:
            answer = client.get(url)
            for _ in range(10):
                self.visited.append(str(answer.url))
                self.last = answer
                if answer.is_redirect:
                    following = str(answer.next_request.url)  # type: ignore[union-attr]
                    if following.startswith(stop_before):
                        if stop_before == "http://localhost":
                            client.get(following)
                        return following
                    answer = client.get(following)
                elif "<form" in answer.text:
                    url, fields = _form(answer.text)
                    answer = client.post(url, data=fields)
                else:
                    return str(answer.url)
        raise AssertionError("the way has no end")


def _form(page: str) -> tuple[str, dict[str, str]]:
    root = etree.HTML(page)
    fields = {i.get("name"): i.get("value") for i in root.iterfind(".//input")}
    return root.find(".//form").get("action"), fields


@contextmanager
def served(app: Starlette, port: int, stop: Any = None) -> Iterator[None]:
    """An application on loopback, in a thread and loop of its own."""
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", lifespan="off")
    )

    async def run() -> None:
        await server.serve()
        if stop is not None:
            await stop()

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    for _ in range(400):
        if server.started:
            break
        time.sleep(0.02)
    assert server.started
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(20)


def settings(folder: Path, port: int, **changes: Any) -> Settings:
    policy = folder / "policy.yaml"
    policy.write_text(POLICY)
    return Settings.model_validate(
        {
            "gateway": {"port": port, "replica": f"r{port}"},
            "store": {"url": f"sqlite:///{folder / 'hoop.db'}", "recordings": str(folder / "rec")},
            "audit": {"key_file": folder / "log.key", "origin": "test.example/log"},
            "policy": {"file": policy},
            "snowflake": {"account": "acme", "url": "http://127.0.0.1:9"},
            "lineage": {"file": folder / "lineage.jsonl"},
            **changes,
        }
    )


@contextmanager
def gateway(chosen: Settings) -> Iterator[Gateway]:
    made = build_gateway(chosen)
    app = Starlette(routes=routes_of(made))

    async def stop() -> None:
        await made.stop([])

    with served(app, chosen.gateway.port, stop):
        yield made


def new_ports(count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        port = free_port()
        if port not in found:
            found.append(port)
    return found
