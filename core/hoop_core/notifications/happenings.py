"""Which entries of the log people are told of, and as what."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hoop_core.config.notifications import Event
from hoop_core.model import ApprovalStatus, Json

REMINDER = "approval.reminder"
ALERT = "reconcile.unexplained"
_STANDING = frozenset({"masking_exception", "standing_approval"})


@dataclass(frozen=True, slots=True)
class Happening:
    """`data` is the entry's; `outcome` what became of the request, where that is the news. An alert is about no
    approval.
    """

    seq: int
    at: datetime
    event: Event
    approval: str
    data: Json
    outcome: str = ""


def happening(seq: int, kind: str, text: str) -> Happening | None:
    """What an entry tells people; None where it is nothing to them (a first answer of two, a use)."""
    entry = json.loads(text)
    data: Json = entry["data"]
    if kind == ALERT:
        return Happening(seq, datetime.fromisoformat(entry["at"]), "alert", "", data)
    if not isinstance(data.get("approval"), str):
        return None
    found = _told(kind, data)
    if found is None:
        return None
    event, outcome = found
    return Happening(
        seq, datetime.fromisoformat(entry["at"]), event, data["approval"], data, outcome
    )


def _told(kind: str, data: Mapping[str, Any]) -> tuple[Event, str] | None:
    stood = data.get("kind") in _STANDING and data.get("was") == ApprovalStatus.APPROVED
    match kind:
        case "approval.requested":
            return "requested", ""
        case "approval.answered" if data["status"] != ApprovalStatus.PENDING:
            return "decided", str(data["status"])
        case "approval.withdrawn":
            return "decided", "withdrawn"
        case "approval.drifted":
            return "standing_ended", "void"
        case "approval.revoked":
            return ("standing_ended" if stood else "decided"), "revoked"
        case "approval.expired":
            return ("standing_ended" if stood else "decided"), "expired"
        case "approval.broken_glass":
            return "broken_glass", ""
        case "approval.reviewed":
            return "reviewed", ""
        case "approval.reminder":
            event: Event = "review_open" if data["event"] == "review_open" else "expiring"
            return event, ""
        case _:
            return None
