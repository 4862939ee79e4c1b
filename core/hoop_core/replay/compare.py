"""What is on record of a decision, beside what comes of it now."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from hoop_core.errors import StatementRefused
from hoop_core.model import Json, Kind, NameContext, Outcome, Verdict
from hoop_core.records import decision_json, lineage_json, sha256, statement_json
from hoop_core.replay.deciding import Decided, Recorded
from hoop_core.sql.dual import without_dual
from hoop_core.sql.loading import CreateFormat, CreateStage
from hoop_core.sql.loading_reader import read_loading
from hoop_core.sql.settling import settle

_ADDED = "STANDING_"
"""Reasons that were added after the verdict: of standing approvals that did not cover it."""


@dataclass(frozen=True, slots=True)
class Difference:
    """`recorded` and `replayed` are JSON values; `what` names what differs."""

    what: str
    recorded: Any
    replayed: Any

    def as_json(self) -> Json:
        return {"what": self.what, "recorded": self.recorded, "replayed": self.replayed}


def differences(given: Recorded, decided: Decided) -> list[Difference]:
    """Everything in which the entry and the verdict differ; nothing when they match."""
    data, verdict = given.data, decided.verdict
    found = [Difference("catalog", None, name) for name in decided.unknown]
    found += _asked(data)
    found += _decision(data["decision"], decision_json(verdict.decision))
    if given.entry["kind"] == "statement.intent":
        told = statement_json(verdict)
        told["lineage"] = lineage_json(verdict)
        found += [_unless(key, data.get(key), told[key]) for key in told]
        found += _text(data, verdict)
    else:
        found += _refusal(data, verdict)
    return [d for d in found if d.recorded != d.replayed]


def _unless(what: str, recorded: Any, replayed: Any) -> Difference:
    return Difference(what, recorded, replayed)


def _asked(data: Json) -> list[Difference]:
    """Without bound values, what was judged follows from what was asked; and the digest from the text."""
    judged = data.get("judged_sql", data["sql"])
    found = [_unless("sql_sha256", data["sql_sha256"], sha256(data["sql"]))]
    if data["parameters_sha256"] is None:
        found.append(_unless("judged_sql", judged, settle(without_dual(data["sql"]), None).sql))
    return found


def _decision(recorded: Json, replayed: Json) -> list[Difference]:
    reasons = [r for r in recorded["reasons"] if not str(r["code"]).startswith(_ADDED)]
    before = {**recorded, "reasons": reasons}
    return [
        _unless(f"decision.{key}", before.get(key), replayed.get(key))
        for key in sorted({*before, *replayed})
    ]


def _text(data: Json, verdict: Verdict) -> list[Difference]:
    executed = str(data["executed"])
    verified = str(data.get("verified", executed))
    found = [
        _unless("executed_sha256", data["executed_sha256"], sha256(executed)),
        _unless("verified" if "verified" in data else "executed", verified, verdict.rewritten),
    ]
    if "verified" in data:
        found.append(_unless("executed", executed, narrowed(verified)))
    if verdict.decision.outcome is Outcome.REQUIRE_APPROVAL and not data["approval"]:
        described = data["describe_only"] and data["kind"] == Kind.SELECT
        found.append(_unless("approval", None, None if described else "one is needed"))
    return found


def narrowed(text: str) -> str | None:
    """The text as a session may send it that has none of what it names yet (`Staging.admit`)."""
    try:
        loading = read_loading(text, NameContext())
    except StatementRefused:
        return None
    if not isinstance(loading, CreateStage | CreateFormat):
        return None
    return replace(loading, replace=False, if_not_exists=False).sql


def _refusal(data: Json, verdict: Verdict) -> list[Difference]:
    found: list[Difference] = []
    text = verdict.rewritten
    made = None if text is None else sha256(text)
    found.append(_unless("rewritten_sha256", data["rewritten_sha256"], made))
    if verdict.decision.outcome is Outcome.DENY and verdict.decision.reasons:
        found.append(_unless("reason", data["reason"], verdict.decision.reasons[0].code))
    return found
