"""Gate 4: what people are asked, under which standing approval they need not be, and the wait for their answer."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from hoop_core.approvals import schedules
from hoop_core.approvals.approval import Approval
from hoop_core.approvals.bound import told
from hoop_core.approvals.desk import ApprovalDesk
from hoop_core.approvals.schedules import StandingBinding
from hoop_core.approvals.waiting import WaitingRoom
from hoop_core.audit.log import utc_now
from hoop_core.errors import ApprovalPending, ApprovalRefused, PolicyDenied
from hoop_core.http import BadRequest
from hoop_core.impact import Foresight, Run
from hoop_core.model import ApprovalStatus, Json, Reason
from hoop_core.plan import Plan
from hoop_core.racing import unless_abandoned
from hoop_core.records import (
    bound_values,
    decision_json,
    person_json,
    run_json,
    statement_json,
    used_first,
)
from hoop_core.session.guarded import GuardedSession, QueryRequest, Stage, WhenHeld
from hoop_core.sql.counting import count_of
from hoop_core.sql.templates import Template
from hoop_core.windows import next_opening

_MOST_ASKED = 256 << 10
"""Of bound values in one question. All that are open stand in one list, and each of them in the log."""
_FRESH = timedelta(minutes=10)
_LOOKED_AGAIN = 30.0
"""Seconds: a grant that waits for its window may be taken back meanwhile."""


@dataclass(frozen=True, slots=True)
class Use:
    """A standing approval that a statement runs under, and the values of its gaps."""

    grant: Approval
    values: dict[str, str]
    rows: int
    """That were counted before."""

    def as_json(self) -> Json:
        return {"approval": self.grant.id, "values": self.values, "rows_counted": self.rows}


@dataclass(frozen=True, slots=True)
class Wish:
    """A standing approval as it is asked for."""

    template: Template
    rows_at_most: int
    uses_at_most: int
    span: timedelta
    reason: str


@dataclass(slots=True)
class Asking:
    """Nothing runs here but counts, which pass all gates by themselves (`run`)."""

    desk: ApprovalDesk
    waiting: WaitingRoom
    foresight: Foresight = field(repr=False)

    def question(self, session: GuardedSession, request: QueryRequest, plan: Plan) -> Json:
        """What approvers see. Raises ApprovalRefused for more than anybody could look at."""
        parameters = bound_values(request.bindings)
        if len(json.dumps(parameters)) > _MOST_ASKED:
            raise ApprovalRefused(
                "This statement needs an approval, and binds more values than people could look at: at most "
                f"{_MOST_ASKED} characters of them are put before approvers.",
                "Send fewer at a time, or load them from a file, of which approvers see size and SHA-256.",
                reason="APPROVAL_TOO_LARGE",
            )
        decided = decision_json(plan.verdict.decision)
        masked = used_first(decided["masked"], plan.verdict)
        about = {**decided, **statement_json(plan.verdict), "masked": masked}
        bound, left_out = told(parameters or (), about)
        return {
            "requester": person_json(session.identity),
            "session_id": session.id,
            "run": run_json(session.run),
            "account": session.account,
            "snowflake_role": session.role.snowflake_role,
            "parameters": [b.as_json() for b in bound] or None,
            "parameters_left_out": left_out,
            "staged": plan.staged.as_json(),
            "settings": dict(plan.binding.settings),
            "sql": request.sql,
            "rewritten": plan.verdict.rewritten,
            "facts": dict(plan.verdict.statement.facts) if plan.verdict.statement else {},
            **about,
        }

    async def ask(
        self, run: Run, session: GuardedSession, request: QueryRequest, plan: Plan
    ) -> Approval:
        """The open question for this plan, or a new one, whose impact is counted meanwhile.

        Raises ApprovalRefused, PolicyDenied, StoreUnavailable.
        """
        terms = plan.verdict.decision.approval
        if terms is None:
            raise PolicyDenied("The policy asks for an approval but names no approvers.")
        if request.counted_for:
            raise ApprovalRefused("The count would need an approval of its own.")
        question = self.question(session, request, plan)
        approval = await asyncio.to_thread(
            self.desk.ask, plan.binding, terms, question, session_id=session.id
        )
        if approval.status is ApprovalStatus.PENDING and not fresh(approval.impact):
            self.foresight.begin(run, session, request, plan, approval)
        return approval

    async def approved(
        self, session: GuardedSession, request: QueryRequest, asked: Approval
    ) -> None:
        """Return when the question is approved and its windows are open. Raises ApprovalRefused on any other
        end, ApprovalPending where the client does not want to wait, Cancelled.
        """
        request.progress.stage = Stage.HELD
        if asked.status is not ApprovalStatus.APPROVED:
            if session.when_held is WhenHeld.REFUSE:
                raise ApprovalPending(asked.id, asked.approvers)
            await unless_abandoned(request.abandoned, self.waiting.until_approved(asked.id))
        request.progress.stage = Stage.DECIDED

    async def opened(
        self, session: GuardedSession, request: QueryRequest, plan: Plan, granted: Approval
    ) -> bool:
        """Return when what was approved may run by its windows: whether that took a wait, after which everything
        has to be decided again. Raises as `approved` does.
        """
        terms = plan.verdict.decision.approval
        windows = terms.windows if terms else ()
        waited = False
        while True:
            now = utc_now()
            opening = next_opening(windows, now)
            if opening == now:
                return waited
            if opening is None:
                raise ApprovalRefused(
                    f"{granted.id} is approved, but its windows are never open at once.",
                    "The policy has to be corrected.",
                )
            waited = True
            request.progress.stage = Stage.HELD
            if session.when_held is WhenHeld.REFUSE:
                raise ApprovalPending(granted.id, granted.approvers)
            seconds = min((opening - now).total_seconds(), _LOOKED_AGAIN)
            await unless_abandoned(request.abandoned, asyncio.sleep(seconds))
            await unless_abandoned(request.abandoned, self.waiting.until_approved(granted.id))
            request.progress.stage = Stage.DECIDED

    # ------------------------------------------------------------------ standing approvals

    async def ask_standing(
        self, run: Run, session: GuardedSession, request: QueryRequest, plan: Plan, wish: Wish
    ) -> Approval:
        """Raises BadRequest, ApprovalRefused, PolicyDenied, StoreUnavailable."""
        statement, terms = plan.verdict.statement, plan.verdict.decision.approval
        if statement is None or terms is None:
            raise PolicyDenied(
                "This statement needs no approval.", "Run it.", reason="APPROVAL_NOT_REQUIRED"
            )
        if plan.staged.as_json() or count_of(statement, plan.bindings) is None:
            raise PolicyDenied(
                f"How many rows a {statement.kind} touches cannot be counted beforehand, so it can have no "
                "standing approval.",
                "Run it: each run is put before approvers.",
                reason="STANDING_NOT_OFFERED",
            )
        schedules.check_schedule(session.run)
        fit = wish.template.fit(statement.sql, plan.bindings, utc_now())
        if not fit.fits:
            raise BadRequest(f"The sample does not fit the template: {fit.why}.")
        terms = schedules.terms_for(terms, wish.rows_at_most, wish.span)
        bound = StandingBinding(
            plan.binding,
            session.names,
            wish.template,
            wish.rows_at_most,
            wish.uses_at_most,
            wish.span,
        )
        question = schedules.question(
            bound,
            plan.verdict,
            decision_json(plan.verdict.decision),
            person_json(session.identity),
            wish.reason,
        )
        approval = await asyncio.to_thread(self.desk.ask, bound, terms, question, session_id=None)
        if approval.status is ApprovalStatus.PENDING and approval.impact is None:
            self.foresight.begin(run, session, request, plan, approval)
        return approval

    async def standing(
        self,
        run: Run,
        session: GuardedSession,
        request: QueryRequest,
        plan: Plan,
        *,
        ahead: bool = False,
    ) -> tuple[Plan, Use | None]:
        """The standing approval that the statement may run under; else the plan says why there is none.

        One that does not mean any more what was approved is ended here, but not by who only asks `ahead`: what a
        client says of its schedule is not verified, and nothing of it has to run.
        Raises StoreUnavailable.
        """
        found = await self._found(session, request, plan)
        if not ahead:
            for identifier, why in found.drifted:
                await asyncio.to_thread(self.desk.drifted, identifier, why)
        grant, notes = found.fitting, found.notes
        if grant is not None:
            impact = await self.foresight.of(
                run, session, request, plan, counted_for=grant.id, queued=ahead
            )
            rows, most = impact["rows"], int(grant.body["rows_at_most"])
            if impact["bounds"] and rows is not None and rows <= most:
                return plan, Use(grant, dict(found.values), rows)
            why = f"{rows} {impact['what']}, at most {most}" if impact["bounds"] else impact["why"]
            message = f"the standing approval {grant.id} does not cover it: {why}"
            notes = (Reason("STANDING_NOT_APPLIED", message),)
        return _noting(plan, notes), None

    async def superseded(self, session: GuardedSession, request: QueryRequest, plan: Plan) -> None:
        """People have let another text of a schedule's work run: what they approved before does not stand beside it.

        Raises StoreUnavailable.
        """
        found = await self._found(session, request, plan)
        for identifier, why in found.superseded:
            await asyncio.to_thread(self.desk.drifted, identifier, why)

    async def _found(
        self, session: GuardedSession, request: QueryRequest, plan: Plan
    ) -> schedules.Found:
        terms = plan.verdict.decision.approval
        if terms is None or terms.standing is None or plan.staged.as_json() or request.counted_for:
            return schedules.Found()
        scope = schedules.scope_of(session.identity, session.role, session.account, session.run)
        known = self.desk.standing.known(scope)
        if known is None:
            known = await asyncio.to_thread(self.desk.standing.ask, scope)
        if not known:
            return schedules.Found()
        return await asyncio.to_thread(  # it reads the text of each template
            schedules.find,
            known,
            plan.verdict,
            plan.binding,
            names=session.names,
            bindings=plan.bindings,
            now=utc_now(),
        )


def fresh(impact: Json | None) -> bool:
    """Whether a count is of a few minutes ago: tables go on changing while people are asked."""
    return impact is not None and utc_now() - datetime.fromisoformat(impact["at"]) < _FRESH


def _noting(plan: Plan, notes: tuple[Reason, ...]) -> Plan:
    decision = plan.verdict.decision
    decision = replace(decision, reasons=(*decision.reasons, *notes))
    return replace(plan, verdict=replace(plan.verdict, decision=decision))
