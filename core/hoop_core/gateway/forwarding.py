"""A request for a session that another replica holds goes there, and its answer comes back.

Where to is looked up in the store by the digest of the handle, and nowhere else: neither a client nor an
answer can name an address. What is forwarded says so, and goes no further.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from hoop_core.config import GatewaySettings
from hoop_core.errors import ConfigError, GatewayUnavailable
from hoop_core.gateway.limits import Rate
from hoop_core.gateway.owners import SessionOwners, digest_of
from hoop_core.gateway.sessions import SessionBook
from hoop_core.gateway.wire import failure, handle_of
from hoop_core.http import BadRequest
from hoop_core.replicas import checked_url

_log = structlog.get_logger(__name__)
Endpoint = Callable[[Request], Awaitable[Response]]

FORWARDED_TO = "x-hoop-forwarded-to"
_CONNECTIONS, _OF_ONE_SESSION = 512, 32
"""Requests under way to other replicas: of all sessions, and of one."""
_LOOKUPS_PER_MINUTE, _LOOKUPS_AT_ONCE = 6000, 4
"""Of one client address, and of all of them: who guesses handles must not keep the store busy."""
_KNOWN_SECONDS, _UNKNOWN_SECONDS, _ALIVE_SECONDS = 60.0, 10.0, 1.0
_MOST_KNOWN = 20_000
_BUSY = 503
"""HTTP; every driver tries again after it."""
# RFC 9110 section 7.6.1, and what is said of one connection or of who connects.
_HOP_BY_HOP = {
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection",
    b"te", b"trailer", b"transfer-encoding", b"upgrade",
}  # fmt: skip
_NOT_FORWARDED = _HOP_BY_HOP | {
    b"host", b"expect", b"forwarded", b"via", b"x-real-ip", b"x-forwarded-for", b"x-forwarded-host",
    b"x-forwarded-proto", b"x-forwarded-port", FORWARDED_TO.encode(),
}  # fmt: skip
_OWN_ANSWER = _HOP_BY_HOP | {b"date", b"server"}


@dataclass(slots=True)
class Counters:
    """What happened since the process began, for metrics."""

    forwarded: int = 0
    unreachable: int = 0
    orphaned: int = 0
    """Requests for sessions whose replica is dead."""


class Forwarding:
    """Finds the replica of a session and takes requests there. `transport` is for tests."""

    def __init__(
        self,
        settings: GatewaySettings,
        owners: SessionOwners,
        book: SessionBook,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Raises ConfigError for certificates that cannot be used."""
        self._settings, self._owners, self._book = settings, owners, book
        self._where = _Whereabouts(owners)
        self._tls = _Tls(settings)
        self._http = httpx.AsyncClient(
            verify=self._tls.context,
            trust_env=False,  # no proxy of the environment is to see a handle
            follow_redirects=False,
            timeout=httpx.Timeout(
                # An owner answers within one poll, save where Vault or Snowflake make it wait.
                settings.poll_seconds + 150.0,
                connect=3.0,
                write=settings.stalled_seconds,
                pool=5.0,
            ),
            limits=httpx.Limits(
                max_connections=_CONNECTIONS, max_keepalive_connections=64, keepalive_expiry=20.0
            ),
            transport=transport,
        )
        self.counters = Counters()
        self._under_way: Counter[str] = Counter()

    async def close(self) -> None:
        await self._http.aclose()

    def by_handle(self, endpoint: Endpoint) -> Endpoint:
        """`endpoint` for the sessions of this process; for others their replica answers.

        Raises SessionGone for a request without a handle.
        """

        async def call(request: Request) -> Response:
            digest = digest_of(handle_of(request))
            if not self._book.holds(digest=digest):
                answer = await self.to_owner(request, digest=digest)
                if answer is not None:
                    return answer
            return await endpoint(request)

        return call

    def by_session(self, endpoint: Endpoint, parameter: str = "session_id") -> Endpoint:
        """The same for addresses that hold the session's id."""

        async def call(request: Request) -> Response:
            session_id = request.path_params[parameter]
            if not self._book.holds(session_id=session_id):
                answer = await self.to_owner(request, session_id=session_id)
                if answer is not None:
                    return answer
            return await endpoint(request)

        return call

    async def to_owner(
        self, request: Request, *, digest: str | None = None, session_id: str | None = None
    ) -> Response | None:
        """The answer of the replica that holds the session of this handle (its digest), or of this id.

        None when no living replica but this one does: then it is this one's to answer. The request's body
        must not have been read. Raises StoreUnavailable.
        """
        if FORWARDED_TO in request.headers:
            return None
        key = f"h:{digest}" if digest is not None else f"s:{session_id}"
        address = request.client.host if request.client else ""
        try:
            owner = await self._where.owner(key, address, digest=digest, session_id=session_id)
        except _TooManyLookups:
            return self._busy("Too many unknown sessions are asked for from your address.")
        if owner is None or owner == self._owners.me:
            return None
        url = (await self._where.alive()).get(owner)
        if url is None:
            self.counters.orphaned += 1
            _log.warning("a session is gone with its replica", replica=owner)
            return None
        try:
            base = httpx.URL(checked_url(url, plain=self._settings.unsafe_plain_replicas))
        except ConfigError as e:
            _log.error("the replica of a session cannot be reached", replica=owner, why=e.text)
            return self._busy(
                "The gateway that holds this session has no address that others may use."
            )
        if self._under_way[key] >= _OF_ONE_SESSION:
            return self._busy("This session has too many requests under way.")
        self._under_way[key] += 1
        answer: Response | None = None
        try:
            answer = await self._forwarded(request, base, owner)
        finally:
            if isinstance(answer, _Relay):
                answer.ended = partial(self._ended, key)
            else:
                self._ended(key)
        return answer

    def _ended(self, key: str) -> None:
        self._under_way[key] -= 1
        if not self._under_way[key]:
            del self._under_way[key]

    async def _forwarded(self, request: Request, base: httpx.URL, owner: str) -> Response:
        self._tls.refresh()
        body = _Body(request)
        try:
            outgoing = _outgoing(request, base, owner, body)
        except (ValueError, httpx.InvalidURL):
            raise BadRequest("The request's address is malformed.") from None
        sending = asyncio.create_task(self._http.send(outgoing, stream=True))
        leaving = asyncio.create_task(body.until_gone())
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                return Response(status_code=499)  # to nobody: the client is gone
            upstream = sending.result()
        except ClientDisconnect:
            return Response(status_code=499)
        except (httpx.HTTPError, httpx.StreamError) as e:
            self.counters.unreachable += 1
            _log.warning("a replica did not answer", replica=owner, why=type(e).__name__)
            return self._busy("The gateway that holds this session does not answer.")
        finally:
            leaving.cancel()
            if not sending.done():
                sending.cancel()
                await asyncio.wait({sending})
        self.counters.forwarded += 1
        return _Relay(upstream, owner)

    def _busy(self, why: str) -> Response:
        error = GatewayUnavailable(why, "Try again; after a while, connect again.")
        return JSONResponse(failure(error), _BUSY)


class _TooManyLookups(Exception):
    pass


class _Whereabouts:
    """The owners that were looked up lately, and the living replicas."""

    def __init__(self, owners: SessionOwners) -> None:
        self._owners = owners
        self._known: OrderedDict[str, tuple[str | None, float]] = OrderedDict()
        self._rate = Rate(_LOOKUPS_PER_MINUTE)
        self._turn = asyncio.Semaphore(_LOOKUPS_AT_ONCE)
        self._alive: tuple[dict[str, str], float] = ({}, float("-inf"))
        self._asking = asyncio.Lock()

    async def owner(
        self, key: str, address: str, *, digest: str | None, session_id: str | None
    ) -> str | None:
        owner, until = self._known.get(key, (None, float("-inf")))
        if time.monotonic() < until:
            return owner
        if not self._rate.take(address):
            raise _TooManyLookups
        async with self._turn:
            owner = await asyncio.to_thread(
                self._owners.owner_of, digest=digest, session_id=session_id
            )
        keep = _UNKNOWN_SECONDS if owner is None else _KNOWN_SECONDS
        self._known[key] = owner, time.monotonic() + keep
        self._known.move_to_end(key)
        while len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)
        return owner

    async def alive(self) -> dict[str, str]:
        async with self._asking:
            if time.monotonic() >= self._alive[1]:
                found = await asyncio.to_thread(self._owners.alive)
                self._alive = found, time.monotonic() + _ALIVE_SECONDS
        return self._alive[0]


class _Tls:
    """Whom this replica believes, and what it shows where the others want a certificate of clients."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._loaded: tuple[int, ...] = ()
        try:
            self.context = ssl.create_default_context(cafile=settings.replica_ca)
        except (OSError, ssl.SSLError) as e:
            raise ConfigError(
                f"gateway.replica_ca {settings.replica_ca} cannot be used: {e}."
            ) from None
        self.refresh()

    def refresh(self) -> None:
        """Take over a certificate that was replaced."""
        certificate, key = self._settings.tls_certificate, self._settings.tls_key
        if self._settings.tls_client_ca is None or certificate is None or key is None:
            return
        with suppress(OSError, ssl.SSLError):  # half replaced: the next request looks again
            marks = tuple(path.stat().st_mtime_ns for path in (certificate, Path(key)))
            if marks != self._loaded:
                self.context.load_cert_chain(certificate, key)
                self._loaded = marks


class _Body:
    """The client's body on its way, and then the news that the client is gone."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._whole = asyncio.Event()
        self.empty = not {"content-length", "transfer-encoding"} & set(request.headers)

    async def pieces(self) -> AsyncIterator[bytes]:
        async for piece in self._request.stream():
            if piece:
                yield piece
        self._whole.set()

    async def until_gone(self) -> None:
        if not self.empty:
            await self._whole.wait()
        while (await self._request.receive())["type"] != "http.disconnect":
            pass


def _outgoing(request: Request, base: httpx.URL, owner: str, body: _Body) -> httpx.Request:
    """The same request to another address. Raises ValueError or httpx.InvalidURL."""
    scope = request.scope
    path = scope.get("raw_path") or scope["path"].encode()
    query = scope["query_string"]
    named = {
        word.strip().lower()
        for name, value in scope["headers"]
        if name == b"connection"
        for word in value.split(b",")
    }
    headers = [(n, v) for n, v in scope["headers"] if n not in _NOT_FORWARDED and n not in named]
    headers.append((FORWARDED_TO.encode(), owner.encode()))
    if request.client:
        headers.append((b"x-forwarded-for", request.client.host.encode()))
    return httpx.Request(
        request.method,
        base.copy_with(raw_path=path.split(b"?")[0] + (b"?" + query if query else b"")),
        headers=headers,
        content=None if body.empty else body.pieces(),
    )


class _Relay(Response):
    """An answer as it arrives. It is given up when the client goes away."""

    def __init__(self, upstream: httpx.Response, owner: str) -> None:
        self._upstream, self._owner = upstream, owner
        self.ended: Callable[[], None] = lambda: None
        self.status_code = upstream.status_code
        self.background = None
        self.raw_headers = [
            (name.lower(), value)
            for name, value in upstream.headers.raw
            if name.lower() not in _OWN_ANSWER
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        relaying = asyncio.create_task(self._relay(send))
        leaving = asyncio.create_task(_until_gone(receive))
        try:
            await asyncio.wait({relaying, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if relaying.done():
                relaying.result()
        except httpx.HTTPError as e:
            # The server closes the connection of an answer that has not come to its end.
            _log.warning("a replica's answer broke off", replica=self._owner, why=type(e).__name__)
        finally:
            self.ended()  # first: what waits here may be given up, and the place must not stay taken
            for task in (relaying, leaving):
                task.cancel()
            await asyncio.wait({relaying, leaving})
            with suppress(httpx.HTTPError):
                await asyncio.shield(self._upstream.aclose())

    async def _relay(self, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        async for piece in self._upstream.aiter_raw():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
