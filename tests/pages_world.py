"""Hoop's pages with an identity provider that knows several people, and a browser without scripts in front of them."""

from __future__ import annotations

import base64
import html
import re
import secrets
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

import httpx
from lxml import etree
from sqlalchemy import insert
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from hoop_core.approvals.approval import Approval
from hoop_core.approvals.binding import Binding
from hoop_core.audit.log import utc_now
from hoop_core.config import Settings
from hoop_core.model import (
    ApprovalTerms,
    BreakGlass,
    Identity,
    Json,
    RoleBinding,
    RunContext,
)
from hoop_core.records import person_json, sha256
from hoop_core.server.app import Gateway
from hoop_core.store.tables import sessions
from tests.saml_world import HOOP, NS, SIGNER, encoded, response, sign
from tests.sign_in_world import CLIENT, SECRET, Idp, gateway, new_ports, served, settings

OWNERS = "data-owners"
GROUPS = {
    "ann": [OWNERS],
    "ben": [OWNERS],
    "cat": [OWNERS, "on-call"],
    "eve": ["ml-agents"],
    "rita": ["auditors"],
}


@dataclass
class PeopleIdp(Idp):
    """Remembers people by a cookie, asks them where it may, and says login_required where it may not."""

    groups: dict[str, list[str]] = field(default_factory=lambda: dict(GROUPS))
    prompts: list[str] = field(default_factory=list)
    host: str = "127.0.0.1"
    """With "localhost" the provider is another site than Hoop to a browser, as it is in the world."""

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    async def authorize(self, request: Request) -> Response:
        asked = dict(request.query_params)
        prompt = asked.get("prompt", "")
        self.prompts.append(prompt)
        known = request.cookies.get("idp-person", "")
        person = asked.pop("as", "") or ("" if prompt == "login" else known)
        if not person and prompt == "none":
            answer = {"error": "login_required", "state": asked["state"], "iss": self.url}
            return RedirectResponse(f"{asked['redirect_uri']}?{urlencode(answer)}", 302)
        if not person:
            return _people(self.groups, f"{self.url}/authorize", asked)
        self.lies["claims"] = {
            "sub": person,
            "preferred_username": person,
            "groups": self.groups[person],
            "auth_time": int(time.time()),
            **self.lies.get("always", {}),
        }
        answered = await super().authorize(request)
        answered.set_cookie("idp-person", person)
        return answered

    async def saml(self, request: Request) -> Response:
        asked = dict(request.query_params)
        person = asked.pop("as", "") or request.cookies.get("idp-person", "")
        root = etree.fromstring(zlib.decompress(base64.b64decode(asked["SAMLRequest"]), wbits=-15))
        if not person or (root.get("ForceAuthn") == "true" and "as" not in request.query_params):
            return _people(self.groups, f"{self.url}/saml", asked)
        acs = root.get("AssertionConsumerServiceURL")
        assert acs in self.redirect_uris
        assert root.find("saml:Issuer", NS).text == HOOP
        given = {"answers": root.get("ID"), "recipient": acs, "issuer": f"{self.url}/saml",
                 "assertion_id": "_" + secrets.token_hex(8), "name": person,
                 "groups": tuple(self.groups[person]), "signed_in": -1,
                 **self.lies.get("saml", {})}  # fmt: skip
        page = encoded(sign(response(**given)))
        answered = HTMLResponse(
            f'<form method="post" action="{html.escape(acs)}">'
            f'<input type="hidden" name="SAMLResponse" value="{html.escape(page)}"/>'
            f'<input type="hidden" name="RelayState" value="{html.escape(asked["RelayState"])}"/>'
            '<button type="submit">Continue</button></form>'
        )
        answered.set_cookie("idp-person", person)
        return answered


def _people(groups: dict[str, list[str]], at: str, asked: dict[str, str]) -> Response:
    links = "".join(
        f'<li><a href="{html.escape(at + "?" + urlencode({**asked, "as": p}))}">{p}</a></li>'
        for p in groups
    )
    return HTMLResponse(f"<title>provider</title><h1>Who are you?</h1><ul>{links}</ul>")


class Surfer:
    """A browser: cookies, redirects, refreshes, forms of a provider; `who` is clicked where it asks."""

    def __init__(self, world: PagesWorld, who: str) -> None:
        self.world, self.who = world, who
        self.client = httpx.Client(trust_env=False, timeout=20, follow_redirects=False)
        self.visited: list[str] = []

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.follow(self.client.get(self._url(path), headers=headers))

    def raw(self, path: str, **headers: str) -> httpx.Response:
        return self.client.get(self._url(path), headers=headers)

    def _url(self, path: str) -> str:
        return urljoin(self.world.url, path)

    def follow(self, answer: httpx.Response) -> httpx.Response:
        for _ in range(15):
            self.visited.append(str(answer.url))
            if answer.is_redirect:
                answer = self.client.get(str(answer.next_request.url))  # type: ignore[union-attr]
                continue
            refresh = re.search(r'http-equiv="refresh" content="0;url=([^"]+)"', answer.text)
            if refresh:
                answer = self.client.get(html.unescape(refresh[1]))
                continue
            at_provider = urlsplit(str(answer.url)).port == self.world.idp.port
            if at_provider and "Who are you" in answer.text:
                links = re.findall(r'href="([^"]+)"', answer.text)
                mine = next(x for x in links if x.endswith(f"as={self.who}"))
                answer = self.client.get(html.unescape(mine))
                continue
            if at_provider and "<form" in answer.text:
                root = etree.HTML(answer.text)
                fields = {i.get("name"): i.get("value") for i in root.iterfind(".//input")}
                answer = self.client.post(root.find(".//form").get("action"), data=fields)
                continue
            return answer
        raise AssertionError("the way has no end")

    def form(self, page: httpx.Response) -> dict[str, str]:
        """The hidden fields of the forms on a request page."""
        root = etree.HTML(page.text)
        return {
            name: root.find(f".//main//input[@name='{name}']").get("value")
            for name in ("csrf", "state")
        }

    def send(
        self, identifier: str, do: str = "approve", reason: str = "fine", **changes: Any
    ) -> httpx.Response:
        """The form of a request page, filled in and sent; up to where the browser has to go on."""
        fields = changes.pop("fields", None) or self.form(self.get(f"/approvals/{identifier}"))
        headers = {"sec-fetch-site": "same-origin"} | changes.pop("headers", {})
        data = {**fields, "do": do, "reason": reason, **changes}
        return self.client.post(
            self._url(f"/approvals/{identifier}"),
            data={k: v for k, v in data.items() if v is not None},
            headers={k: v for k, v in headers.items() if v},
        )

    def answer(self, identifier: str, do: str = "approve", **more: Any) -> httpx.Response:
        """All of the way: the form, the provider, and back."""
        return self.follow(self.send(identifier, do, **more))


@dataclass
class PagesWorld:
    idp: PeopleIdp
    gateway: Gateway
    port: int
    folder: Path
    kind: str
    settings: Settings

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def issuer(self) -> str:
        return self.idp.url if self.kind == "oidc" else f"{self.idp.url}/saml"

    def surfer(self, who: str) -> Surfer:
        return Surfer(self, who)

    def person(self, name: str, *groups: str) -> Identity:
        return Identity(self.issuer, name, name, groups, self.kind, "")

    def log(self, kind: str) -> list[Json]:
        import json

        entries = (json.loads(e.text) for e in self.gateway.log.entries())
        return [e["data"] for e in entries if e["kind"] == kind]

    def ask(
        self,
        sql: str = "DELETE FROM PROD.FEATURES.SCORES",
        *,
        who: Identity | None = None,
        quorum: int = 1,
        kind: str = "delete",
        rewritten: str | None = None,
        break_glass: bool = False,
        approvers: tuple[str, ...] = (OWNERS,),
        **body: Any,
    ) -> Approval:
        """A question as the guard puts it."""
        asker = who or self.person("nightly-scoring", "ml-agents")
        text = sql if rewritten is None else rewritten
        bound = Binding(
            identity=asker,
            role=RoleBinding("ml-reader", "ML_READER"),
            fingerprint=sha256(sql),
            executed_sha256=sha256(text),
            parameters_sha256=secrets.token_hex(8),
            policy_digest=self.gateway.guard.policy.digest,
            catalog_digest="c",
            run=RunContext("airflow", {"dag_id": "nightly", "task_id": "score", "run_id": "r1"}),
        )
        terms = ApprovalTerms(
            approvers,
            quorum,
            timedelta(hours=3),
            timedelta(hours=1),
            break_glass=BreakGlass(("on-call",), timedelta(minutes=15)) if break_glass else None,
        )
        question = {
            "requester": person_json(asker),
            "session_id": None,
            "run": {"orchestrator": "airflow", "fields": dict(bound.run.fields)},
            "snowflake_role": "ML_READER",
            "parameters": None,
            "staged": [],
            "settings": {},
            "sql": sql,
            "rewritten": text,
            "kind": kind,
            "reads": [],
            "writes": ["PROD.FEATURES.SCORES"],
            "facts": {"has_where": False, "is_unbounded": True},
            "reasons": [{"code": "APPROVAL_REQUIRED",
                         "message": "needs approval by 1 of data-owners: changes every row"}],
            "rules": ["unbounded-change"],
            "masked": [],
            "filtered": [],
            "policy_digest": bound.policy_digest,
            "fingerprint": bound.fingerprint,
            **body,
        }  # fmt: skip
        return self.gateway.guard.desk.ask(bound, terms, question, session_id=None)

    def session(self, who: Identity, identifier: str, *, application: str = "tests") -> None:
        """A session as the gateway keeps it; its entries are the caller's to write."""
        body = {
            "identity": person_json(who),
            "snowflake_role": "ML_READER",
            "client": {"application": application},
        }
        with self.gateway.store.write() as connection:
            connection.execute(
                insert(sessions).values(
                    id=identifier, identity_key=who.key, body=body, opened_at=utc_now(), account=""
                )
            )

    def get(self, identifier: str) -> Approval:
        return self.gateway.guard.desk.get(identifier)


def provider(kind: str, idp: PeopleIdp, folder: Path) -> dict[str, Any]:
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
    section = {"entity_id": f"{idp.url}/saml", "certificates": [SIGNER.file(folder)],
               "audience": HOOP, "sso_url": f"{idp.url}/saml"}  # fmt: skip
    return {"saml": [section]}


@contextmanager
def pages_world(
    kind: str, folder: Path, *, host: str = "127.0.0.1", **changes: Any
) -> Iterator[PagesWorld]:
    at_idp, at_hoop = new_ports(2)
    idp = PeopleIdp(at_idp, {f"http://127.0.0.1:{at_hoop}/hoop/sso/{kind}"}, host=host)
    more = {"sign_in": {"failures_per_minute": 0}, **changes}
    chosen = settings(folder, at_hoop, **provider(kind, idp, folder), **more)
    with served(idp.app(), at_idp), gateway(chosen) as made:
        yield PagesWorld(idp, made, at_hoop, folder, kind, chosen)
