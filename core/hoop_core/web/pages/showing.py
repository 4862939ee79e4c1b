"""The page of one request: who may see it, and how it is put together."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.responses import Response

from hoop_core.approvals.approval import OPEN, Approval, NoSuchApproval, key_of
from hoop_core.audit.log import utc_now
from hoop_core.guard import Guard
from hoop_core.model import ApprovalStatus, Identity, Json
from hoop_core.web.pages.asked import asked
from hoop_core.web.pages.making import Workshop
from hoop_core.web.pages.people import Visitor
from hoop_core.web.pages.rendering import Rendering
from hoop_core.web.visibility import Visibility


class RequestPage:
    def __init__(
        self, guard: Guard, visibility: Visibility, rendering: Rendering, workshop: Workshop
    ) -> None:
        self._guard, self._visible_to, self._rendering = guard, visibility, rendering
        self._workshop = workshop

    async def visible(self, identifier: str, viewer: Identity) -> Approval:
        """Raises NoSuchApproval, also where it is not for this viewer: both look the same."""
        try:
            approval = await asyncio.to_thread(self._guard.desk.get, identifier)
        except NoSuchApproval:
            raise _nothing(identifier) from None
        if not self._visible_to.may_see(viewer, approval):
            raise _nothing(identifier)
        return approval

    async def show(
        self,
        approval: Approval,
        visitor: Visitor,
        *,
        status: int = 200,
        said: str = "",
        fault: str = "",
        reason: str = "",
    ) -> Response:
        """`said` is the answer that was just recorded; `fault` what was wrong with a form, `reason` what it said."""
        given = {"said": said, "fault": fault, "reason": reason}
        return await self._workshop.make(
            visitor.identity.key, lambda: self._show(approval, visitor, status, given)
        )

    def _show(
        self, approval: Approval, visitor: Visitor, status: int, given: dict[str, Any]
    ) -> Response:
        return self._rendering.page(
            "request.html",
            status,
            visitor=visitor,
            at="standing" if approval.scope else "approvals",
            asked=asked(approval, visitor.identity, utc_now()),
            mine=answered_by(approval, visitor.identity),
            done=is_done(approval, visitor.identity, given["said"]),
            outdated=self.outdated(approval),
            **given,
        )

    def outdated(self, approval: Approval) -> bool:
        """Whether another policy is in force than the one that the question was asked under."""
        asked_under = approval.body.get("policy_digest")
        return approval.status in OPEN and asked_under not in {None, self._guard.policy.digest}


def _nothing(identifier: str) -> NoSuchApproval:
    return NoSuchApproval(
        f"There is no request {identifier[:80]} for you.",
        "You see what you have asked for, and what a group of yours may answer.",
    )


def is_done(approval: Approval, visitor: Identity, said: str) -> bool:
    """Whether this visitor has done what an address says: anybody can write an address."""
    act = approval.emergency or {}
    done: dict[str, Json | None] = {
        "withdraw": approval.revocation if approval.status is ApprovalStatus.WITHDRAWN else None,
        "revoke": approval.revocation if approval.status is ApprovalStatus.REVOKED else None,
        "break_glass": act,
        "review": act.get("review"),
    }
    by = (done.get(said) or {}).get("by")
    if said in {"approve", "reject"}:
        mine = answered_by(approval, visitor)
        by = mine["approver"] if mine and mine["verdict"] == said else None
    return isinstance(by, dict) and key_of(by) == visitor.key


def answered_by(approval: Approval, visitor: Identity) -> Json | None:
    """What this visitor has answered."""
    mine = [a for a in approval.answers if key_of(a["approver"]) == visitor.key]
    return mine[-1] if mine else None
