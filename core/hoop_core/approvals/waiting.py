"""Waiting for a human without holding a thread: one poll of the store serves everybody who waits."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import structlog

from hoop_core.approvals.desk import ApprovalDesk
from hoop_core.errors import ApprovalRefused, where
from hoop_core.model import ApprovalStatus

_log = structlog.get_logger(__name__)


class WaitingRoom:
    """Parked statements. An answer given on another replica or by the CLI arrives by the poll."""

    def __init__(self, desk: ApprovalDesk, *, poll_seconds: float = 0.5) -> None:
        self._desk, self._poll = desk, poll_seconds
        self._parked: defaultdict[str, set[asyncio.Future[ApprovalStatus]]] = defaultdict(set)

    async def until_approved(self, identifier: str) -> None:
        """Return when the question is approved. Raises ApprovalRefused on any other end."""
        future: asyncio.Future[ApprovalStatus] = asyncio.get_running_loop().create_future()
        self._parked[identifier].add(future)
        try:
            status = await future
        finally:
            self._parked[identifier].discard(future)
            if not self._parked[identifier]:
                del self._parked[identifier]
        if status is not ApprovalStatus.APPROVED:
            await self._explain(identifier, status)

    async def _explain(self, identifier: str, status: ApprovalStatus) -> None:
        approval = await asyncio.to_thread(self._desk.settled, identifier)
        if status is ApprovalStatus.REJECTED:
            said = next(a for a in approval.answers if a["verdict"] == "reject")
            raise ApprovalRefused(
                f"The request {identifier} was rejected by {said['approver']['name']}: "
                f"{said['reason']}.",
                "Change the statement or talk to the approver; then run it again.",
            )
        if status is ApprovalStatus.EXPIRED:
            raise ApprovalRefused(
                f"Nobody of {', '.join(approval.approvers)} approved the request {identifier} "
                "in time.",
                "Run the statement again to ask anew.",
            )
        if status in (ApprovalStatus.WITHDRAWN, ApprovalStatus.REVOKED):
            ended = approval.revocation or {}
            by = (ended.get("by") or {}).get("name", "somebody")
            raise ApprovalRefused(
                f"The request {identifier} was {status} by {by}: {ended.get('reason', '')}.",
                "Run the statement again to ask anew.",
            )
        raise ApprovalRefused(
            f"The grant of {identifier} was used up by another run of the same statement.",
            "Run the statement again to ask anew.",
        )

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._poll)
            if not self._parked:
                continue
            try:
                statuses = await asyncio.to_thread(self._desk.statuses, set(self._parked))
            except Exception as e:
                # Whatever it was, those who wait must be looked up again.
                _log.error("waiting statements cannot be looked up", where=where(e))
                continue
            for identifier, status in statuses.items():
                if status is ApprovalStatus.PENDING:
                    continue
                for future in list(self._parked.get(identifier, ())):
                    if not future.done():
                        future.set_result(status)


_SWEEP_SECONDS = 1.0


async def sweep(desk: ApprovalDesk, *, seconds: float = _SWEEP_SECONDS) -> None:
    """Put down what is late, a part at a time, for as long as the process runs: one task of it does so for all."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await asyncio.to_thread(desk.expire_due)
        except Exception as e:
            # Whatever it was, what is late must be looked up again.
            _log.error("late requests cannot be closed", where=where(e))
