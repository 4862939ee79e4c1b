"""Addresses that Hoop does not serve: refused in Snowflake's shape, and on record when a session asked for them."""

from __future__ import annotations

import asyncio
import time

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from hoop_core.audit.log import AuditLog
from hoop_core.errors import NotServed, SessionGone, StoreUnavailable
from hoop_core.gateway.sessions import SessionBook
from hoop_core.gateway.wire import failure, handle_of
from hoop_core.loads.uploads import UPLOAD_PATH

_log = structlog.get_logger(__name__)
_PER_MINUTE = 30
_EACH = 10
_SHOWN = 200


class Unserved:
    """The last route: an ASGI application, so that it takes every method."""

    def __init__(self, book: SessionBook, log: AuditLog) -> None:
        self._book, self._audit = book, log
        self._since, self._by_session, self._left_out = 0.0, dict[str, int](), 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (await self.respond(Request(scope, receive)))(scope, receive, send)

    async def respond(self, request: Request) -> Response:
        path = _shown(request.url.path)
        _log.warning("an endpoint that Hoop does not serve", path=path, method=request.method[:10])
        try:
            live = self._book.find(handle_of(request))
        except SessionGone:
            live = None
        if live is not None:
            await self._record(live.guarded.id, request.method[:10], path)
        error = NotServed(
            "Hoop does not serve this endpoint.", "Ask the platform team if you need it."
        )
        return JSONResponse(failure(error), status_code=404)

    async def _record(self, session_id: str, method: str, path: str) -> None:
        """At most so many entries a minute, of one session fewer: nobody fills the log by asking."""
        now = time.monotonic()
        if now - self._since > 60:
            self._since = now
            self._by_session.clear()
        mine = self._by_session.get(session_id, 0)
        if mine >= _EACH or sum(self._by_session.values()) >= _PER_MINUTE:
            self._left_out += 1
            return
        self._by_session[session_id] = mine + 1
        left_out, self._left_out = self._left_out, 0
        entry = {"method": method, "path": path, "not_logged_before": left_out}
        try:
            await asyncio.to_thread(
                self._audit.append, "endpoint.refused", entry, session_id=session_id
            )
        except StoreUnavailable as e:
            _log.error("a refused endpoint is not on record", path=path, why=e.text)


def _shown(path: str) -> str:
    """What is written down of an address; that of an upload is its secret, which another method does not spend."""
    if path.startswith(UPLOAD_PATH):
        return f"{UPLOAD_PATH}/..."
    return path[:_SHOWN]
