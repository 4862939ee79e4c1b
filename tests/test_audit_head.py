"""Whoever can write to the store, and has no key, cannot make the gateway sign for what they wrote."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, delete, insert, select, update

from hoop_core.audit import log as module
from hoop_core.audit.checkpoint import LogKey, Signer, load_or_create_key
from hoop_core.audit.head import Head, KnownTree, open_head
from hoop_core.audit.log import AuditLog
from hoop_core.audit.merkle import Frontier, leaf_hash, root_of
from hoop_core.audit.stored import stored_entries
from hoop_core.errors import ConfigError, EvidenceError, StoreUnavailable
from hoop_core.model import Json
from hoop_core.store import Store
from hoop_core.store.tables import log_entries, log_head
from tests.postgres_server import BOTH

DATABASES = BOTH
real_now = module.utc_now


def head_of(store: Store) -> Head:
    with store.read() as connection:
        row = connection.execute(select(log_head)).one()
    return Head(row.size, bytes(row.subtrees), row.at, row.checkpoints, row.note, row.writer)


def set_head(store: Store, **changes: object) -> None:
    with store.write() as connection:
        connection.execute(update(log_head).values(**changes))


def restarted(store: Store, key: Signer) -> AuditLog:
    log = AuditLog(store, key)
    log.claim()
    return log


def test_the_head_is_that_of_all_entries_after_each_append(log: AuditLog, store: Store) -> None:
    for number in range(5):
        log.append("test", {"n": number})
        tree = open_head(head_of(store), log.key.verifier_key)
        assert tree.size == number + 1
        assert tree.root() == root_of(e.leaf for e in stored_entries(store))


def test_an_entry_that_somebody_put_into_the_store_is_never_signed(
    log: AuditLog, store: Store
) -> None:
    log.append("test", {})
    forged = b'{"at":"2026-01-01T00:00:00.000000Z","data":{},"kind":"x","seq":1,"session":null}'
    row = {"seq": 1, "kind": "x", "entry": forged.decode(), "leaf": leaf_hash(forged)}
    with store.write() as connection:
        connection.execute(insert(log_entries).values(**row))
    with pytest.raises(StoreUnavailable):
        log.append("test", {})
    assert log.checkpoint().size == 1
    with pytest.raises(StoreUnavailable):
        restarted(store, log.key).append("test", {})


@pytest.mark.parametrize("restart", [False, True])
def test_a_head_that_was_made_to_fit_other_entries_is_refused(
    log: AuditLog, store: Store, *, restart: bool
) -> None:
    for _ in range(3):
        log.append("test", {})
    set_head(store, size=2, subtrees=bytes(32), note=head_of(store).note.replace("\n3\n", "\n2\n"))
    with pytest.raises(StoreUnavailable, match="not genuine"):
        (restarted(store, log.key) if restart else log).append("test", {})


def test_a_head_signed_by_a_writer_that_the_log_does_not_vouch_for_is_refused(
    log: AuditLog, store: Store, tmp_path: Path
) -> None:
    log.append("test", {})
    stranger = load_or_create_key(tmp_path / "stranger", log.key.name)
    other = Store(f"sqlite:///{tmp_path / 'other.db'}")
    other.migrate()
    AuditLog(other, stranger).append("test", {})
    theirs = head_of(other)
    other.close()
    set_head(store, note=theirs.note, writer=theirs.writer, subtrees=theirs.subtrees, at=theirs.at)
    with pytest.raises(StoreUnavailable, match="not genuine"):
        log.append("test", {})


def test_a_checkpoint_does_not_pass_for_a_voucher(log: AuditLog, store: Store) -> None:
    log.append("test", {})
    set_head(store, writer=log.checkpoint().note, note="")
    with pytest.raises(EvidenceError, match="vouch"):
        open_head(head_of(store), log.key.verifier_key)


def test_an_older_state_of_the_store_is_noticed_by_who_has_seen_a_later_one(
    log: AuditLog, store: Store
) -> None:
    log.append("test", {})
    before = head_of(store)
    log.append("test", {})
    with store.write() as connection:
        connection.execute(delete(log_entries).where(log_entries.c.seq == 1))
    set_head(store, size=before.size, subtrees=before.subtrees, note=before.note, at=before.at)
    with pytest.raises(StoreUnavailable, match="set back"):
        log.append("test", {})


def test_another_history_behind_an_older_state_is_noticed(
    log: AuditLog, store: Store, log_key: LogKey
) -> None:
    log.append("test", {"n": 0})
    before = head_of(store)
    log.append("test", {"n": 1})
    with store.write() as connection:
        connection.execute(delete(log_entries).where(log_entries.c.seq == 1))
    set_head(store, size=before.size, subtrees=before.subtrees, note=before.note, at=before.at)
    other = AuditLog(store, log_key)
    for _ in range(2):
        other.append("test", {"n": "another"})
    with pytest.raises(StoreUnavailable, match="set back"):
        log.append("test", {})


def test_a_head_that_is_gone_is_no_empty_log(log: AuditLog, store: Store) -> None:
    log.append("test", {})
    with store.write() as connection:
        connection.execute(delete(log_head))
    for late in (log, AuditLog(store, log.key)):
        with pytest.raises(StoreUnavailable, match="head is gone"):
            late.append("test", {})
    with pytest.raises(StoreUnavailable, match="not there"):
        restarted(store, log.key)


def test_a_log_that_lost_all_its_entries_does_not_begin_anew(log: AuditLog, store: Store) -> None:
    log.append("test", {})
    log.checkpoint()
    with store.write() as connection:
        connection.execute(delete(log_head))
        connection.execute(delete(log_entries))
    with pytest.raises(StoreUnavailable):
        restarted(store, log.key)


def test_replicas_follow_each_other(store: Store, log_key: LogKey) -> None:
    logs = [AuditLog(store, log_key) for _ in range(3)]
    for number in range(12):
        logs[number % 3].append("test", {"n": number})
    assert [e.seq for e in stored_entries(store)] == list(range(12))
    assert open_head(head_of(store), log_key.verifier_key).size == 12


def test_who_is_far_behind_reads_it_without_holding_others_up(
    store: Store, log_key: LogKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind, ahead = AuditLog(store, log_key), AuditLog(store, log_key)
    behind.append("test", {})
    for _ in range(12):
        ahead.append("test", {})
    followed: list[bool] = []
    monkeypatch.setattr(KnownTree.of, "__kwdefaults__", {"most": 5, "last": None})
    follow = behind.follow

    def following() -> None:
        followed.append(True)
        follow()

    monkeypatch.setattr(behind, "follow", following)
    assert behind.append("test", {}) == 13
    assert followed == [True]


def test_an_older_log_is_taken_over_only_when_asked_for(log: AuditLog, store: Store) -> None:
    for _ in range(3):
        log.append("test", {})
    with store.write() as connection:
        connection.execute(delete(log_head))
    late = AuditLog(store, log.key)
    tree = Frontier()
    tree.extend(e.leaf for e in stored_entries(store))
    late.adopt(tree)
    assert late.append("test", {}) == 3


def test_a_log_of_another_key_is_not_claimed(log: AuditLog, store: Store, tmp_path: Path) -> None:
    log.claim()
    other = load_or_create_key(tmp_path / "o.key", log.key.name)
    with pytest.raises(ConfigError, match="another key"):
        AuditLog(store, other).claim()


def test_times_never_go_back_when_the_clock_does_a_little(
    store: Store, log_key: LogKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = AuditLog(store, log_key)
    log.append("test", {})
    real = module.utc_now
    now = lambda *_: real() - timedelta(seconds=30)  # noqa: E731
    monkeypatch.setattr(module, "utc_now", now)
    monkeypatch.setattr(store, "now", now)
    log.append("test", {})
    first, second = stored_entries(store)
    assert first.at == second.at


def test_entries_tell_their_time_in_a_column_too(log: AuditLog, store: Store) -> None:
    log.append("test", {})
    (entry,) = stored_entries(store)
    assert entry.text.startswith(f'{{"at":"{entry.at}",')


def test_what_could_not_be_written_leaves_the_tree_and_the_lock_as_they_were(
    log: AuditLog, store: Store
) -> None:
    log.append("test", {})

    def fails(connection: Connection) -> Json:
        connection.execute(insert(log_entries).values(seq=1, kind="x", entry="{}", leaf=b"0"))
        return {}

    with pytest.raises(StoreUnavailable) as kept:
        log.append("test", fails)
    assert log.append("test", {}) == 1
    assert kept.value.text


def test_many_threads_of_many_replicas_make_one_order(store: Store, log_key: LogKey) -> None:
    patient = Store(str(store.url.render_as_string(hide_password=False)), busy_seconds=20)
    logs = [AuditLog(patient, log_key) for _ in range(4)]

    def write(log: AuditLog) -> None:
        for number in range(15):
            log.append("test", {"n": number})

    threads = [threading.Thread(target=write, args=(log,)) for log in logs for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [e.seq for e in stored_entries(patient)] == list(range(180))
    tree = open_head(head_of(patient), log_key.verifier_key)
    assert tree.root() == root_of(e.leaf for e in stored_entries(patient))
    patient.close()


def turned(monkeypatch: pytest.MonkeyPatch, store: Store, by: timedelta) -> None:
    clock = lambda *_: real_now() + by  # noqa: E731
    monkeypatch.setattr(module, "utc_now", clock)
    monkeypatch.setattr(store, "now", clock)


def test_a_clock_that_was_set_back_is_an_entry_once_and_no_time_goes_back(
    store: Store, log_key: LogKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = AuditLog(store, log_key)
    turned(monkeypatch, store, timedelta(days=10))
    log.append("test", {})
    turned(monkeypatch, store, timedelta(0))
    assert log.append("test", {}) == 2
    with pytest.raises(ZeroDivisionError):
        log.append("test", lambda _: {"n": 1 // 0})
    assert log.append_all("test", [{}, {}]) == range(3, 5)
    turned(monkeypatch, store, timedelta(days=20))
    log.append("test", {})
    turned(monkeypatch, store, timedelta(0))
    with pytest.raises(ZeroDivisionError):  # and with it the entry that tells of the clock
        log.append("test", lambda _: {"n": 1 // 0})
    log.append("test", lambda _: {})
    entries = list(stored_entries(store))
    assert [e.seq for e in entries if e.kind == "clock.set_back"] == [1, 6]
    assert [e.at for e in entries] == sorted(e.at for e in entries)
    told = json.loads(entries[1].text)["data"]
    assert told["clock"] < told["last"] == entries[0].at


def test_what_is_known_of_the_tree_does_not_shrink(log_key: LogKey) -> None:
    known, tree = KnownTree(log_key), Frontier()
    late = known.grown(tree.copy(), [], "", "")
    known.became(tree, late)
    grown = tree.copy()
    head = known.grown(grown, [{"leaf": bytes(32)}], "", "")
    known.became(grown, head)
    known.became(tree, late)
    assert (known.size, known.last) == (1, (grown, head.note))


def test_who_reads_while_others_write_is_not_told_of_a_log_set_back(
    log: AuditLog, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append("test", {})
    other = AuditLog(store, log.key)
    other.follow()
    log.append("test", {})
    of = KnownTree.of

    def slow(self: KnownTree, source: object, head: Head, **options: object) -> object:
        if self is other._tree:
            monkeypatch.setattr(KnownTree, "of", of)
            log.append("test", {})  # after the read began, and known here by another thread
            late = head_of(store)
            other._tree.became(open_head(late, log.key.verifier_key), late)
        return of(self, source, head, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(KnownTree, "of", slow)
    other.follow()
    assert other.size == 3


def test_nobodys_function_passes_for_the_database_clock(log: AuditLog, store: Store) -> None:
    if not store.shared:
        assert abs(store.now(None) - real_now()) < timedelta(minutes=5)  # type: ignore[arg-type]
        return
    log.append("test", {})
    with store.write() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql "
            "AS $$ SELECT '2025-01-01 10:00:00+00'::timestamptz $$"
        )
        name = connection.exec_driver_sql("SELECT current_database()").scalar_one()
        connection.exec_driver_sql(f'ALTER DATABASE "{name}" SET search_path = public, pg_catalog')
    late = Store(store.url.render_as_string(hide_password=False))
    late.attach()
    AuditLog(late, log.key).append("test", {})
    assert "2025" not in {e.at[:4] for e in stored_entries(late)}
    late.close()
    with store.write() as connection:
        connection.exec_driver_sql(f'ALTER DATABASE "{name}" RESET search_path')
        connection.exec_driver_sql("DROP FUNCTION public.clock_timestamp()")
