"""After prune: store, bundle and the auditor's own verifier still say verified, and only because the log tells of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from hoop_core.audit.holds import Holds
from hoop_core.audit.log import utc_now
from hoop_core.audit.prune import Pruned, Pruning
from hoop_core.audit.stored import stored_entries
from hoop_core.audit.verify import Report, verify_store
from hoop_core.errors import ConfigError, StoreUnavailable
from hoop_core.evidence.criteria import COLUMNS
from hoop_core.policy.file import parse_policy
from hoop_core.store.tables import log_entries
from tests.evidence_world import POLICY, World, person
from tests.test_evidence_bundle import alone, table

RETENTION = """
retention:
  - {name: kept, keep: forever, sessions: [ses_kept]}
  - {name: all, keep: 30d}
"""
LATER = timedelta(days=31)


class Scene:
    """A log of which all but what `ses_kept` rests on is over."""

    def __init__(self, folder: Path, retention: str = RETENTION) -> None:
        self.world = World.made(folder)
        self.policy = parse_policy(POLICY + retention, "p.yaml")
        digest = self.policy.digest
        self.world.say("policy.loaded", {"digest": digest, "text": self.policy.text})
        self.world.sign_in("ses_gone")
        self.asked("apr_1")
        self.asked("apr_2")
        self.world.statement("ses_gone", policy=digest)
        self.late()
        used = {"approval": "apr_1", "decision": "require_approval", "policy": digest}
        self.world.statement("ses_kept", snowflake_user="U_pool", **used)
        self.world.sign_out("ses_gone")

    def asked(self, approval: str) -> None:
        """In a session that will be gone, and answered by a person, who is in none."""
        question = {"requester": person("agent"), "kind": "delete", "policy_digest": "p1"}
        asked = {"approval": approval, "binding": "b", "quorum": 1, "question": question}
        self.world.say("approval.requested", asked, "ses_gone")
        self.world.answer(approval, "alice")

    def late(self) -> None:
        """A session with a user that was minted ahead."""
        user = {"snowflake_user": "U_pool", "lease_id": "l/pool", "account": "A"}
        self.world.say("credential.minted", user, "pool")
        self.world.say("session.opened", {"identity": person("agent")}, "ses_kept")
        self.world.say("credential.assigned", user, "ses_kept")

    def prune(self) -> Pruned:
        w = self.world
        pruning = Pruning(w.store, w.log, self.policy, w.settings.store.recordings)
        found = pruning.run(by="ann", reason="over", now=utc_now() + LATER)
        w.log.checkpoint()
        return found

    def verified(self) -> Report:
        w = self.world
        return verify_store(
            w.settings.store.url,
            verifier_key=w.log.key.verifier_key,
            recordings=w.settings.store.recordings,
        )

    def faults(self) -> list[str]:
        return [f"{f.place} {f.what}" for f in self.verified().faults]

    def bodies(self) -> dict[int, tuple[str, str]]:
        """Kind and session of what still has its body."""
        return {
            e.seq: (e.kind, e.session_id or "") for e in stored_entries(self.world.store) if e.text
        }

    def recording(self, session: str) -> Path:
        (found,) = (Path(self.world.settings.store.recordings) / session).iterdir()
        return found


@pytest.fixture
def pruned(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.world.store.close()


def test_a_pruned_store_verifies_with_all_that_its_entries_rest_on(pruned: Scene) -> None:
    assert pruned.faults() == []
    gone = pruned.prune()
    report = pruned.verified()
    assert (report.faults, report.pruned) == ((), gone.entries)
    assert (gone.entries > 0, gone.recordings, report.recordings) == (True, 1, 1)
    kept = list(pruned.bodies().values())
    assert ("credential.minted", "pool") in kept
    assert [kind for kind, _ in kept if kind.startswith("approval.")] == [
        "approval.requested",
        "approval.answered",
    ]
    assert not [k for k, s in kept if s == "ses_gone" and k != "approval.requested"]


def test_its_bundle_verifies_by_itself_and_its_tables_tell_what_went(pruned: Scene) -> None:
    Holds(pruned.world.store, pruned.world.log).place("matter 7", {"people": ["eve"]}, by="ann")
    gone = pruned.prune()
    bundle = pruned.world.bundle()
    ran = alone(bundle.path, "--key", bundle.verifier_key, "--json")
    report = json.loads(ran.stdout)
    assert (ran.returncode, report["faults"]) == (0, [])
    assert (report["pruned"], report["recordings"]) == (gone.entries, 1)
    rows = table(bundle, "C1.2-purges")
    hold, *purges = rows
    assert (hold["what"], hold["scope"], hold["reason"]) == (
        "held",
        '{"people": ["eve"]}',
        "matter 7",
    )
    assert sum(int(r["count"]) for r in purges) == gone.entries
    assert {(r["what"], r["class"], r["keep"], r["by"]) for r in purges} == {
        ("pruned", "all", "30d", "ann")
    }
    assert "ses_gone/" in "".join(r["recordings"] for r in purges)
    assert all(r["policy_digest"] == pruned.policy.digest for r in purges)


def test_recordings_that_went_before_their_entries_are_no_fault(tmp_path: Path) -> None:
    sooner = Scene(tmp_path, "\nretention: [{name: all, keep: forever, recordings: 7d}]\n")
    assert sooner.prune().recordings == 2
    assert sooner.faults() == []
    assert alone(sooner.world.bundle().path).returncode == 0
    sooner.world.store.close()


def test_an_entry_that_is_emptied_without_a_record_is_named(pruned: Scene) -> None:
    pruned.prune()
    seq = next(s for s, (k, _) in pruned.bodies().items() if k == "statement.outcome")
    with pruned.world.store.write() as connection:
        connection.execute(update(log_entries).where(log_entries.c.seq == seq).values(entry=""))
    assert f"entry {seq} is empty, and no entry tells that it was pruned" in pruned.faults()
    ran = alone(pruned.world.bundle().path, "--json")
    assert ran.returncode == 1
    assert {"place": f"entry {seq}", "what": "is empty, and no entry tells that it was pruned"} in (
        json.loads(ran.stdout)["faults"]
    )


def test_a_recording_that_is_removed_without_a_record_is_named(pruned: Scene) -> None:
    pruned.prune()
    file = pruned.recording("ses_kept")
    file.unlink()
    (fault,) = pruned.faults()
    assert fault.startswith(f"recordings/ses_kept/{file.name} is missing")
    with pytest.raises(StoreUnavailable):
        pruned.world.bundle()


def test_what_others_rest_on_goes_with_the_last_of_them(pruned: Scene) -> None:
    pruned.prune()
    pruned.policy = parse_policy(POLICY + "\nretention: [{name: all, keep: 1d}]\n", "p.yaml")
    said = {"digest": pruned.policy.digest, "text": pruned.policy.text}
    pruned.world.say("policy.loaded", said)
    pruned.prune()
    left = {kind for kind, _ in pruned.bodies().values()}
    assert left == {"policy.loaded", "log.pruned"}
    assert pruned.faults() == []


def test_what_is_used_while_prune_runs_stays(
    pruned: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Pruning.look

    def then_used(pruning: Pruning, **options: object) -> object:
        found = look(pruning, **options)  # type: ignore[arg-type]
        pruned.world.say("session.noted", {"approval": "apr_2"}, "ses_kept")
        return found

    monkeypatch.setattr(Pruning, "look", then_used)
    with pytest.raises(ConfigError, match="used meanwhile"):
        pruned.prune()
    assert "apr_2" in "".join(
        e.text for e in stored_entries(pruned.world.store) if e.kind == "approval.requested"
    )
    assert pruned.faults() == []


def test_files_that_were_never_finished_go_with_their_session(pruned: Scene) -> None:
    left = pruned.recording("ses_gone").with_name("00099-part-00000.arrow")
    left.write_bytes(b"half of it")
    pruned.prune()
    assert not left.parent.exists()


def test_findings_have_columns_of_their_own(pruned: Scene) -> None:
    span = {"account": "A", "from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"}
    found = {"what": "login.unmediated", "user": "BOB", "why": "did not", "count": 2, "first": "x"}
    pruned.world.say("reconcile.run", {**span, "settled": True, "counts": {}, "unexplained": 2})
    pruned.world.say("reconcile.unexplained", {"account": "A", "run": 1, **found, "last": "y"})
    run, one = table(pruned.world.bundle(), "CC6.6-bypasses")
    assert set(run) == set(COLUMNS["bypasses"])
    assert (run["what"], run["count"], run["first"]) == ("compared", "2", span["from"])
    assert (one["what"], one["user"], one["count"], one["why"]) == (
        "login.unmediated", "BOB", "2", "did not",
    )  # fmt: skip
