"""Verdicts and decisions as the JSON that approvals, the log and the command line share."""

from __future__ import annotations

from hoop_core.model import Decision, Json, Verdict


def decision_json(decision: Decision) -> Json:
    return {
        "decision": str(decision.outcome),
        "reasons": [{"code": r.code, "message": r.message} for r in decision.reasons],
        "rules": list(decision.rules),
        "masked": [
            {"table": str(m.table), "column": m.column, "mask": m.mask} for m in decision.masked
        ],
        "policy_digest": decision.policy_digest,
    }


def statement_json(verdict: Verdict) -> Json:
    statement = verdict.statement
    return {
        "kind": str(statement.kind) if statement else None,
        "reads": [str(t) for t in statement.reads] if statement else [],
        "writes": [str(t) for t in statement.writes] if statement else [],
        "fingerprint": statement.fingerprint if statement else None,
    }
