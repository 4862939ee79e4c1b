"""Replay reads the same from a store and from a bundle, also of a period, and no garbage."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from hoop_core.audit.log import AuditLog
from hoop_core.audit.recording import Recorder
from hoop_core.errors import ConfigError, EvidenceError
from hoop_core.replay.evidence import BundleSource, Source, StoreSource
from hoop_core.replay.session import Replay, Result
from hoop_core.replay.unsealing import Unsealer
from hoop_core.store import Store
from tests.replay_world import SESSION, RecordedLog

SQL = "SELECT id, email FROM c"


@pytest.fixture
def told() -> RecordedLog:
    told = RecordedLog()
    told.answer(told.ask(SQL), ["ID", "EMAIL"], [["1", "***@x.org"]])
    told.ask("SELECT * FROM nowhere.s.t")
    return told


def bundle(path: Path, told: RecordedLog, *, first: int = 0, **files: bytes) -> Path:
    """A bundle of the entries from `first` on; of those before what is shared is its context."""
    before = [e for e in told.entries[:first] if e["session"] is None]
    context = [{"seq": e["seq"], "entry": json.dumps(e), "path": []} for e in before]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("log/entries.jsonl", lines(told.entries[first:]))
        if first:
            archive.writestr("log/context.jsonl", lines(context))
        for name, content in told.files.items():
            archive.writestr(f"recordings/{name}", content)
        for name, content in files.items():
            archive.writestr(name.replace("__", "/"), content)
    return path


def lines(values: list[Any]) -> str:
    return "".join(json.dumps(v) + "\n" if v else "\n" for v in values)


def results(source: Source) -> list[tuple[Result, int]]:
    assert source.sessions() == [SESSION]
    return [(r.result, r.checked.files) for r in Replay(source, Unsealer()).session(SESSION)]


EXPECTED = [(Result.MATCHES, 2), (Result.MATCHES, 0)]


def test_a_bundle_is_replayed(told: RecordedLog, tmp_path: Path) -> None:
    assert results(BundleSource(bundle(tmp_path / "b.zip", told))) == EXPECTED


def test_a_bundle_of_a_period_rests_on_what_was_before_it(
    told: RecordedLog, tmp_path: Path
) -> None:
    first = next(e["seq"] for e in told.entries if e["kind"] == "statement.intent")
    assert results(BundleSource(bundle(tmp_path / "b.zip", told, first=first))) == EXPECTED


def test_a_store_is_replayed(
    told: RecordedLog, store: Store, log: AuditLog, tmp_path: Path
) -> None:
    folder = tmp_path / "rec"
    for path, content in told.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    for entry in told.entries:
        log.append(entry["kind"], entry["data"], session_id=entry["session"])
    assert results(StoreSource(store, Recorder(str(folder)))) == EXPECTED


def test_entries_whose_bodies_are_gone_are_passed_over(told: RecordedLog, tmp_path: Path) -> None:
    gone = [e if e["kind"] != "statement.refused" else None for e in told.entries]
    told.entries = gone  # type: ignore[assignment]
    assert results(BundleSource(bundle(tmp_path / "b.zip", told))) == EXPECTED[:1]


@pytest.mark.parametrize(
    "line",
    [b"garbage\n", b"[]\n", b'{"seq": 99}\n', b"[" * 100_000 + b"\n", b'{"seq":"x","kind":1}\n'],
)
def test_a_line_that_is_no_entry_is_an_error(
    told: RecordedLog, tmp_path: Path, line: bytes
) -> None:
    path = tmp_path / "b.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("log/entries.jsonl", lines(told.entries).encode() + line)
    with pytest.raises(EvidenceError, match="no entry"):
        BundleSource(path)


def test_entries_out_of_order_are_an_error(told: RecordedLog, tmp_path: Path) -> None:
    told.entries.append(told.entries[1])
    with pytest.raises(EvidenceError, match="follows"):
        BundleSource(bundle(tmp_path / "b.zip", told))


def test_what_is_no_bundle_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no zip")
    for path in (tmp_path / "x", tmp_path / "none", tmp_path):
        with pytest.raises(ConfigError):
            BundleSource(path)
