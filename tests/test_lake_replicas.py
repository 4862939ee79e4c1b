"""Several processes follow the log into the same Parquet files, and die or are held up: each entry is there once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hoop_core.audit.log import AuditLog
from hoop_core.errors import StoreUnavailable
from hoop_core.lake import writer as lake_writer
from hoop_core.lake.files import Lake
from hoop_core.lake.writer import LakeWriter
from hoop_core.store import Store
from tests.lake_world import Killed, World, killed
from tests.postgres_server import BOTH

DATABASES = BOTH


@pytest.fixture
def world(store: Store, log: AuditLog, tmp_path: Path) -> Iterator[World]:
    log.append("log.begun", {})
    yield World(store, log, tmp_path)


# ---------------------------------------------------------------------- once


@pytest.mark.parametrize("who", ["one", "other"])
def test_a_process_that_dies_between_the_files_and_the_note_leaves_each_entry_once(
    world: World, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    world.session(1, "a@x")
    monkeypatch.setattr(LakeWriter, "_written", killed)
    with pytest.raises(Killed):
        world.writer("one").step()
    assert world.values() == ["SELECT 'a@x'", "a@x"]  # the files are there, the note is not
    monkeypatch.undo()
    world.session(2, "b@x")
    world.overdue()
    writer = world.writer(who)
    while writer.step():
        pass
    assert world.values() == ["SELECT 'a@x'", "SELECT 'b@x'", "a@x", "b@x"]
    assert world.whole()


def test_replicas_that_write_at_once_write_each_entry_once(world: World) -> None:
    for number in range(4):
        world.session(number, f"{number}@x")
    faults: list[BaseException] = []

    def follow(writer: LakeWriter) -> None:
        try:
            for _ in range(8):
                with suppress(StoreUnavailable):  # busy: it comes again
                    writer.step()
                world.overdue()  # nobody is ever sure of its claim
        except BaseException as e:
            faults.append(e)

    writers = [world.writer(owner, entries=2) for owner in ("a", "b")]
    threads = [threading.Thread(target=follow, args=(w,)) for w in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert world.whole()
    assert world.ask("SELECT count(*) FROM results") == [(4,)]


# ---------------------------------------------------------------------- purges


def test_one_that_was_held_up_does_not_bring_back_what_was_pruned(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It read the log, slept while others wrote and pruned, and goes on."""
    policy = world.policy()
    world.session(1, "a@x")
    slow, quick = world.writer("slow"), world.writer("quick")
    real: Callable[..., Any] = Lake.writing

    def late(lake: Lake, file: Any) -> Any:
        monkeypatch.setattr(Lake, "writing", real)
        world.overdue()
        while quick.step():
            pass
        world.prune(policy)
        while quick.step():
            pass
        assert world.values() == []
        return real(lake, file)

    monkeypatch.setattr(Lake, "writing", late)
    assert not slow.step()
    assert world.values() == []
    assert world.whole()


def test_a_purge_is_gone_through_again_by_whoever_comes_after_a_crash(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = world.policy()
    world.session(1, "a@x")
    world.writer("one").step()
    world.prune(policy)
    real = lake_writer._rewrite

    def then_killed(*args: Any) -> None:
        real(*args)
        raise Killed

    monkeypatch.setattr(lake_writer, "_rewrite", then_killed)  # the results are not reached
    with pytest.raises(Killed):
        world.writer("one").step()
    monkeypatch.undo()
    assert world.values() == ["a@x"]
    world.overdue()
    world.writer("other").step()
    assert world.values() == []
    assert world.whole()
