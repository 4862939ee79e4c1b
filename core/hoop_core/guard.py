"""The ten gates that every statement passes, in order. Read this file first.

     1 identity     the session's caller was verified when it signed in       identity/oidc.py
     2 parse        the text is understood, or refused                        judge.py, sql/
     3 policy       allow, ask a human, or deny                               judge.py, policy/
     6 mask         the text that will run, rewritten and verified            judge.py, masking/
     4 approval     humans answer for exactly that text                       approvals/
     5 credential   a Snowflake user is minted for the session                credentials/
     7 intent       what is about to run is durable in the log                audit/log.py
     8 Snowflake    exactly that text runs                                    snowflake/session.py
     9 results      presigned addresses stay here; what is shown is recorded  results.py
    10 outcome      how it ended is in the log, and a lineage event goes out  lineage/

Masking comes before approval because the humans sign the text that will run (I2, I5).
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection

from hoop_core import judge
from hoop_core.approvals.binding import Binding, digest
from hoop_core.approvals.desk import Approval, ApprovalDesk
from hoop_core.approvals.waiting import WaitingRoom
from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.audit.recording import Recorder
from hoop_core.errors import (
    ApprovalRefused,
    Cancelled,
    HoopError,
    NotServed,
    PolicyDenied,
    SnowflakeError,
    SnowflakeUnavailable,
    StatementRefused,
    StoreUnavailable,
    Unavailable,
)
from hoop_core.http import unexpected
from hoop_core.lineage.openlineage import LineageEmitter
from hoop_core.model import ApprovalStatus, Json, Kind, Outcome, Verdict
from hoop_core.policy.model import Policy
from hoop_core.records import (
    asked_json,
    bound_values,
    decision_json,
    error_json,
    person_json,
    run_json,
    sha256,
    statement_json,
)
from hoop_core.results import ChunkSet, TakenOver, take_over
from hoop_core.session import GuardedSession, QueryRequest, meaning_of
from hoop_core.snowflake.session import SnowflakeSession, raise_for_answer
from hoop_core.sql.live_catalog import LiveCatalog

T = TypeVar("T")
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
class Guard:
    """Stateless between statements; everything that lasts is in the store."""

    policy: Policy
    catalog: LiveCatalog
    desk: ApprovalDesk
    waiting: WaitingRoom
    log: AuditLog
    recorder: Recorder
    lineage: LineageEmitter
    public_url: str
    analysts: Executor

    async def run(self, session: GuardedSession, request: QueryRequest) -> Delivered:
        """Take one statement through all gates. Raises HoopError; a refusal is in the log.

        A client that takes its statement back sets `request.abandoned`. The task itself is never cancelled:
        every statement comes to an end that is written down.
        """
        try:
            plan = await self._decide(session, request)
            plan, grant = await self._approval(session, request, plan)
            lease, upstream = await session.upstream()
            if request.abandoned.is_set() or session.closed:
                raise Cancelled("The client took the statement back before it ran.")
            intent = await self._intent(session, request, plan, grant, lease.snowflake_user)
        except Exception as e:
            error = _as_hoop_error(e)
            await self._refused(session, request, error)
            raise error from None
        return await self._through(session, request, plan, upstream, intent)

    # ------------------------------------------------------------------ 2, 3, 6

    async def _decide(self, session: GuardedSession, request: QueryRequest) -> Plan:
        """Understand, decide, rewrite and verify. Raises StatementRefused or PolicyDenied."""
        _check_served(request)
        analysis = await self._analysed(judge.analyse, request.sql, session.names)
        catalog = await self.catalog.snapshot(analysis.tables)
        policy = self.policy
        verdict = await self._analysed(
            partial(
                judge.judge,
                analysis,
                identity=session.identity,
                policy=policy,
                catalog=catalog,
                run=session.run,
                now=utc_now(),
            )
        )
        if verdict.decision.outcome is Outcome.DENY or verdict.rewritten is None:
            raise _denied(verdict)
        binding = Binding(
            identity=session.identity,
            role=session.role,
            fingerprint=analysis.statement.fingerprint,
            executed_sha256=sha256(verdict.rewritten),
            parameters_sha256=digest(request.bindings),
            policy_digest=policy.digest,
            catalog_digest=catalog.digest(analysis.tables),
            run=session.run,
            settings=meaning_of(session.parameters, request.parameters),
        )
        return Plan(verdict, binding)

    async def _analysed(self, work: Callable[..., T], *arguments: Any) -> T:
        """Analysis has threads of its own, so that a heavy text never holds up the log."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.analysts, work, *arguments)

    # ------------------------------------------------------------------ 4

    async def _approval(
        self, session: GuardedSession, request: QueryRequest, plan: Plan
    ) -> tuple[Plan, Approval | None]:
        """Wait for humans where the policy asks for them; afterwards decide anew.

        A policy or a table that changed during the wait makes another binding: asked again.
        """
        while plan.verdict.decision.outcome is Outcome.REQUIRE_APPROVAL:
            if request.describe_only:
                if plan.verdict.statement and plan.verdict.statement.kind is Kind.SELECT:
                    break  # column names of an approved or unapproved query are not its rows
                raise ApprovalRefused(
                    "This statement needs an approval, so it cannot be described beforehand.",
                    "Run it: it will wait for the approvers.",
                )
            approval = await self.ask(session, request, plan)
            if approval.status is not ApprovalStatus.APPROVED:
                await _unless(request.abandoned, self.waiting.until_approved(approval.id))
            again = await self._decide(session, request)
            if again.binding.digest == approval.binding:
                return again, approval
            plan = again
        return plan, None

    async def ask(self, session: GuardedSession, request: QueryRequest, plan: Plan) -> Approval:
        terms = plan.verdict.decision.approval
        if terms is None:
            raise PolicyDenied("The policy asks for an approval but names no approvers.")
        question = {
            "requester": person_json(session.identity),
            "session_id": session.id,
            "run": run_json(session.run),
            "snowflake_role": session.role.snowflake_role,
            "parameters": bound_values(request.bindings),
            "sql": request.sql,
            "rewritten": plan.verdict.rewritten,
            **statement_json(plan.verdict),
            **decision_json(plan.verdict.decision),
        }
        return await asyncio.to_thread(
            self.desk.ask, plan.binding, terms, question, session_id=session.id
        )

    async def ask_ahead(self, session: GuardedSession, request: QueryRequest) -> Approval | None:
        """Ask for a statement that will be run later; None when it needs no approval.

        Raises StatementRefused or PolicyDenied, which are in the log.
        """
        try:
            plan = await self._decide(session, request)
        except HoopError as e:
            await self._refused(session, request, e)
            raise
        if plan.verdict.decision.outcome is Outcome.ALLOW:
            return None
        return await self.ask(session, request, plan)

    # ------------------------------------------------------------------ 7

    async def _intent(
        self,
        session: GuardedSession,
        request: QueryRequest,
        plan: Plan,
        grant: Approval | None,
        user: str,
    ) -> int:
        """Make durable what is about to run; a grant is used up in the same transaction (I1, I5)."""
        entry = {
            **asked_json(session, request),
            **statement_json(plan.verdict),
            "decision": decision_json(plan.verdict.decision),
            "executed": plan.text,
            "executed_sha256": sha256(plan.text),
            "approval": grant.id if grant else None,
            "snowflake_user": user,
        }

        def write(connection: Connection) -> Json:
            if grant is not None:
                self.desk.consume(connection, grant.id, plan.binding)
            return entry

        return await asyncio.to_thread(
            self.log.append, "statement.intent", write, session_id=session.id
        )

    # ------------------------------------------------------------------ 8, 9, 10

    async def _through(
        self,
        session: GuardedSession,
        request: QueryRequest,
        plan: Plan,
        upstream: SnowflakeSession,
        intent: int,
    ) -> Delivered:
        """Run the verified text and deliver its result; how it ends is logged in every case."""
        try:
            answer = await self._execute(session, request, plan, upstream, intent)
            raise_for_answer(answer)
            taken = take_over(
                answer,
                session_id=session.id,
                statement_id=request.statement_id,
                public_url=self.public_url,
                keep=not plan.verdict.decision.exposed,
            )
            recorded = await asyncio.to_thread(self._record, session, request, taken)
        except Exception as e:
            error = _as_hoop_error(e)
            status = "unknown" if isinstance(error, Unavailable) else "failed"
            await self._ended(
                session, request, plan, intent, {"status": status, **error_json(error)}
            )
            if plan.verdict.statement and error.errno == _INVALID_IDENTIFIER:
                self.catalog.forget(plan.verdict.statement.reads)
            if isinstance(error, SnowflakeError) and error.errno in _UPSTREAM_ENDED:
                raise SnowflakeUnavailable(
                    "Snowflake ended the session of the minted user.", "Connect again."
                ) from None
            raise error from None
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
            if await _first(running, request.abandoned):
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

    # ------------------------------------------------------------------ refusals

    async def _refused(
        self, session: GuardedSession, request: QueryRequest, error: HoopError
    ) -> None:
        entry = {**asked_json(session, request), **error_json(error)}
        try:
            await asyncio.to_thread(
                self.log.append, "statement.refused", entry, session_id=session.id
            )
        except StoreUnavailable as unwritten:
            # It stays refused; stderr is the last place left to say so.
            _log.error("refused, and the log cannot be written", why=error.text, log=unwritten.text)


def _denied(verdict: Verdict) -> PolicyDenied:
    """The denial as the driver's error; for an unknown table under Snowflake's own code for it."""
    reasons = verdict.decision.reasons
    unknown = bool(reasons) and reasons[0].code == "UNKNOWN_OBJECT"
    return PolicyDenied(
        ("; ".join(r.message for r in reasons) or "Denied") + ".",
        "Check its name." if unknown else "Ask the owners of the policy if you need this.",
        reason=reasons[0].code if reasons else "POLICY",
        errno=2003 if unknown else None,
        sqlstate="42S02" if unknown else None,
    )


def _as_hoop_error(error: Exception) -> HoopError:
    """A fault of Hoop's own is told to nobody but our log; the caller hears that it is refused."""
    if isinstance(error, HoopError):
        return error
    _log.error("a statement failed inside Hoop", exc_info=error)
    return unexpected()


async def _first(task: asyncio.Task[T], abandoned: asyncio.Event) -> bool:
    """Wait for whichever comes first; true when it was the task."""
    giving_up = asyncio.create_task(abandoned.wait())
    try:
        await asyncio.wait({task, giving_up}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        giving_up.cancel()
    return task.done()


async def _unless(abandoned: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Wait for `work`. Raises Cancelled when the client gives up first."""
    task = asyncio.create_task(work)
    if await _first(task, abandoned):
        return await task
    task.cancel()
    raise Cancelled("The client took the statement back while it waited for an approval.")


def _check_served(request: QueryRequest) -> None:
    """Raises NotServed or StatementRefused for what no policy could allow."""
    if request.asynchronous:
        raise NotServed(
            "Asynchronous execution is not served yet.", "Run the statement synchronously."
        )
    if request.staged_binds:
        raise NotServed("Binding through a stage is not served.", "Bind fewer rows at a time.")
    try:
        request.sql.encode()
    except UnicodeEncodeError:
        # What cannot be written down exactly cannot be logged, and so cannot be run (I2).
        raise StatementRefused(
            "The statement is not valid Unicode.", "Send it as UTF-8.", reason="BAD_UNICODE"
        ) from None


def _tag(session: GuardedSession, request: QueryRequest, intent: int) -> str:
    """Ties Snowflake's QUERY_HISTORY to our log; the caller's own tag rides behind (2,000 at most)."""
    own = f"hoop:{session.id}:{request.statement_id}:{intent}"
    theirs = str(request.parameters.get("QUERY_TAG") or session.parameters.get("QUERY_TAG") or "")
    return f"{own} {theirs}".strip()[:2000]
