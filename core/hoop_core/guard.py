"""The ten gates that every statement passes, in order. Read this file first.

     1 identity     the session's caller was verified when it signed in       identity/oidc.py
     2 parse        the text is understood, or refused                        judge.py, sql/
     3 policy       allow, ask a human, or deny                               judge.py, policy/
     6 mask         the text that will run, rewritten and verified            judge.py, masking/
     4 approval     humans answer for exactly that text                       approvals/
     5 credential   a Snowflake user is minted for the session                credentials/
     7 intent       what is about to run is durable in the log                audit/log.py
     8 Snowflake    exactly that text runs                                    delivery.py
     9 results      presigned addresses stay here; what is shown is recorded  results.py
    10 outcome      how it ended is in the log, and a lineage event goes out  delivery.py, lineage/

Masking comes before approval because the humans sign the text that will run (I2, I5).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
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
from hoop_core.delivery import Delivered, Delivery, Plan, as_hoop_error
from hoop_core.errors import (
    ApprovalRefused,
    Cancelled,
    HoopError,
    NotServed,
    PolicyDenied,
    StatementRefused,
    StoreUnavailable,
)
from hoop_core.model import ApprovalStatus, Json, Kind, Outcome, Verdict
from hoop_core.policy.model import Policy
from hoop_core.racing import unless_abandoned
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
from hoop_core.session import GuardedSession, QueryRequest, meaning_of
from hoop_core.sql.live_catalog import LiveCatalog

T = TypeVar("T")
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Guard:
    """Stateless between statements; everything that lasts is in the store."""

    policy: Policy
    catalog: LiveCatalog
    desk: ApprovalDesk
    waiting: WaitingRoom
    log: AuditLog
    delivery: Delivery
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
            error = as_hoop_error(e)
            await self._refused(session, request, error)
            raise error from None
        return await self.delivery.run(session, request, plan, upstream, intent)

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
                await unless_abandoned(request.abandoned, self.waiting.until_approved(approval.id))
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
            "settings": dict(plan.binding.settings),
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
