"""What is late counts as expired at once, for whoever looks; that it is put down is the work of the sweeper alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event

from hoop_core.approvals import desk as desk_module
from hoop_core.approvals.approval import OPEN
from hoop_core.approvals.binding import digest
from hoop_core.approvals.book import Wanted
from hoop_core.approvals.desk import ApprovalDesk
from hoop_core.approvals.waiting import WaitingRoom, sweep
from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.errors import ApprovalRefused, StoreUnavailable
from hoop_core.model import AnswerVerdict, ApprovalStatus, ApprovalTerms, BreakGlass, Identity
from hoop_core.store import Store
from tests.postgres_server import BOTH

DATABASES = BOTH
HOUR = timedelta(hours=1)
EXPIRED, PENDING = ApprovalStatus.EXPIRED, ApprovalStatus.PENDING


def person(name: str, *groups: str) -> Identity:
    return Identity("https://idp", name, name, groups, "oidc", "")


AGENT, ANN = person("agent", "ml"), person("ann", "owners")


@dataclass(frozen=True)
class Bound:
    number: int
    scope: str | None = None
    identity: Identity = AGENT

    @property
    def digest(self) -> str:
        return digest([self.number, self.scope])


@pytest.fixture
def desk(store: Store, log: AuditLog) -> ApprovalDesk:
    return ApprovalDesk(store, log)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    start = utc_now()
    return lambda by: monkeypatch.setattr(desk_module, "utc_now", lambda: start + by)


def ask(desk: ApprovalDesk, number: int, scope: str | None = None) -> str:
    terms = ApprovalTerms(("owners",), 1, HOUR, HOUR)
    return desk.ask(Bound(number, scope), terms, {"kind": "delete"}, session_id=None).id


def kinds(log: AuditLog) -> list[str]:
    return [e.kind.removeprefix("approval.") for e in log.entries()]


def test_whoever_looks_sees_it_expired_and_writes_nothing(
    desk: ApprovalDesk, log: AuditLog, later: Callable[[timedelta], None]
) -> None:
    unanswered, unused = ask(desk, 0), ask(desk, 1, "scope")
    desk.answer(unused, ANN, AnswerVerdict.APPROVE, "fine")
    before = kinds(log)
    later(2 * HOUR)
    both = {unanswered, unused}
    assert {a.id for a in desk.list(Wanted(status=EXPIRED))} == both
    assert {a.id for a in desk.list(Wanted(decided=True))} == both
    for status in OPEN:
        assert desk.list(Wanted(status=status)) == []
        assert desk.count(Wanted(status=status)) == 0
    assert desk.list(Wanted(undecided_by=ANN)) == []
    assert {a.status for a in desk.list()} == {EXPIRED}
    assert set(desk.statuses(both).values()) == {EXPIRED}
    assert desk.get(unanswered).status is EXPIRED
    assert desk.standing.ask("scope") == []
    assert kinds(log) == before


@pytest.mark.parametrize("move", ["answer", "break_glass", "withdraw", "revoke"])
def test_who_is_too_late_is_refused_and_the_end_is_in_the_log_before(
    desk: ApprovalDesk, log: AuditLog, later: Callable[[timedelta], None], move: str
) -> None:
    terms = ApprovalTerms(("owners",), 1, HOUR, HOUR, break_glass=BreakGlass(("owners",), HOUR))
    asked = desk.ask(Bound(0, "scope"), terms, {}, session_id=None).id
    later(2 * HOUR)
    moves: dict[str, Callable[[], Any]] = {
        "answer": lambda: desk.answer(asked, ANN, AnswerVerdict.APPROVE, "late"),
        "break_glass": lambda: desk.break_glass(asked, ANN, "late"),
        "withdraw": lambda: desk.withdraw(asked, AGENT, "late"),
        "revoke": lambda: desk.revoke(asked, ANN, "late"),
    }
    for _ in range(2):
        with pytest.raises(ApprovalRefused, match="expired already"):
            moves[move]()
    assert kinds(log) == ["requested", "expired", f"{move}_refused", f"{move}_refused"]


def test_who_asks_anew_gets_a_new_request_and_the_old_one_ends_in_the_log_first(
    desk: ApprovalDesk, log: AuditLog, later: Callable[[timedelta], None]
) -> None:
    first = ask(desk, 0)
    later(2 * HOUR)
    second = ask(desk, 0)
    assert second != first
    entries = [json.loads(e.text) for e in log.entries()]
    told = [(e["kind"].removeprefix("approval."), e["data"]["approval"]) for e in entries]
    assert told == [("requested", first), ("expired", first), ("requested", second)]
    assert entries[1]["data"] == {"approval": first, "kind": "delete", "was": "pending"}


def test_late_requests_do_not_count_as_unanswered(
    desk: ApprovalDesk, later: Callable[[timedelta], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hoop_core.approvals.moves.MOST_PENDING", 2)
    ask(desk, 0), ask(desk, 1)
    with pytest.raises(ApprovalRefused):
        ask(desk, 2)
    later(2 * HOUR)
    ask(desk, 2)


def test_the_sweeper_closes_so_many_in_one_turn_the_oldest_first(
    desk: ApprovalDesk,
    log: AuditLog,
    later: Callable[[timedelta], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(desk_module, "_AT_ONCE", 3)
    asked = [ask(desk, n) for n in range(5)]
    desk.expire_due()
    assert kinds(log) == ["requested"] * 5
    later(2 * HOUR)
    desk.expire_due()
    assert kinds(log) == ["requested"] * 5 + ["expired"] * 3
    desk.expire_due()
    desk.expire_due()
    closed = [json.loads(e.text)["data"]["approval"] for e in log.entries()][5:]
    assert closed == asked


def test_two_sweepers_close_each_of_them_once(
    store: Store, log: AuditLog, desk: ApprovalDesk, later: Callable[[timedelta], None]
) -> None:
    for n in range(12):
        ask(desk, n)
    later(2 * HOUR)
    other = ApprovalDesk(store, log)

    async def both() -> None:
        tasks = [asyncio.create_task(sweep(d, seconds=0.01)) for d in (desk, other)]
        while kinds(log).count("expired") < 12:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(asyncio.wait_for(both(), 60))
    closed = [json.loads(e.text)["data"]["approval"] for e in log.entries() if "exp" in e.kind]
    assert len(closed) == len(set(closed)) == 12


def test_the_sweeper_goes_on_after_a_fault() -> None:
    turns: list[int] = []

    class Faulty:
        def expire_due(self) -> None:
            turns.append(1)
            raise (StoreUnavailable("away") if len(turns) == 1 else ValueError("whatever"))

    async def run() -> None:
        faulty: Any = Faulty()
        task = asyncio.create_task(sweep(faulty, seconds=0.001))
        while len(turns) < 3:
            await asyncio.sleep(0.002)
        assert not task.done()
        task.cancel()

    asyncio.run(asyncio.wait_for(run(), 30))


def test_who_waits_is_told_when_the_end_is_in_the_log(
    desk: ApprovalDesk, log: AuditLog, later: Callable[[timedelta], None]
) -> None:
    asked = ask(desk, 0)
    later(2 * HOUR)

    async def wait() -> None:
        room = WaitingRoom(desk, poll_seconds=0.01)
        poll = asyncio.create_task(room.run())
        with pytest.raises(ApprovalRefused, match="in time"):
            await asyncio.wait_for(room.until_approved(asked), 30)
        poll.cancel()

    asyncio.run(wait())
    assert kinds(log) == ["requested", "expired"]


def test_of_many_that_are_due_a_reader_waits_for_none(
    store: Store, desk: ApprovalDesk, later: Callable[[timedelta], None]
) -> None:
    asked = [ask(desk, n) for n in range(30)]
    later(2 * HOUR)
    statements: list[str] = []

    @event.listens_for(store.engine, "before_cursor_execute")
    def note(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
        statements.append(statement)

    assert desk.get(asked[0]).status is EXPIRED
    assert not [s for s in statements if s.startswith(("UPDATE", "INSERT", "DELETE"))]
    assert len(statements) <= 4  # the row, its answers, and what a transaction begins with


def test_time_that_has_not_come_ends_nothing(
    desk: ApprovalDesk, later: Callable[[timedelta], None]
) -> None:
    asked = ask(desk, 0)
    now: datetime = desk.get(asked).created_at
    later(HOUR - timedelta(minutes=1))
    desk.expire_due()
    assert desk.settled(asked).status is PENDING
    assert desk.get(asked).pending_until == now + HOUR
