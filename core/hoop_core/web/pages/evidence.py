"""A session's entries of the log, in order, as a person reads them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hoop_core.approvals.approval import Approval
from hoop_core.model import Json
from hoop_core.web.pages.asked import events_of
from hoop_core.web.pages.statements import coloured

_TITLES = {
    "session.opened": ("Session opened", "over"),
    "session.closed": ("Session closed", "over"),
    "statement.intent": ("Statement sent to Snowflake", "done"),
    "statement.outcome": ("Result", "yes"),
    "statement.refused": ("Statement refused", "no"),
    "statement.answered": ("Answered by Hoop itself", "over"),
    "approval.requested": ("Approval asked for", "wait"),
    "approval.answered": ("Approval answered", "yes"),
    "approval.expired": ("Request expired", "over"),
    "credential.minted": ("Snowflake user minted", "over"),
    "credential.assigned": ("Snowflake user assigned", "over"),
    "credential.revoked": ("Snowflake user ended", "over"),
    "recording.key": ("Key for recordings made", "over"),
    "endpoint.refused": ("Endpoint refused", "no"),
}
_FACTS = (
    ("reason", "Reason"),
    ("message", "Why"),
    ("status", "Status"),
    ("rows", "Rows"),
    ("snowflake_user", "Snowflake user"),
    ("snowflake_role", "Role"),
    ("query_id", "Query id"),
    ("digest", "Result digest"),
    ("executed_sha256", "Executed text (SHA-256)"),
    ("verdict", "Verdict"),
)
_MOST_SQL, _MOST_RAW = 2_000, 20_000
_ROOM = 200_000
"""Characters of statements and entries on one page: a session may be full of long ones."""


@dataclass(frozen=True, slots=True)
class Step:
    """One entry. `raw` is all of it; `sql_cut` and `cut` say whether there is more than is shown."""

    seq: int
    at: str
    kind: str
    title: str
    tone: str
    sql: Any
    sql_cut: bool
    approval: str
    facts: list[tuple[str, str]]
    raw: str
    cut: bool


def steps_of(entries: Iterable[Json], asked: Mapping[str, Approval]) -> list[Step]:
    """As many of them as a page has room for, at least one. `asked` are the questions of these entries, with what
    became of them.
    """
    found: list[Step] = []
    room = _ROOM
    for entry in entries:
        text, raw = _texts(entry.get("data") or {})
        room -= len(text[:_MOST_SQL]) + len(raw[:_MOST_RAW])
        if found and room < 0:
            break
        found.append(_step(entry, asked, text, raw))
    return found


def _texts(data: Mapping[str, Any]) -> tuple[str, str]:
    """The statement of an entry, and all of it."""
    raw = json.dumps(data, indent=2, ensure_ascii=False, sort_keys=True)
    return str(data.get("executed") or data.get("sql") or ""), raw


def _step(entry: Json, asked: Mapping[str, Approval], text: str, raw: str) -> Step:
    data: Mapping[str, Any] = entry.get("data") or {}
    kind = str(entry["kind"])
    title, tone = _TITLES.get(kind, (kind.replace(".", " ").replace("_", " ").capitalize(), "over"))
    if kind == "statement.outcome" and data.get("status") != "succeeded":
        title, tone = "Did not succeed", "no"
    approval = str(data.get("approval") or "")
    return Step(
        seq=int(entry["seq"]),
        at=str(entry["at"]),
        kind=kind,
        title=title,
        tone=tone,
        sql=coloured(text[:_MOST_SQL]) if text else "",
        sql_cut=len(text) > _MOST_SQL,
        approval=approval,
        facts=[
            *((label, _brief(data[key])) for key, label in _FACTS if _told(data.get(key))),
            *_became(asked.get(approval) if kind == "approval.requested" else None),
            *(("Recorded", f"{r.get('path')}: SHA-256 {r.get('sha256')}") for r in _recorded(data)),
        ],
        raw=raw[:_MOST_RAW],
        cut=len(raw) > _MOST_RAW,
    )


def _became(approval: Approval | None) -> list[tuple[str, str]]:
    """The answers to a question, in order."""
    if approval is None:
        return []
    told = [
        (e.what, f"by {e.who or 'Hoop'}, {e.at or ''}{': ' + e.reason if e.reason else ''}")
        for e in events_of(approval)
    ]
    return told[1:]  # that it was asked is the entry itself


def _recorded(data: Mapping[str, Any]) -> list[Json]:
    """The files in which what was shown is kept, with their digests."""
    found = data.get("recording")
    return [r for r in found if isinstance(r, dict)] if isinstance(found, list) else []


def _told(value: Any) -> bool:
    return value not in (None, "", [])


def _brief(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
