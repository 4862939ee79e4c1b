"""What a message says: for people as plain text, for programs as JSON.

No bound values, and no text of a statement unless the channel asks for it: a chat is no place for data. The
purpose that a client gives is left out too, for it may say anything.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from hoop_core.approvals.approval import Approval
from hoop_core.model import AnswerVerdict, Json
from hoop_core.notifications.happenings import Happening
from hoop_core.notifications.plain import plain
from hoop_core.spans import in_words

_MOST_SQL = 2000
_MOST_NAMES = 10
_RUN = ("dag_id", "task_id", "job_name", "step_key", "asset_key", "run_id")


@dataclass(frozen=True, slots=True)
class Message:
    """`id` is the same at every try, so a receiver can know what it has had. `text` does not hold `link`."""

    id: str
    title: str
    text: str
    link: str
    payload: bytes


def message(
    happened: Happening, approval: Approval, *, page: str, sender: str, show_sql: bool
) -> Message:
    """`page` is the link; `sender` names the log, so that ids of two gateways differ."""
    content = {
        "type": f"approval.{happened.event}",
        "timestamp": happened.at.isoformat().replace("+00:00", "Z"),
        "data": _data(happened, approval, page, show_sql=show_sql),
    }
    return Message(
        id=f"{sender}_{happened.seq}",
        title=_title(happened, approval),
        text="\n".join(_facts(happened, approval, show_sql=show_sql)),
        link=page,
        payload=json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(),
    )


def alert(happened: Happening, *, page: str, sender: str) -> Message:
    """Something that Snowflake's histories and the log do not say alike: docs/reconcile.md"""
    data = happened.data
    told = ("account", "what", "user", "why", "count", "first", "last", "examples")
    content = {
        "type": "hoop.alert",
        "timestamp": happened.at.isoformat().replace("+00:00", "Z"),
        "data": {k: data.get(k) for k in told} | {"entry": happened.seq},
    }
    facts = {
        "What": f"{plain(data.get('count'))} x {plain(data.get('what'))}: {plain(data.get('why'))}",
        "User": plain(data.get("user") or ""),
        "Account": plain(data.get("account") or ""),
        "From": plain(data.get("first") or ""),
        "Until": plain(data.get("last") or ""),
        "For example": _names(map(str, data.get("examples") or ())),
        "Entry": plain(happened.seq),
    }
    return Message(
        id=f"{sender}_{happened.seq}",
        title=f"Unexplained at Snowflake: {plain(data.get('what'))}",
        text="\n".join(f"{name}: {said}" for name, said in facts.items() if said),
        link=page,
        payload=json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(),
    )


def _title(happened: Happening, approval: Approval) -> str:
    about = f"{_wanted(approval)} by {_name(approval.body.get('requester'))}"
    heads = {
        "requested": "Approval needed",
        "expiring": "Still waiting for an approval",
        "decided": happened.outcome.capitalize(),
        "broken_glass": "Glass broken",
        "review_open": "A review is still open",
        "reviewed": "Reviewed",
        "standing_ended": f"No longer in force ({happened.outcome})",
    }
    return f"{heads[happened.event]}: {about}"


def _wanted(approval: Approval) -> str:
    body = approval.body
    match approval.kind:
        case "masking_exception":
            return f"see {_names(body.get('columns') or ())} unmasked"
        case "standing_approval":
            return f"standing approval on {_tables(body.get('writes') or body.get('reads') or ())}"
        case kind:
            tables = body.get("writes") or body.get("reads") or ()
            return f"{plain(kind or 'statement')} {_tables(tables)}".strip()


def _facts(happened: Happening, approval: Approval, *, show_sql: bool) -> list[str]:
    body = approval.body
    found = {
        "Who": _who(body),
        "Run": _run(body),
        "Why it was stopped": "; ".join(plain(m, 500) for m in _reasons(body)),
        "Writes": _tables(body.get("writes") or ()),
        "Reads": _tables(body.get("reads") or ()),
        "Would do": _impact(approval.impact),
        **_news(happened, approval),
    }
    if show_sql and body.get("sql"):
        found["Statement"] = plain(body["sql"], _MOST_SQL)
    return [f"{name}: {said}" for name, said in found.items() if said]


def _news(happened: Happening, approval: Approval) -> dict[str, str]:
    """What is new, in the words of who did it."""
    data = happened.data
    groups = ", ".join(plain(g) for g in approval.approvers)
    match happened.event:
        case "requested":
            return {"Needs": f"{approval.quorum} of {groups}", "Until": _moment(approval)}
        case "expiring":
            left = (approval.pending_until - happened.at).total_seconds()
            return {
                "Needs": f"{max(1, approval.quorum - _yes(approval))} more of {groups}",
                "Until": f"{_moment(approval)} ({_span(left)} left)",
            }
        case "review_open":
            by = (approval.emergency or {}).get("by")
            return {"Let run by": _name(by), "Waits for": f"a review by somebody of {groups}"}
        case _:
            person = data.get("by") or data.get("approver")
            reason = plain(data.get("reason") or data.get("why") or "", 300)
            return {"By": _name(person) if person else "", "Because": reason}


def _data(happened: Happening, approval: Approval, page: str, *, show_sql: bool) -> Json:
    """Exact names: programs do not act on markup."""
    body = approval.body
    who = body.get("requester") or {}
    run = body.get("run") or {}
    fields = run.get("fields") or {}
    answers = [
        {"by": _person(a["approver"]), "verdict": a["verdict"], "reason": a["reason"]}
        for a in approval.answers
    ]
    found: Json = {
        "approval": approval.id,
        "url": page,
        "status": str(approval.status),
        "outcome": happened.outcome or None,
        "kind": approval.kind,
        "account": body.get("account"),
        "requester": _person(who) | {"actors": list(approval.actors)},
        "run": {
            "orchestrator": run.get("orchestrator", ""),
            "fields": {k: fields[k] for k in _RUN if k in fields},
        },
        "snowflake_role": body.get("snowflake_role"),
        "reads": body.get("reads") or [],
        "writes": body.get("writes") or [],
        "columns": body.get("columns") or [],
        "reasons": body.get("reasons") or [],
        "rules": body.get("rules") or [],
        "impact": _impact_data(approval.impact),
        "approvers": list(approval.approvers),
        "quorum": approval.quorum,
        "answers": answers,
        "by": _person(p) if (p := happened.data.get("by")) else None,
        "because": happened.data.get("reason"),
        "pending_until": approval.pending_until.isoformat(),
        "valid_until": approval.valid_until.isoformat() if approval.valid_until else None,
    }
    return found | ({"sql": body.get("sql")} if show_sql else {})


def _person(who: Mapping[str, Any]) -> Json:
    return {k: who.get(k, "") for k in ("issuer", "subject", "name")}


def _name(who: Mapping[str, Any] | None) -> str:
    found = who or {}
    return plain(found.get("name") or found.get("subject") or "somebody")


def _who(body: Mapping[str, Any]) -> str:
    acting = [plain(a) for a in body.get("actors") or ()]
    through = f", through {' for '.join(acting)}" if acting else ""
    return f"{_name(body.get('requester'))}{through}"


def _run(body: Mapping[str, Any]) -> str:
    """As the client says it."""
    run = body.get("run") or {}
    fields = run.get("fields") or {}
    told = [f"{k} {plain(fields[k])}" for k in _RUN if fields.get(k)]
    return " ".join([plain(run.get("orchestrator") or ""), ", ".join(told)]).strip()


def _reasons(body: Mapping[str, Any]) -> list[str]:
    found = body.get("reasons") or ()
    wanted = [r["message"] for r in found if r.get("code") == "APPROVAL_REQUIRED"]
    return wanted or [r["message"] for r in found]


def _names(names: Iterable[str], *, tables: bool = False) -> str:
    listed = list(names)
    shown = ", ".join(plain(n, table=tables) for n in listed[:_MOST_NAMES])
    return shown + (f" and {len(listed) - _MOST_NAMES} more" if len(listed) > _MOST_NAMES else "")


def _tables(names: Iterable[str]) -> str:
    """Of tables, as Hoop has found them in a statement."""
    return _names(names, tables=True)


def _impact(impact: Mapping[str, Any] | None) -> str:
    if not impact or impact.get("state") != "counted":
        return ""
    return plain(f"{impact.get('rows')} {impact.get('what') or 'rows'}")


def _impact_data(impact: Mapping[str, Any] | None) -> Json | None:
    """Without the text of the count: it holds the statement's literals."""
    if not impact:
        return None
    return {k: v for k, v in impact.items() if k not in {"sql", "restore"}}


def _yes(approval: Approval) -> int:
    said: Sequence[Json] = approval.answers
    return sum(1 for a in said if a["verdict"] == AnswerVerdict.APPROVE)


def _moment(approval: Approval) -> str:
    return f"{approval.pending_until:%Y-%m-%d %H:%M} UTC"


def _span(seconds: float) -> str:
    return in_words(timedelta(minutes=max(1, round(seconds / 60))))


def trial(channel: str, *, page: str, sender: str, at: datetime) -> Message:
    """A message that says nothing but that it came."""
    text = f"Hoop can reach the channel {channel}. Nothing waits for you."
    content = {"type": "hoop.test", "timestamp": at.isoformat(), "data": {"channel": channel}}
    return Message(
        f"{sender}_test_{int(at.timestamp() * 1000)}",
        "A test of Hoop's notifications",
        text,
        page,
        json.dumps(content).encode(),
    )
