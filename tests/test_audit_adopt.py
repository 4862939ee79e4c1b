"""A log without a head is taken over knowingly, and reading a whole log stays cheap however often it was signed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, select
from typer.testing import CliRunner

from hoop_core.audit import scan
from hoop_core.audit.canonical import canonical
from hoop_core.audit.checkpoint import LogKey
from hoop_core.audit.head import NO_HEAD
from hoop_core.audit.log import AuditLog
from hoop_core.audit.merkle import Frontier, leaf_hash
from hoop_core.audit.stored import stored_entries
from hoop_core.audit.verify import adopt_log, verify_store
from hoop_core.cli.root import app
from hoop_core.errors import EvidenceError
from hoop_core.store import Store
from hoop_core.store.tables import log_checkpoints, log_entries, log_head

AT = "2026-01-01T00:00:00.%06dZ"


def row(seq: int, at: str) -> scan.Row:
    text = canonical({"seq": seq, "at": at, "kind": "t", "session": None, "data": {}})
    return seq, b"t", None, text, leaf_hash(text), at.encode()


class Counting:
    """hashlib, counted."""

    def __init__(self) -> None:
        self.calls = 0

    def sha256(self, content: bytes) -> object:
        self.calls += 1
        return hashlib.sha256(content)


@pytest.mark.parametrize("entries", [512, 1024])
def test_each_root_is_made_once_however_many_checkpoints_there_are(
    monkeypatch: pytest.MonkeyPatch, entries: int
) -> None:
    rows = [row(n, AT % n) for n in range(entries)]
    monkeypatch.setattr(scan, "hashlib", counting := Counting())
    run = scan.check(rows, 0, entries, range(1, entries + 1))
    assert counting.calls == 2 * entries - 1
    tree = Frontier()
    for (size, subtrees), one in zip(run.inner, rows, strict=True):
        tree.append(one[4])
        assert (size, subtrees) == (tree.size, tree.subtrees())
    assert run.subtrees == tree.subtrees()


def test_an_entry_that_is_dated_before_the_one_before_it_is_a_fault() -> None:
    run = scan.check([row(0, AT % 1), row(1, AT % 3), row(2, AT % 2), row(3, AT % 2)], 0, 4, ())
    assert run.faults == [("entry 2", scan.BACKWARDS)]
    assert run.times == ((AT % 1).encode(), (AT % 2).encode())


def test_an_entry_that_is_dated_before_the_last_run_is_a_fault(
    store: Store, log_key: LogKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.write() as connection:
        for n, at in enumerate([AT % 5, AT % 6, AT % 2, AT % 3]):
            seq, _, _, text, leaf, _ = row(n, at)
            told = {"seq": seq, "kind": "t", "entry": text.decode(), "leaf": leaf, "at": at}
            connection.execute(insert(log_entries).values(**told))
    monkeypatch.setattr(scan, "_RUN", 2)
    faults = verify_store(str(store.url), verifier_key=log_key.verifier_key, story=False).faults
    assert ("an entry from 2 on", scan.BACKWARDS) in {(f.place, f.what) for f in faults}


def beheaded(log: AuditLog, store: Store, *, older: bool) -> AuditLog:
    """Three entries under a checkpoint and two after it, without a head; an older Hoop signed no empty log."""
    log.claim()
    for n in range(5):
        log.append("test", {"n": n})
        if n == 2:
            log.checkpoint()
    with store.write() as connection:
        connection.execute(delete(log_head))
        if older:
            connection.execute(delete(log_checkpoints).where(log_checkpoints.c.size == 0))
    return AuditLog(store, log.key)


def last(store: Store) -> dict[str, object]:
    return dict(
        json.loads([e for e in stored_entries(store) if e.kind == "log.adopted"][-1].text)["data"]
    )


def test_the_log_of_an_older_hoop_is_taken_over_and_tells_what_nobody_had_signed(
    log: AuditLog, store: Store
) -> None:
    late = beheaded(log, store, older=True)
    before = [e.at for e in stored_entries(store)]
    adopt_log(late, store, "operator")
    told = {"by": "operator", "entries": 5, "covered_by_checkpoint": 3, "not_covered": 2}
    assert last(store) == told | {"lost_head": False}
    with store.read() as connection:
        assert connection.scalar(select(log_head.c.at)) >= before[-1]
    assert verify_store(str(store.url), verifier_key=log.key.verifier_key, story=False).ok


def test_a_log_whose_head_was_taken_away_is_taken_over_only_by_who_says_so(
    log: AuditLog, store: Store
) -> None:
    late = beheaded(log, store, older=False)
    with pytest.raises(EvidenceError, match="somebody took it away"):
        adopt_log(late, store, "operator")
    adopt_log(late, store, "operator", lost_head=True)
    assert last(store)["lost_head"] is True


def test_a_published_head_of_more_entries_stops_the_taking_over(
    log: AuditLog, store: Store
) -> None:
    log.claim()
    for n in range(5):
        log.append("test", {"n": n})
    published = log.checkpoint().note
    with store.write() as connection:
        connection.execute(delete(log_entries).where(log_entries.c.seq >= 3))
        connection.execute(delete(log_checkpoints).where(log_checkpoints.c.size > 0))
        connection.execute(delete(log_head))
    late = AuditLog(store, log.key)
    with pytest.raises(EvidenceError, match="is missing"):
        adopt_log(late, store, "operator", heads=[published], lost_head=True)


@pytest.mark.parametrize("by_witness", [True, False])
def test_the_command_asks_the_witnesses_and_takes_published_heads(
    tmp_path: Path, log: AuditLog, store: Store, *, by_witness: bool
) -> None:
    log.claim()
    for n in range(5):
        log.append("test", {"n": n})
    heads, config = tmp_path / "heads.txt", tmp_path / "hoop.toml"
    heads.write_text(log.checkpoint().note)
    witness = f'[[audit.witnesses]]\nname = "w"\nfile = "{heads}"\n' if by_witness else ""
    config.write_text(
        f'[store]\nurl = "{store.url}"\n[audit]\norigin = "{log.key.name}"\n'
        f'key_file = "{tmp_path / "log.key"}"\n{witness}'
    )
    with store.write() as connection:
        connection.execute(delete(log_head))
        connection.execute(delete(log_entries).where(log_entries.c.seq == 4))
        connection.execute(delete(log_checkpoints).where(log_checkpoints.c.size > 0))
    command = ["audit", "adopt", "--config", str(config), "--unsafe-after-a-lost-head"]
    ran = CliRunner().invoke(app, command if by_witness else [*command, "--heads", str(heads)])
    assert ran.exit_code != 0 and "missing" in ran.output


def test_who_is_refused_for_a_missing_head_is_not_led_to_sign_for_what_is_there() -> None:
    assert "adopt" not in NO_HEAD
