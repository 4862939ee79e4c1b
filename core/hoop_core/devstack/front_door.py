"""The development stack's sign-in page: click a name, and be that person. On loopback, for trying Hoop out only.

It is the browser's side of OpenBao's issuer: what OpenBao says of a person is signed once more, with the sign-in's
nonce, which OpenBao's own tokens cannot hold. So alice is one person however she comes, and her groups are those of
that moment. Only the gateway takes these tokens; OpenBao does not know the key.
OpenID Connect Core 1.0 section 3.1 and RFC 7636, as far as Hoop needs them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

from hoop_core.devstack.processes import LOOPBACK
from hoop_core.errors import HoopError, VaultUnavailable
from hoop_core.model import Json

CLIENT = "hoop-pages"
_CODE_SECONDS = 60.0
_TOKEN_SECONDS = 300
_KEYS_SECONDS = 5.0
_LONGEST_BODY = 16 * 1024
_BACK = "/hoop/sso/oidc"
_STYLE = """
:root{color-scheme:light dark;--bg:#f5f6f8;--card:#fff;--ink:#1a1c26;--soft:#566071;--line:#d5dae2;--warn:#85510a;--tint:#fdf0d8}
@media (prefers-color-scheme:dark){:root{--bg:#0e1218;--card:#161b24;--ink:#e7ebf2;--soft:#a1acbd;--line:#3b4657;--warn:#f5c878;--tint:#38290f}}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.55 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:27rem;margin:8vh auto 0;padding:2rem;background:var(--card);border:1px solid var(--line);border-radius:14px}
h1{font-size:1.4rem;margin:.75rem 0 .25rem}p{margin:.25rem 0 1rem;color:var(--soft)}
.tag{display:inline-block;background:var(--tint);color:var(--warn);font-weight:600;font-size:.85rem;border-radius:99px;padding:.2rem .7rem}
ul{list-style:none;margin:0;padding:0;display:grid;gap:.5rem}
a{display:flex;justify-content:space-between;gap:1rem;padding:.7rem 1rem;border:1px solid var(--line);border-radius:10px;color:inherit;text-decoration:none}
a:hover{border-color:currentColor}a:focus-visible{outline:3px solid #5b8cff;outline-offset:2px}b{font-weight:650}small{color:var(--soft);font-size:.9rem}
"""
_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": (
        f"default-src 'none'; style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@dataclass(frozen=True, slots=True)
class _Given:
    """What a code stands for."""

    person: str
    redirect_uri: str
    nonce: str
    challenge: str
    until: float


class FrontDoor:
    """An identity provider of one page, in a thread."""

    def __init__(
        self, port: int, *, issuer: str, people: Mapping[str, str], token: Callable[[str], str]
    ) -> None:
        """`people` are names, with what each may do; `token` gets one of the issuer's own tokens for a name."""
        self.port, self._people, self._token = port, people, token
        self._issuers_keys = f"{issuer}/.well-known/keys"
        self._key = RSAKey.generate_key(2048, {"kid": secrets.token_hex(8), "use": "sig"})
        self.document = {
            "issuer": issuer,
            "jwks_uri": f"{self.url}/keys",
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
        }
        self._codes: dict[str, _Given] = {}
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def start(self) -> None:
        """May be called twice."""
        if self._server is not None:
            return
        self._server = ThreadingHTTPServer((LOOPBACK, self.port), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="front-door", daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    # ------------------------------------------------------------------ what is asked

    def authorize(self, asked: Mapping[str, str], known: str) -> tuple[str, str]:
        """Where to send the browser, and as whom; or, with no address, that somebody has to be chosen.

        Raises ValueError for what Hoop would not ask.
        """
        back = urlsplit(asked.get("redirect_uri", ""))
        fits = (
            asked.get("response_type") == "code"
            and asked.get("client_id") == CLIENT
            and asked.get("code_challenge_method") == "S256"
            and (back.scheme, back.hostname, back.path) == ("http", LOOPBACK, _BACK)
            and all(asked.get(k) for k in ("state", "nonce", "code_challenge"))
        )
        if not fits:
            raise ValueError("not a request of Hoop's")
        chosen = asked.get("as", "")
        silent = asked.get("prompt") == "none"
        person = chosen or (known if silent else "")
        answer = {"state": asked["state"], "iss": str(self.document["issuer"])}
        if person not in self._people:
            if not silent:
                return "", ""
            answer["error"] = "login_required"
            return f"{asked['redirect_uri']}?{urlencode(answer)}", ""
        code = secrets.token_urlsafe(24)
        self._forget()
        self._codes[code] = _Given(
            person,
            asked["redirect_uri"],
            asked["nonce"],
            asked["code_challenge"],
            time.monotonic() + _CODE_SECONDS,
        )
        return f"{asked['redirect_uri']}?{urlencode({**answer, 'code': code})}", person

    def token(self, form: Mapping[str, str]) -> str:
        """The ID token of a code, once. Raises ValueError, HoopError."""
        given = self._codes.pop(form.get("code", ""), None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        if (
            given is None
            or time.monotonic() > given.until
            or form.get("grant_type") != "authorization_code"
            or form.get("redirect_uri") != given.redirect_uri
            or not secrets.compare_digest(challenge, given.challenge)
        ):
            raise ValueError("no such code")
        said = jwt.decode(self._token(given.person), self._published()).claims
        now = int(time.time())
        claims = {k: said[k] for k in ("iss", "sub", "groups", "preferred_username")} | {
            "aud": CLIENT,
            "iat": now,
            "exp": now + _TOKEN_SECONDS,
            "auth_time": now,
            "nonce": given.nonce,
        }
        return jwt.encode({"alg": "RS256", "kid": self._key.kid}, claims, self._key)

    def keys(self) -> Json:
        """Those of the issuer, and the one of this page. Raises HoopError."""
        try:
            answer = httpx.get(self._issuers_keys, timeout=_KEYS_SECONDS, trust_env=False)
            listed = answer.raise_for_status().json()["keys"]
        except (httpx.HTTPError, ValueError, KeyError) as e:
            raise VaultUnavailable(f"OpenBao gave no keys ({type(e).__name__}).") from None
        return {"keys": [*listed, self._key.as_dict(private=False)]}

    def _published(self) -> KeySet:
        return KeySet.import_key_set(cast("Any", self.keys()))

    def page(self, asked: Mapping[str, str]) -> str:
        rows = "".join(
            f'<li><a href="/authorize?{escape(urlencode({**asked, "as": name}))}"><b>{escape(name)}</b>'
            f"<small>{escape(what)}</small></a></li>"
            for name, what in self._people.items()
        )
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Development sign-in</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<style>{_STYLE}</style></head><body><main><span class="tag">Development stack only</span>'
            "<h1>Who do you want to be?</h1><p>Nobody has a password here: anybody on this computer can be "
            f"anybody. In production your identity provider stands here.</p><ul>{rows}</ul></main></body></html>"
        )

    def _forget(self) -> None:
        now = time.monotonic()
        self._codes = {c: g for c, g in self._codes.items() if g.until > now}


def _handler(door: FrontDoor) -> type[BaseHTTPRequestHandler]:
    place = f"{LOOPBACK}:{door.port}"
    cookie = f"hoop-dev-person-{door.port}"

    class Handler(BaseHTTPRequestHandler):
        """Nothing is told to other names of this host: no other site's page can be made to read it."""

        server_version, sys_version = "hoop-dev", ""

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if self.headers.get("host") != place:
                self._send(421, "text/plain", "Open this page by its own address.")
            elif path == "/.well-known/openid-configuration":
                self._send(200, "application/json", json.dumps(door.document))
            elif path == "/keys":
                self._answer(door.keys)
            elif path == "/authorize":
                self._authorize(dict(parse_qsl(query)))
            else:
                self._send(404, "text/plain", "There is nothing here.")

        def do_POST(self) -> None:
            length = self.headers.get("content-length", "")
            if self.path != "/token" or not length.isdecimal() or int(length) > _LONGEST_BODY:
                self._send(404, "text/plain", "There is nothing here.")
                return
            form = dict(parse_qsl(self.rfile.read(int(length)).decode("utf-8", "replace")))
            self._answer(lambda: {"id_token": door.token(form), "token_type": "Bearer"})

        def _answer(self, made: Callable[[], Json]) -> None:
            try:
                told = made()
            except ValueError:
                self._send(400, "application/json", '{"error": "invalid_grant"}')
            except HoopError:
                self._send(503, "application/json", '{"error": "temporarily_unavailable"}')
            else:
                self._send(200, "application/json", json.dumps(told))

        def _authorize(self, asked: dict[str, str]) -> None:
            try:
                to, person = door.authorize(asked, self._known())
            except ValueError:
                self._send(400, "text/plain", "This is not a request of Hoop's.")
                return
            if not to:
                self._send(200, "text/html; charset=utf-8", door.page(asked))
                return
            more = {"location": to}
            if person:
                more["set-cookie"] = f"{cookie}={person}; HttpOnly; SameSite=Lax; Path=/"
            self._send(302, "text/plain", "", more)

        def _known(self) -> str:
            try:
                found = SimpleCookie(self.headers.get("cookie", "")).get(cookie)
            except CookieError:
                return ""
            return found.value if found else ""

        def _send(
            self, status: int, kind: str, text: str, more: Mapping[str, str] | None = None
        ) -> None:
            body = text.encode()
            self.send_response(status)
            for name, value in {**_HEADERS, **(more or {}), "content-type": kind}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Addresses hold codes: nothing is written down."""

    return Handler
