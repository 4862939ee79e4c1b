"""Gates 8 to 10: the verified text runs, its result is recorded and delivered, its end is logged."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import TypeVar

import structlog

from hoop_core.analysts.turns import Turn
from hoop_core.approvals.exceptions import used_by
from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.audit.recording import Exchange, Recorder
from hoop_core.errors import (
    Cancelled,
    HoopError,
    ResultBlocked,
    SessionGone,
    SnowflakeError,
    SnowflakeUnavailable,
    StoreUnavailable,
    Unavailable,
)
from hoop_core.loads.staged import loaded_json
from hoop_core.loads.uploads import Uploads
from hoop_core.masking.scrub import scrub
from hoop_core.model import Json, Kind, Screen
from hoop_core.plan import INVALID_IDENTIFIER, UPSTREAM_ENDED, Delivered, Plan, as_hoop_error
from hoop_core.racing import finished_first
from hoop_core.records import asked_json, decision_json, error_json
from hoop_core.results.answers import ChunkSet, TakenOver, read_whole, take_over
from hoop_core.results.listings import holds_rows, narrowed
from hoop_core.results.screeners import Screeners, ScreeningBusy
from hoop_core.results.taint import Taints, found_json, labels_of, opened, tainted_json, taints_of
from hoop_core.session import temporary
from hoop_core.session.guarded import GuardedSession, QueryRequest, Stage
from hoop_core.snowflake.http import NOT_REACHED
from hoop_core.snowflake.session import SESSION_ENDED, SnowflakeSession, raise_for_answer
from hoop_core.sql.live_catalog import Catalogs
from hoop_core.sql.loading import Put
from hoop_core.telemetry import gate

T = TypeVar("T")
_log = structlog.get_logger(__name__)
_NO_ROWS = {Kind.SHOW, Kind.DESCRIBE, Kind.SESSION, Kind.TRANSACTION}
_LIGHT = 16 << 10
"""Characters or bytes that are looked at sooner than they are handed to a thread."""
_CHANGES_SCHEMA = {
    Kind.CREATE_TABLE, Kind.CREATE_TABLE_AS, Kind.ALTER_TABLE, Kind.DROP_TABLE,
}  # fmt: skip


@dataclass(slots=True)
class Delivery:
    """What a statement meets once its intent is durable."""

    log: AuditLog
    recorder: Recorder
    catalog: Catalogs
    public_url: str
    uploads: Uploads = field(repr=False)
    screeners: Screeners = field(default_factory=Screeners, repr=False)

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
        files = asyncio.create_task(
            asyncio.to_thread(self.recorder.open_exchange, session.id, session.next_recording())
        )
        try:
            statement = plan.verdict.statement
            if statement and not request.describe_only:
                temporary.about_to_run(session.temporary, statement)
            timing = {"asked_at": request.progress.asked_at, "ran_at": utc_now()}
            answer = await self._execute(session, request, plan, upstream, intent)
            timing["answered_at"] = utc_now()
            if not answer.get("success"):
                raise_for_answer(await asyncio.to_thread(_scrubbed, answer, session, request, plan))
            ran = True
            if not request.describe_only:
                self._took_effect(session, plan, upstream, answer)
                if statement:
                    await temporary.took_effect(session.temporary, statement, upstream)
            if (
                statement
                and statement.kind is Kind.SHOW
                and (not request.describe_only or holds_rows(answer))
            ):
                answer = await _run(partial(narrowed, answer, plan.verdict), _weight(answer))
            put = plan.staged.loading
            if isinstance(put, Put):
                await self._discard(files)  # nothing is shown that could be recorded
                return await self._offer(
                    session, request, plan, upstream=upstream, put=put, answer=answer, intent=intent
                )
            names, texts = _outputs(answer), (request.sql, plan.text)
            labels = await _run(
                partial(labels_of, plan.verdict, names, texts), sum(map(len, texts))
            )
            taints = taints_of(plan.verdict, labels)
            taken = await self._taken_over(
                answer,
                session,
                request,
                plan=plan,
                upstream=upstream,
                taints=taints,
                labels=labels,
            )
            entry = {
                "status": "succeeded",
                "query_id": (answer.get("data") or {}).get("queryId"),
                "rows": taken.rows,
                "remote_parts": len(taken.chunks.urls) if taken.chunks else 0,
                "not_kept": [str(m.table) for m in plan.verdict.decision.exposed],
                "tainted": tainted_json(taints),
                **loaded_json(plan.staged, answer),
                **_screened_json(taken, taints, plan),
                **({} if taken.digest is None else {"digest": taken.digest}),
            }
            await self._ended(
                session,
                request,
                plan,
                intent,
                entry,
                record=partial(
                    self._record, await files, session, request, plan, taken=taken, timing=timing
                ),
                light=self.recorder.local and _weight(answer) <= _LIGHT,
            )
        except Exception as e:
            error = as_hoop_error(e)
            await self._discard(files)
            outcome = {"status": _status(error, ran=ran), **error_json(error)}
            if outcome["status"] == "unknown":
                session.settings.lost(plan.verdict)
            if isinstance(error, ResultBlocked):
                outcome["findings"] = found_json(error.findings, taints)
            await self._ended(session, request, plan, intent, outcome)
            if plan.verdict.statement and error.errno == INVALID_IDENTIFIER:
                stale = plan.verdict.statement
                self.catalog.of(session.account).forget((*stale.reads, *stale.writes))
            if isinstance(error, SnowflakeError) and error.errno in SESSION_ENDED:
                raise SessionGone(
                    "Snowflake ended the session of the minted user.",
                    "Connect again.",
                    reason=UPSTREAM_ENDED,
                ) from None
            raise error from None
        exceptions = used_by(plan.verdict.decision)
        if taken.chunks is not None:
            taken.chunks.exceptions = exceptions
        return Delivered(taken.answer, taken.chunks, plan.binding.policy_digest, exceptions)

    async def _offer(
        self,
        session: GuardedSession,
        request: QueryRequest,
        plan: Plan,
        *,
        upstream: SnowflakeSession,
        put: Put,
        answer: Json,
        intent: int,
    ) -> Delivered:
        """A PUT: Snowflake's credentials stay here, and the client uploads to Hoop. The address is a secret,
        so it is not recorded. Raises UploadRefused, StoreUnavailable.
        """
        query_id = (answer.get("data") or {}).get("queryId")
        statement_id = request.statement_id  # what the client knows it by, too
        offered = self.uploads.offer(session, upstream, statement_id, put, statement_id)
        outcome: Json = {"status": "succeeded", "query_id": query_id, "rows": 0, "recording": []}
        await self._ended(session, request, plan, intent, outcome)
        return Delivered(offered, None, plan.binding.policy_digest)

    def _took_effect(
        self, session: GuardedSession, plan: Plan, upstream: SnowflakeSession, answer: Json
    ) -> None:
        """What later statements of the session and the catalog must know of this one."""
        session.names = upstream.names
        statement = plan.verdict.statement
        if statement and statement.kind in _CHANGES_SCHEMA:
            self.catalog.of(session.account).forget(statement.writes)
        if statement and statement.kind is Kind.SESSION:
            session.altered(plan.text)
        session.staging.took_effect(plan.staged.loading)
        if statement:
            session.serving.took_effect(
                statement,
                plan.text,
                (answer.get("data") or {}).get("finalWarehouseName"),
                autocommit=session.autocommit,
            )
            session.staging.made_table(statement.kind, statement.writes, answer)

    @gate("results")
    async def _taken_over(
        self,
        answer: Json,
        session: GuardedSession,
        request: QueryRequest,
        *,
        plan: Plan,
        upstream: SnowflakeSession,
        taints: Taints,
        labels: tuple[str, ...],
    ) -> TakenOver:
        """Gate 9: the answer as the client may see it. Raises ResultBlocked, SnowflakeUnavailable.

        A value that the policy blocks may stand in any part: all are looked at before the first one leaves.
        """
        screen = replace(_screen(plan), open=opened(plan.verdict, _outputs(answer)))
        taking = partial(
            take_over,
            answer,
            session_id=session.id,
            statement_id=request.statement_id,
            public_url=self.public_url,
            keep=not plan.verdict.decision.exposed and not screen.freed,
            rows_recorded=plan.rows_recorded,
            screen=screen,
            taints=taints,
            labels=labels,
        )
        weight = _weight(answer)
        if not screen.every:
            return await _run(taking, weight)
        turn = Turn(session.identity.key, session.id)
        try:
            if weight <= _LIGHT:
                taken = taking()
            else:
                taken = await self.screeners.run(turn, taking, request.abandoned)
        except ScreeningBusy:
            if screen.binds:
                raise
            # What would only be reported on is no reason to keep a result back; the log says "unread".
            return await asyncio.to_thread(partial(taking, unread=True))
        if taken.chunks is not None and screen.blocks:
            for number in range(len(taken.chunks.urls)):
                await self._look_ahead(taken.chunks, number, turn, request, upstream)
        return taken

    async def _look_ahead(
        self,
        chunks: ChunkSet,
        number: int,
        turn: Turn,
        request: QueryRequest,
        upstream: SnowflakeSession,
    ) -> None:
        """Raises ResultBlocked for a remote part with a value that the policy blocks."""
        if request.abandoned.is_set():
            raise Cancelled("The client took the statement back.")
        async with (
            self.screeners.room.holding(turn.principal, chunks.sizes[number]) as held,
            upstream.chunk(chunks.urls[number], chunks.headers) as response,
        ):
            content = await read_whole(response, held.resize)
            await self.screeners.run(turn, partial(chunks.screened, content), request.abandoned)

    @gate("snowflake")
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
            "parameters": {
                **request.parameters,
                "MULTI_STATEMENT_COUNT": 1,  # whatever the session was set to (parameters.SET_IN_VAIN)
                "QUERY_TAG": _tag(session, request, intent),
            },
        }
        if plan.bindings:
            body["bindings"] = plan.bindings
        if request.bind_stage:
            body["bindStage"] = request.bind_stage
        request_id = uuid.uuid4()
        try:
            request.progress.stage = Stage.RUNNING
            running = asyncio.create_task(upstream.query(body, request_id))
            if await finished_first(running, request.abandoned):
                return running.result()
            # The statement must not go on behind the client's back, and its end must be known.
            with suppress(SnowflakeUnavailable):
                await upstream.abort(request_id)
            answer = await running
        except SnowflakeUnavailable as e:
            if e.reason == NOT_REACHED:
                raise
            raise SnowflakeUnavailable(
                f"{e.message} Whether the statement took effect is not known.",
                "Look at the data before you run it again.",
            ) from None
        if answer.get("success"):
            return answer
        raise Cancelled("The client cancelled the statement.")

    def _record(
        self,
        files: Exchange,
        session: GuardedSession,
        request: QueryRequest,
        plan: Plan,
        *,
        taken: TakenOver,
        timing: Mapping[str, datetime],
    ) -> Json:
        """Store what the client is shown: the exchange, and the first part of the result. What the outcome says of
        it.
        """
        shown = {k: v for k, v in taken.answer["data"].items()
                 if k not in {"rowset", "rowsetBase64", "chunkHeaders"}}  # fmt: skip
        if not taken.keep and "rowtype" in shown:
            # A column may be named after a value: what is not the statement's own is not kept either.
            shown["rowtype"] = [
                {**column, "name": label}
                for column, label in zip(shown["rowtype"], taken.labels, strict=True)
            ]
        exchange = {
            "request": asked_json(session, request),
            "decision": decision_json(plan.verdict.decision),
            "executed": plan.text,
            **plan.rests_on,
            "timing": {k: at.isoformat(timespec="microseconds") for k, at in timing.items()},
            "answer": shown,
        }
        files_kept, cut = files.write(exchange, taken.inline if taken.keep else b"")
        told: Json = {"recording": [f.as_json() for f in files_kept]}
        return told if cut is None else told | {"digest": cut.as_json() | (taken.digest or {})}

    async def _discard(self, files: asyncio.Task[Exchange]) -> None:
        """Nothing is on record of a statement that showed nothing, save for its end in the log."""
        with suppress(StoreUnavailable):
            await asyncio.to_thread((await files).discard)

    @gate("outcome")
    async def _ended(
        self,
        session: GuardedSession,
        request: QueryRequest,
        plan: Plan,
        intent: int,
        outcome: Json,
        *,
        record: Callable[[], Json] | None = None,
        light: bool = True,
    ) -> None:
        """Raises StoreUnavailable: then the rows are withheld, for nothing shows what they were."""
        kind, entry = (
            "statement.outcome",
            {"statement_id": request.statement_id, "intent": intent, **outcome},
        )

        def told() -> Json:
            return entry if record is None else entry | record()

        if light:
            entry, record = told(), None
            written = self.log.append_at_once(kind, entry, session_id=session.id)
        if not light or written is None:
            await asyncio.to_thread(lambda: self.log.append(kind, told(), session_id=session.id))


async def _run(work: Callable[[], T], weight: int) -> T:
    """Work on so many characters or bytes; little work is done sooner than handed to a thread."""
    return work() if weight <= _LIGHT else await asyncio.to_thread(work)


def _screen(plan: Plan) -> Screen:
    """Lists of objects hold names and comments, no rows: they pass unscreened."""
    statement = plan.verdict.statement
    return Screen() if statement and statement.kind in _NO_ROWS else plan.screen


def _weight(answer: Json) -> int:
    """About how many bytes the first part of a result has."""
    data = answer.get("data") or {}
    rowset = data.get("rowset") or ()
    texts = sum(len(v) for row in rowset[:_LIGHT] for v in row if isinstance(v, str))
    return len(data.get("rowsetBase64") or "") + len(rowset) + texts


def _outputs(answer: Json) -> list[str]:
    rowtype = (answer.get("data") or {}).get("rowtype") or []
    return [str(c.get("name", "")) for c in rowtype]


def _screened_json(taken: TakenOver, taints: Taints, plan: Plan) -> Json:
    """What the detectors had to say about the first part; the others have log entries of their own."""
    screen = _screen(plan)
    if not screen.every:
        return {}
    return {
        "findings": found_json(taken.findings, taints),
        "unread": taken.unread,
        "detectors_freed": sorted(screen.freed),
    }


def _scrubbed(answer: Json, session: GuardedSession, request: QueryRequest, plan: Plan) -> Json:
    """An error answer of Snowflake without the values that it quotes; any other as it is."""
    if answer.get("success"):
        return answer
    statement = plan.verdict.statement
    names = {session.role.snowflake_role, session.role.warehouse, session.names.database}
    names.add(session.names.schema)
    for table in (*statement.reads, *statement.writes) if statement else ():
        names |= {table.database, table.schema, table.name}
    for _, columns in plan.verdict.columns:
        names.update(columns)
    message = scrub(str(answer.get("message") or ""), request.sql, filter(None, names))
    return {**answer, "message": message}


def _status(error: HoopError, *, ran: bool) -> str:
    """How a statement ended that did not deliver: it ran and its result was withheld, it failed, or
    nobody here knows.
    """
    if ran:
        return "withheld"
    return "unknown" if isinstance(error, Unavailable) and error.reason != NOT_REACHED else "failed"


def _tag(session: GuardedSession, request: QueryRequest, intent: int) -> str:
    """Ties Snowflake's QUERY_HISTORY to our log; the caller's own tag rides behind (2,000 at most)."""
    own = f"hoop:{session.id}:{request.statement_id}:{intent}"
    theirs = str(request.parameters.get("QUERY_TAG") or session.parameters.get("QUERY_TAG") or "")
    return f"{own} {theirs}".strip()[:2000]
