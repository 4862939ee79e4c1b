"""Gates 2, 3 and 6: a statement is understood, decided, rewritten and verified, under the caller's session."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from hoop_core.analysts.pool import Analysts
from hoop_core.analysts.question import Question
from hoop_core.approvals.binding import Binding, shown_digest, terms_digest
from hoop_core.approvals.desk import ApprovalDesk
from hoop_core.approvals.exceptions import NONE, InForce, scope_of
from hoop_core.audit.log import utc_now
from hoop_core.errors import PolicyDenied, StatementRefused
from hoop_core.loads.staged import admitted, parameters_digest
from hoop_core.model import Json, TableName, Verdict
from hoop_core.plan import Plan
from hoop_core.policy.model import Policy
from hoop_core.racing import unless_abandoned
from hoop_core.records import sha256
from hoop_core.session.basis import Basis
from hoop_core.session.guarded import GuardedSession, QueryRequest, meaning_of
from hoop_core.session.serving import check_scope
from hoop_core.session.temporary import with_temporary
from hoop_core.sql.catalog import Catalog
from hoop_core.sql.dual import without_dual
from hoop_core.sql.live_catalog import Catalogs
from hoop_core.sql.refusals import refuse
from hoop_core.sql.settling import settle
from hoop_core.telemetry import gate, told


@dataclass(frozen=True, slots=True)
class Decider:
    """Makes plans; nothing runs and nothing is written here."""

    catalog: Catalogs
    desk: ApprovalDesk
    analysts: Analysts

    @gate("decide")
    async def plan(self, policy: Policy, session: GuardedSession, request: QueryRequest) -> Plan:
        """Understand, decide, rewrite and verify, in a process that may be killed.

        Raises StatementRefused, PolicyDenied, or AnalysisUnavailable.
        """
        request.progress.basis = None
        _check_served(request)
        policy = policy.for_account(session.account)
        # A count for people tells what a change would do, and no exception holds for changes.
        exceptions = NONE if request.counted_for else await self._exceptions(session, policy)
        policy.check_role(session.identity, session.role)
        settled = settle(without_dual(request.sql), request.bindings)
        question = Question(
            sql=settled.sql,
            names=session.names,
            identity=session.identity,
            policy=policy,
            run=session.run,
            now=utc_now(),
            exceptions=exceptions.columns,
            session=session.id,
        )

        async def snapshot(tables: tuple[TableName, ...]) -> Catalog:
            looking = self.catalog.of(session.account).snapshot(
                tables, session.role.snowflake_role, session.identity.key
            )
            found = await unless_abandoned(request.abandoned, looking, "its tables were looked up")
            return with_temporary(found, tables, session.temporary)

        judged = await self.analysts.judge(question, snapshot)
        basis = request.progress.basis = Basis.of(
            question, judged, exceptions, bound=settled.values
        )
        verdict = replace(judged.verdict, decision=basis.decision)
        told(decision=verdict.decision.outcome)
        if verdict.statement is not None:
            told(kind=verdict.statement.kind, fingerprint=verdict.statement.fingerprint)
        if verdict.rewritten is None or verdict.statement is None:
            raise _denied(verdict)
        understood = verdict.statement
        fingerprint = understood.fingerprint
        text, staged = admitted(
            session, request, verdict.statement.kind, sql=settled.sql, text=verdict.rewritten
        )
        verdict = replace(verdict, rewritten=text)
        settings = meaning_of(session.parameters, request.parameters)
        _check_filters(verdict, settings)
        check_scope(
            session.scope, understood, text, autocommit=session.autocommit, single=session.single
        )
        binding = Binding(
            identity=session.identity,
            role=session.role,
            fingerprint=fingerprint,
            executed_sha256=sha256(text),
            parameters_sha256=parameters_digest(request.bindings, staged),
            policy_digest=policy.digest,
            catalog_digest=judged.catalog_digest,
            found_digest=judged.found_digest,
            terms_digest=terms_digest(verdict.decision),
            shown_digest=shown_digest(verdict.decision),
            run=session.run,
            settings=settings,
            account=session.account,
        )
        return Plan(
            verdict,
            binding,
            policy.screen_for(session.identity),
            settled.bindings,
            staged,
            policy.rows_recorded(session.identity),
            judged.made_there,
            basis,
        )

    async def _exceptions(self, session: GuardedSession, policy: Policy) -> InForce:
        """A revocation counts at once: what is known for a moment here is asked again with the intent.

        Raises StoreUnavailable: to mask what was shown a moment ago would look like other data.
        """
        if not policy.offers_exceptions:
            return NONE
        scope = scope_of(session.identity, session.role, policy, session.account)
        known = self.desk.standing.known(scope)
        if known is None:
            known = await asyncio.to_thread(self.desk.standing.ask, scope)
        return InForce.of(known)


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
    """Raises StatementRefused for what no policy could allow."""
    if request.statements not in {"0", "1"}:
        raise StatementRefused(
            f"The request says that its text holds {request.statements} statements.",
            "Send one statement at a time, without num_statements or MULTI_STATEMENT_COUNT.",
            reason="MULTI_STATEMENT",
            errno=8,  # Snowflake's own, for a count that does not fit
            sqlstate="0A000",
        )
    try:
        request.sql.encode()
    except UnicodeEncodeError:
        # What cannot be written down exactly cannot be logged, and so cannot be run (I2).
        raise StatementRefused(
            "The statement is not valid Unicode.", "Send it as UTF-8.", reason="BAD_UNICODE"
        ) from None
