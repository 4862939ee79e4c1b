"""A verdict as JSON: what `hoop policy explain` writes."""

from __future__ import annotations

from typing import Any

from hoop_core.model import Identity, Outcome, Verdict
from hoop_core.policy.model import Policy
from hoop_core.policy.touched import tags_of


def as_plain(verdict: Verdict, policy: Policy, identity: Identity) -> dict[str, Any]:
    """The keys of `explain`: a contract with other programs.

    `masked` are all masked columns of the tables that are read. `columns` are those that the statement
    reads, and `tags` theirs; both are null where it is denied, for then nobody looks.
    """
    decision, statement = verdict.decision, verdict.statement
    runs = decision.outcome is not Outcome.DENY
    return {
        "decision": decision.outcome.value,
        "reasons": [{"code": r.code, "message": r.message} for r in decision.reasons],
        "rules": list(decision.rules),
        "kind": None if statement is None else statement.kind.value,
        "reads": [] if statement is None else [str(t) for t in statement.reads],
        "writes": [] if statement is None else [str(t) for t in statement.writes],
        "masked": [
            {"table": str(m.table), "column": m.column, "mask": m.mask} for m in decision.masked
        ],
        "rewritten": verdict.rewritten if runs else None,
        "fingerprint": None if statement is None else statement.fingerprint,
        "elapsed_us": verdict.elapsed_us,
        "columns": {str(t): list(names) for t, names in verdict.columns} if runs else None,
        "filtered": [{"table": str(f.table), "where": f.where} for f in decision.filtered],
        "tags": tags_of(policy.tags, verdict.columns) if runs else None,
        "detectors": screened(policy, identity),
    }


def screened(policy: Policy, identity: Identity) -> dict[str, list[str]]:
    """What the detectors do to this caller's results, by action."""
    screen = policy.screen_for(identity)
    by_action = (("mask", screen.masks), ("block", screen.blocks), ("report", screen.reports))
    return {action: sorted(kinds) for action, kinds in by_action}
