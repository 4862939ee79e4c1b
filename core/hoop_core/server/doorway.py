"""What every request passes before a route is looked for, and what is written down of it afterwards.

The client's true address, methods and paths that nobody needs, the size and pace of bodies, the request's id
in logs, the caller's trace, one line in the access log. Nobody is identified here.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import structlog
from opentelemetry import context as otel
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hoop_core.config import Settings
from hoop_core.errors import HoopError, where
from hoop_core.gateway.limits import Rate
from hoop_core.gateway.wire import failure
from hoop_core.http import SMALL_BODY, BadRequest, unexpected
from hoop_core.server.addresses import Proxies
from hoop_core.telemetry import REGISTRY

_log = structlog.get_logger(__name__)
_access = structlog.get_logger("hoop.access")
_PART = r"[A-Za-z0-9._~!$&'()*+,=:@-]+"
# Two slashes in one place only: so version 5 of the Python connector asks how a statement is doing.
_PATH = re.compile(f"(?:/monitoring/queries//{_PART}|/(?:{_PART}(?:/{_PART})*/?)?)\\Z".encode())
_METHODS = frozenset({"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"})
_SIGN_INS = frozenset(
    {
        "/session/v1/login-request",
        "/session/authenticator-request",
        "/console/login",
        "/sign-in",
        "/sign-in/arrived",
    }
)
_SSO = "/hoop/sso/"
"""Whoever comes to these need not be anybody, and the store is written to."""
_SMALL = ("/session", "/queries/v1/abort-request")
_UNSERVED = "unserved"
_TRACE = TraceContextTextMapPropagator()
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

REQUESTS = Counter(
    "hoop_http_requests", "Requests.", ["method", "route", "status"], registry=REGISTRY
)
SECONDS = Histogram(
    "hoop_http_request_seconds",
    "From a request's headers to the last byte of its response.",
    ["route"],
    registry=REGISTRY,
    buckets=_SECONDS,
)
SENT = Counter(
    "hoop_http_response_bytes", "Bytes of response bodies.", ["route"], registry=REGISTRY
)
RECEIVED = Counter(
    "hoop_http_request_bytes", "Bytes of request bodies.", ["route"], registry=REGISTRY
)


class TooSlow(BadRequest):
    reason = "TOO_SLOW"


class TooLong(BadRequest):
    reason = "TOO_LONG"


class _NotTaken(Exception):
    """A request that no route gets to see."""

    def __init__(self, status: int, error: HoopError, headers: Mapping[str, str] | None = None):
        self.status, self.error, self.headers = status, error, headers
        super().__init__()


@dataclass(slots=True)
class _Exchange:
    """One request and its response, as the access log tells it."""

    id: str = field(default_factory=lambda: "req_" + secrets.token_hex(8))
    began: float = field(default_factory=time.monotonic)
    status: int = 0
    received: int = 0
    sent: int = 0
    complete: bool = False


class Doorway:
    """ASGI middleware around the whole application."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        *,
        streamed: tuple[str, ...] = (),
    ) -> None:
        """`streamed` are beginnings of paths whose bodies are bounded by who reads them."""
        self._app, self._settings, self._streamed = app, settings.gateway, streamed
        self._proxies = Proxies(settings.gateway.trusted_proxies)
        self._sign_ins = Rate(settings.limits.sign_ins_per_minute)
        self._secure = settings.gateway.tls_certificate is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # no websockets: uvicorn is told so too
        exchange = _Exchange()
        headers = Headers(scope=scope)
        self._name_client(scope, headers)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request=exchange.id)
        parent = otel.attach(_TRACE.extract({"traceparent": headers.get("traceparent", "")}))
        try:
            await self._answered(scope, receive, self._sending(send, exchange), headers, exchange)
        finally:
            otel.detach(parent)
            self._write_down(scope, exchange)

    def _name_client(self, scope: Scope, headers: Headers) -> None:
        peer, port = scope["client"] or (None, 0)
        client = self._proxies.client(peer, headers.getlist("x-forwarded-for"))
        if client != peer:
            scope["client"] = (client, 0)
        elif peer is not None:
            scope["client"] = (peer, port)

    async def _answered(
        self, scope: Scope, receive: Receive, send: Send, headers: Headers, exchange: _Exchange
    ) -> None:
        limit = self._longest(scope["path"])
        try:
            self._check(scope, headers, limit)
            await self._app(scope, self._receiving(receive, exchange, limit), send)
        except _NotTaken as e:
            answer = _refusal(scope, e)
            await answer(scope, receive, send)
        except ClientDisconnect:
            return
        except Exception as e:
            # Whatever it is, it is not told to the client, and its text is not told to the log either.
            _log.error("a request failed inside Hoop", where=where(e))
            if exchange.status and not exchange.complete:
                raise _CutShort from None  # the server closes a response that has no end
            if not exchange.status:
                error = _NotTaken(500, unexpected())
                await _refusal(scope, error)(scope, receive, send)

    # ------------------------------------------------------------------ before the route

    def _check(self, scope: Scope, headers: Headers, limit: int | None) -> None:
        """Raises _NotTaken."""
        if scope["method"] not in _METHODS:
            raise _NotTaken(405, BadRequest("Hoop does not serve this method."))
        if not _PATH.match(scope["raw_path"]) or _dotted(scope["path"]):
            error = BadRequest(
                "Hoop does not serve this endpoint.", "Its path is not in plain form."
            )
            raise _NotTaken(404, error)
        length = headers.get("content-length", "")
        if limit is not None and length.isdecimal() and int(length) > limit:
            raise _NotTaken(413, _too_long(limit))
        if scope["path"] in _SIGN_INS or scope["path"].startswith(_SSO):
            address = str(scope["client"][0]) if scope["client"] else ""
            if not self._sign_ins.take(address):
                error = BadRequest(
                    "There were too many sign-ins from this address.",
                    "Wait a moment, then connect again; or keep one connection open for longer.",
                    reason="TOO_MANY_SIGN_INS",
                    errno=99429,
                )
                raise _NotTaken(429, error, {"retry-after": "5"})

    def _longest(self, path: str) -> int | None:
        """Of a body, in bytes; None where whoever reads it knows."""
        if path.startswith(self._streamed) and self._streamed:
            return None
        return SMALL_BODY if path.startswith(_SMALL) else self._settings.max_body_bytes

    # ------------------------------------------------------------------ on the way

    def _receiving(self, receive: Receive, exchange: _Exchange, limit: int | None) -> Receive:
        """Raises TooSlow or TooLong in whoever reads the body."""
        settings = self._settings
        whole = False

        async def paced() -> Message:
            nonlocal whole
            if whole:  # from here on it waits for the client to go away, which may take long
                return await receive()
            allowed = settings.body_seconds + exchange.received / settings.body_bytes_per_second
            left = allowed - (time.monotonic() - exchange.began)
            if limit is None:
                left = settings.body_seconds
            try:
                async with asyncio.timeout(max(left, 0.0)):
                    message = await receive()
            except TimeoutError:
                raise TooSlow(
                    "The request's body came too slowly.", "Send it again over a better line."
                ) from None
            if message["type"] == "http.request":
                exchange.received += len(message.get("body", b""))
                whole = not message.get("more_body", False)
                if limit is not None and exchange.received > limit:
                    raise _too_long(limit)
            return message

        return paced

    def _sending(self, send: Send, exchange: _Exchange) -> Send:
        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                headers = MutableHeaders(scope=cast("dict[str, Any]", message))
                headers.setdefault("cache-control", "no-store")
                headers.setdefault("x-content-type-options", "nosniff")
                headers["x-hoop-request"] = exchange.id
                if self._secure:
                    headers.setdefault("strict-transport-security", "max-age=31536000")
            elif message["type"] == "http.response.body":
                exchange.sent += len(message.get("body", b""))
                exchange.complete = not message.get("more_body", False)
            await send(message)

        return watched

    # ------------------------------------------------------------------ afterwards

    def _write_down(self, scope: Scope, exchange: _Exchange) -> None:
        route = _route(scope)
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        seconds = time.monotonic() - exchange.began
        _requests(method, route, exchange.status).inc()
        took, sent, received = _measured(route)
        took.observe(seconds)
        sent.inc(exchange.sent)
        received.inc(exchange.received)
        if self._settings.access_log:
            _access.info(
                "request",
                method=method,
                route=route,
                status=exchange.status,
                ms=round(seconds * 1000, 1),
                received=exchange.received,
                sent=exchange.sent,
                complete=exchange.complete,
                address=scope["client"][0] if scope["client"] else None,
            )


# Both are asked with values from closed lists only: methods, routes and status codes.
@cache
def _requests(method: str, route: str, status: int) -> Counter:
    return REQUESTS.labels(method, route, str(status))


@cache
def _measured(route: str) -> tuple[Histogram, Counter, Counter]:
    return SECONDS.labels(route), SENT.labels(route), RECEIVED.labels(route)


class _CutShort(Exception):
    """A response that cannot be finished; why is in the log already."""


def _too_long(limit: int) -> TooLong:
    return TooLong(f"The request is longer than {limit} bytes.", "Send a shorter text.")


def _dotted(path: str) -> bool:
    return any(part in {".", ".."} for part in path.split("/"))


def _route(scope: Scope) -> str:
    """The route's path as it is written down, `{...}` for what changes: addresses of results and ids are
    nobody's to read in a log, and would be labels without number.
    """
    path: str = getattr(scope.get("route"), "path", _UNSERVED)
    return _UNSERVED if "{path:path}" in path else path


def _refusal(scope: Scope, refused: _NotTaken) -> Response:
    """In the shape of the API that was asked."""
    error = refused.error
    if str(scope["path"]).startswith("/hoop/"):
        told = {"reason": error.reason, "message": error.message, "hint": error.hint}
        return JSONResponse({"error": told}, refused.status, headers=refused.headers)
    return JSONResponse(failure(error), refused.status, headers=refused.headers)


async def method_not_allowed(request: Request, _error: Exception) -> Response:
    """A path that is served, but not with this method."""
    error = _NotTaken(405, BadRequest("This endpoint does not serve this method."))
    return _refusal(request.scope, error)
