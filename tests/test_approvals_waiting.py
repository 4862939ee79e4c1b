"""Those who wait for people cost neither a thread nor a query each."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta

import pytest
from sqlalchemy import event, insert, update

from hoop_core.approvals.book import Wanted
from hoop_core.approvals.desk import ApprovalDesk
from hoop_core.approvals.waiting import WaitingRoom
from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.errors import ApprovalRefused
from hoop_core.model import ApprovalStatus
from hoop_core.store import Store
from hoop_core.store.tables import approvals
from tests.postgres_server import BOTH

DATABASES = BOTH
MANY = 10_000


@pytest.fixture
def desk(store: Store, log: AuditLog) -> ApprovalDesk:
    now = utc_now()
    rows = [
        {
            "id": f"apr_{n:05}",
            "binding": f"{n:064}",
            "requester_key": f"https://idp#agent{n % 100}",
            "status": ApprovalStatus.PENDING,
            "approvers": ["owners"],
            "quorum": 1,
            "body": {"kind": "delete", "sql": "x"},
            "kind": "delete",
            "created_at": now + timedelta(microseconds=n),
            "pending_until": now + timedelta(hours=1),
            "valid_seconds": 60,
        }
        for n in range(MANY)
    ]
    with store.write() as connection:
        connection.execute(insert(approvals), rows)
    return ApprovalDesk(store, log)


def test_ten_thousand_wait_without_a_thread_each(store: Store, desk: ApprovalDesk) -> None:
    queries = []

    @event.listens_for(store.engine, "before_cursor_execute")
    def count(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
        queries.append(statement)

    async def wait() -> tuple[list[object], int]:
        room = WaitingRoom(desk, poll_seconds=0.05)
        poll = asyncio.create_task(room.run())
        waiting = [asyncio.create_task(room.until_approved(f"apr_{n:05}")) for n in range(MANY)]
        await asyncio.sleep(1)
        assert not any(w.done() for w in waiting)
        threads = threading.active_count()
        with store.write() as connection:
            yes = {"status": ApprovalStatus.APPROVED, "valid_until": utc_now() + timedelta(hours=1)}
            connection.execute(update(approvals).where(approvals.c.id < "apr_05000").values(**yes))
        done, _ = await asyncio.wait(waiting[:5000], timeout=60)
        assert len(done) == 5000
        assert not any(w.done() for w in waiting[5000:])
        for task in waiting[5000:]:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        poll.cancel()
        return [d.exception() for d in done], threads

    before = threading.active_count()
    errors, threads = asyncio.run(wait())
    assert set(errors) == {None}
    assert threads - before <= 40  # the pool of asyncio.to_thread, however many wait
    assert len(queries) < MANY / 4


def test_a_page_of_a_long_list_goes_on_where_the_last_ended(desk: ApprovalDesk) -> None:
    wanted = Wanted(status=ApprovalStatus.PENDING, limit=3)
    first = desk.list(wanted)
    last = first[-1]
    then = desk.list(
        Wanted(status=ApprovalStatus.PENDING, limit=3, before=(last.created_at, last.id))
    )
    assert [a.id for a in (*first, *then)] == [f"apr_{n:05}" for n in range(6)]
    assert desk.count(Wanted(status=ApprovalStatus.PENDING)) == MANY


def test_who_waits_for_what_is_taken_back_is_told(store: Store, desk: ApprovalDesk) -> None:
    async def wait() -> None:
        room = WaitingRoom(desk, poll_seconds=0.05)
        poll = asyncio.create_task(room.run())
        waiting = asyncio.create_task(room.until_approved("apr_00000"))
        await asyncio.sleep(0.1)
        with store.write() as connection:
            connection.execute(
                update(approvals)
                .where(approvals.c.id == "apr_00000")
                .values(
                    status=ApprovalStatus.WITHDRAWN,
                    revocation={"by": {"name": "ann"}, "reason": "wrong table", "at": ""},
                )
            )
        try:
            await waiting
        finally:
            poll.cancel()

    with pytest.raises(ApprovalRefused, match="withdrawn by ann: wrong table"):
        asyncio.run(wait())
