"""Standing grants that were read a moment ago."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from hoop_core.approvals.approval import Approval
from hoop_core.approvals.standing import StandingGrants
from hoop_core.audit.log import utc_now
from hoop_core.errors import StoreUnavailable
from hoop_core.model import ApprovalStatus

GRANT = Approval(
    id="apr_1", binding="b", requester_key="r", status=ApprovalStatus.APPROVED, approvers=("g",), quorum=1,
    body={}, created_at=utc_now(), pending_until=utc_now(), valid_until=utc_now() + timedelta(hours=1),
    consumed_at=None, answers=(), scope="s",
)  # fmt: skip


class Desk:
    def __init__(self) -> None:
        self.now, self.asked = 0.0, 0
        self.held: list[Approval] = [GRANT]
        self.standing = StandingGrants(self.read, clock=lambda: self.now)

    def read(self, _scope: str) -> list[Approval]:
        self.asked += 1
        return list(self.held)


def test_what_was_read_is_known_for_a_second() -> None:
    desk = Desk()
    assert desk.standing.known("s") is None
    assert desk.standing.ask("s") == desk.standing.known("s") == [GRANT]
    desk.now = 1.01
    assert desk.standing.known("s") is None and desk.asked == 1


def test_a_change_counts_at_once() -> None:
    desk = Desk()
    desk.standing.ask("s")
    desk.standing.forget()
    assert desk.standing.known("s") is None


def test_what_was_read_before_a_change_is_not_kept_after_it() -> None:
    desk = Desk()

    def read(_scope: str) -> list[Approval]:
        desk.standing.forget()
        return [GRANT]

    desk.standing = StandingGrants(read)
    assert desk.standing.ask("s") == [GRANT]
    assert desk.standing.known("s") is None


def test_a_grant_that_has_run_out_is_not_known() -> None:
    desk = Desk()
    desk.held = [replace(GRANT, valid_until=utc_now() - timedelta(seconds=1))]
    desk.standing.ask("s")
    assert desk.standing.known("s") == []


def test_an_error_is_not_kept() -> None:
    def read(_scope: str) -> list[Approval]:
        raise StoreUnavailable("gone")

    standing = StandingGrants(read)
    with pytest.raises(StoreUnavailable):
        standing.ask("s")
    assert standing.known("s") is None
