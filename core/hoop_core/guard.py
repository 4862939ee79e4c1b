"""The ten gates that every statement passes, in order. Read this file first.

     1 identity     the session's caller was verified when it signed in      identity/oidc.py
     2 parse        the text is understood, or refused                       deciding.py, analysts/, sql/
     3 policy       allow, ask a human, or deny                              deciding.py, judge.py, policy/
     6 mask         the text that will run, rewritten and verified           judge.py, masking/
     4 approval     humans answer for exactly that text                      asking.py, approvals/
     5 credential   a Snowflake user is minted for the session               credentials/
     7 intent       what is about to run is durable in the log               audit/log.py
     8 Snowflake    exactly that text runs                                   delivery.py
     9 results      presigned addresses stay here; what is shown is recorded results/
    10 outcome      how it ended is in the log                              delivery.py

Masking comes before approval because the humans sign the text that will run (I2, I5).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import structlog
from sqlalchemy import Connection

from hoop_core.analysts.pool import Analysts
from hoop_core.approvals.approval import Approval
from hoop_core.approvals.desk import ApprovalDesk
from hoop_core.approvals.exceptions import used_by
from hoop_core.asking import Asking, Use, Wish
from hoop_core.audit.described import Described
from hoop_core.audit.log import AuditLog
from hoop_core.deciding import Decider
from hoop_core.delivery import Delivery
from hoop_core.errors import (
    ApprovalRefused,
    Cancelled,
    HoopError,
    PolicyDenied,
    SnowflakeError,
    StoreUnavailable,
)
from hoop_core.loads.staged import begun
from hoop_core.model import (
    Identity,
    Json,
    Kind,
    Lease,
    Outcome,
    RoleBinding,
)
from hoop_core.plan import INVALID_IDENTIFIER, Delivered, Plan, as_hoop_error
from hoop_core.policy.engine import STAGING, kinds_granted
from hoop_core.policy.model import Policy
from hoop_core.records import (
    asked_json,
    decision_json,
    error_json,
    grant_json,
    judged_json,
    lease_json,
    lineage_json,
    sha256,
    statement_json,
)
from hoop_core.session.basis import Basis
from hoop_core.session.guarded import GuardedSession, QueryRequest, meaning_of
from hoop_core.snowflake.session import SnowflakeSession
from hoop_core.sql.live_catalog import Catalogs
from hoop_core.telemetry import gate, in_gate, statement, told

_log = structlog.get_logger(__name__)
Granted = Approval | Use | None
"""What lets a statement run that people have to approve."""


@dataclass(slots=True)
class Guard:
    """Stateless between statements; everything that lasts is in the store."""

    policy: Policy
    catalog: Catalogs
    desk: ApprovalDesk
    asking: Asking
    log: AuditLog
    delivery: Delivery
    analysts: Analysts
    choose_account: Callable[[str | None], str] = lambda _given: ""
    """The key of the Snowflake account that a client means. Raises IdentityError."""
    under_way: int = 0
    """Statements."""
    described: Described = field(init=False)

    def __post_init__(self) -> None:
        self.described = Described(self.log)

    def role_for(self, identity: Identity, requested: str | None, account: str = "") -> RoleBinding:
        """Who a caller becomes in an account, under the policy in force now. Raises PolicyDenied."""
        return self.policy.for_account(account).role_for(identity, requested)

    def may_stage(self, session: GuardedSession) -> bool:
        """Whether some rule grants the caller temporary stages and PUT, were its condition to hold."""
        policy = self.policy.for_account(session.account)
        return kinds_granted(policy, session.identity) >= STAGING

    async def run(self, session: GuardedSession, request: QueryRequest) -> Delivered:
        """Take one statement through all gates. Raises HoopError; a refusal is in the log.

        A client that takes its statement back sets `request.abandoned`. The task itself is never cancelled:
        every statement comes to an end that is written down.

        Where Snowflake does not know a column, what was believed of the tables may be out of date. Nothing
        has run then; so the tables are looked at again, and the statement passes all gates once more with an
        intent of its own, unless the same text would come of it.
        """
        parts = 0
        self.under_way += 1
        try:
            with statement(request.statement_id, session.id):
                delivered = await self._run(session, request)
            parts = len(delivered.chunks.urls) if delivered.chunks else 0
            return delivered
        finally:
            self.under_way -= 1
            session.ran(request.statement_id, parts)

    async def _run(self, session: GuardedSession, request: QueryRequest) -> Delivered:
        with ExitStack() as held:  # staged files stay as they are until the statement has ended
            return await self._run_holding(session, request, held)

    async def _run_holding(
        self, session: GuardedSession, request: QueryRequest, held: ExitStack
    ) -> Delivered:
        plan, upstream, intent = await self._ready(session, request, held)
        try:
            return await self.delivery.run(session, request, plan, upstream, intent)
        except SnowflakeError as e:
            if e.errno != INVALID_IDENTIFIER:
                raise
            again = await self._ready_anew(session, request, plan, held)
            if again is None:
                raise
        return await self.delivery.run(session, request, *again)

    async def _ready(
        self,
        session: GuardedSession,
        request: QueryRequest,
        held: ExitStack,
        plan: Plan | None = None,
    ) -> tuple[Plan, SnowflakeSession, int]:
        """Gates 2 to 7, or 4 to 7 for a plan that is there already. A refusal is in the log."""
        try:
            plan = plan or await self._decide(session, request)
            while True:
                plan, grant = await self._approval(session, request, plan)
                with in_gate("credential"):
                    lease, upstream = await session.upstream(request.statement_id)
                if request.abandoned.is_set() or session.closed:
                    raise Cancelled("The client took the statement back before it ran.")
                if plan.binding.policy_digest == self.policy.digest:
                    break
                # Deciding and minting take their time: another policy is in force by now.
                plan = await self._decide(session, request)
            held.enter_context(begun(session.staging, upstream, plan.staged))
            held.enter_context(
                session.settings.during(
                    plan.verdict,
                    granted=grant is not None,
                    decided=plan.binding.settings,
                    now=meaning_of(session.parameters, request.parameters),
                )
            )
            ran_as = {
                "snowflake_user": lease.snowflake_user,
                "snowflake_version": upstream.version,
            }
            plan = replace(plan, rests_on=await self._rests_on(grant, lease))
            if not self.delivery.recorder.ready(session.id):
                await asyncio.to_thread(self.delivery.recorder.prepare, session.id)
            intent = await self._intent(session, request, plan, grant, ran_as)
        except Exception as e:
            error = as_hoop_error(e)
            await self._refused(session, request, error)
            raise error from None
        return plan, upstream, intent

    async def _ready_anew(
        self, session: GuardedSession, request: QueryRequest, failed: Plan, held: ExitStack
    ) -> tuple[Plan, SnowflakeSession, int] | None:
        """The second try; None when it would be the first one again. A refusal is in the log."""
        try:
            plan = await self._decide(session, request)
        except Exception as e:
            error = as_hoop_error(e)
            await self._refused(session, request, error)
            raise error from None
        return None if plan.text == failed.text else await self._ready(session, request, held, plan)

    # ------------------------------------------------------------------ 2, 3, 6

    async def _decide(self, session: GuardedSession, request: QueryRequest) -> Plan:
        decider = Decider(self.catalog, self.desk, self.analysts)
        return await decider.plan(self.policy, session, request)

    # ------------------------------------------------------------------ 4

    @gate("approval")
    async def _approval(
        self, session: GuardedSession, request: QueryRequest, plan: Plan
    ) -> tuple[Plan, Granted]:
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
            plan, use = await self.asking.standing(self.run, session, request, plan)
            if use is not None:
                if not await self.asking.opened(session, request, plan, use.grant):
                    return plan, use
                plan = await self._decide(session, request)
                continue
            approval = await self.asking.ask(self.run, session, request, plan)
            await self.asking.approved(session, request, approval)
            await self.asking.opened(session, request, plan, approval)
            again = await self._decide(session, request)
            if again.binding.digest == approval.binding:
                return again, approval
            plan = again
        return plan, None

    async def shown_again(
        self, session: GuardedSession, delivered: Delivered, kind: str, entry: Json
    ) -> None:
        """Put on record that a result is shown once more, without running anything.

        Only under the policy it was made under, in a role that the caller still has, and while the
        exceptions that it rests on stand: as with an intent, a revocation counts at once.
        Raises PolicyDenied, ApprovalRefused, StoreUnavailable.
        """
        policy = self.policy.for_account(session.account)
        policy.check_role(session.identity, session.role)
        if policy.digest != delivered.policy_digest:
            raise PolicyDenied(
                "The policy is not any more the one that this result was shown under.",
                "Run the statement again.",
                reason="SHOWN_UNDER_ANOTHER_POLICY",
            )

        def write(connection: Connection) -> Json:
            if delivered.exceptions:
                self.desk.check_standing(connection, delivered.exceptions)
            return entry

        await asyncio.to_thread(self.log.append, kind, write, session_id=session.id)

    async def still_shown(self, delivered: Delivered) -> None:
        """Whether what a result rests on holds at this moment: it may be fetched long after it was made.

        Raises ApprovalRefused, StoreUnavailable.
        """
        if delivered.exceptions:
            await asyncio.to_thread(self.desk.still_standing, delivered.exceptions)

    async def ask_ahead(self, session: GuardedSession, request: QueryRequest) -> Approval | None:
        """Ask for a statement that will be run later; None when it needs no approval. A standing approval that
        it may run under is an answer, too.

        Raises StatementRefused, PolicyDenied or ApprovalRefused, which are in the log.
        """
        try:
            plan = await self._decide(session, request)
            if plan.verdict.decision.outcome is Outcome.ALLOW:
                return None
            plan, use = await self.asking.standing(self.run, session, request, plan, ahead=True)
            if use is not None:
                return use.grant
            return await self.asking.ask(self.run, session, request, plan)
        except HoopError as e:
            await self._refused(session, request, e)
            raise
        finally:
            self.asking.foresight.release(session)

    async def ask_standing(
        self, session: GuardedSession, request: QueryRequest, wanted: Wish
    ) -> Approval:
        """Ask for all statements that fit a template, of which the request is a sample.

        Raises BadRequest, StatementRefused, PolicyDenied or ApprovalRefused, which are in the log.
        """
        try:
            plan = await self._decide(session, request)
            return await self.asking.ask_standing(self.run, session, request, plan, wanted)
        except HoopError as e:
            await self._refused(session, request, e)
            raise
        finally:
            self.asking.foresight.release(session)

    # ------------------------------------------------------------------ 7

    @gate("intent")
    async def _intent(
        self,
        session: GuardedSession,
        request: QueryRequest,
        plan: Plan,
        granted: Granted,
        ran_as: Json,
    ) -> int:
        """Make durable what is about to run (I1); in the same transaction a grant is used up (I5), and the
        exceptions that the text rests on still hold.
        """
        exceptions = used_by(plan.verdict.decision)
        use = granted if isinstance(granted, Use) else None
        grant = granted.grant if isinstance(granted, Use) else granted
        entry = {
            **asked_json(session, request),
            **await self._basis(session, request, plan.basis, plan.text),
            **statement_json(plan.verdict),
            "decision": decision_json(plan.verdict.decision),
            "executed": plan.text,
            "executed_sha256": sha256(plan.text),
            "approval": grant.id if grant else None,
            **({"standing": use.as_json()} if use else {}),
            "exceptions": list(exceptions),
            "staged": plan.staged.as_json(),
            **ran_as,
            "lineage": lineage_json(plan.verdict),
        }

        def write(connection: Connection) -> Json:
            if use is not None:
                self.desk.use_standing(connection, use.grant.id, use.grant.scope or "")
            elif grant is not None:
                self.desk.consume(connection, grant.id, plan.binding)
            if exceptions:
                self.desk.check_standing(connection, exceptions)
            return entry

        if grant is not None and use is None:
            await self.asking.superseded(
                session, request, plan
            )  # from the intent on nothing may fail
        kind, alone, intent = "statement.intent", grant is None and not exceptions, None
        if alone and self.under_way == 1:
            # Nobody else is held up, and to wake a thread takes longer than a good disk.
            intent = self.log.append_at_once(kind, entry, session_id=session.id, synced=True)
        if intent is None:
            made = entry if alone else write
            intent = await asyncio.to_thread(self.log.append, kind, made, session_id=session.id)
        told(intent=intent)
        if use is not None:
            self.desk.standing.forget()  # it was used once more
        return intent

    async def _rests_on(self, granted: Granted, lease: Lease) -> Json:
        """For the recording. Raises StoreUnavailable."""
        grant = None
        if granted is not None:
            known = granted.grant if isinstance(granted, Use) else granted
            grant = grant_json(await asyncio.to_thread(self.desk.get, known.id))
        return {"grant": grant, "lease": lease_json(lease)}

    async def _basis(
        self,
        session: GuardedSession,
        request: QueryRequest,
        basis: Basis | None,
        executed: str | None = None,
    ) -> Json:
        """What an entry says of what was decided from; what it names is in the log before it.

        Raises StoreUnavailable.
        """
        if basis is None:
            return {}
        missing = self.described.missing(session.account, basis.objects)
        if missing:
            await asyncio.to_thread(self.described.describe, session.account, missing)
        return basis.as_json(request.sql, executed)

    # ------------------------------------------------------------------ refusals

    async def _refused(
        self, session: GuardedSession, request: QueryRequest, error: HoopError
    ) -> None:
        try:
            basis = request.progress.basis
            entry = {
                **asked_json(session, request),
                **await self._basis(session, request, basis),
                **({} if basis is None else judged_json(basis)),
                **error_json(error),
            }
            await asyncio.to_thread(
                self.log.append, "statement.refused", entry, session_id=session.id
            )
        except StoreUnavailable as unwritten:
            # It stays refused; stderr is the last place left to say so.
            _log.error("refused, and the log cannot be written", why=error.text, log=unwritten.text)
