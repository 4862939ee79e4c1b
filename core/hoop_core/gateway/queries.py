"""Statements in flight: submitted once, waited for in long polls, cancelled, answered.

A held or slow statement answers 333333 with an address to poll; every driver then waits by itself. A
parked statement is a suspended task and holds no thread.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable

import structlog

from hoop_core.approvals.binding import digest
from hoop_core.config import LimitSettings
from hoop_core.errors import (
    Cancelled,
    HoopError,
    SessionGone,
    SnowflakeError,
    where,
)
from hoop_core.gateway.limits import Limits
from hoop_core.gateway.monitoring import in_progress
from hoop_core.gateway.own_answers import OwnAnswers, asked_for
from hoop_core.gateway.sessions import Live
from hoop_core.gateway.shelves import Running, Shelves, not_kept, scope_of
from hoop_core.gateway.wire import failure
from hoop_core.guard import Guard
from hoop_core.http import BadRequest, text_of, unexpected
from hoop_core.model import Json, Scope
from hoop_core.plan import UPSTREAM_ENDED, Delivered
from hoop_core.results.answers import ChunkSet
from hoop_core.session.guarded import QueryRequest, allowed_parameters, read_bindings

_log = structlog.get_logger(__name__)
_OPEN_AT_ONCE = 64
_LONGEST_ID = 200


class StatementBoard:
    """All statements of this process."""

    def __init__(
        self,
        guard: Guard,
        *,
        poll_seconds: float,
        shelves: Shelves | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._limits = limits or Limits(LimitSettings())
        self._guard, self._poll = guard, poll_seconds
        self._shelves = shelves or Shelves()
        self._own = OwnAnswers(guard, self._shelves)
        self.session_ended: Callable[[Live, str], None] = lambda _live, _why: None
        """Told when Snowflake has ended the session that a caller's session stands on."""

    def stages_binds(self, live: Live) -> bool:
        """Whether the caller may bind many values through a stage."""
        return self._guard.may_stage(live.guarded)

    def submit(
        self, live: Live, request_id: str, body: Json, *, statement_id: str | None = None
    ) -> Running:
        """Start a statement, or find the one that an earlier try of the same request started.

        `statement_id` is for those who have to know it beforehand: a UUID that nobody else has.

        Raises BadRequest for a request id that was used for something else, or too long ago, and Cancelled
        for one that was taken back before it came.
        """
        if live.guarded.closed:
            raise SessionGone("This session is closed.", "Connect again.")
        if len(request_id) > _LONGEST_ID:
            raise BadRequest(f"A request id has at most {_LONGEST_ID} characters.")
        shelf = self._shelves.of(live)
        request = _request(body, statement_id)
        said = digest(
            [
                request.sql,
                request.bindings,
                request.bind_stage,
                request.describe_only,
                request.asynchronous,
            ]
        )
        earlier = shelf.before(request_id, said)
        if earlier is not None:
            return earlier
        if request_id in shelf.taken_back:
            raise Cancelled("The client took the statement back before it came.")
        if shelf.under_way >= _OPEN_AT_ONCE:
            raise BadRequest(
                f"This session has {_OPEN_AT_ONCE} statements under way.", "Wait for some of them."
            )
        self._limits.begin_statement(live.guarded.identity.key)
        running = Running.of(live, request)
        running.task = asyncio.create_task(self._through(running, request))
        self._shelves.add(request_id, said, running)
        return running

    async def _through(self, running: Running, request: QueryRequest) -> None:
        live = running.live
        live.busy += 1
        try:
            running.delivered = await self._delivered(live, request)
        except HoopError as e:
            running.error = _bare(e)
        except Exception as e:
            _log.error("a statement failed inside Hoop", where=where(e))
            running.error = unexpected()
        finally:
            live.busy -= 1
            live.last_used = time.monotonic()
            self._limits.end_statement(live.guarded.identity.key)
            self._shelves.ended(running)
        ended = running.error is not None and running.error.reason == UPSTREAM_ENDED
        if ended and live.guarded.scope is not Scope.STATEMENT:
            self.session_ended(live, "ended by Snowflake")

    async def _delivered(self, live: Live, request: QueryRequest) -> Delivered:
        asked = asked_for(request.sql)
        if asked is not None:
            return await self._own.answer(asked, live, request)
        return await self._guard.run(live.guarded, request)

    # ------------------------------------------------------------------ whose, and which

    def find(self, live: Live, statement_id: str) -> Running:
        """The caller's own statement, of this session or another one. Raises SnowflakeError for any other."""
        running = self._shelves.statement(statement_id)
        if running is None or not _sees(live, running):
            raise unknown_statement()
        return running

    def status(self, live: Live, statement_id: str) -> Running | None:
        running = self._shelves.statement(statement_id)
        return running if running is not None and _sees(live, running) else None

    def result(self, statement_id: str) -> tuple[Live, ChunkSet] | None:
        """The remote parts of a result and whose they are; None when it is closed or unknown."""
        running = self._shelves.statement(statement_id)
        if running is None or running.chunks is None or running.live.guarded.closed:
            return None
        return running.live, running.chunks

    # ------------------------------------------------------------------ answers

    async def submitted(self, running: Running) -> Json:
        """The answer to a request that submits: at once for a detached one."""
        return in_progress(running) if running.detached else await self.answer(running)

    async def answer(self, running: Running) -> Json:
        """The statement's answer, or "in progress" when it takes longer than one poll.

        What rests on an exception is not shown once that is revoked: ApprovalRefused. A second time is on record.
        """
        await asyncio.wait({running.task}, timeout=self._poll)
        if not running.task.done():
            return in_progress(running)
        if running.error is not None:
            return failure(running.error, query_id=running.statement_id)
        if running.delivered is None:
            return failure(not_kept(), query_id=running.statement_id)
        delivered = running.delivered
        if running.taken and delivered.exceptions:
            entry = {"of_statement_id": running.statement_id, "by": "repeated request"}
            await self._guard.shown_again(
                running.live.guarded, delivered, "result.shown_again", entry
            )
        else:
            await self._guard.still_shown(delivered)
        running.taken = True
        return delivered.answer

    async def answer_by_id(self, live: Live, statement_id: str) -> Json:
        """The answer of a statement of the caller. Raises SnowflakeError, PolicyDenied, StoreUnavailable.

        In another session than its own it is shown once more, which is checked and on record.
        """
        running = self.find(live, statement_id)
        if running.live is live:
            return await self.answer(running)
        await asyncio.wait({running.task}, timeout=self._poll)
        if not running.task.done():
            return in_progress(running)  # `answer` would wait on, and show it without a check
        if running.delivered is not None:
            return (await self._own.show_again(live, running, by="address")).answer
        return await self.answer(running)

    # ------------------------------------------------------------------ taking back

    async def abort(self, live: Live, request_id: str) -> None:
        """Take a statement back and wait until it has come to its end, or for one poll."""
        if 0 < len(request_id) <= _LONGEST_ID and not live.guarded.closed:
            running = self._shelves.of(live).take_back(request_id)
            if running is not None:
                await self._taken_back(running)

    async def abort_by_id(self, live: Live, statement_id: str) -> None:
        """Raises SnowflakeError for a statement that is not the caller's, or not under way."""
        running = self.find(live, statement_id)
        if running.done:
            raise SnowflakeError(
                "Identified SQL statement is not currently executing.",
                errno=605,
                sqlstate="57014",
            )
        await self._taken_back(running)

    async def _taken_back(self, running: Running) -> None:
        running.abandoned.set()
        await asyncio.wait({running.task}, timeout=self._poll)

    async def drop(self, live: Live) -> None:
        """Take back and forget everything of a session that ends."""
        shelf = self._shelves.known(live)
        if shelf is None:
            return
        for running in shelf.statements.values():
            running.abandoned.set()
        tasks = {r.task for r in shelf.statements.values()} - {asyncio.current_task()}
        if tasks:
            await asyncio.wait(tasks)
        self._shelves.drop(live)


def _sees(live: Live, running: Running) -> bool:
    if running.live is live:
        return True
    return not running.live.guarded.closed and scope_of(running.live.guarded) == scope_of(
        live.guarded
    )


def _bare(error: HoopError) -> HoopError:
    """Without the frames that it came through: they would keep rows and parameters for as long as it is kept."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


def unknown_statement() -> SnowflakeError:
    """The same for what does not exist and for what is somebody else's."""
    return SnowflakeError(
        "Statement not found. It may have run in a session that has ended.",
        errno=709,
        sqlstate="02000",
    )


def _request(body: Json, statement_id: str | None) -> QueryRequest:
    """Read a query-request. Raises BadRequest."""
    sql = body.get("sqlText")
    if not isinstance(sql, str) or not sql.strip():
        raise BadRequest("The request holds no statement.")
    return QueryRequest(
        statement_id=statement_id or str(uuid.uuid4()),
        sql=sql,
        bindings=read_bindings(body.get("bindings")),
        parameters=allowed_parameters(body.get("parameters")),
        describe_only=bool(body.get("describeOnly")),
        asynchronous=bool(body.get("asyncExec")),
        bind_stage=text_of(body, "bindStage") or "",
        statements=_count(body.get("parameters")),
    )


def _count(parameters: object) -> str:
    """How many statements the client says that its text holds."""
    given = parameters if isinstance(parameters, dict) else {}
    count = next((v for k, v in given.items() if k.upper() == "MULTI_STATEMENT_COUNT"), 1)
    return str(count)[:20]
