"""The ten gates that every statement passes, in order. Read this file first.

     1 identity     the session's caller was verified when it signed in       identity/oidc.py
     2 parse        the text is understood, or refused                        analysts/, judge.py, sql/
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
from dataclasses import dataclass, replace

import structlog
from sqlalchemy import Connection

from hoop_core.analysts.pool import Analysts
from hoop_core.analysts.question import Question
from hoop_core.approvals.approval import Approval
from hoop_core.approvals.binding import Binding, digest
from hoop_core.approvals.desk import ApprovalDesk
from hoop_core.approvals.exceptions import NONE, InForce, scope_of, used_by
from hoop_core.approvals.waiting import WaitingRoom
from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.delivery import INVALID_IDENTIFIER, Delivered, Delivery, Plan, as_hoop_error
from hoop_core.errors import (
    ApprovalRefused,
    Cancelled,
    HoopError,
    NotServed,
    PolicyDenied,
    SnowflakeError,
    StatementRefused,
    StoreUnavailable,
)
from hoop_core.model import (
    ApprovalStatus,
    Identity,
    Json,
    Kind,
    Outcome,
    RoleBinding,
    TableName,
    Verdict,
)
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
    used_first,
)
from hoop_core.session import GuardedSession, QueryRequest, meaning_of
from hoop_core.snowflake.session import SnowflakeSession
from hoop_core.sql.catalog import Catalog
from hoop_core.sql.live_catalog import LiveCatalog
from hoop_core.sql.refusals import refuse

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
    analysts: Analysts

    def role_for(self, identity: Identity, requested: str | None, account: str = "") -> RoleBinding:
        """Who a caller becomes in an account, under the policy in force now. Raises PolicyDenied."""
        return self.policy.for_account(account).role_for(identity, requested)

    async def run(self, session: GuardedSession, request: QueryRequest) -> Delivered:
        """Take one statement through all gates. Raises HoopError; a refusal is in the log.

        A client that takes its statement back sets `request.abandoned`. The task itself is never cancelled:
        every statement comes to an end that is written down.

        Where Snowflake does not know a column, what was believed of the tables may be out of date. Nothing
        has run then; so the tables are looked at again, and the statement passes all gates once more with an
        intent of its own, unless the same text would come of it.
        """
        plan, upstream, intent = await self._ready(session, request)
        try:
            return await self.delivery.run(session, request, plan, upstream, intent)
        except SnowflakeError as e:
            if e.errno != INVALID_IDENTIFIER:
                raise
            again = await self._ready_anew(session, request, plan)
            if again is None:
                raise
        return await self.delivery.run(session, request, *again)

    async def _ready(
        self, session: GuardedSession, request: QueryRequest, plan: Plan | None = None
    ) -> tuple[Plan, SnowflakeSession, int]:
        """Gates 2 to 7, or 4 to 7 for a plan that is there already. A refusal is in the log."""
        try:
            plan = plan or await self._decide(session, request)
            plan, grant = await self._approval(session, request, plan)
            lease, upstream = await session.upstream()
            if request.abandoned.is_set() or session.closed:
                raise Cancelled("The client took the statement back before it ran.")
            intent = await self._intent(session, request, plan, grant, lease.snowflake_user)
        except Exception as e:
            error = as_hoop_error(e)
            await self._refused(session, request, error)
            raise error from None
        return plan, upstream, intent

    async def _ready_anew(
        self, session: GuardedSession, request: QueryRequest, failed: Plan
    ) -> tuple[Plan, SnowflakeSession, int] | None:
        """The second try; None when it would be the first one again. A refusal is in the log."""
        try:
            plan = await self._decide(session, request)
        except Exception as e:
            error = as_hoop_error(e)
            await self._refused(session, request, error)
            raise error from None
        return None if plan.text == failed.text else await self._ready(session, request, plan)

    # ------------------------------------------------------------------ 2, 3, 6

    async def _decide(self, session: GuardedSession, request: QueryRequest) -> Plan:
        """Understand, decide, rewrite and verify, in a process that may be killed.

        Raises StatementRefused, PolicyDenied, or AnalysisUnavailable.
        """
        _check_served(request)
        policy = self.policy.for_account(session.account)
        exceptions = await self._exceptions(session, policy)
        policy.check_role(session.identity, session.role)
        question = Question(
            sql=request.sql,
            names=session.names,
            identity=session.identity,
            policy=policy,
            run=session.run,
            now=utc_now(),
            exceptions=exceptions.columns,
            session=session.id,
        )

        async def snapshot(tables: tuple[TableName, ...]) -> Catalog:
            looking = self.catalog.snapshot(
                tables, session.role.snowflake_role, session.identity.key
            )
            return await unless_abandoned(request.abandoned, looking, "its tables were looked up")

        judged = await self.analysts.judge(question, snapshot)
        verdict = judged.verdict
        verdict = replace(verdict, decision=exceptions.named_in(verdict.decision))
        if verdict.rewritten is None or verdict.statement is None:
            raise _denied(verdict)
        settings = meaning_of(session.parameters, request.parameters)
        _check_filters(verdict, settings)
        binding = Binding(
            identity=session.identity,
            role=session.role,
            fingerprint=verdict.statement.fingerprint,
            executed_sha256=sha256(verdict.rewritten),
            parameters_sha256=digest(request.bindings),
            policy_digest=policy.digest,
            catalog_digest=judged.catalog_digest,
            run=session.run,
            settings=settings,
            account=session.account,
        )
        return Plan(verdict, binding, policy.screen_for(session.identity))

    async def _exceptions(self, session: GuardedSession, policy: Policy) -> InForce:
        """Read anew for every statement: a revocation counts at once, on every replica.

        Raises StoreUnavailable: to mask what was shown a moment ago would look like other data.
        """
        if not policy.offers_exceptions:
            return NONE
        scope = scope_of(session.identity, session.role, policy, session.account)
        return InForce.of(await asyncio.to_thread(self.desk.standing, scope))

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
        decided = decision_json(plan.verdict.decision)
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
            **decided,
            "masked": used_first(decided["masked"], plan.verdict),
        }
        return await asyncio.to_thread(
            self.desk.ask, plan.binding, terms, question, session_id=session.id
        )

    async def ask_ahead(self, session: GuardedSession, request: QueryRequest) -> Approval | None:
        """Ask for a statement that will be run later; None when it needs no approval.

        Raises StatementRefused, PolicyDenied or ApprovalRefused, which are in the log.
        """
        try:
            plan = await self._decide(session, request)
            if plan.verdict.decision.outcome is Outcome.ALLOW:
                return None
            return await self.ask(session, request, plan)
        except HoopError as e:
            await self._refused(session, request, e)
            raise

    # ------------------------------------------------------------------ 7

    async def _intent(
        self,
        session: GuardedSession,
        request: QueryRequest,
        plan: Plan,
        grant: Approval | None,
        user: str,
    ) -> int:
        """Make durable what is about to run (I1); in the same transaction a grant is used up (I5), and the
        exceptions that the text rests on still hold.
        """
        exceptions = used_by(plan.verdict.decision)
        entry = {
            **asked_json(session, request),
            **statement_json(plan.verdict),
            "decision": decision_json(plan.verdict.decision),
            "executed": plan.text,
            "executed_sha256": sha256(plan.text),
            "approval": grant.id if grant else None,
            "exceptions": list(exceptions),
            "snowflake_user": user,
        }

        def write(connection: Connection) -> Json:
            if grant is not None:
                self.desk.consume(connection, grant.id, plan.binding)
            if exceptions:
                self.desk.check_standing(connection, exceptions)
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


def _denied(verdict: Verdict) -> PolicyDenied | StatementRefused:
    """The denial as the driver's error; for an unknown table under Snowflake's own code for it."""
    reasons = verdict.decision.reasons
    if verdict.statement is None and reasons:  # not understood: no policy was asked
        return refuse(reasons[0].code, reasons[0].message)
    unknown = bool(reasons) and reasons[0].code == "UNKNOWN_OBJECT"
    return PolicyDenied(
        ("; ".join(r.message.removesuffix(".") for r in reasons) or "Denied") + ".",
        "Check its name." if unknown else "Ask the owners of the policy if you need this.",
        reason=reasons[0].code if reasons else "POLICY",
        errno=2003 if unknown else None,
        sqlstate="42S02" if unknown else None,
    )


def _check_filters(verdict: Verdict, settings: Json) -> None:
    """A row filter means what the policy's author meant only under the account's own settings.

    Raises PolicyDenied.
    """
    resting = [f for f in verdict.decision.filtered if f.by_session]
    if resting and settings:
        raise PolicyDenied(
            f"Which rows of {resting[0].table} you may see could depend on what the session was set to: "
            f"{', '.join(sorted(settings))}.",
            "Leave these parameters out when you connect, or ALTER SESSION UNSET them.",
            reason="ROW_FILTER_SESSION",
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
