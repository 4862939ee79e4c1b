"""Who may end a lease: one at a time, never somebody's who is alive, at once what a dead process left."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from hoop_core.audit.log import AuditLog
from hoop_core.credentials.ledger import Ledger, NotOurs, installation
from hoop_core.credentials.minting import draft_id, stands_for
from hoop_core.model import Lease, LeaseState, RoleBinding
from hoop_core.replicas import Replicas
from hoop_core.store import Store
from hoop_core.store.tables import leases

NOW = datetime.now(UTC)


def lease(number: str = "1", *, draft: bool = False) -> Lease:
    return Lease(
        lease_id=draft_id(number) if draft else f"database/creds/ml-reader/{number}",
        snowflake_user=f"V_TOKEN_HOOP_ABCDEF_{number}" + ("" if draft else "_ML_READER_X_1"),
        role=RoleBinding("ml-reader", "ML_READER"), session_id="s1", created_at=NOW,
        expires_at=NOW + timedelta(hours=4), public_key_fingerprint="", account="ACME",
    )  # fmt: skip


def ledger(store: Store, log: AuditLog, owner: str, *, account: str = "ACME") -> Ledger:
    return Ledger(store, log, owner=owner, account=account)


def minted(book: Ledger, number: str = "1") -> Lease:
    book.asked(lease(number, draft=True))
    book.minted(lease(number, draft=True), lease(number))
    return lease(number)


def due(book: Ledger, *alive: str, force: bool = False, held: tuple[str, ...] = ()) -> list[str]:
    return [x.lease_id for x in book.due(alive, force=force, held=held)]


def test_what_a_living_process_uses_is_nobody_elses(store: Store, log: AuditLog) -> None:
    used = minted(ledger(store, log, "rep_a"))
    other = ledger(store, log, "rep_b")
    assert due(other, "rep_a", "rep_b") == due(other, "rep_a", "rep_b", force=True) == []
    with pytest.raises(NotOurs):
        other.ending(used, ["rep_a", "rep_b"])
    with pytest.raises(NotOurs):
        other.ending(used, None)


def test_what_a_dead_process_left_is_taken_by_exactly_one(store: Store, log: AuditLog) -> None:
    left = minted(ledger(store, log, "rep_dead"))
    alive = [f"rep_{n}" for n in range(4)]

    def claim(owner: str) -> bool:
        book = ledger(store, log, owner)
        assert due(book, *alive) in ([left.lease_id], [])
        try:
            book.ending(left, alive)
        except NotOurs:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(claim, alive)) == [False, False, False, True]


def test_a_claim_runs_out(store: Store, log: AuditLog) -> None:
    a, b = ledger(store, log, "rep_a"), ledger(store, log, "rep_b")
    left = minted(a)
    a.ending(left, None)
    both = "rep_a", "rep_b"
    assert due(b, *both, force=True) == []
    with pytest.raises(NotOurs):
        b.ending(left, both)
    with store.write() as connection:
        connection.execute(update(leases).values(claimed_until=NOW - timedelta(seconds=1)))
    assert due(b, *both, force=True) == [left.lease_id]
    b.ending(left, both)


def test_the_claim_of_a_process_that_died_while_ending_holds_up_nobody(
    store: Store, log: AuditLog
) -> None:
    left = minted(ledger(store, log, "rep_dead"))
    ledger(store, log, "rep_dead").ending(left, None)
    b = ledger(store, log, "rep_b")
    assert due(b, "rep_b") == [left.lease_id]
    b.ending(left, ["rep_b"])
    with pytest.raises(NotOurs):
        ledger(store, log, "rep_c").ending(left, ["rep_b", "rep_c"])


def test_a_failed_try_gives_the_claim_back_and_a_person_may_take_it(
    store: Store, log: AuditLog
) -> None:
    a, b = ledger(store, log, "rep_a"), ledger(store, log, "rep_b")
    left = minted(a)
    a.ending(left, None)
    a.unended(left, "Snowflake does not answer.")
    assert due(b, "rep_a", "rep_b") == []
    assert due(a, "rep_a", "rep_b") == [left.lease_id]
    assert due(b, "rep_a", "rep_b", force=True) == [left.lease_id]
    b.ending(left, ["rep_a", "rep_b"])
    with pytest.raises(NotOurs):
        a.ending(left, None)


def test_a_user_that_others_are_ending_serves_no_session(store: Store, log: AuditLog) -> None:
    """As when this process stood still, and the others took it for dead: its pool knows nothing of it."""
    a, b = ledger(store, log, "rep_a"), ledger(store, log, "rep_b")
    waiting = minted(a)
    b.ending(waiting, ["rep_b"])
    with pytest.raises(NotOurs):
        a.assigned(replace(waiting, session_id="s2"))
    b.ended(waiting, "show_users")
    with pytest.raises(NotOurs):
        a.assigned(replace(waiting, session_id="s2"))
    assert "credential.assigned" not in [json.loads(e.text)["kind"] for e in log.entries()]


def test_a_restarted_process_of_the_same_name_takes_its_predecessors_at_once(
    store: Store, log: AuditLog
) -> None:
    before, after = Replicas(store, name="host:1"), Replicas(store, name="host:1")
    before.join()
    left = minted(ledger(store, log, before.id))
    assert due(ledger(store, log, after.id), *before.alive(), after.id) == []
    after.join()
    assert due(ledger(store, log, after.id), *after.alive()) == [left.lease_id]


def test_what_a_process_has_lost_track_of_is_due_too(store: Store, log: AuditLog) -> None:
    book = ledger(store, log, "rep_a")
    mine = minted(book)
    assert due(book, "rep_a", held=(mine.lease_id,)) == []
    assert due(book, "rep_a") == [mine.lease_id]


def test_a_draft_that_is_being_ended_cannot_become_a_lease(store: Store, log: AuditLog) -> None:
    slow = ledger(store, log, "rep_slow")
    draft = lease(draft=True)
    slow.asked(draft)
    ledger(store, log, "rep_b").ending(draft, ["rep_b"])
    with pytest.raises(NotOurs):
        slow.minted(draft, lease())


def test_gone_is_for_good(store: Store, log: AuditLog) -> None:
    book = ledger(store, log, "rep_a")
    mine = minted(book)
    book.ending(mine, None)
    book.ended(mine, "show_users")
    book.unended(mine, "late")
    assert book.standing() == []
    with pytest.raises(NotOurs):
        book.ending(mine, None)


def test_accounts_do_not_touch_each_others_and_old_entries_are_the_defaults(
    store: Store, log: AuditLog
) -> None:
    minted(ledger(store, log, "rep_dead", account="DEV"), "2")
    with store.write() as connection:
        old = {"lease_id": "old", "snowflake_user": "V_OLD", "session_id": "s", "vault_role": "v",
               "snowflake_role": "R", "public_key_fingerprint": "", "state": LeaseState.ACTIVE,
               "created_at": NOW, "expires_at": NOW}  # fmt: skip
        connection.execute(leases.insert().values(**old))
    assert due(ledger(store, log, "rep_b"), "rep_b") == ["old"]
    dev = Ledger(store, log, owner="rep_b", account="DEV", default=False)
    assert due(dev, "rep_b") == [lease("2").lease_id]


def test_an_orphan_is_told_once_and_again_when_it_comes_back(store: Store, log: AuditLog) -> None:
    a, b = ledger(store, log, "rep_a"), ledger(store, log, "rep_b")
    found = a.orphan("V_TOKEN_HOOP_ABCDEF_9_X")
    assert found is not None and b.orphan("V_TOKEN_HOOP_ABCDEF_9_X") is None
    assert due(b, "rep_a", "rep_b") == [found.lease_id]
    b.ending(found, ["rep_a", "rep_b"])
    b.ended(found, "end_procedure")
    assert a.orphan("V_TOKEN_HOOP_ABCDEF_9_X") is not None
    assert [e.kind for e in log.entries()].count("credential.orphan") == 2


def test_what_a_list_may_rightly_show_is_no_orphan(store: Store, log: AuditLog) -> None:
    """It was listed, and ended before the store was looked at."""
    book = ledger(store, log, "rep_a")
    asked = datetime.now(UTC)
    mine = minted(book)
    book.ending(mine, None)
    book.ended(mine, "show_users")
    assert mine.snowflake_user in book.known(asked)
    assert book.known(asked + timedelta(hours=1)) == []


@pytest.mark.parametrize(
    ("entry", "user", "same"),
    [
        ("V_TOKEN_HOOP_ABCDEF_1", "V_TOKEN_HOOP_ABCDEF_1_ML_READER_x_17", True),
        ("V_TOKEN_HOOP_ABCDEF_1", "v_token_hoop_abcdef_1_ml", True),
        ("V_TOKEN_HOOP_ABCDEF_1", "V_TOKEN_HOOP_ABCDEF_12", False),
        ("V_TOKEN_HOOP_ABCDEF_1", "VXTOKENXHOOPXABCDEFX1", False),
        ("HOOP_ABCDEF_1", "HOOP_ABCDEF_1", True),
        ("", "HOOP_ADMIN", False),
    ],
)
def test_a_user_is_known_by_how_its_name_begins(entry: str, user: str, same: bool) -> None:
    assert stands_for(entry, user) is same


def test_an_installation_keeps_its_number_and_shares_it_with_nobody(
    store: Store, log: AuditLog, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first = installation(store, log)
    log.append("x", {})
    assert installation(store, log) == first and len(first) == 6 and int(first, 16) >= 0
    other = Store(f"sqlite:///{tmp_path_factory.mktemp('other') / 'o.db'}")
    other.migrate()
    assert installation(other, AuditLog(other, log.key)) != first
    other.close()
