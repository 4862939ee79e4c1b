"""Classes, holds and prune: what goes, what stays, and that the tree stays what it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, select, update

from hoop_core.audit.holds import Holds
from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.audit.merkle import Frontier
from hoop_core.audit.prune import Pruned, Pruning, _ranges
from hoop_core.audit.retention import Selecting, Selection
from hoop_core.audit.stored import stored_entries
from hoop_core.errors import ConfigError, StoreUnavailable
from hoop_core.model import Json
from hoop_core.policy.file import parse_policy
from hoop_core.policy.model import Policy
from hoop_core.store import Store
from hoop_core.store.tables import (
    approvals,
    leases,
    log_entries,
    purges,
    sessions,
)

EVERYTHING = "retention: [{name: all, keep: 30d}]\n"
LATER = timedelta(days=31)


class World:
    def __init__(self, store: Store, log: AuditLog, root: Path) -> None:
        self.store, self.log, self.root = store, log, root
        self.policy = self.load(EVERYTHING)

    def load(self, text: str) -> Policy:
        self.policy = parse_policy(f"version: 1\n{text}", "p.yaml")
        said = {"digest": self.policy.digest, "text": self.policy.text}
        self.log.append("policy.loaded", said)
        return self.policy

    def session(self, name: str, *, closed: bool = True, **asked: Any) -> str:
        """One session with one statement and its recording."""
        session = f"ses_{name}"
        who = {"subject": name, "name": name, "groups": asked.pop("groups", [])}
        now = utc_now()
        row = {"id": session, "identity_key": name, "body": {"who": name}, "opened_at": now}
        with self.store.write() as connection:
            connection.execute(insert(sessions).values(**row, closed_at=now if closed else None))
        opened = {"identity": who, "account": asked.pop("account", "ACME")}
        self.append("session.opened", opened, session)
        intent = {"reads": [], "writes": [], "identity": who, **asked}
        self.append("statement.intent", intent, session)
        self.append("statement.outcome", {"recording": [self.recorded(session)]}, session)
        return session

    def recorded(self, session: str) -> Json:
        path = self.root / session / "00001-exchange.json"
        path.parent.mkdir(parents=True)
        content = f"the secret of {session}".encode()
        path.write_bytes(content)
        return {
            "path": f"{session}/{path.name}",
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }

    def append(self, kind: str, data: Json, session: str | None = None) -> int:
        return self.log.append(kind, data, session_id=session)

    def pruning(self) -> Pruning:
        return Pruning(self.store, self.log, self.policy, str(self.root))

    def look(self, *, below: int | None = None) -> Selection:
        return self.pruning().look(now=utc_now() + LATER, below=below)

    def due(self, **options: Any) -> set[str]:
        return {d.unit.key for d in self.look(**options).due}

    def prune(self) -> Pruned:
        return self.pruning().run(by="ann", reason="over", now=utc_now() + LATER)

    def texts(self) -> dict[int, str]:
        return {e.seq: e.text for e in stored_entries(self.store)}

    def of(self, kind: str) -> list[Json]:
        return [
            json.loads(e.text)["data"]
            for e in stored_entries(self.store)
            if e.kind == kind and e.text
        ]


@pytest.fixture
def world(store: Store, log: AuditLog, tmp_path: Path) -> World:
    log.append("log.begun", {})
    return World(store, log, tmp_path / "recordings")


def root_of(store: Store) -> bytes:
    frontier = Frontier()
    for entry in stored_entries(store):
        frontier.append(entry.leaf)
    return frontier.root()


# ---------------------------------------------------------------------- what goes


def test_a_session_goes_with_all_its_entries_its_recordings_and_its_row(world: World) -> None:
    session = world.session("a")
    root = root_of(world.store)
    before = {e.seq: e.leaf for e in stored_entries(world.store)}
    pruned = world.prune()
    assert (pruned.entries, pruned.recordings) == (3, 1)
    assert [t for s, t in world.texts().items() if s in (2, 3, 4)] == ["", "", ""]
    assert not (world.root / session).exists()
    with world.store.read() as connection:
        assert connection.scalar(select(sessions.c.id).where(sessions.c.id == session)) is None
    (record,) = world.of("log.pruned")
    assert record["entries"] == [[2, 4]]
    leaves = b"".join(before[s] for s in (2, 3, 4))
    assert record["leaves_sha256"] == hashlib.sha256(leaves).hexdigest()
    assert record["recordings"][0]["path"] == f"{session}/00001-exchange.json"
    assert (record["class"], record["keep"], record["by"], record["reason"]) == (
        "all",
        "30d",
        "ann",
        "over",
    )
    after = {e.seq: e.leaf for e in stored_entries(world.store)}
    assert {s: after[s] for s in before} == before
    assert root != root_of(world.store)  # the purge record itself was added


def test_the_bytes_are_gone_from_the_databases_files(world: World, store: Store) -> None:
    world.session("a", sql="SELECT 'UNMISTAKABLE'")
    world.prune()
    file = Path(store.url.database or "")
    held = b"".join(p.read_bytes() for p in file.parent.glob(file.name + "*"))
    assert b"UNMISTAKABLE" not in held


def test_a_second_run_finds_nothing(world: World) -> None:
    world.session("a")
    world.prune()
    again = world.prune()
    assert (again.entries, again.recordings, again.records) == (0, 0, ())


def test_a_dry_run_changes_nothing(world: World) -> None:
    world.session("a")
    before = world.texts()
    assert world.due() == {"session/ses_a"}
    assert world.texts() == before


def test_nothing_goes_before_its_time(world: World) -> None:
    world.session("a")
    assert world.pruning().look(now=utc_now() + timedelta(days=29)).due == ()


def test_a_late_entry_keeps_the_whole_session(world: World) -> None:
    """A result that is fetched late is evidence of the same access."""
    world.session("a")
    last = world.append("result.part", {"number": 1}, "ses_a")
    late = (utc_now() + timedelta(days=5)).isoformat(timespec="microseconds")
    with world.store.write() as connection:
        connection.execute(
            update(log_entries)
            .where(log_entries.c.seq == last)
            .values(at=late.replace("+00:00", "Z"))
        )
    assert world.due() == set()


def test_recordings_may_go_sooner_than_entries(world: World) -> None:
    world.load("retention: [{name: all, keep: forever, recordings: 7d}]\n")
    session = world.session("a")
    pruned = world.prune()
    assert (pruned.entries, pruned.recordings) == (0, 1)
    assert not (world.root / session).exists()
    assert all(world.texts().values())
    assert world.prune().recordings == 0


def test_without_classes_nothing_is_removed(world: World) -> None:
    world.load("recordings: [{rows: all}]\n")
    with pytest.raises(ConfigError, match="says nothing about retention"):
        world.prune()


def test_a_policy_that_is_not_on_record_removes_nothing(world: World) -> None:
    world.session("a")
    world.policy = parse_policy("version: 1\nretention: [{name: x, keep: 1h}]\n", "p.yaml")
    with pytest.raises(ConfigError, match="not the one that the gateways have loaded"):
        world.prune()


# ---------------------------------------------------------------------- classes


SELECTORS = (
    "groups: [etl]",
    "accounts: [other]",
    "sessions: [ses_a]",
    "kinds: [statement.intent]",
    "kinds: ['result.*']",
    "tags: [card]",
    "groups: [etl, x], tags: [card]",
)
OTHERS = (
    "groups: [x], tags: [card]",
    "groups: [etl], tags: [free]",
    "accounts: [b]",
    "kinds: [a.b]",
)


def test_a_class_is_for_what_fits_every_one_of_its_selectors(world: World) -> None:
    world.session("a", groups=["etl"], account="OTHER", reads=["D.S.T"])
    world.append("result.part", {"number": 1}, "ses_a")
    for selector in (*SELECTORS, *OTHERS):
        world.load(
            "tags: {card: ['D.S.T.C'], free: ['D.S.U.C']}\n"
            f"retention: [{{name: longer, keep: 60d, {selector}}}, {{name: all, keep: 30d}}]\n"
        )
        assert ("session/ses_a" in world.due()) == (selector in OTHERS), selector


def test_of_several_classes_the_one_that_keeps_longest_counts(world: World) -> None:
    """Nobody gets rid of evidence by one more group."""
    world.load(
        "retention:\n"
        "  - {name: short, keep: 1d, groups: [trial]}\n"
        "  - {name: long, keep: forever, groups: [etl]}\n"
        "  - {name: all, keep: 1d}\n"
    )
    world.session("a", groups=["trial", "etl"])
    world.session("b", groups=["trial"])
    assert {k for k in world.due() if k.startswith("session")} == {"session/ses_b"}


def test_what_no_class_is_for_is_kept(world: World) -> None:
    world.load("retention: [{name: etl, keep: 1d, groups: [etl]}]\n")
    world.session("a")
    assert world.due() == set()


# ---------------------------------------------------------------------- what stays


def test_what_is_open_stays(world: World) -> None:
    world.session("open", closed=False)
    world.session("living")
    now = utc_now()
    row = {
        "lease_id": "l",
        "snowflake_user": "U_1_X",
        "session_id": "ses_living",
        "vault_role": "v",
        "snowflake_role": "R",
        "public_key_fingerprint": "f",
        "state": "pending",
        "created_at": now,
        "expires_at": now,
    }
    with world.store.write() as connection:
        connection.execute(insert(leases).values(**row))
    world.append("credential.minting", {"snowflake_user": "U_1"}, "pool")
    world.append("credential.minting", {"snowflake_user": "U_2"}, "pool")
    assert world.due() == {"entry/9"}
    assert world.look().kept["of an open session or a living user"] == 3


def request(world: World, name: str, status: str) -> None:
    now = utc_now()
    row = {
        "id": name,
        "binding": name,
        "requester_key": "k",
        "status": status,
        "approvers": [],
        "quorum": 1,
        "body": {"sql": "SELECT 1"},
        "created_at": now,
        "pending_until": now,
        "valid_seconds": 1,
    }
    with world.store.write() as connection:
        connection.execute(insert(approvals).values(**row))
    world.append("approval.requested", {"approval": name, "question": {}})
    world.append("approval.answered", {"approval": name})


def test_requests_stay_while_they_are_open_or_a_statement_that_stays_used_them(
    world: World,
) -> None:
    world.load("retention: [{name: etl, keep: forever, groups: [etl]}, {name: all, keep: 1d}]\n")
    for name, status in (("p", "pending"), ("g", "approved"), ("u", "consumed"), ("o", "rejected")):
        request(world, name, status)
    world.session("a", groups=["etl"], approval="u")
    assert {k for k in world.due() if k.startswith("request")} == {"request/o"}
    world.prune()
    with world.store.read() as connection:
        assert set(connection.scalars(select(approvals.c.id))) == {"p", "g", "u"}


def test_policies_and_catalogs_stay_while_an_entry_that_stays_names_them(world: World) -> None:
    world.load("retention: [{name: all, keep: 30d}]\nrecordings: [{rows: digest}]\n")
    named, digest = world.policy, world.policy.digest
    world.append("catalog.described", {"sha256": "c1", "object": {}})
    world.append("catalog.described", {"sha256": "c2", "object": {}})
    world.append("catalog.described", {"sha256": "c3", "object": {}})
    world.load(EVERYTHING)
    decision = {"decision": "allow", "policy_digest": digest}
    world.session("open", closed=False, decision=decision, catalog={"D.S.T": "c1", "D.S.U": None})
    due = world.look().due
    gone = {str(d.unit.digest) for d in due}
    # c3 is the last one that was described, and the last policy the one in force
    assert named.digest not in gone
    assert gone == {"c2"} | {
        d for d in gone if d == parse_policy(f"version: 1\n{EVERYTHING}", "p").digest
    }
    assert world.policy.digest in {d["digest"] for d in world.of("policy.loaded")}


def test_the_policy_in_force_stays(world: World) -> None:
    assert world.due() == set()


def test_what_a_follower_has_not_read_stays(world: World) -> None:
    world.session("a")
    world.session("b")
    assert world.due(below=6) == {"session/ses_a"}
    assert world.look(below=0).due == ()


# ---------------------------------------------------------------------- holds


HOLDING: tuple[Json, ...] = (
    {"sessions": ["ses_a"]},
    {"people": ["a"]},
    {"groups": ["x", "etl"]},
    {"accounts": ["acme"]},
    {"kinds": ["statement.*"]},
    {"kinds": ["session.opened"]},
    {"tables": ["d.s.t"]},
    {"people": ["a"], "groups": ["etl"]},
    {"from": "2020-01-01T00:00:00.000000Z"},
    {},
)
NOT_HOLDING: tuple[Json, ...] = (
    {"people": ["a"], "groups": ["other"]},
    {"sessions": ["ses_b"]},
    {"to": "2020-01-01T00:00:00.000000Z"},
    {"from": "2999-01-01T00:00:00.000000Z"},
)


def test_what_fits_all_of_a_holds_scope_stays_until_it_is_lifted(world: World) -> None:
    world.session("a", groups=["etl"], reads=["D.S.T"])
    holds = Holds(world.store, world.log)
    for scope in (*HOLDING, *NOT_HOLDING):
        hold = holds.place("matter 7", scope, by="ann")
        assert ("session/ses_a" in world.due()) == (scope in NOT_HOLDING), scope
        holds.lift(hold.id, "settled", by="ann")
        assert "session/ses_a" in world.due()
    assert len(world.of("hold.placed")) == len(world.of("hold.lifted")) == 14


def test_a_hold_counts_by_the_log_whatever_became_of_its_row(world: World) -> None:
    world.session("a")
    Holds(world.store, world.log).place("matter 7", {}, by="ann")
    with world.store.write() as connection:
        connection.exec_driver_sql("DELETE FROM legal_holds")
    assert world.due() == set()


def test_a_hold_that_is_placed_while_prune_runs_counts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.session("a")
    look = Selecting.run

    def then_held(selecting: Selecting) -> Selection:
        found = look(selecting)
        Holds(world.store, world.log).place("matter 7", {}, by="eve")
        return found

    monkeypatch.setattr(Selecting, "run", then_held)
    with pytest.raises(ConfigError, match="placed meanwhile"):
        world.prune()
    assert all(world.texts().values())


def test_holds_need_a_reason_and_lifting_one_that_is_in_force(world: World) -> None:
    holds = Holds(world.store, world.log)
    with pytest.raises(ConfigError, match="needs a reason"):
        holds.place(" ", {}, by="ann")
    hold = holds.place("matter 7", {}, by="ann")
    holds.lift(hold.id, "settled", by="ann")
    with pytest.raises(ConfigError, match="no hold"):
        holds.lift(hold.id, "again", by="ann")
    assert [h.lifted_at is None for h in holds.all()] == [False]


# ---------------------------------------------------------------------- crashes


def test_recordings_that_a_crash_left_go_with_the_next_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = world.session("a")

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(Pruning, "_remove", killed)
    with pytest.raises(Killed):
        world.prune()
    assert world.of("log.pruned")[0]["count"] == 3  # on record before anything is removed
    assert (world.root / session).exists()
    monkeypatch.undo()
    assert world.prune().finished == 1
    assert not (world.root / session).exists()
    assert len(world.of("log.pruned")) == 1


def test_a_purge_record_that_cannot_be_written_removes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = world.session("a")
    real: Callable[..., Any] = Store.lock

    def full(store: Store, *rest: Any) -> None:
        raise StoreUnavailable("full")

    monkeypatch.setattr(Store, "lock", full)
    with pytest.raises(StoreUnavailable):
        world.prune()
    monkeypatch.setattr(Store, "lock", real)
    assert all(world.texts().values())
    assert (world.root / session).exists()
    with world.store.read() as connection:
        assert connection.execute(select(purges)).all() == []


def test_a_recording_that_cannot_be_removed_is_named_and_tried_again(world: World) -> None:
    session = world.session("a")
    file = world.root / session / "00001-exchange.json"
    file.unlink()
    file.mkdir()  # what no removal of a file can remove
    with pytest.raises(StoreUnavailable, match="cannot be removed"):
        world.prune()
    file.rmdir()
    assert world.prune().finished == 1


def test_two_at_once_remove_everything_once(world: World) -> None:
    world.session("a")
    selection = world.look()
    world.prune()
    (due,) = selection.due
    with pytest.raises(StoreUnavailable, match="another process prunes"):
        world.pruning()._purge(due.rule, [due], selection, by="eve", reason="x")
    assert len(world.of("log.pruned")) == 1


@given(st.sets(st.integers(0, 60)))
def test_ranges_say_which_numbers_went(numbers: set[int]) -> None:
    ranges = _ranges(sorted(numbers))
    assert {n for a, b in ranges for n in range(a, b + 1)} == numbers
    assert all(b + 1 < c for (_, b), (c, _) in pairwise(ranges))


# ---------------------------------------------------------------------- the policy file


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[{name: a, keep: 5}]", "must be forever"),
        ("[{name: a, keep: 1m}]", "between 1h and"),
        ("[{name: a, keep: 40000d}]", "between 1h and"),
        ("[{name: a}]", "needs `keep`"),
        ("[{name: a, keep: 1d, recordings: 2d}]", "cannot be longer"),
        ("[{name: a, keep: 1d, recordings: forever}]", "cannot be longer"),
        ("[{name: a, keep: 1d}, {name: b, keep: 2d}]", "more than one"),
        ("[{name: a, keep: 1d, groups: [x]}, {name: a, keep: 2d}]", "two retention classes"),
        ("[{name: a, keep: 1d, kinds: [nonsense]}]", "no kind of entry"),
        ("[{name: a, keep: 1d, kinds: ['*']}]", "no kind of entry"),
        ("[{name: a, keep: 1d, tags: [none]}]", "unknown tag"),
        ("[{name: a, keep: 1d, group: [x]}]", "did you mean"),
    ],
)
def test_a_slip_in_the_policy_is_an_error(text: str, why: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_policy(f"version: 1\nretention: {text}\n", "p.yaml")
    assert why in error.value.text.replace("Did", "did")


def test_a_changed_retention_is_another_policy() -> None:
    one, other = (
        parse_policy(f"version: 1\nretention: [{{name: a, keep: {k}}}]\n", "p")
        for k in ("1d", "2d")
    )
    assert one.digest != other.digest
