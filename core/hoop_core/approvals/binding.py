"""What a grant is bound to. Change any part of it and the grant does not fit any more."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from hoop_core.audit.canonical import canonical
from hoop_core.model import Decision, Identity, RoleBinding, RunContext

# The client asserts these. A retry of the same task has another try_number and finds its grant again.
_RUN_FIELDS = {
    "airflow": ("dag_id", "run_id", "task_id", "map_index"),
    "dagster": ("job_name", "run_id", "step_key"),
}


# A run that goes on where an earlier one ended has an id of its own: the first one of them counts.
_ROOTS = {"dagster": {"job_name": "root_job_name", "run_id": "root_run_id"}}


def run_key(run: RunContext) -> dict[str, str]:
    """The part of the run context that a grant is bound to."""
    unbound = {"try_number", "purpose"}
    chosen = _RUN_FIELDS.get(run.orchestrator) or sorted(set(run.fields) - unbound)
    roots, fields = _ROOTS.get(run.orchestrator, {}), run.fields
    return {"orchestrator": run.orchestrator} | {
        k: fields.get(roots.get(k, k)) or fields.get(k, "") for k in chosen
    }


def digest(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON (RFC 8785) of `value`."""
    return hashlib.sha256(canonical(value)).hexdigest()


class Bound(Protocol):
    """What a grant is given for: to whom, and for exactly what."""

    @property
    def identity(self) -> Identity: ...
    @property
    def digest(self) -> str: ...
    @property
    def scope(self) -> str | None:
        """By which a standing grant is found again; None for a grant for one use."""


@dataclass(frozen=True, slots=True)
class Binding:
    """Everything that must be the same at execution as when the humans said yes."""

    identity: Identity
    role: RoleBinding
    fingerprint: str
    executed_sha256: str
    parameters_sha256: str
    policy_digest: str
    catalog_digest: str
    run: RunContext
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Session and statement parameters that change what the text means (formats, time zone)."""
    account: str = ""
    found_digest: str = ""
    """What a standing approval is bound to in place of `catalog_digest` (`analysts.question.Judged`)."""
    terms_digest: str = ""
    """Of who has to answer and which rules ask: conditions may look at more than is bound here, as the hour."""
    shown_digest: str = ""
    """Of masks, filters and exceptions in force: they depend on groups and claims of the caller."""

    @property
    def scope(self) -> None:
        return None

    @property
    def digest(self) -> str:
        return digest(
            {
                "identity": self.identity.key,
                "actors": list(self.identity.actors),
                "account": self.account,
                "snowflake_role": self.role.snowflake_role,
                "fingerprint": self.fingerprint,
                "executed": self.executed_sha256,
                "parameters": self.parameters_sha256,
                "policy": self.policy_digest,
                "catalog": self.catalog_digest,
                "run": run_key(self.run),
                "settings": dict(self.settings),
                "terms": self.terms_digest,
            }
        )


def terms_digest(decision: Decision) -> str:
    """Of what a decision asks of people; empty where it asks nobody."""
    terms = decision.approval
    if terms is None:
        return ""
    glass, standing = terms.break_glass, terms.standing
    return digest(
        {
            "approvers": list(terms.approvers),
            "quorum": terms.quorum,
            "valid_for": int(terms.valid_for.total_seconds()),
            "windows": [w.as_json() for w in terms.windows],
            "break_glass": glass and list(glass.groups),
            "standing": standing and [int(standing.longest.total_seconds()), standing.rows_at_most],
            "asked_by": [r.message for r in decision.reasons if r.code == "APPROVAL_REQUIRED"],
        }
    )


def shown_digest(decision: Decision) -> str:
    """Of what protects the tables of a statement from its caller, and what does not."""
    return digest(
        {
            "masked": [[str(m.table), m.column, m.mask] for m in decision.masked],
            "exposed": [[str(m.table), m.column, m.mask] for m in decision.exposed],
            "filtered": [[str(f.table), f.where] for f in decision.filtered],
        }
    )
