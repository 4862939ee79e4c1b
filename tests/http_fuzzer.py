"""Requests that are nearly right: real sessions and real bodies, with something changed.

Driven by a seed, so that what it found can be found again.
"""

from __future__ import annotations

import base64
import gzip
import json
import random
import socket
import string
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

Route = tuple[str, str]
"""Method and path as it is written down, with `{...}` for what changes."""
ADMIN: tuple[Route, ...] = (("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/metrics"))
"""Served at a port of their own, and never by the gateway's."""
HELD = "UPDATE PROD.FEATURES.CHURN_STAGING SET SCORE = 1"
"""A statement that waits for two persons, one more than the fuzzer speaks for."""

_SQL = [
    "SELECT 1",
    "SELECT EMAIL, SSN FROM PROD.CRM.CUSTOMERS LIMIT 3",
    "SELECT * FROM PROD.CRM.CUSTOMERS WHERE CUSTOMER_ID = ?",
    "USE SCHEMA PROD.CRM",
    "ALTER SESSION SET TIMEZONE = 'UTC'",
    "SHOW TABLES IN SCHEMA PROD.CRM",
    "DESCRIBE TABLE PROD.CRM.CUSTOMERS",
    "BEGIN",
    "ROLLBACK",
    "INSERT INTO PROD.FEATURES.NOWHERE SELECT 1",
    HELD,
    "PUT file:///tmp/x @~",
    "DESCRIBE RESULT LAST_QUERY_ID()",
    "SELECT $1 FROM VALUES (1), (2)",
    "CALL nothing()",
    "SELECT 1; SELECT 2",
    "WITH a AS (SELECT 1 AS x) SELECT x FROM a",
]
_ODD: list[Any] = [
    None, True, False, 0, -1, 1 << 63, 1 << 200, 1.5, -0.0, 1e308, "", " ", "\0", "\x7f", "\ud800",
    "é" * 50, "\u202e", "'", '"', "--", "/*", "%s", "%00", "../..", "${jndi:x}", "{{7*7}}", [], {},
    [[]], [None], {"": None}, "a" * 5000, "0" * 400, "NaN", "null", "true", "1e999",
]  # fmt: skip
_QUERY: dict[str, list[str]] = {
    "/session": ["requestId", "roleName", "warehouse", "delete", "databaseName", "request_guid"],
    "/queries": ["requestId", "retryCount", "clientStartTime", "disableOfflineChunks"],
    "/api": ["requestId", "async", "partition", "nullable", "retry", "pageSize"],
    "/hoop/v1": ["status", "dag_id", "run_id", "task_id", "max_rows"],
    "/hoop/sso": ["login", "provider", "code", "state", "error", "iss", "RelayState"],
    "/console": ["proof_key", "browser_mode_redirect_port", "login_name"],
}
_LIKELY = ["true", "false", "0", "1", "2", "pending", "approved", "443", "x"]
_HEADERS = [
    "authorization", "content-type", "accept", "content-encoding", "x-forwarded-for", "traceparent",
    "x-hoop-chunk", "x-hoop-forwarded-to", "cookie", "expect", "range", "if-none-match", "te",
    "x-snowflake-authorization-token-type", "accept-encoding", "forwarded", "origin", "baggage",
    "snowflake-account", "x-snowflake-context", "x-amz-meta-sfc-digest", "content-md5",
]  # fmt: skip


@dataclass(slots=True)
class Finding:
    what: str
    request: str
    answer: str

    def __str__(self) -> str:
        return f"{self.what}\n  {self.request[:1500]}\n  -> {self.answer[:500]}"


@dataclass(slots=True)
class Fuzzer:
    url: str
    admin: str
    routes: Sequence[Route]
    tokens: Callable[[], Sequence[str]]
    """Of several callers; the first one's are used most."""
    seed: int
    requests: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    reached: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    _random: random.Random = field(init=False)
    _handles: list[tuple[str, str]] = field(default_factory=list)
    _ids: dict[str, list[str]] = field(default_factory=dict)
    """What answers called things, by the part of the address that takes such a name."""
    _families: list[list[Route]] = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        by_name: dict[str, list[Route]] = {}
        for route in (*self.routes, *ADMIN):
            by_name.setdefault(_family(route[1]), []).append(route)
        self._families = list(by_name.values())

    def _route(self) -> Route:
        """Any family of addresses as often as any other, however many addresses it has."""
        return self._random.choice(self._random.choice(self._families))

    def _token(self) -> str:
        first, *others = self.tokens()
        return first if self._random.random() < 0.7 or not others else self._random.choice(others)

    def run(self, seconds: float) -> None:
        """Ask for so long. A step in twenty speaks to the socket itself."""
        end = time.monotonic() + seconds
        with httpx.Client(base_url=self.url, timeout=60) as http:
            while time.monotonic() < end:
                if not self._handles or self._random.random() < 0.01:
                    self._sign_in(http)
                if self._random.random() < 0.05:
                    self._raw()
                else:
                    self._ask(http)

    def _sign_in(self, http: httpx.Client) -> None:
        answer = http.post("/session/v1/login-request", json=self._login())
        data = answer.json().get("data") or {}
        if "token" in data:
            self._handles = [*self._handles[-3:], (data["token"], data["masterToken"])]

    def _login(self) -> dict[str, Any]:
        return {
            "data": {
                "AUTHENTICATOR": "OAUTH",
                "TOKEN": self._token(),
                "CLIENT_APP_ID": "fuzzer",
                "SESSION_PARAMETERS": {"QUERY_TAG": "x"},
            }
        }

    # ------------------------------------------------------------------ making requests

    def _ask(self, http: httpx.Client) -> None:
        rnd = self._random
        method, path = self._route()
        if rnd.random() < 0.05:
            method = rnd.choice(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"])
        target = self._target(path)
        headers = self._headers(path)
        body = self._body(path, headers) if method in {"POST", "PUT", "PATCH"} else None
        try:
            base = self.admin if (method, path) in ADMIN else ""
            request = http.build_request(method, base + target, headers=headers, content=body)
        except (httpx.InvalidURL, UnicodeEncodeError, ValueError, TypeError):
            return  # the client itself would not send it
        try:
            answer = http.send(request)
        except httpx.LocalProtocolError:
            return
        except httpx.TransportError as e:
            self._found("no answer", request, type(e).__name__)
            return
        self._look(path, request, answer)

    def _target(self, path: str) -> str:
        rnd = self._random
        known = self._ids.get(_named(path), [])
        target = "/".join(self._part(known) if p.startswith("{") else p for p in path.split("/"))
        if rnd.random() < 0.03:
            target = rnd.choice(["/", "//"]) + target
        if rnd.random() < 0.03:
            target += rnd.choice(["/", "/..", "%00", ";a", "%2f", "?", "/x"])
        if rnd.random() < 0.5:
            target += "?" + self._query(path)
        return target

    def _query(self, path: str) -> str:
        rnd = self._random
        keys = _QUERY.get(_family(path)) or [k for some in _QUERY.values() for k in some]
        pairs = []
        for _ in range(rnd.randint(1, 3)):
            value = rnd.choice(_LIKELY) if rnd.random() < 0.6 else str(self._value())
            pairs.append(f"{rnd.choice(keys)}={httpx.QueryParams({'x': value})['x']}")
        return "".join(c for c in "&".join(pairs) if c.isprintable() and c not in "# ")

    def _part(self, known: Sequence[str]) -> str:
        rnd = self._random
        if known and rnd.random() < 0.7:
            return rnd.choice(known)
        others = [name for names in self._ids.values() for name in names]
        if others and rnd.random() < 0.3:
            return rnd.choice(others)
        odd = ["0", "1", "-1", "x", "apr_x", "ses_x", "9" * 50, "a" * 300, "None", "true"]
        return rnd.choice(odd)

    def _headers(self, path: str) -> dict[str, str]:
        rnd = self._random
        headers = {"content-type": "application/json"}
        roll = rnd.random()
        if roll < 0.8 and (path.startswith("/hoop/v1") or path.startswith("/api")):
            headers["authorization"] = f"Bearer {self._token()}"
        elif roll < 0.8 and self._handles:
            token, master = rnd.choice(self._handles)
            wants_master = "token-request" in path
            headers["authorization"] = f'Snowflake Token="{master if wants_master else token}"'
        elif roll < 0.9:
            token = self._token()
            at = rnd.randrange(len(token))
            headers["authorization"] = f"Bearer {token[:at]}{rnd.choice('Aa.-_')}{token[at + 1 :]}"
        for _ in range(rnd.choice([0, 0, 0, 1, 2])):
            value = str(self._value())
            headers[rnd.choice(_HEADERS)] = "".join(c for c in value if " " <= c <= "~")[:200]
        return headers

    def _body(self, path: str, headers: dict[str, str]) -> bytes:
        rnd = self._random
        if path.startswith("/hoop/sso") and rnd.random() < 0.8:
            headers["content-type"] = "application/x-www-form-urlencoded"
            page = base64.b64encode(str(self._value()).encode("utf-8", "replace")).decode()
            return f"SAMLResponse={page}&RelayState={self._part([])}".encode()
        wanted = self._mutated(self._base(path)) if rnd.random() < 0.85 else self._value()
        try:
            body = json.dumps(wanted).encode("utf-8", "surrogatepass")
        except (ValueError, TypeError):
            body = b"{}"
        roll = rnd.random()
        if roll < 0.05 and body:
            cut = bytearray(body)
            cut[rnd.randrange(len(cut))] = rnd.randrange(256)
            return bytes(cut)
        if roll < 0.08:
            return rnd.randbytes(rnd.randint(0, 2000))
        if roll < 0.14:
            headers["content-encoding"] = rnd.choice(["gzip", "deflate", "br", "gzip, gzip", "x"])
            return rnd.choice([gzip.compress, zlib.compress, bytes])(body)
        if roll < 0.16:
            depth = rnd.choice([10, 1000, 30_000])
            return b'{"sqlText":' + b"[" * depth + b"]" * depth + b"}"
        return body

    def _base(self, path: str) -> dict[str, Any]:
        rnd = self._random
        sql = rnd.choice(_SQL)
        if "login" in path or "authenticator" in path:
            return self._login()
        if path.startswith("/hoop/v1/masking"):
            return {"columns": ["PROD.CRM.CUSTOMERS.EMAIL"], "reason": "x", "valid_for": "1h"}
        if path.startswith("/hoop/v1"):
            return {"sql": sql, "verdict": "approve", "reason": "x", "parameters": [1, "a", None],
                    "context": {"orchestrator": "airflow"}, "database": "PROD"}  # fmt: skip
        if path.startswith("/api"):
            if rnd.random() < 0.05:
                sql = "SELECT CUSTOMER_ID, EMAIL FROM PROD.CRM.CUSTOMERS"  # several partitions
            elif sql == HELD:
                sql = "SELECT 1"  # a request that waits for people would hold up the fuzzer, too
            return {"statement": sql, "database": "PROD", "schema": "CRM", "timeout": 5,
                    "bindings": {"1": {"type": "FIXED", "value": "1"}}, "parameters": {}}  # fmt: skip
        return {
            "sqlText": sql,
            "requestId": f"{rnd.getrandbits(128):032x}",
            "sequenceId": rnd.randint(0, 9),
            "bindings": {"1": {"type": "FIXED", "value": "1"}},
            "parameters": {"QUERY_TAG": "t"},
            "describeOnly": rnd.random() < 0.2,
            "asyncExec": rnd.random() < 0.1,
        }

    def _mutated(self, value: Any) -> Any:
        """One to three changes anywhere inside."""
        for _ in range(self._random.choice([0, 1, 1, 2, 3])):
            value = self._changed(value)
        return value

    def _changed(self, value: Any) -> Any:
        rnd = self._random
        if isinstance(value, dict) and value and rnd.random() < 0.85:
            key = rnd.choice(list(value))
            match rnd.randrange(5):
                case 0:
                    return {k: v for k, v in value.items() if k != key}
                case 1:
                    return value | {str(self._value())[:50]: self._value()}
                case _:
                    return value | {key: self._changed(value[key])}
        if isinstance(value, str) and value and rnd.random() < 0.6:
            at = rnd.randrange(len(value) + 1)
            return value[:at] + str(self._value())[:100] + value[at:]
        return self._value()

    def _value(self) -> Any:
        rnd = self._random
        if rnd.random() < 0.7:
            return rnd.choice(_ODD)
        return "".join(rnd.choices(string.printable, k=rnd.randint(0, 40)))

    # ------------------------------------------------------------------ below HTTP

    def _raw(self) -> None:
        """Bytes that are nearly a request; any end of it is right, save an error of ours."""
        rnd = self._random
        method, path = rnd.choice(self.routes)  # those of the other port are asked by HTTP only
        body = json.dumps(self._base(path)).encode()
        head = f"{method} {self._target(path)} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        raw = bytearray(
            head.encode("utf-8", "replace") + b"Content-Length: %d\r\n\r\n" % len(body) + body
        )
        for _ in range(rnd.randint(1, 6)):
            at = rnd.randrange(len(raw))
            piece = rnd.choice([b"\r\n", b"\n", b"\0", b" ", b":", b"\xff", b"Transfer-Encoding: chunked\r\n",
                                rnd.randbytes(3), b"\r\n\r\n", b"Content-Length: 1\r\n"])  # fmt: skip
            raw[at : at + rnd.randint(0, 3)] = piece
        address = httpx.URL(self.url)
        received = b""
        with socket.create_connection((address.host, address.port or 80), timeout=60) as connection:
            try:
                connection.sendall(bytes(raw))
                connection.shutdown(socket.SHUT_WR)
                while piece := connection.recv(65536):
                    received += piece
            except ConnectionError:
                pass
            except TimeoutError:
                self.findings.append(Finding("no end", repr(bytes(raw)), repr(received)))
        self.requests += 1
        if b" 500 " in received[:20] or b"099500" in received:
            shown = base64.b64encode(bytes(raw)).decode()
            self.findings.append(Finding("an error of our own (raw)", shown, repr(received)))

    # ------------------------------------------------------------------ looking at answers

    def _look(self, path: str, request: httpx.Request, answer: httpx.Response) -> None:
        self.requests += 1
        self.statuses[str(answer.status_code)] += 1
        self.reached[path] += 1
        if (
            answer.status_code == 500
            or b"099500" in answer.content
            or b"INTERNAL" in answer.content
        ):
            self._found("an error of our own", request, answer.text)
            return
        if request.method == "HEAD" or answer.status_code == 204 or not answer.content:
            return
        if "json" in answer.headers.get("content-type", ""):
            try:
                told = answer.json()
            except ValueError:
                self._found("an answer that is not JSON", request, answer.text)
                return
            self._learn(told)

    def _learn(self, told: Any) -> None:
        """Ids that came back, to be asked for again."""
        for holder in _objects(told):
            for key, family in _NAMES.items():
                name = holder.get(key)
                if isinstance(name, str):
                    kind = _PREFIXES.get(name[:4], family) if key == "id" else family
                    self._ids[kind] = [*self._ids.get(kind, [])[-20:], name]

    def _found(self, what: str, request: httpx.Request, answer: str) -> None:
        sent = f"{request.method} {request.url} {dict(request.headers)} {request.content[:800]!r}"
        for token in self.tokens():
            sent = sent.replace(token, "<token>")
        self.findings.append(Finding(what, sent, answer))


_NAMES = {"statementHandle": "/api", "queryId": "/queries", "approval": "approvals", "id": ""}
_PREFIXES = {"apr_": "approvals", "ses_": "sessions"}
_KINDS = {"approvals": "approvals", "masking-exceptions": "approvals", "sessions": "sessions"}


def _named(path: str) -> str:
    """Which of the learnt names belong into an address."""
    parts = path.split("/")
    return next((kind for part, kind in _KINDS.items() if part in parts), _family(path))


def _family(path: str) -> str:
    for prefix in _QUERY:
        if path == prefix or path.startswith(prefix + "/"):
            return prefix
    return "/queries" if path.startswith("/monitoring") else "/"


def _objects(told: Any) -> list[dict[str, Any]]:
    """An answer's JSON object, and those right below it."""
    if not isinstance(told, dict):
        return []
    below = [v for value in told.values() for v in (value if isinstance(value, list) else [value])]
    return [told, *(v for v in below[:10] if isinstance(v, dict))]
