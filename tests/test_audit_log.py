"""The log: gap-free, canonical, hashed as RFC 6962 says, and signed."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, insert, select

from hoop_core.audit import merkle
from hoop_core.audit.checkpoint import LogKey, load_or_create_key, open_checkpoint, open_note
from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.errors import ConfigError, EvidenceError, StoreUnavailable
from hoop_core.model import Json
from hoop_core.store import Store
from hoop_core.store.tables import log_checkpoints, log_entries
from tests.postgres_server import BOTH

DATABASES = BOTH


def _reference_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, written down as the recursion that the RFC gives."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    left, right = _reference_root(leaves[:split]), _reference_root(leaves[split:])
    return hashlib.sha256(b"\x01" + left + right).digest()


@given(st.lists(st.binary(max_size=8), max_size=70))
def test_the_frontier_gives_the_root_of_the_rfc(entries: list[bytes]) -> None:
    leaves = [merkle.leaf_hash(e) for e in entries]
    assert merkle.root_of(leaves) == _reference_root(leaves)


def test_sequence_numbers_have_no_gaps_with_many_writers(store: Store, log_key: LogKey) -> None:
    patient = Store(str(store.url), busy_seconds=20)
    patient.migrate()

    def write(writer: int) -> None:
        log = AuditLog(patient, log_key)
        for n in range(10):
            log.append("test", {"writer": writer, "n": n})

    threads = [threading.Thread(target=write, args=(w,)) for w in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert [e.seq for e in AuditLog(patient, log_key).entries()] == list(range(60))
    patient.close()


def test_an_entry_is_canonical_json_under_its_leaf_hash(log: AuditLog) -> None:
    log.append("test", {"b": 1, "a": "ü"}, session_id="s")
    (entry,) = log.entries()
    assert entry.leaf == merkle.leaf_hash(entry.text.encode())
    assert list(json.loads(entry.text)) == ["at", "data", "kind", "seq", "session"]


def test_hostile_text_is_logged_and_cannot_stop_the_log(log: AuditLog) -> None:
    log.append("test", {"sql": "\ud800 \x00 \u2028", "n": 2**80})
    (entry,) = log.entries()
    assert json.loads(entry.text)["data"] == {"sql": "\\ud800 \x00 \u2028", "n": str(2**80)}


def test_what_is_written_together_fails_together(log: AuditLog, store: Store) -> None:
    def write(connection: Connection) -> Json:
        connection.execute(insert(log_entries).values(seq=7, kind="x", entry="{}", leaf=b"0" * 32))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        log.append("test", write)
    assert list(log.entries()) == []


def test_a_checkpoint_opens_with_the_published_key_only(log: AuditLog, tmp_path: Path) -> None:
    log.append("test", {})
    signed = log.checkpoint()
    assert open_checkpoint(signed.note, log.key.verifier_key) == signed
    other = load_or_create_key(tmp_path / "other.key", log.key.name)
    with pytest.raises(EvidenceError):
        open_checkpoint(signed.note, other.verifier_key)


def test_a_changed_checkpoint_does_not_open(log: AuditLog) -> None:
    log.append("test", {})
    note = log.checkpoint().note.replace("\n1\n", "\n2\n")
    with pytest.raises(EvidenceError, match="wrong"):
        open_checkpoint(note, log.key.verifier_key)


def test_a_note_has_the_form_of_c2sp(log_key: LogKey) -> None:
    note = log_key.sign_note("hello\n")
    text, signature = note.split("\n\n")
    assert text == "hello"
    dash, name, blob = signature.rstrip("\n").split(" ")
    assert (dash, name) == ("—", log_key.name)
    assert len(base64.b64decode(blob)) == 4 + 64
    assert open_note(note, log_key.verifier_key) == "hello\n"


def test_the_key_file_is_private_and_stays_the_same(tmp_path: Path) -> None:
    first = load_or_create_key(tmp_path / "k", "a/b")
    assert (tmp_path / "k").stat().st_mode & 0o077 == 0
    assert load_or_create_key(tmp_path / "k", "a/b").public == first.public
    assert "PRIVATE" not in repr(first) and "private" not in repr(first)


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o606])
def test_a_key_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "log.key"
    load_or_create_key(file, "test/log")
    file.chmod(0o440)  # as Kubernetes mounts it for a group
    load_or_create_key(file, "test/log")
    file.chmod(mode)
    with pytest.raises(ConfigError, match="open to other users"):
        load_or_create_key(file, "test/log")


def test_an_origin_with_white_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load_or_create_key(tmp_path / "k", "a b")


def _waiting_at_once(log: AuditLog, *entries: tuple[str, object]) -> dict[str, object]:
    """Append all of them while the log is held, so that they meet in one transaction."""
    ended: dict[str, object] = {}

    def append(kind: str, data: object) -> None:
        try:
            ended[kind] = log.append(kind, data)  # type: ignore[arg-type]
        except Exception as e:
            ended[kind] = e

    threads = [threading.Thread(target=append, args=entry) for entry in entries]
    with log._writing:
        for thread in threads:
            thread.start()
        while len(log._waiting) < len(entries):
            pass
    for thread in threads:
        thread.join()
    return ended


def test_entries_that_wait_are_written_in_one_transaction(
    log: AuditLog, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    plainly, changing = Store.write_plainly, Store.write
    monkeypatch.setattr(Store, "write_plainly", lambda s: begun.append(1) or plainly(s))
    monkeypatch.setattr(Store, "write", lambda s: begun.append(1) or changing(s))
    ended = _waiting_at_once(log, *((f"k{n}", {"n": n}) for n in range(20)))
    assert sorted(ended.values()) == list(range(20))  # type: ignore[type-var]
    assert len(begun) == 1


@pytest.mark.parametrize("spoiled", [lambda _: 1 / 0, {"n": float("nan")}])
def test_an_entry_that_cannot_be_written_spoils_no_other(log: AuditLog, spoiled: object) -> None:
    ended = _waiting_at_once(log, ("a", {}), ("wrong", spoiled), ("b", {}))
    assert isinstance(ended.pop("wrong"), Exception)
    assert sorted(ended.values()) == [0, 1]  # type: ignore[type-var]
    assert [e.seq for e in log.entries()] == [0, 1]


def test_changes_of_a_refused_entry_are_undone_also_in_company(log: AuditLog, store: Store) -> None:
    def half_done(connection: Connection) -> Json:
        connection.execute(insert(log_checkpoints).values(size=9, note="n", signed_at=utc_now()))
        raise ValueError

    _waiting_at_once(log, ("a", {}), ("wrong", half_done), ("b", {}))
    with store.read() as connection:
        assert connection.execute(select(log_checkpoints)).all() == []


def test_all_that_wait_hear_when_the_store_is_gone(log: AuditLog, store: Store) -> None:
    def rename(old: str, new: str) -> None:
        with store.write() as connection:
            connection.exec_driver_sql(f"ALTER TABLE {old} RENAME TO {new}")

    rename("log_entries", "away")
    ended = _waiting_at_once(log, ("a", {}), ("b", {}))
    rename("away", "log_entries")
    assert all(isinstance(e, StoreUnavailable) for e in ended.values())
    assert ended["a"] is not ended["b"]
    assert list(log.entries()) == []
    assert log.append("c", {}) == 0


def test_an_entry_reads_the_same_whichever_way_it_was_written(log: AuditLog) -> None:
    content = {"text": "ü \U0001f600 \\ ' \"", "n": 1.5, "none": None}
    log.append("kind", content, session_id="s")
    log.append("kind", lambda _: content, session_id="s")
    plain, changed = log.entries()
    for entry in (plain, changed):
        told = json.loads(entry.text)
        assert told["data"] == content and told["session"] == "s"
        assert entry.leaf == merkle.leaf_hash(entry.text.encode())
    assert (plain.seq, changed.seq) == (0, 1)
