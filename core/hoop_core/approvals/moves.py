"""The steps of which moves at the desk are made, each inside the transaction of its log entry."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from hoop_core.approvals import book
from hoop_core.approvals.approval import Approval, key_of
from hoop_core.approvals.binding import Bound
from hoop_core.errors import ApprovalRefused
from hoop_core.model import AnswerVerdict, ApprovalStatus, ApprovalTerms, Identity, Json
from hoop_core.store.tables import answers, approvals
from hoop_core.windows import Window, are_open, next_opening

MOST_PENDING = 200
"""Unanswered requests for one use that one requester may have: who is asked without end says yes without
reading."""
MOST_STANDING = 20
"""The same of requests for standing grants."""
MOST_AN_HOUR = 1000
"""Requests that one requester may put in an hour, whatever became of them: each stays for ever."""
MOST_ASKED = 256 << 10
"""Characters of one question for a standing grant, as JSON: columns, templates and bounds are the caller's."""


def asked(
    connection: Connection,
    identifier: str,
    binding: Bound,
    terms: ApprovalTerms,
    body: Json,
    *,
    now: datetime,
) -> Json:
    glass = terms.break_glass
    connection.execute(
        insert(approvals).values(
            id=identifier,
            binding=binding.digest,
            scope=binding.scope,
            requester_key=binding.identity.key,
            status=ApprovalStatus.PENDING,
            approvers=list(terms.approvers),
            quorum=terms.quorum,
            kind=body.get("kind") or "",
            body=body,
            created_at=now,
            pending_until=now + terms.pending_for,
            valid_seconds=int(terms.valid_for.total_seconds()),
            break_glass=glass
            and {"groups": list(glass.groups), "seconds": int(glass.valid_for.total_seconds())},
        )
    )
    return {
        "approval": identifier,
        "binding": binding.digest,
        "approvers": list(terms.approvers),
        "quorum": terms.quorum,
        "pending_until": (now + terms.pending_for).isoformat(),
        "question": body,
    }


def told(terms: ApprovalTerms) -> Json:
    """What the terms add to a question for people."""
    return {"windows": [w.as_json() for w in terms.windows]}


def answered(
    connection: Connection,
    approval: Approval,
    approver: Identity,
    verdict: AnswerVerdict,
    reason: str,
    *,
    now: datetime,
) -> Json:
    groups = sorted(set(approver.groups) & set(approval.approvers))
    who = {**person(approver), "groups": groups}
    values = {"approver": who, "verdict": verdict, "reason": reason.strip(), "answered_at": now}
    earlier = [a for a in approval.answers if key_of(a["approver"]) == approver.key]
    if earlier:  # only a change from yes to no comes this far
        connection.execute(
            update(answers)
            .where(answers.c.approval_id == approval.id)
            .where(answers.c.approver_key == approver.key)
            .values(**values)
        )
    else:
        connection.execute(
            insert(answers).values(approval_id=approval.id, approver_key=approver.key, **values)
        )
    status, valid_until = approval.status, approval.valid_until
    if verdict is AnswerVerdict.REJECT:
        status = ApprovalStatus.REJECTED
        change(connection, approval.id, status=status)
    elif len(approval.answers) + 1 >= approval.quorum:
        status = ApprovalStatus.APPROVED
        seconds = connection.scalar(
            select(approvals.c.valid_seconds).where(approvals.c.id == approval.id)
        )
        valid_until = first_use(approval.body, now) + timedelta(seconds=int(seconds or 0))
        change(connection, approval.id, status=status, valid_until=valid_until)
    return {
        "approval": approval.id,
        "kind": approval.kind,
        "binding": approval.binding,
        "approver": who,
        "verdict": verdict,
        "reason": reason.strip(),
        "status": status,
        "quorum": approval.quorum,
        "valid_until": valid_until.isoformat() if valid_until else None,
    }


def ended(
    connection: Connection,
    approval: Approval,
    status: ApprovalStatus,
    who: Json,
    reason: str,
    *,
    now: datetime,
) -> Json:
    revocation = {"by": who, "reason": reason.strip()}
    at = now.isoformat()
    change(connection, approval.id, status=status, revocation={**revocation, "at": at})
    return {
        "approval": approval.id,
        "kind": approval.kind,
        "binding": approval.binding,
        "was": approval.status,
        **revocation,
    }


def expired(connection: Connection, identifier: str, now: datetime) -> Json:
    """Raises AskedMeanwhile for what is not late, or was closed by somebody else."""
    columns = (approvals.c.status, approvals.c.kind)
    query = select(*columns).where(approvals.c.id == identifier).where(book.late(now))
    row = connection.execute(query.with_for_update()).one_or_none()
    if row is None:
        raise AskedMeanwhile
    change(connection, identifier, status=ApprovalStatus.EXPIRED)
    return {"approval": identifier, "kind": row.kind, "was": row.status}


def change(connection: Connection, identifier: str, **values: Any) -> None:
    connection.execute(update(approvals).where(approvals.c.id == identifier).values(**values))


def _windows(body: Mapping[str, Any]) -> list[Window]:
    return [Window.from_json(w) for w in body.get("windows") or ()]


def first_use(body: Mapping[str, Any], now: datetime) -> datetime:
    """From when a grant counts its time: from now, or from when its windows open first."""
    return next_opening(_windows(body), now) or now


def check_window(connection: Connection, identifier: str, now: datetime) -> None:
    """Raises ApprovalRefused, and the transaction is rolled back: nothing was used."""
    body = connection.scalar(select(approvals.c.body).where(approvals.c.id == identifier)) or {}
    windows = _windows(body)
    if not are_open(windows, now):
        raise ApprovalRefused(
            f"{identifier} may be used {' and '.join(map(str, windows))} only.",
            "Run the statement again in that time.",
            reason="OUTSIDE_WINDOW",
        )


def check_all_of(identifiers: Collection[str], holding: Iterable[str]) -> None:
    ended = sorted(set(identifiers) - set(holding))
    if ended:
        raise ApprovalRefused(
            f"The masking exception {', '.join(ended)} has ended.",
            "Run the statement again: it will show the columns masked.",
        )


def check_size(binding: Bound, body: Json) -> None:
    """Raises ApprovalRefused for a standing grant that asks for more than anybody could look at."""
    if binding.scope is not None and len(json.dumps(body)) > MOST_ASKED:
        raise ApprovalRefused(
            f"The request is too large: at most {MOST_ASKED} characters of a standing grant, with its template, "
            "bounds, columns and reason, are put before approvers.",
            "Name fewer columns, or fewer and shorter values.",
            reason="APPROVAL_TOO_LARGE",
        )


def check_room(connection: Connection, binding: Bound, now: datetime) -> None:
    """In the transaction that adds one more. Raises ApprovalRefused."""
    own = approvals.c.requester_key == binding.identity.key
    since = now - timedelta(hours=1)
    asked = select(func.count()).select_from(approvals).where(own)
    if (connection.scalar(asked.where(approvals.c.created_at > since)) or 0) >= MOST_AN_HOUR:
        raise ApprovalRefused(
            f"You have put {MOST_AN_HOUR} requests for approval within an hour, which is the limit.",
            "Wait a while; then run the statement again.",
        )
    scope, standing = approvals.c.scope, binding.scope is not None
    most = MOST_STANDING if standing else MOST_PENDING
    waiting = connection.scalar(
        asked.where(approvals.c.status == ApprovalStatus.PENDING)
        .where(approvals.c.pending_until > now)
        .where(scope.is_not(None) if standing else scope.is_(None))
    )
    if (waiting or 0) < most:
        return
    if standing:
        raise ApprovalRefused(
            f"You have {most} unanswered requests for masking exceptions and standing approvals.",
            "Wait for an answer, or take some back with `hoop approvals withdraw`.",
        )
    raise ApprovalRefused(
        f"You have {most} unanswered requests for approval.",
        "Wait until some are answered or have expired; then run the statement again.",
    )


class AskedMeanwhile(Exception):
    """Another writer was faster; the transaction is rolled back."""


HOOP: Json = {"issuer": "", "subject": "hoop", "name": "Hoop"}


def person(who: Identity) -> Json:
    return {"issuer": who.issuer, "subject": who.subject, "name": who.name}
