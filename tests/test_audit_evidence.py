"""Bundles: complete, and any change is found and named."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hoop_core.audit.checkpoint import load_or_create_key
from hoop_core.audit.log import AuditLog
from hoop_core.audit.recording import Recorded, Recorder
from hoop_core.audit.verify import verify_bundle, verify_store
from hoop_core.config import AuditSettings, Settings, StoreSettings
from hoop_core.errors import EvidenceError, StoreUnavailable
from hoop_core.evidence.bundle import Bundle, Population, export_bundle
from hoop_core.store import Store

Files = dict[str, bytes]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        store=StoreSettings(
            url=f"sqlite:///{tmp_path / 'e.db'}", recordings=str(tmp_path / "recordings")
        ),
        audit=AuditSettings(key_file=tmp_path / "e.key", origin="test.example/log"),
    )


@pytest.fixture
def bundle(settings: Settings, tmp_path: Path) -> Bundle:
    store = Store(settings.store.url)
    store.migrate()
    log = AuditLog(store, load_or_create_key(settings.audit.key_file, settings.audit.origin))
    recorder = Recorder(settings.store.recordings)
    for n in range(5):
        recorded = put(recorder, "ses_1", f"{n}.arrow", b"rows %d" % n)
        log.append("test.outcome", {"n": n, "recording": [recorded.as_json()]})
        if n == 2:
            log.checkpoint()
    part = put(recorder, "ses_1", "part.arrow", b"more")
    log.append("result.part", {"recording": part.as_json()})
    made = export_bundle(
        settings, tmp_path / "evidence.zip", Population("tester"), log=log, store=store
    )
    store.close()
    return made


def put(recorder: Recorder, session_id: str, name: str, content: bytes) -> Recorded:
    part = recorder.open_part(session_id, name)
    part.write(content)
    return part.close()


def _changed(bundle: Bundle, change: Callable[[Files], None]) -> Path:
    with zipfile.ZipFile(bundle.path) as archive:
        files = {n: archive.read(n) for n in archive.namelist()}
    change(files)
    out = bundle.path.with_name("changed.zip")
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out


def test_an_untouched_bundle_verifies_and_holds_everything(bundle: Bundle) -> None:
    report = verify_bundle(bundle.path, verifier_key=bundle.verifier_key)
    assert report.faults == ()
    assert (report.entries, report.recordings) == (7, 6)
    assert report.root == bundle.root


def _entry(files: Files, number: int, old: bytes, new: bytes) -> None:
    lines = files["log/entries.jsonl"].split(b"\n")
    assert old in lines[number]
    lines[number] = lines[number].replace(old, new, 1)
    files["log/entries.jsonl"] = b"\n".join(lines)


def _drop_entry(files: Files) -> None:
    lines = files["log/entries.jsonl"].split(b"\n")
    files["log/entries.jsonl"] = b"\n".join(lines[:3] + lines[4:])


def _swap_entries(files: Files) -> None:
    lines = files["log/entries.jsonl"].split(b"\n")
    lines[1], lines[2] = lines[2], lines[1]
    files["log/entries.jsonl"] = b"\n".join(lines)


def _back_date(files: Files) -> None:
    at = json.loads(files["log/entries.jsonl"].split(b"\n")[4])["at"].encode()
    _entry(files, 4, at, at.replace(b"20", b"19", 1))


def _older_tree(files: Files) -> None:
    for name in ("log/entries.jsonl", "log/leaves.txt"):
        files[name] = b"\n".join(files[name].split(b"\n")[:3]) + b"\n"


def _manifest(files: Files) -> None:
    files["manifest.json"] = files["manifest.json"].replace(b'"tester"', b'"nobody"')


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda f: _entry(f, 3, b'"n":3', b'"n":4'), "entry 3"),
        (_back_date, "entry 4"),
        (_drop_entry, "entry 3"),
        (_swap_entries, "entry 1"),
        (lambda f: f.update({"log/entries.jsonl": f["log/entries.jsonl"] * 2}), "entry 7"),
        (lambda f: f.update({"log/before.json": b'{"entries":0,"subtrees":[[0,"00"]]}'}), "log/before.json"),
        (lambda f: f.update({"verify.py": b"print('VERIFIED')"}), "verify.py"),
        (lambda f: f.update({"log/context.jsonl": b'{"entry":"{}","path":[],"seq":0}\n'}), "log/context.jsonl"),
        (lambda f: f.update({"tables/CC6.1-access.csv": b"seq\n"}), "tables/CC6.1-access.csv"),
        (lambda f: f.update({"recordings/ses_1/2.arrow": b"rows 3"}), "recordings/ses_1/2.arrow"),
        (lambda f: f.pop("recordings/ses_1/part.arrow"), "recordings/ses_1/part.arrow"),
        (lambda f: f.update({"recordings/ses_1/9.arrow": b"x"}), "recordings/ses_1/9.arrow"),
        (lambda f: f.update({"log/leaves.txt": b"00" + f["log/leaves.txt"][2:]}), "entry 0"),
        (lambda f: f.update({"log/checkpoints.json": b"[]"}), "log/checkpoints.json"),
        (_older_tree, "checkpoint 1"),
        (_manifest, "manifest.json"),
        (lambda f: f.pop("manifest.note"), "manifest.json"),
        (lambda f: f.update({"README.txt": b"trust me"}), "README.txt"),
    ],
)  # fmt: skip
def test_a_change_is_found_and_named(
    bundle: Bundle, change: Callable[[Files], None], place: str
) -> None:
    report = verify_bundle(_changed(bundle, change), verifier_key=bundle.verifier_key)
    assert not report.ok
    assert place in [f.place for f in report.faults]


def _contents(path: Path) -> Files | None:
    try:
        with zipfile.ZipFile(path) as archive:
            return {n: archive.read(n) for n in archive.namelist()}
    except Exception:
        return None


def test_a_flipped_bit_in_the_archive_is_found_unless_it_changes_nothing(bundle: Bundle) -> None:
    """The last bits of a deflate stream are padding: only there may a flip go unnoticed."""
    raw, original, found = bundle.path.read_bytes(), _contents(bundle.path), 0
    changed = bundle.path.with_name("flipped.zip")
    with zipfile.ZipFile(bundle.path) as archive:
        spans = [
            (i.header_offset + 30 + len(i.filename), i.compress_size) for i in archive.infolist()
        ]
    for start, size in spans:
        for at in range(start, start + size, max(1, size // 7)):
            changed.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
            if _contents(changed) != original:
                found += 1
                assert not verify_bundle(changed, verifier_key=bundle.verifier_key).ok
    assert found > 50


def test_a_bundle_signed_by_another_key_fails_against_the_pinned_one(
    bundle: Bundle, tmp_path: Path
) -> None:
    other = load_or_create_key(tmp_path / "other", "test.example/log")
    assert not verify_bundle(bundle.path, verifier_key=other.verifier_key).ok


def test_something_else_than_a_bundle_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"not a zip")
    with pytest.raises(EvidenceError, match="not an evidence bundle"):
        verify_bundle(tmp_path / "x.zip")


def test_a_store_verifies_until_an_entry_is_changed(bundle: Bundle, settings: Settings) -> None:
    assert verify_store(settings.store.url, verifier_key=bundle.verifier_key).ok
    store = Store(settings.store.url)
    with store.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE log_entries SET entry = replace(entry, '\"n\":1', '\"n\":9') WHERE seq = 1"
        )
    store.close()
    report = verify_store(settings.store.url)
    assert report.faults[0].place == "entry 1"


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ("UPDATE log_entries SET kind = 'other' WHERE seq = 2", "entry 2"),
        ("UPDATE log_entries SET session_id = 'other' WHERE seq = 2", "entry 2"),
        ("UPDATE log_entries SET entry = 'no JSON' WHERE seq = 2", "entry 2"),
        ("DELETE FROM log_entries WHERE seq = 2", "entry 2"),
        ("DELETE FROM log_entries WHERE seq > 4", "entry 5"),
        ("UPDATE log_entries SET at = '2020-01-01T00:00:00.000000Z' WHERE seq = 2", "entry 2"),
        ("UPDATE log_entries SET entry = '' WHERE seq = 2", "entry 2"),
        ("UPDATE log_entries SET leaf = zeroblob(32), entry = '' WHERE seq = 2", "checkpoint 0"),
        ("UPDATE log_entries SET leaf = zeroblob(32) WHERE seq = 6", "entry 6"),
        (
            "INSERT INTO log_entries SELECT seq + 7, kind, session_id, entry, leaf, at FROM log_entries "
            "WHERE seq = 0",
            "entry 7",
        ),
        ("UPDATE log_head SET size = size + 1", "entry 7"),
        ("UPDATE log_head SET at = '2030-01-01T00:00:00.000000Z'", "the head"),
        ("DELETE FROM log_head", "the head"),
        ("DELETE FROM log_checkpoints WHERE size > 4", "the checkpoints"),
        ("DELETE FROM log_checkpoints", "the checkpoints"),
    ],
)
def test_a_change_in_the_store_is_found_and_named(
    bundle: Bundle, settings: Settings, change: str, place: str
) -> None:
    store = Store(settings.store.url)
    with store.engine.begin() as connection:
        connection.exec_driver_sql(change)
    store.close()
    report = verify_store(settings.store.url, verifier_key=bundle.verifier_key)
    assert report.faults[0].place == place


def test_nothing_can_be_put_before_or_beside_the_files_of_a_bundle(bundle: Bundle) -> None:
    changed = bundle.path.with_name("framed.zip")
    changed.write_bytes(b"#!/bin/sh\n" + bundle.path.read_bytes())
    assert not verify_bundle(changed, verifier_key=bundle.verifier_key).ok
    changed.write_bytes(bundle.path.read_bytes())
    with zipfile.ZipFile(changed, "a") as archive:
        archive.comment = b"signed by the CISO"
    assert not verify_bundle(changed, verifier_key=bundle.verifier_key).ok


def test_a_report_says_whose_key_it_believed(bundle: Bundle) -> None:
    assert not verify_bundle(bundle.path).key_given
    assert verify_bundle(bundle.path, verifier_key=bundle.verifier_key).key_given


def test_a_recording_is_never_overwritten(settings: Settings) -> None:
    recorder = Recorder(settings.store.recordings)
    put(recorder, "s", "a", b"1")
    with pytest.raises(Exception, match="cannot be written"):
        put(recorder, "s", "a", b"2")


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden"])
def test_a_recording_stays_in_its_folder(settings: Settings, name: str) -> None:
    with pytest.raises(Exception, match="not a name"):
        put(Recorder(settings.store.recordings), "s", name, b"")


def test_files_that_are_discarded_leave_nothing_and_kept_ones_stay(settings: Settings) -> None:
    recorder = Recorder(settings.store.recordings)
    recorder.open_exchange("s", 1).discard()
    kept = recorder.open_exchange("s", 2)
    written, _ = kept.write({"asked": 1}, b"rows")
    kept.discard()
    without_rows, _ = recorder.open_exchange("s", 3).write({"asked": 2}, b"")
    names = [r.path for r in (*written, *without_rows)]
    assert names == ["s/00002-exchange.json", "s/00002-part-00000.arrow", "s/00003-exchange.json"]
    assert sorted(f"s/{f.name}" for f in Path(settings.store.recordings, "s").iterdir()) == names
    assert recorder.read(names[1]) == b"rows"


def test_where_one_file_cannot_be_made_the_other_is_not_left(settings: Settings) -> None:
    recorder = Recorder(settings.store.recordings)
    put(recorder, "s", "00001-part-00000.arrow", b"there already")
    with pytest.raises(StoreUnavailable):
        recorder.open_exchange("s", 1)
    assert [f.name for f in Path(settings.store.recordings, "s").iterdir()] == [
        "00001-part-00000.arrow"
    ]
