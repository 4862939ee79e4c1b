"""The page of one request: who may see it, and how it is put together."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.responses import Response

from hoop_core.approvals.approval import OPEN, Approval, NoSuchApproval
from hoop_core.audit.log import utc_now
from hoop_core.guard import Guard
from hoop_core.model import Identity
from hoop_core.web.pages.asked import answered_by, asked
from hoop_core.web.pages.people import Visitor
from hoop_core.web.pages.rendering import Rendering
from hoop_core.web.visibility import Visibility


class RequestPage:
    def __init__(self, guard: Guard, visibility: Visibility, rendering: Rendering) -> None:
        self._guard, self._visible_to, self._rendering = guard, visibility, rendering

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
        return await asyncio.to_thread(
            self._show, approval, visitor, status, {"said": said, "fault": fault, "reason": reason}
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
