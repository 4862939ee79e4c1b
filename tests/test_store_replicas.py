"""Several processes on one PostgreSQL: one log, and no approval that is given, asked or used twice."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Iterator
from multiprocessing.pool import Pool
from pathlib import Path

import pytest
from sqlalchemy import select

from hoop_core.audit import merkle
from hoop_core.audit.verify import verify_store
from hoop_core.model import ApprovalStatus
from hoop_core.store.tables import sessions
from tests import replica_world as world
from tests.postgres_server import Server
from tests.replica_world import Place, Replica

pytestmark = pytest.mark.postgres
PROCESSES = 4


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as running:
        yield running


@pytest.fixture
def place(postgres: Server, tmp_path: Path) -> Place:
    made = Place(postgres.database("hoop"), tmp_path / "log.key")
    with Replica(made):  # makes the key
        return made


def test_processes_that_start_together_set_the_store_up_once(
    pool: Pool, postgres: Server, tmp_path: Path
) -> None:
    empty = Place(postgres.database(), tmp_path / "log.key")
    assert pool.map(world.migrate, [empty] * PROCESSES) == ["set up"] * PROCESSES


def test_processes_that_append_together_write_one_log(pool: Pool, place: Place) -> None:
    each = 40
    told = pool.starmap(world.append, [(place, w, each) for w in range(PROCESSES)])
    with Replica(place) as replica:
        entries = list(replica.log.entries())
        assert [e.seq for e in entries] == list(range(len(entries)))
        assert sorted(n for numbers in told for n in numbers) == [e.seq for e in entries]
        assert all(e.leaf == merkle.leaf_hash(e.text.encode()) for e in entries)
        with replica.store.read() as connection:  # what failed left no row
            rows = connection.scalars(select(sessions.c.id)).all()
        kept = [n for n in range(each) if n % 3 == 0 and n % 5]
        assert sorted(rows) == sorted(f"{w}-{n}" for w in range(PROCESSES) for n in kept)
        key = replica.log.key.verifier_key
    report = verify_store(place.url, verifier_key=key)  # with all checkpoints of all processes
    assert report.faults == () and report.entries == PROCESSES * (each - 3)


def test_one_question_is_asked_however_many_ask(pool: Pool, place: Place) -> None:
    asked = pool.starmap(world.ask, [(place, n % 2) for n in range(12)])
    assert sorted(Counter(asked).values()) == [6, 6]


def test_a_quorum_is_reached_once(pool: Pool, place: Place) -> None:
    identifier = world.ask(place, 0)
    calls = [(place, identifier, f"owner{n}", "approve") for n in range(8)]
    said = Counter(pool.starmap(world.answer, calls, chunksize=1))
    # The first of the two may look at it after the second has answered.
    assert said["ApprovalRefused"] == 6 and said["approved"] in {1, 2} and said.total() == 8


def test_one_person_counts_once_wherever_they_answer(pool: Pool, place: Place) -> None:
    identifier = world.ask(place, 0)
    said = pool.starmap(world.answer, [(place, identifier, "ann", "approve")] * 8, chunksize=1)
    assert Counter(said) == {"pending": 1, "ApprovalRefused": 7}


def test_a_grant_is_used_once(pool: Pool, place: Place) -> None:
    identifier = world.ask(place, 0)
    for name in ("ann", "ben"):
        world.answer(place, identifier, name, "approve")
    said = Counter(pool.starmap(world.use, [(place, identifier)] * 8, chunksize=1))
    assert said == {"used": 1, "ApprovalRefused": 7}


def test_a_rejection_and_a_use_at_the_same_moment_agree(pool: Pool, place: Place) -> None:
    for _ in range(5):
        identifier = world.ask(place, 0)
        for name in ("ann", "ben"):
            world.answer(place, identifier, name, "approve")
        using = pool.apply_async(world.use, (place, identifier))
        rejecting = pool.apply_async(world.answer, (place, identifier, "cat", "reject"))
        outcome = using.get(30), rejecting.get(30)
        with Replica(place) as replica:
            status = replica.desk.get(identifier).status
        assert (status, outcome) in {
            (ApprovalStatus.CONSUMED, ("used", "ApprovalRefused")),
            (ApprovalStatus.REJECTED, ("ApprovalRefused", "rejected")),
        }


def test_a_replica_with_another_key_is_refused(pool: Pool, place: Place, tmp_path: Path) -> None:
    other = Place(place.url, tmp_path / "other.key")
    assert [world.claim(p) for p in (place, other, place)] == ["claimed", "ConfigError", "claimed"]


def test_of_two_keys_that_come_to_an_empty_log_at_once_one_wins(
    pool: Pool, place: Place, tmp_path: Path
) -> None:
    places = [Place(place.url, tmp_path / f"{n}.key") for n in range(PROCESSES)]
    said = Counter(pool.map(world.claim, places, chunksize=1))
    assert said == {"claimed": 1, "ConfigError": PROCESSES - 1}
