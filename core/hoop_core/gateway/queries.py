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

from hoop_core.approvals.binding import digest
from hoop_core.delivery import Delivered
from hoop_core.errors import HoopError, SessionGone, where
from hoop_core.gateway.sessions import Live
from hoop_core.gateway.wire import failure
from hoop_core.guard import Guard
from hoop_core.http import BadRequest, unexpected
from hoop_core.model import Json
from hoop_core.results import ChunkSet
from hoop_core.session import QueryRequest, allowed_parameters

_log = structlog.get_logger(__name__)
_ANSWERS_KEPT = 16
_REQUESTS_KNOWN = 20_000
_RESULTS_KEPT = 256
_OPEN_AT_ONCE = 64
_IN_PROGRESS = "333333"


@dataclass(slots=True)
class Running:
    """One submitted statement and the task that takes it through the gates."""

    live: Live
    request: QueryRequest
    task: asyncio.Task[Delivered]

    @property
    def statement_id(self) -> str:
        return self.request.statement_id


@dataclass(slots=True)
class _Shelf:
    """What is known of one session's statements.

    `seen` remembers far longer what was submitted than `answers` can answer: a request that comes
    again late gets an error, and never a second run.
    """

    seen: OrderedDict[str, str] = field(default_factory=OrderedDict)
    answers: OrderedDict[str, Running] = field(default_factory=OrderedDict)
    results: OrderedDict[str, ChunkSet] = field(default_factory=OrderedDict)


class StatementBoard:
    """All statements of this process."""

    def __init__(self, guard: Guard, *, poll_seconds: float) -> None:
        self._guard, self._poll = guard, poll_seconds
        self._shelves: dict[str, _Shelf] = {}
        self._by_id: dict[str, Running] = {}
        self._owners: dict[str, Live] = {}

    def submit(self, live: Live, request_id: str, body: Json) -> Running:
        """Start a statement, or find the one that an earlier try of the same request started.

        Raises BadRequest for a request id that was used for something else, or too long ago.
        """
        if live.guarded.closed:
            raise SessionGone("This session is closed.", "Connect again.")
        shelf = self._shelves.setdefault(live.guarded.id, _Shelf())
        request = _request(body)
        told = digest([request.sql, request.bindings, request.describe_only])
        if request_id in shelf.seen:
            return self._seen_before(shelf, request_id, told)
        if sum(not r.task.done() for r in shelf.answers.values()) >= _OPEN_AT_ONCE:
            raise BadRequest(
                f"This session has {_OPEN_AT_ONCE} statements under way.", "Wait for some of them."
            )
        running = Running(live, request, asyncio.create_task(self._guarded(live, request)))
        shelf.seen[request_id] = told
        shelf.answers[request_id] = running
        self._by_id[running.statement_id] = running
        self._forget_old(shelf)
        return running

    def _seen_before(self, shelf: _Shelf, request_id: str, told: str) -> Running:
        if shelf.seen[request_id] != told:
            raise BadRequest("This request id was used for another statement.", "Use a new one.")
        if request_id not in shelf.answers:
            raise BadRequest(
                "This request has run already and its answer is not kept any more.",
                "Look at what it did before you send it under a new request id.",
            )
        return shelf.answers[request_id]

    async def _guarded(self, live: Live, request: QueryRequest) -> Delivered:
        live.busy += 1
        try:
            delivered = await self._guard.run(live.guarded, request)
            shelf = self._shelves.get(live.guarded.id)
            if delivered.chunks is not None and shelf is not None:
                shelf.results[request.statement_id] = delivered.chunks
                self._owners[request.statement_id] = live
                while len(shelf.results) > _RESULTS_KEPT:
                    self._owners.pop(shelf.results.popitem(last=False)[0], None)
            return delivered
        finally:
            live.busy -= 1
            live.last_used = time.monotonic()

    def _forget_old(self, shelf: _Shelf) -> None:
        """Keep the last answers for retries; what still runs is never forgotten."""
        for request_id, running in list(shelf.answers.items()):
            if len(shelf.answers) <= _ANSWERS_KEPT:
                break
            if running.task.done():
                del shelf.answers[request_id]
                self._by_id.pop(running.statement_id, None)
        while len(shelf.seen) > _REQUESTS_KNOWN:
            shelf.seen.popitem(last=False)

    def find(self, live: Live, statement_id: str) -> Running:
        """The caller's own statement. Raises SessionGone for any other."""
        running = self._by_id.get(statement_id)
        if running is None or running.live is not live:
            raise SessionGone("This session has no such statement.", "Run it again.", errno=709)
        return running

    def result(self, statement_id: str) -> tuple[Live, ChunkSet] | None:
        """The remote parts of a result and whose they are; None when it is closed or unknown."""
        live = self._owners.get(statement_id)
        if live is None or live.guarded.closed:
            return None
        return live, self._shelves[live.guarded.id].results[statement_id]

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
        """Take a statement back and wait until it has come to its end."""
        shelf = self._shelves.get(live.guarded.id)
        running = shelf.answers.get(request_id) if shelf else None
        if running is not None:
            running.request.abandoned.set()
            await asyncio.wait({running.task})

    async def drop(self, live: Live) -> None:
        """Take back and forget everything of a session that ends."""
        shelf = self._shelves.get(live.guarded.id)
        if shelf is None:
            return
        for running in shelf.answers.values():
            running.request.abandoned.set()
        if shelf.answers:
            await asyncio.wait({r.task for r in shelf.answers.values()})
        self._shelves.pop(live.guarded.id, None)
        for running in shelf.answers.values():
            self._by_id.pop(running.statement_id, None)
        for statement_id in shelf.results:
            self._owners.pop(statement_id, None)


def _finished(running: Running) -> Json:
    error = running.task.exception()
    if error is None:
        return running.task.result().answer
    if not isinstance(error, HoopError):
        _log.error("a statement failed inside Hoop", where=where(error))
        error = unexpected()
    return failure(error, query_id=running.statement_id)


def _request(body: Json) -> QueryRequest:
    """Read a query-request. Raises BadRequest."""
    sql = body.get("sqlText")
    if not isinstance(sql, str) or not sql.strip():
        raise BadRequest("The request holds no statement.")
    return QueryRequest(
        statement_id=str(uuid.uuid4()),
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
