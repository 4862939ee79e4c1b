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
            "names": [self.names.database or "", self.names.schema or ""],
            **rested_on(self.sample),
        }


def rested_on(binding: Binding) -> Json:
    return {
        "policy_digest": binding.policy_digest,
        "catalog_digest": binding.found_digest,
        "settings": dict(binding.settings),
    }


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
    """Ids of those that have to end, and why."""
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
    drifted: list[tuple[str, str]] = []
    texts: list[tuple[str, str]] = []
    notes: list[Reason] = []
    statement = verdict.statement
    if statement is None:
        return Found()
    place = [names.database or "", names.schema or ""]
    for grant in standing:
        body = grant.body
        if body.get("kind") != KIND or body["names"] != place:
            continue
        limits = {name: read_limit(name, given) for name, given in body["bounds"].items()}
        fit = Template(body["template"], limits).fit(statement.sql, bindings, now)
        if not fit.same_text:
            if _same_work(body, verdict):
                texts.append((grant.id, "the schedule does the same work with another text"))
            continue
        if why := _changed(body, verdict, binding):
            drifted.append((grant.id, why))
        elif fit.why is not None:
            message = f"the standing approval {grant.id} does not cover it: {fit.why}"
            notes.append(Reason("STANDING_NOT_APPLIED", message))
        elif body["settings"] != dict(binding.settings):
            message = f"the standing approval {grant.id} was given for other session settings"
            notes.append(Reason("STANDING_NOT_APPLIED", message))
        else:
            return Found(grant, fit.values, tuple(drifted))
    # Two templates of one task are no drift of each other: only where none of them has this text.
    ended = (*drifted, *texts) if not notes and not drifted else tuple(drifted)
    notes += [
        Reason("STANDING_ENDED", f"the standing approval {identifier} has ended: {why}")
        for identifier, why in ended
    ]
    return Found(drifted=tuple(ended), notes=tuple(notes))


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
