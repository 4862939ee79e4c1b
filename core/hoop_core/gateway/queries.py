"""Statements in flight: submitted once, waited for in long polls, cancelled, answered.

A held or slow statement answers 333333 with an address to poll; every driver then waits by itself. A
parked statement is a suspended task and holds no thread.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import structlog

from hoop_core.errors import Cancelled, HoopError, SessionGone
from hoop_core.gateway.sessions import Live, allowed_parameters
from hoop_core.gateway.wire import failure
from hoop_core.guard import Delivered, Guard
from hoop_core.http import BadRequest, unexpected
from hoop_core.model import Json
from hoop_core.results import ChunkSet
from hoop_core.session import QueryRequest

_log = structlog.get_logger(__name__)
_KEPT_PER_SESSION = 16
_IN_PROGRESS = "333333"


@dataclass(slots=True)
class Running:
    """One submitted statement. `request_id` is the client's: a retry with it finds this one."""

    live: Live
    statement_id: str
    request_id: str
    task: asyncio.Task[Delivered]
    cancelled: bool = False


@dataclass(slots=True)
class _Shelf:
    """The statements of one session, newest last."""

    by_request: OrderedDict[str, Running] = field(default_factory=OrderedDict)
    chunks: dict[str, ChunkSet] = field(default_factory=dict)


class StatementBoard:
    """All statements of this process."""

    def __init__(self, guard: Guard, *, poll_seconds: float) -> None:
        self._guard, self._poll = guard, poll_seconds
        self._shelves: dict[str, _Shelf] = {}
        self._by_id: dict[str, Running] = {}

    def submit(self, live: Live, request_id: str, body: Json) -> Running:
        """Start a statement, or find the one that an earlier try of the same request started."""
        shelf = self._shelves.setdefault(live.guarded.id, _Shelf())
        known = shelf.by_request.get(request_id)
        if known is not None:
            return known
        request = _request(request_id, body)
        task = asyncio.create_task(self._guarded(live, request))
        running = Running(live, request.statement_id, request_id, task)
        shelf.by_request[request_id] = running
        self._by_id[running.statement_id] = running
        self._forget_old(shelf)
        return running

    async def _guarded(self, live: Live, request: QueryRequest) -> Delivered:
        live.busy += 1
        try:
            delivered = await self._guard.run(live.guarded, request)
            if delivered.chunks is not None and live.guarded.id in self._shelves:
                self._shelves[live.guarded.id].chunks[request.statement_id] = delivered.chunks
            return delivered
        finally:
            live.busy -= 1
            live.last_used = time.monotonic()

    def _forget_old(self, shelf: _Shelf) -> None:
        """Keep the last answers for retries; what still runs is never forgotten."""
        for request_id, running in list(shelf.by_request.items()):
            if len(shelf.by_request) <= _KEPT_PER_SESSION:
                return
            if running.task.done():
                del shelf.by_request[request_id]
                self._by_id.pop(running.statement_id, None)
                shelf.chunks.pop(running.statement_id, None)

    def find(self, live: Live, statement_id: str) -> Running:
        """The caller's own statement. Raises SessionGone for any other."""
        running = self._by_id.get(statement_id)
        if running is None or running.live is not live:
            raise SessionGone("This session has no such statement.", "Run it again.", errno=709)
        return running

    def chunks(self, statement_id: str) -> ChunkSet | None:
        running = self._by_id.get(statement_id)
        if running is None or running.live.guarded.closed:
            return None
        return self._shelves[running.live.guarded.id].chunks.get(statement_id)

    async def answer(self, running: Running) -> Json:
        """The statement's answer, or "in progress" when it takes longer than one poll."""
        await asyncio.wait({running.task}, timeout=self._poll)
        if not running.task.done():
            return {
                "data": {
                    "getResultUrl": f"/queries/{running.statement_id}/result",
                    "queryId": running.statement_id,
                    "progressDesc": None,
                    "queryAbortsAfterSecs": 0,
                },
                "code": _IN_PROGRESS,
                "message": "Query execution in progress.",
                "success": True,
            }
        return _finished(running)

    async def abort(self, live: Live, request_id: str) -> None:
        shelf = self._shelves.get(live.guarded.id)
        running = shelf.by_request.get(request_id) if shelf else None
        if running is not None and not running.task.done():
            running.cancelled = True
            running.task.cancel()
            await asyncio.wait({running.task})

    async def drop_all(self) -> None:
        for session_id in list(self._shelves):
            await self._drop(session_id)

    async def drop(self, live: Live) -> None:
        """Cancel and forget everything of a session that ends."""
        await self._drop(live.guarded.id)

    async def _drop(self, session_id: str) -> None:
        shelf = self._shelves.get(session_id)
        if shelf is None:
            return
        open_tasks = {r.task for r in shelf.by_request.values() if not r.task.done()}
        for task in open_tasks:
            task.cancel()
        if open_tasks:
            await asyncio.wait(open_tasks)
        self._shelves.pop(session_id, None)
        for running in shelf.by_request.values():
            self._by_id.pop(running.statement_id, None)


def _finished(running: Running) -> Json:
    if running.task.cancelled():
        return failure(
            Cancelled("SQL execution canceled by the client."), query_id=running.statement_id
        )
    error = running.task.exception()
    if error is None:
        return running.task.result().answer
    if not isinstance(error, HoopError):
        _log.error("a statement failed inside Hoop", exc_info=error)
        error = unexpected()
    return failure(error, query_id=running.statement_id)


def _request(request_id: str, body: Json) -> QueryRequest:
    """Read a query-request. Raises BadRequest."""
    sql = body.get("sqlText")
    if not isinstance(sql, str) or not sql.strip():
        raise BadRequest("The request holds no statement.")
    return QueryRequest(
        statement_id=str(uuid.uuid4()),
        request_id=request_id,
        sql=sql,
        bindings=_bindings(body.get("bindings")),
        parameters=allowed_parameters(body.get("parameters")),
        describe_only=bool(body.get("describeOnly")),
        asynchronous=bool(body.get("asyncExec")),
        staged_binds=bool(body.get("bindStage")),
    )


def _bindings(given: Any) -> Json | None:
    """Bound values in the drivers' form: {"1": {"type": "TEXT", "value": "x"}, ...}."""
    if not given:
        return None
    if not isinstance(given, dict) or not all(_is_binding(b) for b in given.values()):
        raise BadRequest("bindings must map positions or names to a type and a value.")
    return given


def _is_binding(binding: Any) -> bool:
    """A type, a value or a list of values (array binds), and flat properties such as `fmt`."""
    if not isinstance(binding, dict) or not isinstance(binding.get("type"), str):
        return False
    value = binding.get("value")
    values = value if isinstance(value, list) else [value]
    others = [v for k, v in binding.items() if k != "value"]
    return all(v is None or isinstance(v, (str, int, float)) for v in [*values, *others])
