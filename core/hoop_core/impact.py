"""What a statement would do, counted before people answer for it.

The count is a statement of the caller's own: it passes all gates, under the same masks and filters, with an intent
and an outcome in the log, and it is never put before approvers itself. Who may change rows but not read them
gets no count.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import uuid
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import structlog

from hoop_core.approvals.approval import Approval
from hoop_core.approvals.desk import ApprovalDesk
from hoop_core.audit.log import utc_now
from hoop_core.errors import HoopError, SnowflakeError, where
from hoop_core.model import Json, Kind
from hoop_core.plan import Delivered, Plan
from hoop_core.records import sha256
from hoop_core.session.guarded import GuardedSession, QueryRequest
from hoop_core.sql.counting import Count, count_of

_log = structlog.get_logger(__name__)
_AS_TEXT = {"PYTHON_CONNECTOR_QUERY_RESULT_FORMAT": "JSON"}
_EXPLAINED = {
    Kind.INSERT, Kind.INSERT_OVERWRITE, Kind.UPDATE, Kind.DELETE, Kind.MERGE, Kind.CREATE_TABLE_AS,
}  # fmt: skip
_RESTORED = {
    Kind.INSERT, Kind.INSERT_OVERWRITE, Kind.UPDATE, Kind.DELETE, Kind.MERGE, Kind.TRUNCATE, Kind.COPY_INTO_TABLE,
}  # fmt: skip

_MOST_ASKED = 200
"""Questions whose counts may wait for their turn; others get none, which their page says."""
_ENDING = "ending what a question opened"

Run = Callable[[GuardedSession, QueryRequest], Awaitable[Delivered]]


@dataclass(slots=True)
class Foresight:
    """Counts in the background, a few at once: a question is there at once, its impact a moment later."""

    desk: ApprovalDesk
    seconds: float = 30.0
    """The longest that a count may take."""
    at_once: int = 4
    end: Callable[[Any], Awaitable[None]] | None = None
    """Ends the Snowflake session and user of a session that was there for a question only."""
    _under_way: set[asyncio.Task[None]] = field(default_factory=set, repr=False)
    _asked: set[str] = field(default_factory=set, repr=False)
    """Ids of the approvals that are being counted for."""
    _counting: set[str] = field(default_factory=set, repr=False)
    """Ids of the sessions in which a count is under way."""
    _room: asyncio.Semaphore | None = field(default=None, repr=False)

    @property
    def room(self) -> asyncio.Semaphore:
        """For counts whose statement does not run now; those have to take turns."""
        if self._room is None:
            self._room = asyncio.Semaphore(self.at_once)
        return self._room

    def begin(
        self,
        run: Run,
        session: GuardedSession,
        request: QueryRequest,
        plan: Plan,
        approval: Approval,
    ) -> None:
        """Count for a question that was just put, without waiting for it; once, however often it is put."""
        if approval.id in self._asked or len(self._asked) >= _MOST_ASKED:
            return
        session = _aside(session)
        self._asked.add(approval.id)
        self._counting.add(session.id)
        task = asyncio.create_task(self._foresee(run, session, request, plan, approval))
        self._keep(task)

    def release(self, session: GuardedSession) -> asyncio.Future[None]:
        """A question was put, or refused: end what was opened for it alone, once nothing counts there."""
        if not session.ahead or session.id in self._counting:
            done = asyncio.get_running_loop().create_future()
            done.set_result(None)
            return done
        return self._keep(asyncio.create_task(self._let_go(session), name=_ENDING))

    def _keep(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    async def close(self) -> None:
        """No count outlives the gateway, and no user that was minted for one."""
        while self._under_way:
            for task in self._under_way:
                if not task.get_name().startswith(_ENDING):
                    task.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _foresee(
        self,
        run: Run,
        session: GuardedSession,
        request: QueryRequest,
        plan: Plan,
        approval: Approval,
    ) -> None:
        try:
            impact = await self.of(
                run, session, request, plan, counted_for=approval.id, queued=True
            )
            await asyncio.to_thread(self.desk.foresee, approval.id, impact)
        except HoopError as e:
            _log.error("an impact cannot be put down", approval=approval.id, why=e.text)
        except Exception as e:
            _log.error("an impact cannot be counted", approval=approval.id, where=where(e))
        finally:
            self._asked.discard(approval.id)
            self._counting.discard(session.id)
            await asyncio.shield(self.release(session))

    async def _let_go(self, session: GuardedSession) -> None:
        upstream = await session.detach()
        if upstream is not None and self.end is not None:
            await self.end(upstream)

    async def of(
        self,
        run: Run,
        session: GuardedSession,
        request: QueryRequest,
        plan: Plan,
        *,
        counted_for: str,
        queued: bool = False,
    ) -> Json:
        """What the statement would do, as JSON for people. Never raises for what Snowflake or the policy says.

        Only where nothing runs now (`queued`) it takes its turn, and Snowflake's plan is asked for, too.
        """
        async with self.room if queued else nullcontext():
            return await self._of(
                run, session, request, plan, counted_for=counted_for, queued=queued
            )

    async def _of(
        self,
        run: Run,
        session: GuardedSession,
        request: QueryRequest,
        plan: Plan,
        *,
        counted_for: str,
        queued: bool,
    ) -> Json:
        statement = plan.verdict.statement
        count = None if statement is None else count_of(statement, plan.bindings)
        impact: Json = {
            "state": "unavailable",
            "rows": None,
            "what": None if count is None else count.what,
            "bounds": False,
            "sql": None,
            "partitions": None,
            "partitions_total": None,
            "bytes": None,
            "restore": _restore(plan),
            "why": None,
            "at": utc_now().isoformat(),
        }
        if count is None or plan.staged.as_json() or request.bind_stage:
            return impact | {"why": "This statement changes no rows that could be counted."}
        impact["sql"] = count.sql or None
        try:
            counting = _Counting(run, session, request, counted_for, self.seconds)
            rows = await counting.rows(plan, count)
        except SnowflakeError as e:  # its words may quote values
            return impact | {"why": f"Snowflake refused the count (error {e.errno})."}
        except HoopError as e:
            return impact | {"why": f"The count was refused: {e.message}"}
        except TimeoutError:
            return impact | {"why": f"The count took longer than {self.seconds:g} seconds."}
        except KeyError:
            return impact | {"why": "The values that the count needs are not bound by position."}
        if rows is None:
            return impact | {"why": "The count's answer could not be read."}
        impact |= {"state": "counted", "rows": rows, "bounds": count.bounds}
        if not count.bounds:
            impact["why"] = "It may touch more rows than were counted."
        # The plan may have waited for its turn; the count was decided anew, and says under which policy.
        if queued and counting.under == {plan.binding.policy_digest}:
            impact |= await self._explained(session, plan, counted_for)
        return impact

    async def _explained(self, session: GuardedSession, plan: Plan, counted_for: str) -> Json:
        """Partitions and bytes that it would scan, where Snowflake says so. Nothing runs: it is compiled only.

        Only of a change that the caller was just allowed to count by a SELECT, in tables that are not protected from
        them: how many partitions a condition leaves tells of values, of hidden rows too.
        https://docs.snowflake.com/en/sql-reference/sql/explain
        """
        statement = plan.verdict.statement
        decision = plan.verdict.decision
        protected = decision.masked or decision.filtered or decision.exposed
        if plan.bindings or protected or not statement or statement.kind not in _EXPLAINED:
            return {}
        text = f"EXPLAIN USING JSON {plan.text}"
        entry = {"approval": counted_for, "executed": text, "executed_sha256": sha256(text)}
        explaining = str(uuid.uuid4())
        try:
            async with asyncio.timeout(self.seconds):
                _, upstream = await session.upstream(explaining)
                await asyncio.to_thread(self.desk.explaining, entry, session.id)
                return _scanned(await upstream.rows(text))
        except (HoopError, TimeoutError):
            return {}  # the number of rows may be there all the same, and says more
        finally:
            session.ran(explaining)


@dataclass(slots=True)
class _Counting:
    """SELECTs of the caller's own, for one question."""

    run: Run
    session: GuardedSession
    request: QueryRequest
    counted_for: str
    seconds: float
    under: set[str] = field(default_factory=set)
    """Digests of the policies that they were decided under."""

    async def rows(self, plan: Plan, count: Count) -> int | None:
        """The rows that come and those that go with them. Raises HoopError, TimeoutError, KeyError."""
        if count.rows is not None:
            rows: int | None = count.rows
        else:
            rows = await self._number(count.sql, count.bindings(plan.bindings))
        if rows is None or not count.lost_sql or not _is_there(plan):
            return rows
        lost = await self._number(count.lost_sql, None)
        return None if lost is None else rows + lost

    async def _number(self, sql: str, bindings: Json | None) -> int | None:
        counting = replace(
            self.request,
            statement_id=str(uuid.uuid4()),
            sql=sql,
            bindings=bindings,
            parameters={**self.request.parameters, **_AS_TEXT},
            describe_only=False,
            asynchronous=False,
            bind_stage="",
            counted_for=self.counted_for,
            abandoned=asyncio.Event(),
            progress=type(self.request.progress)(),
        )
        running = asyncio.ensure_future(self.run(self.session, counting))
        try:
            delivered = await asyncio.wait_for(asyncio.shield(running), self.seconds)
        except (TimeoutError, asyncio.CancelledError):
            counting.abandoned.set()  # it comes to its end, which is logged
            with suppress(Exception):
                await asyncio.shield(running)
            raise
        self.under.add(delivered.policy_digest)
        return number_in(delivered.answer)


def _aside(session: GuardedSession) -> GuardedSession:
    """Where to count. A session that has no user yet gets none by waiting for people, for there may be many that wait:
    the count has a short one of its own.
    """
    if session.ahead or session.opened_upstream() is not None:
        return session
    return GuardedSession(
        id="ask_" + secrets.token_hex(12),
        identity=session.identity,
        role=session.role,
        names=session.names,
        run=session.run,
        client=session.client,
        parameters=dict(session.parameters),
        opened_at=utc_now(),
        open_upstream=session.open_upstream,
        account=session.account,
        ahead=True,
    )


def number_in(answer: Json) -> int | None:
    """The one whole number of a result, in either form that Snowflake sends."""
    data = answer.get("data") or {}
    try:
        if data.get("rowset"):
            return int(data["rowset"][0][0])
        with pa.ipc.open_stream(base64.b64decode(data["rowsetBase64"])) as reader:
            return int(reader.read_all().column(0)[0].as_py())
    except (KeyError, IndexError, TypeError, ValueError, pa.ArrowException):
        return None


def _scanned(rows: list[dict[str, Any]]) -> Json:
    """What an explained plan says of the whole; empty where it is not of the form that is documented."""
    try:
        stats = json.loads(next(iter(rows[0].values())))["GlobalStats"]
        told = {
            "partitions": stats["partitionsAssigned"],
            "partitions_total": stats["partitionsTotal"],
            "bytes": stats["bytesAssigned"],
        }
    except (IndexError, KeyError, TypeError, ValueError, StopIteration):
        return {}
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in told.values())
    return told if whole else {}


def _is_there(plan: Plan) -> bool:
    """Whether there are rows that the statement would replace."""
    statement = plan.verdict.statement
    return plan.made_there or (statement is not None and statement.kind is Kind.INSERT_OVERWRITE)


def _restore(plan: Plan) -> str | None:
    """How it could be undone, for as long as Snowflake keeps what there was (Time Travel).

    https://docs.snowflake.com/en/user-guide/data-time-travel
    """
    statement = plan.verdict.statement
    if statement is None or not statement.writes:
        return None
    table = statement.writes[0]
    if statement.kind in _RESTORED:
        return f"CREATE TABLE … CLONE {table} BEFORE (STATEMENT => '<query id>')"
    if statement.kind is Kind.DROP_TABLE:
        return f"UNDROP TABLE {table}"
    return None
