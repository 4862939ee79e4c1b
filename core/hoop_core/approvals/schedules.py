"""Standing approvals: one answer for many runs of a schedule's statement, within bounds.

One holds for one identity in one Snowflake role, for one task of one schedule, for one template. It ends with its
time, by revocation, and by itself as soon as the text, the tables or the policy are not what was approved.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from hoop_core.approvals.approval import Approval
from hoop_core.approvals.binding import Binding, digest
from hoop_core.errors import PolicyDenied
from hoop_core.http import BadRequest
from hoop_core.model import (
    ApprovalTerms,
    Identity,
    Json,
    NameContext,
    Reason,
    RoleBinding,
    RunContext,
    Verdict,
)
from hoop_core.spans import in_words
from hoop_core.sql.templates import Template, read_limit

KIND = "standing_approval"

_SCHEDULE = {
    "airflow": ("dag_id", "task_id"),
    "dagster": ("job_name", "step_key"),
}


def schedule_of(run: RunContext) -> dict[str, str]:
    """What stays the same from run to run, as the client says it."""
    names = _SCHEDULE.get(run.orchestrator, ())
    return {"orchestrator": run.orchestrator} | {k: run.fields.get(k, "") for k in names}


def scope_of(identity: Identity, role: RoleBinding, account: str, run: RunContext) -> str:
    """SHA-256 (hex) of all by which a standing approval is found again."""
    return digest(
        {
            "kind": KIND,
            "identity": identity.key,
            "actors": list(identity.actors),
            "account": account,
            "snowflake_role": role.snowflake_role,
            "schedule": schedule_of(run),
        }
    )


@dataclass(frozen=True, slots=True)
class StandingBinding:
    """What a standing approval is given for; `sample` is what a statement that fits is bound to."""

    sample: Binding
    names: NameContext
    template: Template
    rows_at_most: int
    uses_at_most: int
    span: timedelta

    @property
    def identity(self) -> Identity:
        return self.sample.identity

    @property
    def scope(self) -> str:
        sample = self.sample
        return scope_of(sample.identity, sample.role, sample.account, sample.run)

    @property
    def digest(self) -> str:
        return digest({"scope": self.scope, "rests_on": self.rests_on(), "seconds": self._seconds})

    @property
    def _seconds(self) -> int:
        return int(self.span.total_seconds())

    def rests_on(self) -> Json:
        """What must still be so at each use."""
        return {
            "template": self.template.text,
            "bounds": self.template.as_json(),
            "rows_at_most": self.rows_at_most,
            "uses_at_most": self.uses_at_most,
            "names": [self.names.database or "", self.names.schema or ""],
            **rested_on(self.sample),
        }


def rested_on(binding: Binding) -> Json:
    return {
        "policy_digest": binding.policy_digest,
        "catalog_digest": binding.found_digest,
        "settings": dict(binding.settings),
        "terms_digest": binding.terms_digest,
        "shown_digest": binding.shown_digest,
    }


def check_schedule(run: RunContext) -> None:
    """A standing approval is for one task of one schedule. Raises BadRequest where the client names none."""
    names = _SCHEDULE.get(run.orchestrator)
    if names is None or not all(run.fields.get(name) for name in names):
        raise BadRequest(
            "A standing approval is for one task of a schedule, and the request names none.",
            "Say so in `context`: orchestrator airflow with dag_id and task_id, or dagster with job_name and "
            "step_key.",
        )


def terms_for(offered: ApprovalTerms, rows_at_most: int, span: timedelta) -> ApprovalTerms:
    """The terms of the rules that ask, for as long as was asked. Raises PolicyDenied."""
    standing = offered.standing
    if standing is None:
        raise PolicyDenied(
            "The policy offers no standing approval for this statement.",
            "Run it: each run is put before approvers. Or ask the owners of the policy: the rule would need "
            "`standing`.",
            reason="STANDING_NOT_OFFERED",
        )
    if span > standing.longest:
        raise PolicyDenied(
            f"The policy lets this statement be approved for at most {in_words(standing.longest)}.",
            "Ask for a shorter time.",
            reason="STANDING_TOO_LONG",
        )
    if rows_at_most > standing.rows_at_most:
        raise PolicyDenied(
            f"The policy lets at most {standing.rows_at_most} rows be changed under a standing approval.",
            "Ask for fewer.",
            reason="STANDING_TOO_MANY_ROWS",
        )
    return dataclasses.replace(offered, valid_for=span, break_glass=None)


def question(
    bound: StandingBinding, verdict: Verdict, decided: Json, requester: Json, reason: str
) -> Json:
    """What approvers are asked. It has the keys of a question about a statement, and its own."""
    statement = verdict.statement
    run = bound.sample.run
    return {
        **decided,
        "kind": KIND,
        "statement_kind": str(statement.kind) if statement else None,
        "requester": requester,
        "session_id": None,
        "run": {"orchestrator": run.orchestrator, "fields": dict(run.fields)},
        "schedule": schedule_of(run),
        "account": bound.sample.account,
        "snowflake_role": bound.sample.role.snowflake_role,
        "reason": reason,
        "seconds": int(bound.span.total_seconds()),
        **bound.rests_on(),
        "reads": [str(t) for t in statement.reads] if statement else [],
        "writes": [str(t) for t in statement.writes] if statement else [],
        "sql": bound.template.text,
        "sample": statement.sql if statement else None,
        "rewritten": verdict.rewritten,
        "parameters": None,
        "fingerprint": None,
    }


@dataclass(frozen=True, slots=True)
class Found:
    """What the standing approvals of a schedule say to one of its statements."""

    fitting: Approval | None = None
    values: Mapping[str, str] = dataclasses.field(default_factory=dict)
    drifted: tuple[tuple[str, str], ...] = ()
    """Ids of those that do not mean any more what was approved, and why."""
    superseded: tuple[tuple[str, str], ...] = ()
    """Ids of those whose work is done by another text here: they end when it runs."""
    notes: tuple[Reason, ...] = ()
    """Why none is used, for the approvers."""


def find(
    standing: Sequence[Approval],
    verdict: Verdict,
    binding: Binding,
    *,
    names: NameContext,
    bindings: Mapping[str, Any] | None,
    now: datetime,
) -> Found:
    """The standing approval that a statement may run under, if one fits it in every respect."""
    statement = verdict.statement
    if statement is None:
        return Found()
    place = [names.database or "", names.schema or ""]
    drifted: list[tuple[str, str]] = []
    others: list[tuple[str, str]] = []
    notes: list[Reason] = []
    for grant in standing:
        body = grant.body
        if body.get("kind") != KIND or body["names"] != place:
            continue
        limits = {name: read_limit(name, given) for name, given in body["bounds"].items()}
        fit = Template(body["template"], limits).fit(statement.sql, bindings, now)
        if not fit.same_text:
            if _same_work(body, verdict):
                others.append((grant.id, "the schedule does the same work with another text"))
        elif why := _changed(body, verdict, binding):
            drifted.append((grant.id, why))
            notes.append(_note("STANDING_ENDED", grant, f"has ended: {why}"))
        elif why := fit.why or _differs(body, binding) or _used_up(grant):
            notes.append(_note("STANDING_NOT_APPLIED", grant, f"does not cover it: {why}"))
        else:
            return Found(grant, fit.values, tuple(drifted))
    # Two templates of one task are no drift of each other: only where none of them has this text.
    superseded = () if notes else tuple(others)
    notes += [
        Reason("STANDING_ENDS", f"the standing approval {identifier} ends when it runs: {why}")
        for identifier, why in superseded
    ]
    return Found(drifted=tuple(drifted), superseded=superseded, notes=tuple(notes))


def _note(code: str, grant: Approval, what: str) -> Reason:
    return Reason(code, f"the standing approval {grant.id} {what}")


def _same_work(body: Json, verdict: Verdict) -> bool:
    statement = verdict.statement
    return statement is not None and (
        body["statement_kind"] == str(statement.kind)
        and body["writes"] == [str(t) for t in statement.writes]
    )


def _changed(body: Json, verdict: Verdict, binding: Binding) -> str | None:
    """Why the same text does not mean any more what was approved."""
    statement = verdict.statement
    if body["policy_digest"] != binding.policy_digest:
        return "the policy has changed"
    if body["catalog_digest"] != binding.found_digest:
        return "its tables have changed"
    if not _same_work(body, verdict) or (
        statement is not None and body["reads"] != [str(t) for t in statement.reads]
    ):
        return "it works on other tables"
    return None


def _differs(body: Json, binding: Binding) -> str | None:
    """Why it does not hold at this moment for this caller, and may again."""
    if body["settings"] != dict(binding.settings):
        return "it was given for other session settings"
    if body["terms_digest"] != binding.terms_digest:
        return "the policy asks for other approvers now than those that gave it"
    if body["shown_digest"] != binding.shown_digest:
        return "other masks or row filters are in force than those that were approved"
    return None


def _used_up(grant: Approval) -> str | None:
    most = int(grant.body["uses_at_most"])
    return f"it was used {most} times, as often as was approved" if grant.uses >= most else None
