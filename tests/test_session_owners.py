"""Who holds a session, who is alive, and what becomes of the sessions of the dead."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from hoop_core.audit.log import AuditLog
from hoop_core.config import GatewaySettings
from hoop_core.errors import SessionGone, StoreUnavailable
from hoop_core.gateway.owners import DIED, SessionOwners, digest_of
from hoop_core.gateway.sessions import Handles, SessionBook
from hoop_core.replicas import Replicas
from hoop_core.store import Store
from hoop_core.store.tables import replicas as table
from hoop_core.store.tables import sessions
from tests.postgres_server import BOTH

DATABASES = BOTH


class World:
    """Replicas on one store; time goes by as a test wants it to."""

    def __init__(self, store: Store, log: AuditLog) -> None:
        self.store, self.log = store, log

    def replica(self, name: str, **options: Any) -> tuple[Replicas, SessionOwners]:
        made = Replicas(self.store, name=name, url=f"https://{name}:1", **options)
        made.join()
        return made, SessionOwners(self.store, self.log, made)

    def silent(self, replica: Replicas, seconds: float = 3600) -> None:
        """Its last heartbeat lies so far back."""
        with self.store.write() as connection:
            connection.execute(
                update(table)
                .where(table.c.id == replica.id)
                .values(seen_at=self.store.now(connection) - timedelta(seconds=seconds))
            )

    def session(self, identifier: str, owners: SessionOwners | None) -> Handles:
        handles = Handles.new()
        owned = owners.owned(digest_of(handles.token), digest_of(handles.master)) if owners else {}
        row = {"id": identifier, "identity_key": "k", "body": {}, "opened_at": datetime.now(UTC)}
        with self.store.write() as connection:
            connection.execute(insert(sessions).values(**row, **owned))
        return handles

    def row(self, identifier: str) -> Any:
        with self.store.read() as connection:
            return connection.execute(select(sessions).where(sessions.c.id == identifier)).one()

    def closed(self, identifier: str) -> list[dict[str, Any]]:
        entries = self.log.entries(session_id=identifier)
        return [json.loads(e.text)["data"] for e in entries if e.kind == "session.closed"]


@pytest.fixture
def world(store: Store, log: AuditLog) -> World:
    return World(store, log)


# ------------------------------------------------------------------ replicas


def test_replicas_know_each_other(world: World) -> None:
    (a, _), (b, _) = world.replica("a"), world.replica("b")
    both = {a.id: "https://a:1", b.id: "https://b:1"}
    assert a.alive() == b.alive() == both
    a.leave()
    assert b.alive() == {b.id: "https://b:1"}
    assert a.alive() == both, "who asks is alive"


def test_who_is_silent_is_dead_until_its_heart_beats_again(world: World) -> None:
    (a, _), (b, _) = world.replica("a", beat_seconds=5), world.replica("b", beat_seconds=5)
    world.silent(a, 15)
    assert a.id in b.alive()
    world.silent(a, 25)
    assert a.id not in b.alive()
    b.beat()  # and drops it from the list
    a.beat()
    assert a.id in b.alive()


def test_a_new_process_of_the_same_name_takes_the_place_of_the_old(world: World) -> None:
    (old, _), (new, _), (b, _) = (world.replica(n) for n in ("a", "a", "b"))
    assert set(b.alive()) == {new.id, b.id} and old.id != new.id


def test_two_processes_of_one_name_are_told_about_it(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    (first, _), (second, _) = world.replica("a"), world.replica("a")
    first.beat()
    assert "own gateway.replica" in capsys.readouterr().out
    assert {first.id, second.id} <= set(second.alive())


def test_a_beat_that_fails_is_not_the_last(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    replica, _ = world.replica("a", beat_seconds=0.01)
    beats: list[int] = []

    def beat() -> None:
        beats.append(1)
        raise StoreUnavailable("gone") if len(beats) == 1 else ValueError

    monkeypatch.setattr(replica, "beat", beat)

    async def go() -> None:
        task = asyncio.create_task(replica.run())
        while len(beats) < 4:
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(asyncio.wait_for(go(), 10))


# ------------------------------------------------------------------ owners


def test_a_session_is_found_by_either_handle_and_by_its_id(world: World) -> None:
    _, a = world.replica("a")
    _, b = world.replica("b")
    handles = world.session("s", a)
    for found in ({"digest": digest_of(handles.token)}, {"digest": digest_of(handles.master)}):
        assert b.owner_of(**found) == a.me
    assert b.owner_of(session_id="s") == a.me
    for wrong in ({"digest": digest_of("x")}, {"digest": handles.token}, {"session_id": "t"}):
        assert b.owner_of(**wrong) is None


def test_renewed_handles_take_the_place_of_the_old(world: World) -> None:
    _, a = world.replica("a")
    old = world.session("s", a)
    a.renewed("s", "t" * 64, "m" * 64)
    assert a.owner_of(digest="t" * 64) == a.owner_of(digest="m" * 64) == a.me
    assert a.owner_of(digest=digest_of(old.token)) is None


def test_only_the_owner_renews_and_only_what_is_open(world: World) -> None:
    (_, a), (_, b) = world.replica("a"), world.replica("b")
    world.session("s", a)
    with pytest.raises(SessionGone):
        b.renewed("s", "t" * 64, "m" * 64)
    a.closed("s", "closed by the client")
    with pytest.raises(SessionGone):
        a.renewed("s", "t" * 64, "m" * 64)


def test_a_closed_session_is_nobodys(world: World) -> None:
    _, a = world.replica("a")
    handles = world.session("s", a)
    a.closed("s", "idle")
    row = world.row("s")
    assert row.closed_at is not None and row.close_reason == "idle"
    assert row.token_digest is None and row.master_digest is None
    assert a.owner_of(digest=digest_of(handles.token)) is None
    assert a.owner_of(session_id="s") is None
    a.closed("s", "again")
    assert world.closed("s") == [{"reason": "idle"}]


def test_sessions_of_the_dead_are_closed_once(world: World) -> None:
    (a, mine), (b, bs), (_, cs) = (world.replica(n) for n in "abc")
    for number in range(5):
        world.session(f"a{number}", mine)
    world.session("b", bs)
    world.session("old", None)  # from before there were owners
    assert sorted(bs.bury()) == ["old"]
    world.silent(a)
    with ThreadPoolExecutor(2) as pool:
        buried = [*pool.map(lambda o: o.bury(), (bs, cs))]
    assert sorted(buried[0] + buried[1]) == [f"a{n}" for n in range(5)]
    for number in range(5):
        assert world.closed(f"a{number}") == [{"reason": DIED, "replica": a.id}]
    assert world.row("b").closed_at is None and bs.bury() == cs.bury() == []
    assert b.id in a.alive()


def test_an_owner_that_comes_back_in_time_keeps_its_sessions(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (a, mine), (_, others) = world.replica("a"), world.replica("b")
    world.session("s", mine)
    world.silent(a)
    append = world.log.append

    def late(*args: Any, **named: Any) -> int:
        a.beat()  # after it was looked for, before its session is closed
        return append(*args, **named)

    monkeypatch.setattr(world.log, "append", late)
    assert others.bury() == []
    assert world.row("s").closed_at is None


def test_who_was_taken_for_dead_learns_what_was_closed(world: World) -> None:
    (a, mine), (_, others) = world.replica("a"), world.replica("b")
    for name in ("s", "t"):
        world.session(name, mine)
    world.silent(a)
    others.bury()
    a.beat()
    world.session("u", mine)
    assert mine.closed_by_others(["s", "t", "u", "unknown"]) == {"s", "t"}
    assert mine.closed_by_others([]) == set()


def test_a_thousand_sessions_are_looked_at_in_pieces(world: World) -> None:
    _, mine = world.replica("a")
    assert mine.closed_by_others([f"s{n}" for n in range(2500)]) == set()


# ------------------------------------------------------------------ the book


@pytest.fixture
def book(world: World) -> tuple[SessionBook, SessionOwners, list[str]]:
    ended: list[str] = []

    async def end(upstream: Any) -> None:
        ended.append(upstream)

    async def drop(_live: Any) -> None:
        return None

    _, owners = world.replica("a")
    made = SessionBook(
        GatewaySettings(),
        SimpleNamespace(leeway_of=lambda _: 0),  # type: ignore[arg-type]
        world.log,
        owners,
        role_for=None,  # type: ignore[arg-type]
        choose_account=None,  # type: ignore[arg-type]
        open_upstream=None,  # type: ignore[arg-type]
        end_upstream=end,
        drop_statements=drop,
    )
    return made, owners, ended


def _admitted(world: World, book: SessionBook, owners: SessionOwners, name: str) -> Handles:
    handles = world.session(name, owners)

    async def detach() -> str:
        return f"upstream of {name}"

    guarded = SimpleNamespace(
        id=name, closed=False, detach=detach, identity=SimpleNamespace(expires_at=None, key="k")
    )
    book._admit(guarded, handles)  # type: ignore[arg-type]
    return handles


def _run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 30))  # type: ignore[arg-type]


def test_of_two_renewals_at_once_one_counts(
    world: World, book: tuple[SessionBook, SessionOwners, list[str]]
) -> None:
    async def go() -> None:
        sessions_, owners, _ = book
        handles = _admitted(world, sessions_, owners, "s")
        said = await asyncio.gather(
            *(sessions_.renew(handles.master) for _ in range(4)), return_exceptions=True
        )
        (renewed,) = [s for s in said if not isinstance(s, BaseException)]
        assert sum(isinstance(s, SessionGone) for s in said) == 3
        assert owners.owner_of(digest=digest_of(renewed[0].token)) == owners.me
        assert sessions_.find(renewed[0].token).guarded.id == "s"
        assert not sessions_.holds(digest=digest_of(handles.token))

    _run(go)


def test_a_renewal_that_is_not_in_the_store_has_not_happened(
    world: World,
    book: tuple[SessionBook, SessionOwners, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def go() -> None:
        sessions_, owners, _ = book
        handles = _admitted(world, sessions_, owners, "s")

        def fails(*_: Any) -> None:
            raise StoreUnavailable("gone")

        monkeypatch.setattr(owners, "renewed", fails)
        with pytest.raises(StoreUnavailable):
            await sessions_.renew(handles.master)
        assert sessions_.find(handles.token).guarded.id == "s"

    _run(go)


def test_a_session_that_others_closed_ends_here_too(
    world: World, book: tuple[SessionBook, SessionOwners, list[str]]
) -> None:
    async def go() -> None:
        sessions_, owners, ended = book
        handles = _admitted(world, sessions_, owners, "s")
        _, others = world.replica("b")
        world.silent(owners._replicas)
        others.bury()
        owners._replicas.beat()
        tending = asyncio.create_task(sessions_.tend(0.01))
        while not ended:
            await asyncio.sleep(0.01)
        tending.cancel()
        await sessions_.close_all()
        assert ended == ["upstream of s"]
        with pytest.raises(SessionGone):
            sessions_.find(handles.token)
        assert [c["reason"] for c in world.closed("s")] == [DIED]

    _run(go)


def test_an_end_that_could_not_be_written_is_written_later(
    world: World,
    book: tuple[SessionBook, SessionOwners, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def go() -> None:
        sessions_, owners, _ = book
        handles = _admitted(world, sessions_, owners, "s")
        closed, broken = owners.closed, threading.Event()
        broken.set()

        def fails(*args: Any) -> None:
            if broken.is_set():
                raise StoreUnavailable("gone")
            closed(*args)

        monkeypatch.setattr(owners, "closed", fails)
        await sessions_.close(sessions_.find(handles.token), "idle")
        assert world.row("s").closed_at is None
        broken.clear()
        tending = asyncio.create_task(sessions_.tend(0.01))
        while world.row("s").closed_at is None:
            await asyncio.sleep(0.01)
        tending.cancel()
        assert world.closed("s") == [{"reason": "idle"}]

    _run(go)
