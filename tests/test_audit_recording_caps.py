"""What is kept of a result that is larger than a cap, and what the log says of it."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hoop_core.audit.recording import Recorder, Room


def digest(content: bytes) -> dict[str, Any]:
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def files(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in tmp_path.rglob("*") if p.is_file())


def test_a_part_within_the_cap_is_kept_to_its_last_byte(tmp_path: Path) -> None:
    part = Recorder(str(tmp_path), part_bytes=10).open_part("s", "a.arrow")
    part.write(b"12345", b"67890")
    told = part.close().as_json()
    assert told == {"path": "s/a.arrow", **digest(b"1234567890")}
    assert (tmp_path / "s/a.arrow").read_bytes() == b"1234567890"


def test_of_a_part_that_outgrows_the_cap_the_digest_of_all_of_it_is_kept(tmp_path: Path) -> None:
    part = Recorder(str(tmp_path), part_bytes=10).open_part("s", "a.arrow")
    for piece in (b"12345", b"67890", b"!", b"more"):
        part.write(piece)
    assert part.close().as_json() == {**digest(b"1234567890!more"), "cut": "part_bytes"}
    assert files(tmp_path) == []


def test_what_a_session_may_keep_counts_over_its_parts_and_says_so(tmp_path: Path) -> None:
    recorder = Recorder(str(tmp_path), session_bytes=8)
    told = []
    for name in ("a", "b", "c"):
        part = recorder.open_part("s", name)
        part.write(b"12345")
        told.append(part.close().as_json())
    assert [t.get("cut") for t in told] == [None, "session_bytes", "session_bytes"]
    assert files(tmp_path) == ["a"]
    other = recorder.open_part("other", "a")
    other.write(b"12345")
    assert "cut" not in other.close().as_json()


def test_what_another_process_recorded_of_the_session_counts(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s/earlier").write_bytes(b"1234567")
    part = Recorder(str(tmp_path), session_bytes=8).open_part("s", "a")
    part.write(b"12")
    assert part.close().cut == "session_bytes"


def test_what_was_asked_and_answered_is_kept_whatever_the_caps_say(tmp_path: Path) -> None:
    recorder = Recorder(str(tmp_path), part_bytes=1, session_bytes=1)
    kept, cut = recorder.open_exchange("s", 1).write({"asked": "SELECT 1"}, b"rows")
    assert [r.path for r in kept] == ["s/00001-exchange.json"]
    assert cut is not None and cut.as_json() == {**digest(b"rows"), "cut": "part_bytes"}
    assert files(tmp_path) == ["00001-exchange.json"]


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(0, 200))
def test_a_room_never_gives_more_than_it_has(sizes: list[int], has: int) -> None:
    room = Room(has)
    assert sum(size for size in sizes if room.take(size)) <= has


def test_a_room_is_shared_by_threads_without_giving_twice() -> None:
    room, given_ = Room(1000), []

    def take() -> None:
        given_.extend(1 for _ in range(400) if room.take(1))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(given_) == 1000


@pytest.mark.parametrize("caps", [{}, {"part_bytes": 0, "session_bytes": 0}])
def test_without_caps_all_is_kept(tmp_path: Path, caps: dict[str, int]) -> None:
    part = Recorder(str(tmp_path), **caps).open_part("s", "a")
    part.write(b"x" * 1_000_000)
    assert part.close().path == "s/a"
