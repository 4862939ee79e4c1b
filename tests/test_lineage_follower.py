"""The log is lineage's outbox: in order, at least once, by one replica, and never in a statement's way."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from openlineage.client.event_v2 import RunEvent
from sqlalchemy import select, update

from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.lineage import follower as module
from hoop_core.lineage.events import Events
from hoop_core.lineage.follower import FOLLOWER, LineageFollower
from hoop_core.lineage.transports import NotDelivered
from hoop_core.store import Store
from hoop_core.store.tables import notification_cursors
from tests.lineage_world import PLACE, World
from tests.postgres_server import BOTH

DATABASES = BOTH


class Receiver:
    """Keeps what it takes; `fails` says what becomes of each try."""

    seconds = 1.0

    def __init__(self) -> None:
        self.taken: list[RunEvent] = []
        self.fails: Callable[[RunEvent], BaseException | None] = lambda _event: None

    def send(self, event: RunEvent) -> None:
        failed = self.fails(event)
        if failed is not None:
            raise failed
        self.taken.append(event)

    def close(self) -> None: ...

    @property
    def told(self) -> list[tuple[str, str]]:
        return [(e.run.runId, str(getattr(e.eventType, "value", ""))) for e in self.taken]


@pytest.fixture
def world(store: Store, log: AuditLog) -> World:
    return World(store, log)


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


def following(world: World, receiver: Receiver, owner: str = "rep_1") -> LineageFollower:
    made = LineageFollower(
        receiver, Events(world.store, PLACE), world.store, world.log, owner=owner
    )
    made.begin()
    return made


def work(follower: LineageFollower) -> None:
    """Everything that can be told now."""
    while follower.tell_next():
        pass


def due(world: World) -> None:
    """The pause after a failure is over."""
    with world.store.write() as connection:
        connection.execute(
            update(notification_cursors).values(next_at=utc_now() - timedelta(seconds=1))
        )


def cursor(world: World) -> int:
    with world.store.read() as connection:
        at = connection.scalar(
            select(notification_cursors.c.seq).where(notification_cursors.c.channel == FOLLOWER)
        )
    assert at is not None
    return at


def test_every_statement_is_told_in_the_order_of_the_log(world: World, receiver: Receiver) -> None:
    follower = following(world, receiver)
    for _ in range(3):
        world.statement()
    work(follower)
    expected = [(e["run"]["runId"], e["eventType"]) for e in world.events()]
    assert receiver.told == expected
    assert len(expected) == 6


def test_lineage_that_is_new_starts_with_what_comes_next(world: World, receiver: Receiver) -> None:
    world.statement()
    follower = following(world, receiver)
    work(follower)
    assert receiver.taken == []


def test_what_a_receiver_does_not_take_now_comes_again_with_the_same_run(
    world: World, receiver: Receiver
) -> None:
    follower = following(world, receiver)
    world.statement()
    away: list[str] = []

    def fails(event: RunEvent) -> BaseException | None:
        away.append(event.run.runId)
        return NotDelivered("away") if len(away) < 3 else None

    receiver.fails = fails
    for _ in range(4):
        work(follower)
        due(world)
    assert receiver.told == [(e["run"]["runId"], e["eventType"]) for e in world.events()]
    assert set(away) == {receiver.told[0][0]}


def test_after_a_failure_there_is_a_pause_and_what_went_out_is_not_sent_again(
    world: World, receiver: Receiver
) -> None:
    follower = following(world, receiver)
    world.statement()
    world.statement()
    receiver.fails = lambda e: NotDelivered("away") if len(receiver.taken) == 2 else None
    work(follower)
    assert len(receiver.taken) == 2
    receiver.fails = lambda _event: None
    work(follower)
    assert len(receiver.taken) == 2  # it waits
    due(world)
    work(follower)
    assert [state for _, state in receiver.told] == ["START", "COMPLETE"] * 2


def test_a_receiver_that_is_away_for_long_gets_everything_later(
    world: World, receiver: Receiver
) -> None:
    follower = following(world, receiver)
    world.statement()
    receiver.fails = lambda _event: NotDelivered("the receiver answered 503")
    for _ in range(20):
        work(follower)
        due(world)
    receiver.fails = lambda _event: None
    work(follower)
    assert len(receiver.taken) == 2
    assert [e.kind for e in world.log.entries() if e.kind == "lineage.failed"] == []


def test_what_is_refused_for_its_content_is_given_up_and_on_record(
    world: World, receiver: Receiver
) -> None:
    follower = following(world, receiver)
    begun, _ = world.statement()
    refused = NotDelivered("the receiver answered 422", for_good=True)
    receiver.fails = lambda e: refused if getattr(e.eventType, "value", "") == "START" else None
    for _ in range(6):
        work(follower)
        due(world)
    assert [state for _, state in receiver.told] == ["COMPLETE"]
    (entry,) = [
        json.loads(e.text)["data"] for e in world.log.entries() if e.kind == "lineage.failed"
    ]
    assert entry == {
        "of_entry": begun,
        "kind": "statement.intent",
        "tries": 5,
        "why": "the receiver answered 422",
    }


def test_an_entry_that_makes_no_event_does_not_hold_up_those_behind_it(
    world: World, receiver: Receiver
) -> None:
    follower = following(world, receiver)
    world.add("statement.intent", {"describe_only": False, "reads": ["A.B.C"], "writes": []})
    world.statement()
    for _ in range(6):
        work(follower)
        due(world)
    assert [state for _, state in receiver.told] == ["START", "COMPLETE"]


def test_one_replica_tells_at_a_time(world: World, receiver: Receiver) -> None:
    first, second = following(world, receiver), following(world, receiver, "rep_2")
    world.statement()
    meanwhile: list[bool] = []

    def fails(_event: RunEvent) -> BaseException | None:
        meanwhile.append(second.tell_next())
        return None

    receiver.fails = fails
    work(first)
    assert meanwhile == [False, False]
    assert len(receiver.taken) == 2


def test_another_replica_goes_on_where_one_has_died(world: World, receiver: Receiver) -> None:
    first, second = following(world, receiver), following(world, receiver, "rep_2")
    world.statement()

    def dies(event: RunEvent) -> BaseException | None:
        return KeyboardInterrupt() if len(receiver.taken) == 1 else None

    receiver.fails = dies
    with pytest.raises(KeyboardInterrupt):
        first.tell_next()
    receiver.fails = lambda _event: None
    with world.store.write() as connection:  # the dead one's lease is over
        connection.execute(
            update(notification_cursors).values(claimed_until=utc_now() - timedelta(seconds=1))
        )
    work(second)
    states = [state for _, state in receiver.told]
    assert states == ["START", "START", "COMPLETE"]
    assert len({run for run, _ in receiver.told}) == 1


def test_entries_that_are_nothing_to_lineage_are_passed(world: World, receiver: Receiver) -> None:
    follower = following(world, receiver)
    for _ in range(5):
        last = world.add("approval.requested", {"approval": "a"})
    work(follower)
    assert cursor(world) == last


def test_a_long_turn_is_cut_so_that_its_lease_lasts(
    world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WORK_SECONDS", -1.0)
    follower = following(world, receiver)
    world.statement()
    assert follower.tell_next()
    assert len(receiver.taken) == 1
    work(follower)
    assert len(receiver.taken) == 2


def test_without_a_receiver_no_cursor_is_kept(world: World) -> None:
    follower = LineageFollower(
        None, Events(world.store, PLACE), world.store, world.log, owner="rep_1"
    )
    follower.begin()
    asyncio.run(follower.drain(1.0))
    with world.store.read() as connection:
        assert connection.execute(select(notification_cursors)).all() == []


def test_what_is_in_the_log_goes_out_when_the_gateway_stops(
    world: World, receiver: Receiver
) -> None:
    follower = following(world, receiver)
    world.statement()
    asyncio.run(follower.drain(5.0))
    assert len(receiver.taken) == 2


def test_a_receiver_that_hangs_does_not_hold_up_the_end(world: World, receiver: Receiver) -> None:
    follower = following(world, receiver)
    world.statement()
    go = threading.Event()

    def hangs(_event: RunEvent) -> BaseException | None:
        go.wait(20)
        return None

    receiver.fails = hangs

    async def stop() -> bool:
        await follower.drain(0.05)
        return go.is_set()

    async def stopped() -> bool:
        over = await stop()
        go.set()
        return over

    assert asyncio.run(stopped()) is False
