"""What a person reads in Airflow's Required Actions. Hoop alone writes it, and knows it again.

It says nothing that may change while the task waits: Airflow does not let a task write it anew.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hoop_core.approvals.approval import Approval
from hoop_core.audit.canonical import canonical
from hoop_core.bridges.airflow.values import APPROVE, IN_HOOP, REJECT, Shown
from hoop_core.bridges.markdown import FOLD, code, codes, fence, letters, prose, visible
from hoop_core.model import Json

_MOST_BYTES = 60_000
"""MySQL keeps 64 KB of such a text, and nobody reads more."""
_LONGEST_SUBJECT = 180
_VALUES = {
    "parameters": "Bound values",
    "settings": "Settings that change what it means",
    "staged": "Uploaded files",
}


def shown(approvals: Sequence[Approval], public_url: str) -> Shown:
    """The Required Action of these requests for one use, all of one requester and run.

    Where they are too long to be shown whole, it cannot be approved there: only what was read is answered for.
    """
    if sum(map(_least, approvals)) <= _MOST_BYTES:  # to write out what is longer takes seconds
        whole = _body(approvals, public_url, with_sql=True)
        if len(whole.encode()) <= _MOST_BYTES:
            return Shown(_subject(approvals), whole, (APPROVE, REJECT), _form())
    short = _body(approvals, public_url, with_sql=False)
    if len(short.encode()) > _MOST_BYTES:
        short = "\n\n".join([_TOO_LONG, *(_link(a, public_url) for a in approvals)])
    return Shown(_subject(approvals), short, (IN_HOOP, REJECT), _form())


def _least(approval: Approval) -> int:
    """Bytes that its texts take at least."""
    body = approval.body
    texts = {str(body.get("sql") or ""), str(body.get("rewritten") or "")}
    values = (v for name in _VALUES if (v := body.get(name)))
    return sum(map(len, texts)) + sum(len(json.dumps(v, ensure_ascii=False)) for v in values) // 2


def _form() -> Json:
    return {
        "reason": {
            "value": "",
            "description": "Why. It is kept with your answer.",
            "schema": {"type": "string", "title": "Reason", "minLength": 1},
        }
    }


def _subject(approvals: Sequence[Approval]) -> str:
    first = approvals[0]
    who = visible(str(first.body.get("requester", {}).get("name", "")))
    what = _what(first)
    if len(approvals) > 1:
        what = f"{what}, and {len(approvals) - 1} more"
    text = " ".join(f"Hoop: may {who} run {what}?".split())
    return text if len(text) <= _LONGEST_SUBJECT else text[: _LONGEST_SUBJECT - 2] + "…?"


def _what(approval: Approval) -> str:
    """`DELETE on PROD.FEATURES.CHURN_STAGING`."""
    kind = str(approval.kind or "a statement").replace("_", " ").upper()
    tables = approval.body.get("writes") or approval.body.get("reads") or []
    named = visible(", ".join(map(str, tables[:2]))) + (" …" if len(tables) > 2 else "")
    return f"{kind} on {named}" if tables else kind


_TOO_LONG = "**This is too long to be shown here. Read and approve it in Hoop; here it can only be rejected.**"


def _body(approvals: Sequence[Approval], public_url: str, *, with_sql: bool) -> str:
    first = approvals[0]
    several = len(approvals) > 1
    parts = [] if with_sql else [_TOO_LONG]
    parts.append(_facts(first, len(approvals)))
    for number, approval in enumerate(approvals, start=1):
        title = f"Statement {number} of {len(approvals)}: " if several else "Statement: "
        parts.append(f"#### {title}{prose(_what(approval))}")
        parts.append(_about(approval))
        if with_sql:
            parts += _texts(approval)
        parts.append(_link(approval, public_url))
    them = f"these {len(approvals)} statements, all of them" if several else "this very statement"
    parts.append(
        f"Your answer counts in Hoop, for {them}, under the rules there: nobody answers what they asked for "
        "themselves, and a reason is needed. Who is not known to Hoop is not heard."
    )
    return "\n\n".join(parts)


def _facts(approval: Approval, count: int) -> str:
    body = approval.body
    person = body.get("requester") or {}
    who = code(str(person.get("name", "")))
    fields = (body.get("run") or {}).get("fields") or {}
    task = " / ".join(code(str(fields.get(k, ""))) for k in ("dag_id", "run_id", "task_id"))
    index = str(fields.get("map_index", "-1"))
    task += f", mapped {code(index)}" if index != "-1" else ""
    statements = "a statement" if count == 1 else f"{count} statements"
    lines = [
        f"{who} wants to run {statements} in Snowflake as the role {code(str(body.get('snowflake_role', '')))}.",
        "",
        f"- **Task**, as the client says: {task}",
    ]
    if purpose := fields.get("purpose"):
        lines.insert(2, f"- **What for**, as the client says: {code(str(purpose), most=1000)}")
    identity = f"{code(str(person.get('subject', '')))} at {code(str(person.get('issuer', '')))}"
    through = f", through {codes(list(approval.actors))}" if approval.actors else ""
    lines.append(f"- **Verified as** {identity}{through}")
    return "\n".join(lines)


def _about(approval: Approval) -> str:
    body = approval.body
    why = [r for r in body.get("reasons") or [] if isinstance(r, dict)]
    stopped = [r for r in why if r.get("code") == "APPROVAL_REQUIRED"] or why
    needs = "one person" if approval.quorum == 1 else f"{approval.quorum} persons"
    lines = [
        f"- **Why it was stopped**: {'; '.join(prose(str(r.get('message', ''))) for r in stopped) or '–'}",
        f"- **Needs** {needs} of {codes(list(approval.approvers))}, until "
        f"{approval.pending_until:%Y-%m-%d %H:%M} UTC",
        f"- **Writes** {codes(body.get('writes'))}, **reads** {codes(body.get('reads'))}",
    ]
    lines += _masks(body) + _impact(approval)
    return "\n".join(lines)


def _masks(body: Json) -> list[str]:
    met = [m for m in body.get("masked") or [] if m.get("used") is not False]
    if not met:
        return []
    names = [f"{m['table']}.{m['column']}: {m['mask']}" for m in met[:50]]
    more = f" and {len(met) - 50} more" if len(met) > 50 else ""
    return [f"- **Masked** {codes(names)}{more}"]


def _impact(approval: Approval) -> list[str]:
    impact = approval.impact
    if impact is None:
        return []
    if impact.get("state") != "counted" or impact.get("rows") is None:
        return [f"- **What it would do** is not known: {prose(str(impact.get('why') or '–'))}"]
    told = f"- **What it would do**: {int(impact['rows']):,} {prose(str(impact.get('what') or 'rows'))}"
    if restore := impact.get("restore"):
        told += f". **Way back**: {prose(str(restore))}"
    return [told]


def _texts(approval: Approval) -> list[str]:
    """What was sent, and what will run where that is another text; bound values and files."""
    body = approval.body
    sent, runs = str(body.get("sql") or ""), body.get("rewritten")
    parts = _block(sent, "sql")
    if runs is not None and runs != sent:
        told = "With masks and filters in force, exactly this will run:"
        parts += [told, *_block(str(runs), "sql")]
    for key, name in _VALUES.items():
        if value := body.get(key):
            parts += [f"{name}:", *_block(_plain(value), "json")]
    if any(FOLD in p for p in parts):
        parts.insert(0, f"A line that is too long goes on after {FOLD}.")
    return parts


def _block(text: str, language: str) -> list[str]:
    return [*filter(None, [letters(text)]), fence(text, language)]


def _plain(value: Any) -> str:
    return canonical(value).decode()


def _link(approval: Approval, public_url: str) -> str:
    """The id is Hoop's own, and so is the address."""
    page = f"{public_url.rstrip('/')}/approvals/{approval.id}"
    return f"[Request {approval.id} in Hoop]({page}), digest {code(approval.binding)}"
