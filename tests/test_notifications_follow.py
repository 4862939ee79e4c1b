"""The log is the outbox: nothing is lost, nobody is held up, and one replica tells."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, text, update

from hoop_core.approvals.binding import Binding
from hoop_core.approvals.desk import ApprovalDesk
from hoop_core.audit.cursors import pause
from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.config import NotificationSettings, ReminderSettings
from hoop_core.model import (
    AnswerVerdict,
    ApprovalTerms,
    BreakGlass,
    Identity,
    RoleBinding,
    RunContext,
)
from hoop_core.notifications import notifier as module
from hoop_core.notifications.aside import MOST
from hoop_core.notifications.channels import NotSent
from hoop_core.notifications.messages import Message
from hoop_core.notifications.notifier import Notifier
from hoop_core.notifications.reminders import Reminders
from hoop_core.store import Store
from hoop_core.store.tables import TOLD_OF, approvals, log_entries, notification_cursors
from tests.postgres_server import BOTH

DATABASES = BOTH
GLASS = BreakGlass(("oncall",), timedelta(minutes=10))
TERMS = ApprovalTerms(("owners",), 1, timedelta(hours=1), timedelta(minutes=30), break_glass=GLASS)


def person(name: str, *groups: str) -> Identity:
    return Identity("https://idp", name, name, groups, "oidc", "")


AGENT, ANN, OLE = person("agent", "ml"), person("ann", "owners"), person("ole", "oncall")


class Recorded:
    """A channel that keeps what it was given; `fails` says what becomes of each try."""

    def __init__(self, name: str = "chat", **settings: Any) -> None:
        self.settings = NotificationSettings(name=name, kind="apprise", url_env="X", **settings)
        self.sent: list[Message] = []
        self.fails: Callable[[], BaseException | None] = lambda: None
        self.poison: set[str] = set()
        """Ids of requests that the service refuses."""
        self.hang: asyncio.Event | None = None
        self.hanging = False

    async def send(self, message: Message) -> None:
        if self.hang is not None:
            self.hanging = True
            await self.hang.wait()
        failed = self.fails()
        if json.loads(message.payload)["data"].get("approval") in self.poison:
            failed = NotSent("no answer in time")
        if not isinstance(failed, NotSent):
            self.sent.append(message)
        if failed is not None:
            raise failed

    @property
    def told_of(self) -> list[str]:
        return [json.loads(m.payload)["data"]["approval"] for m in self.sent]

    @property
    def types(self) -> list[str]:
        return [json.loads(m.payload)["type"] for m in self.sent]


class World:
    def __init__(self, store: Store, log: AuditLog) -> None:
        self.store, self.log = store, log
        self.desk = ApprovalDesk(store, log)
        self.reminders = Reminders(store, log, ReminderSettings())
        self.asked = 0

    def notifier(self, *channels: Any, owner: str = "rep_1", **options: Any) -> Notifier:
        return Notifier(
            channels,
            self.store,
            self.log,
            self.desk,
            owner=owner,
            public_url="https://hoop.example.com",
            origin="test.example/log",
            reminders=self.reminders,
            **options,
        )

    def ask(self, terms: ApprovalTerms = TERMS, **body: Any) -> str:
        self.asked += 1
        bound = Binding(
            identity=AGENT,
            role=RoleBinding("v", "R"),
            fingerprint=f"f{self.asked}",
            executed_sha256="e",
            parameters_sha256="p",
            policy_digest="d",
            catalog_digest="c",
            run=RunContext(),
        )
        question = {"kind": "delete", "requester": {"name": "agent"}, "sql": "DELETE", **body}
        return self.desk.ask(bound, terms, question, session_id=None).id

    def yes(self, identifier: str) -> None:
        self.desk.answer(identifier, ANN, AnswerVerdict.APPROVE, "fine")

    def cursor(self, channel: str = "chat") -> Any:
        query = select(notification_cursors).where(notification_cursors.c.channel == channel)
        with self.store.read() as connection:
            return connection.execute(query).one()

    def aside(self) -> list[str]:
        """Cursors of what was set aside."""
        with self.store.read() as connection:
            names = connection.scalars(select(notification_cursors.c.channel))
            return [name for name in names if " " in name]

    def due(self) -> None:
        """All pauses are over."""
        with self.store.write() as connection:
            connection.execute(update(notification_cursors).values(next_at=None))

    def kinds(self) -> list[str]:
        return [e.kind for e in self.log.entries()]


@pytest.fixture
def world(store: Store, log: AuditLog) -> World:
    return World(store, log)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "pause", lambda _tries: 0.0)


def told(notifier: Notifier, channel: Any) -> None:
    """Until nothing is left to be told of, or it has to be tried again later."""

    async def run() -> None:
        while await notifier.tell_next(channel):
            pass

    asyncio.run(run())


def test_each_happening_is_told_once_and_in_order(world: World) -> None:
    channel = Recorded()
    notifier = world.notifier(channel)
    notifier.begin()
    first, second = world.ask(), world.ask()
    world.yes(first)
    world.log.append("statement.intent", {})
    world.desk.withdraw(second, AGENT, "not needed any more")
    told(notifier, channel)
    told(notifier, channel)
    assert channel.types == [
        "approval.requested",
        "approval.requested",
        "approval.decided",
        "approval.decided",
    ]
    outcomes = [json.loads(m.payload)["data"]["outcome"] for m in channel.sent]
    assert outcomes[2:] == ["approved", "withdrawn"]
    assert len({m.id for m in channel.sent}) == 4


def test_a_first_answer_of_two_is_no_news(world: World) -> None:
    channel = Recorded()
    notifier = world.notifier(channel)
    notifier.begin()
    two = ApprovalTerms(("owners",), 2, timedelta(hours=1), timedelta(minutes=30))
    world.yes(world.ask(two))
    told(notifier, channel)
    assert channel.types == ["approval.requested"]


def test_a_new_channel_begins_with_what_comes_next(world: World) -> None:
    world.ask()
    channel = Recorded()
    notifier = world.notifier(channel)
    notifier.begin()
    notifier.begin()
    later = world.ask()
    told(notifier, channel)
    assert [json.loads(m.payload)["data"]["approval"] for m in channel.sent] == [later]


def test_what_happened_while_nobody_ran_is_told_afterwards(world: World) -> None:
    channel = Recorded()
    world.notifier(channel).begin()
    world.ask()
    restarted = world.notifier(channel, owner="rep_2")
    restarted.begin()
    told(restarted, channel)
    assert len(channel.sent) == 1


def test_a_crash_between_message_and_cursor_sends_the_same_message_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = Recorded()
    notifier = world.notifier(channel)
    notifier.begin()
    world.ask()
    monkeypatch.setattr(module, "_LEASE_SECONDS", -1000.0)  # the dead replica's lease is over
    channel.fails = lambda: KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        told(notifier, channel)
    channel.fails = lambda: None
    told(world.notifier(channel, owner="rep_2"), channel)
    first, second = channel.sent
    assert first.id == second.id


def test_a_channel_that_another_replica_works_on_is_left_alone(world: World) -> None:
    channel = Recorded()
    one, other = world.notifier(channel), world.notifier(channel, owner="rep_2")
    one.begin()
    world.ask()
    channel.fails = lambda: KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        told(one, channel)
    assert asyncio.run(other.tell_next(channel)) is False
    assert len(channel.sent) == 1


def test_two_replicas_send_each_message_once(world: World) -> None:
    channel = Recorded()
    replicas = [world.notifier(channel, owner=f"rep_{n}") for n in (1, 2)]
    for replica in replicas:
        replica.begin()
    asked = [world.ask() for _ in range(8)]

    async def both() -> None:
        async def work(notifier: Notifier) -> None:
            while len(channel.sent) < len(asked):
                if not await notifier.tell_next(channel):
                    await asyncio.sleep(0.01)

        await asyncio.gather(*(work(r) for r in replicas))

    asyncio.run(both())
    assert [json.loads(m.payload)["data"]["approval"] for m in channel.sent] == asked


def test_a_replica_that_was_held_up_does_not_undo_what_another_has_done(world: World) -> None:
    channel = Recorded()
    slow, fast = world.notifier(channel), world.notifier(channel, owner="rep_2")
    slow.begin()
    world.ask()

    async def overtaken() -> None:
        channel.hang = asyncio.Event()
        late = asyncio.create_task(slow.tell_next(channel))
        while not channel.hanging:
            await asyncio.sleep(0.01)
        with world.store.write() as connection:  # its lease runs out meanwhile
            connection.execute(update(notification_cursors).values(claimed_until=utc_now()))
        hang, channel.hang = channel.hang, None
        assert await fast.tell_next(channel)
        hang.set()
        assert await late is False

    asyncio.run(overtaken())
    cursor = world.cursor()
    assert (cursor.tries, cursor.owner) == (0, None)


def test_a_message_is_tried_again_and_then_given_up_on_the_record(world: World) -> None:
    channel = Recorded(tries=3)
    notifier = world.notifier(channel)
    notifier.begin()
    given_up, sent = world.ask(), world.ask()
    channel.poison = {given_up}
    asyncio.run(notifier.tell_next(channel))
    assert world.cursor(f"chat {given_up}").tries == 2  # the pause is none here
    assert world.cursor(f"chat {given_up}").last_error == "no answer in time"
    for _ in range(3):
        told(notifier, channel)
    assert [json.loads(m.payload)["data"]["approval"] for m in channel.sent] == [sent]
    (entry,) = [e for e in world.log.entries() if e.kind == "notification.failed"]
    data = json.loads(entry.text)["data"]
    assert (data["channel"], data["approval"], data["tries"]) == ("chat", given_up, 3)
    assert data["why"] == "no answer in time"


def test_messages_that_fail_do_not_delay_those_of_other_requests(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "pause", lambda _tries: 3600.0)
    channel = Recorded()
    notifier = world.notifier(channel)
    notifier.begin()
    channel.poison = {world.ask(), world.ask()}
    well = world.ask()
    told(notifier, channel)
    assert channel.told_of == [well]
    assert "notification.failed" not in world.kinds()


def test_of_one_request_the_order_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "pause", lambda _tries: 3600.0)
    channel = Recorded()
    notifier = world.notifier(channel)
    notifier.begin()
    late, other = world.ask(), world.ask()
    channel.poison = {late}
    told(notifier, channel)
    world.yes(late)
    world.yes(other)
    told(notifier, channel)
    assert channel.told_of == [other, other]
    channel.poison = set()
    world.due()
    told(notifier, channel)
    world.desk.withdraw(late, AGENT, "not needed any more")
    told(notifier, channel)
    assert channel.told_of == [other, other, late, late, late]
    assert channel.types[2:] == ["approval.requested", "approval.decided", "approval.decided"]
    assert world.aside() == []


def test_what_was_set_aside_outlives_its_process(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "pause", lambda _tries: 3600.0)
    channel = Recorded()
    notifier = world.notifier(channel)
    notifier.begin()
    late = world.ask()
    channel.poison = {late}
    told(notifier, channel)
    channel.poison = set()
    world.due()
    told(world.notifier(channel, owner="rep_2"), channel)
    assert channel.told_of == [late]
    assert world.aside() == []


def test_where_everything_fails_the_channel_waits_and_gives_up_one_after_the_other(
    world: World,
) -> None:
    channel = Recorded(tries=3)
    notifier = world.notifier(channel)
    notifier.begin()
    asked = [world.ask() for _ in range(MOST + 3)]
    channel.poison = set(asked)
    for _ in range(4):
        asyncio.run(notifier.tell_next(channel))
    for _ in range(20):
        told(notifier, channel)
    assert len(world.aside()) <= MOST
    channel.poison = set()
    for _ in range(20):
        told(notifier, channel)
    given_up = world.kinds().count("notification.failed")
    assert sorted(channel.told_of) == sorted(set(channel.told_of))
    assert len(channel.sent) == len(asked) - given_up
    assert world.aside() == []


def test_two_replicas_lose_and_repeat_nothing_that_was_set_aside(world: World) -> None:
    channel = Recorded(tries=50)
    replicas = [world.notifier(channel, owner=f"rep_{n}") for n in (1, 2)]
    for replica in replicas:
        replica.begin()
    asked = [world.ask() for _ in range(6)]
    for identifier in asked:
        world.yes(identifier)
    failing = iter([*([NotSent("busy"), None] * 6), *([None] * 100)])
    channel.fails = lambda: next(failing)

    async def both() -> None:
        async def work(notifier: Notifier) -> None:
            while len(channel.sent) < 2 * len(asked):
                if not await notifier.tell_next(channel):
                    await asyncio.sleep(0.01)

        async with asyncio.timeout(60):
            await asyncio.gather(*(work(r) for r in replicas))

    asyncio.run(both())
    told(replicas[0], channel)
    for identifier in asked:
        kinds = [t for t, i in zip(channel.types, channel.told_of, strict=True) if i == identifier]
        assert kinds == ["approval.requested", "approval.decided"]
    assert world.aside() == []


def test_what_fails_for_good_is_not_tried_again(world: World) -> None:
    channel = Recorded()
    notifier = world.notifier(channel)
    notifier.begin()
    world.ask()
    channel.fails = lambda: NotSent("HTTP 410", for_good=True)
    told(notifier, channel)
    assert "notification.failed" in world.kinds()


def test_one_request_that_cannot_be_put_into_words_holds_up_no_other(world: World) -> None:
    channel = Recorded()
    notifier = world.notifier(channel)
    notifier.begin()
    world.ask(reasons=[{"code": "APPROVAL_REQUIRED"}])
    told_of = world.ask()
    told(notifier, channel)
    assert [json.loads(m.payload)["data"]["approval"] for m in channel.sent] == [told_of]
    assert "notification.failed" in world.kinds()


def test_pauses_grow_and_end_and_differ(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    del store
    monkeypatch.undo()
    for tries in range(60):
        assert 0.5 <= pause(tries) <= 300
    assert min(pause(20) for _ in range(50)) >= 150
    assert len({pause(3) for _ in range(20)}) > 1


def test_a_channel_that_hangs_holds_up_neither_requests_nor_other_channels(world: World) -> None:
    stuck, well = Recorded("stuck"), Recorded("well")
    notifier = world.notifier(stuck, well, poll_seconds=0.01)
    notifier.begin()

    async def run() -> None:
        stuck.hang = asyncio.Event()
        following = asyncio.create_task(notifier.run())
        for _ in range(3):
            await asyncio.to_thread(world.ask)
        async with asyncio.timeout(20):
            while len(well.sent) < 3:
                await asyncio.sleep(0.01)
        assert not stuck.sent
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    asyncio.run(run())


def test_a_fault_of_ours_does_not_end_the_following(world: World) -> None:
    channel = Recorded()
    notifier = world.notifier(channel, poll_seconds=0.01)
    notifier.begin()
    world.ask()
    faults = iter([ValueError("x"), ZeroDivisionError(), None])
    channel.fails = lambda: next(faults)

    async def run() -> None:
        following = asyncio.create_task(notifier.run())
        async with asyncio.timeout(20):
            while len(channel.sent) < 3:
                await asyncio.sleep(0.01)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    asyncio.run(run())
    assert len({m.id for m in channel.sent}) == 1


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, 2),
        ({"events": ("decided",)}, 1),
        ({"approvers": ("owners", "others")}, 2),
        ({"approvers": ("others",)}, 0),
        ({"accounts": ("acme_prod",)}, 2),
        ({"accounts": ("acme_test",)}, 0),
    ],
)
def test_a_channel_is_told_what_it_is_for(
    world: World, settings: dict[str, Any], count: int
) -> None:
    channel = Recorded(**settings)
    notifier = world.notifier(channel)
    notifier.begin()
    world.yes(world.ask(account="ACME-PROD"))
    told(notifier, channel)
    assert len(channel.sent) == count
    # and what was passed over is not looked at again
    with world.store.read() as connection:
        last = connection.scalar(
            select(log_entries.c.seq).where(TOLD_OF).order_by(log_entries.c.seq.desc())
        )
    assert world.cursor().seq == last


def test_glass_that_was_broken_and_its_review_are_told(world: World) -> None:
    channel = Recorded()
    notifier = world.notifier(channel)
    notifier.begin()
    asked = world.ask()
    world.desk.break_glass(asked, OLE, "the site is down")
    world.reminders = Reminders(world.store, world.log, ReminderSettings(review_seconds=60))
    assert world.reminders.remind() == 0
    at = (utc_now() - timedelta(minutes=2)).isoformat()
    emergency = {**(world.desk.get(asked).emergency or {}), "at": at}
    with world.store.write() as connection:
        connection.execute(update(approvals).values(emergency=emergency))
    assert world.reminders.remind() == 1
    assert world.reminders.remind() == 0
    world.desk.review(asked, ANN, "it was right")
    told(notifier, channel)
    assert channel.types == [
        "approval.requested",
        "approval.broken_glass",
        "approval.review_open",
        "approval.reviewed",
    ]


def test_people_are_reminded_once_of_what_is_about_to_expire(world: World) -> None:
    channel = Recorded(events=("expiring",))
    notifier = world.notifier(channel)
    notifier.begin()
    fresh, late = world.ask(), world.ask()
    with world.store.write() as connection:
        times = {
            "created_at": utc_now() - timedelta(minutes=55),
            "pending_until": utc_now() + timedelta(minutes=5),
        }
        connection.execute(update(approvals).where(approvals.c.id == late).values(**times))
    assert fresh != late
    assert world.reminders.remind() == 1
    assert world.reminders.remind() == 0
    told(notifier, channel)
    (sent,) = channel.sent
    assert json.loads(sent.payload)["data"]["approval"] == late
    assert "5m left" in sent.text or "4m left" in sent.text


def test_the_log_is_followed_by_its_index(world: World) -> None:
    asked = select(log_entries.c.seq).where(TOLD_OF).where(log_entries.c.seq > 5)
    with world.store.read() as connection:
        sql = asked.order_by(log_entries.c.seq).limit(10)
        compiled = str(sql.compile(connection, compile_kwargs={"literal_binds": True}))
        if world.store.shared:
            connection.execute(text("SET LOCAL enable_seqscan = off"))
            plan = connection.execute(text(f"EXPLAIN {compiled}")).scalars().all()
        else:
            rows = connection.execute(text(f"EXPLAIN QUERY PLAN {compiled}")).all()
            plan = [r.detail for r in rows]
    assert "ix_log_entries_told" in " ".join(plan)
