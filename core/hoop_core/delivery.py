"""Gates 8 to 10: the verified text runs, its result is recorded and delivered, its end is logged."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import suppress
from dataclasses import dataclass

import structlog

from hoop_core.approvals.binding import Binding
from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.audit.recording import Recorder
from hoop_core.errors import (
    Cancelled,
    HoopError,
    SnowflakeError,
    SnowflakeUnavailable,
    StatementRefused,
    Unavailable,
)
from hoop_core.http import unexpected
from hoop_core.lineage.openlineage import LineageEmitter
from hoop_core.model import Json, Kind, Verdict
from hoop_core.racing import finished_first
from hoop_core.records import asked_json, error_json
from hoop_core.results import ChunkSet, TakenOver, take_over
from hoop_core.session import GuardedSession, QueryRequest
from hoop_core.snowflake.session import SnowflakeSession, raise_for_answer
from hoop_core.sql.live_catalog import LiveCatalog

_log = structlog.get_logger(__name__)
_INVALID_IDENTIFIER = 904  # a column went away: look at the table again next time
_UPSTREAM_ENDED = {390104, 390111, 390114}
_CHANGES_SCHEMA = {
    Kind.CREATE_TABLE, Kind.CREATE_TABLE_AS, Kind.ALTER_TABLE, Kind.DROP_TABLE,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """A statement that was understood and decided, and what a grant for it must be bound to."""

    verdict: Verdict
    binding: Binding

    @property
    def text(self) -> str:
        if self.verdict.rewritten is None:
            raise StatementRefused("A denied statement has no text to run.")
        return self.verdict.rewritten


@dataclass(frozen=True, slots=True)
class Delivered:
    """What goes back to the client, and the remote parts that it may fetch through Hoop."""

    answer: Json
    chunks: ChunkSet | None


@dataclass(slots=True)
class Delivery:
    """What a statement meets once its intent is durable."""

    log: AuditLog
    recorder: Recorder
    lineage: LineageEmitter
    catalog: LiveCatalog
    public_url: str

    async def run(
        self,
        session: GuardedSession,
        request: QueryRequest,
        plan: Plan,
        upstream: SnowflakeSession,
        intent: int,
    ) -> Delivered:
        """Run the verified text and deliver its result; how it ends is logged in every case."""
        ran = False
        try:
            answer = await self._execute(session, request, plan, upstream, intent)
            raise_for_answer(answer)
            ran = True
            taken = take_over(
                answer,
                session_id=session.id,
                statement_id=request.statement_id,
                public_url=self.public_url,
                keep=not plan.verdict.decision.exposed,
            )
            recorded = await asyncio.to_thread(self._record, session, request, taken)
        except Exception as e:
            error = as_hoop_error(e)
            outcome = {"status": _status(error, ran=ran), **error_json(error)}
            await self._ended(session, request, plan, intent, outcome)
            if plan.verdict.statement and error.errno == _INVALID_IDENTIFIER:
                self.catalog.forget(plan.verdict.statement.reads)
            if isinstance(error, SnowflakeError) and error.errno in _UPSTREAM_ENDED:
                raise SnowflakeUnavailable(
                    "Snowflake ended the session of the minted user.", "Connect again."
                ) from None
            raise error from None
        if not request.describe_only:
            self._took_effect(session, plan, upstream)
        await self._ended(
            session,
            request,
            plan,
            intent,
            {
                "status": "succeeded",
                "query_id": taken.answer["data"].get("queryId"),
                "rows": taken.rows,
                "remote_parts": len(taken.chunks.urls) if taken.chunks else 0,
                "recording": recorded,
                "not_kept": []
                if taken.keep
                else [str(m.table) for m in plan.verdict.decision.exposed],
            },
        )
        return Delivered(taken.answer, taken.chunks)

    def _took_effect(self, session: GuardedSession, plan: Plan, upstream: SnowflakeSession) -> None:
        """What later statements of the session and the catalog must know of this one."""
        session.names = upstream.names
        statement = plan.verdict.statement
        if statement and statement.kind in _CHANGES_SCHEMA:
            self.catalog.forget(statement.writes)
        if statement and statement.kind is Kind.SESSION:
            session.altered(plan.text)

    async def _execute(
        self,
        session: GuardedSession,
        request: QueryRequest,
        plan: Plan,
        upstream: SnowflakeSession,
        intent: int,
    ) -> Json:
        body: Json = {
            "sqlText": plan.text,
            "asyncExec": False,
            "sequenceId": intent,
            "querySubmissionTime": int(utc_now().timestamp() * 1000),
            "describeOnly": request.describe_only,
            "parameters": {**request.parameters, "QUERY_TAG": _tag(session, request, intent)},
        }
        if request.bindings:
            body["bindings"] = request.bindings
        request_id = uuid.uuid4()
        try:
            running = asyncio.create_task(upstream.query(body, request_id))
            if await finished_first(running, request.abandoned):
                return running.result()
            # The statement must not go on behind the client's back, and its end must be known.
            with suppress(SnowflakeUnavailable):
                await upstream.abort(request_id)
            answer = await running
        except SnowflakeUnavailable as e:
            raise SnowflakeUnavailable(
                f"{e.message} Whether the statement took effect is not known.",
                "Look at the data before you run it again.",
            ) from None
        if answer.get("success"):
            return answer
        raise Cancelled("The client cancelled the statement.")

    def _record(
        self, session: GuardedSession, request: QueryRequest, taken: TakenOver
    ) -> list[Json]:
        """Store what the client is shown: the exchange, and the first part of the result."""
        number = session.next_recording()
        shown = {k: v for k, v in taken.answer["data"].items()
                 if k not in {"rowset", "rowsetBase64", "chunkHeaders"}}  # fmt: skip
        files = [
            self.recorder.put_json(
                session.id,
                f"{number:05d}-exchange.json",
                {"request": asked_json(session, request), "answer": shown},
            )
        ]
        if taken.inline and taken.keep:
            name = f"{number:05d}-part-00000.arrow"
            files.append(self.recorder.put(session.id, name, taken.inline))
        return [f.as_json() for f in files]

    async def _ended(
        self,
        session: GuardedSession,
        request: QueryRequest,
        plan: Plan,
        intent: int,
        outcome: Json,
    ) -> None:
        """Raises StoreUnavailable: then the rows are withheld, for nothing shows what they were."""
        entry = {"statement_id": request.statement_id, "intent": intent, **outcome}
        await asyncio.to_thread(self.log.append, "statement.outcome", entry, session_id=session.id)
        if not request.describe_only:
            await asyncio.to_thread(
                self.lineage.emit,
                plan.verdict,
                statement_id=request.statement_id,
                identity=session.identity,
                run=session.run,
                succeeded=outcome["status"] == "succeeded",
                at=utc_now(),
            )


def _status(error: HoopError, *, ran: bool) -> str:
    """How a statement ended that did not deliver: it ran and its result was withheld, it failed, or
    nobody here knows.
    """
    if ran:
        return "withheld"
    return "unknown" if isinstance(error, Unavailable) else "failed"


def as_hoop_error(error: Exception) -> HoopError:
    """A fault of Hoop's own is told to nobody but our log; the caller hears that it is refused."""
    if isinstance(error, HoopError):
        return error
    _log.error("a statement failed inside Hoop", exc_info=error)
    return unexpected()


def _tag(session: GuardedSession, request: QueryRequest, intent: int) -> str:
    """Ties Snowflake's QUERY_HISTORY to our log; the caller's own tag rides behind (2,000 at most)."""
    own = f"hoop:{session.id}:{request.statement_id}:{intent}"
    theirs = str(request.parameters.get("QUERY_TAG") or session.parameters.get("QUERY_TAG") or "")
    return f"{own} {theirs}".strip()[:2000]
