"""A bundle of a period, from the auditor's chair: Python, cryptography and one file."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hoop_core.audit.retention import stamp
from hoop_core.audit.stored import stored_entries
from hoop_core.audit.verify import verify_bundle, verify_store
from hoop_core.errors import ConfigError
from hoop_core.evidence.bundle import Bundle
from hoop_core.evidence.criteria import COLUMNS, CRITERIA, chosen
from hoop_core.evidence.tables import cell
from tests.evidence_world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World.made(tmp_path)
    yield made
    made.store.close()


def alone(path: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """The bundle's own verify.py, in a process that can import nothing of Hoop."""
    folder = path.parent / "auditor"
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(path) as archive:
        (folder / "verify.py").write_bytes(archive.read("verify.py"))
    code = "import sys, runpy; sys.modules['hoop_core'] = None; sys.argv = sys.argv[1:]; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-I", "-c", code, str(folder / "verify.py"), str(path), *more]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def table(bundle: Bundle, name: str) -> list[dict[str, str]]:
    with zipfile.ZipFile(bundle.path) as archive:
        return list(csv.DictReader(io.StringIO(archive.read(f"tables/{name}.csv").decode())))


def right_behind(world: World) -> str:
    """A time after the last entry, and before the next one."""
    time.sleep(0.002)
    last = datetime.fromisoformat(list(stored_entries(world.store))[-1].at)
    return stamp(last + timedelta(microseconds=1))


def two_days(world: World) -> tuple[str, str]:
    """A session that is open over the border of a period, with an approval from before it."""
    world.sign_in("ses_1")
    world.statement("ses_1", 1)
    world.ask("apr_1", quorum=2)
    world.answer("apr_1", "alice", status="pending")
    world.log.checkpoint()
    open_intent = world.intent("ses_1", 2)
    begin = right_behind(world)
    world.outcome("ses_1", open_intent, 2)
    world.answer("apr_1", "bob")
    world.statement("ses_1", 3, approval="apr_1", decision="require_approval")
    world.log.checkpoint()
    world.sign_out("ses_1")
    end = right_behind(world)
    world.sign_in("ses_2")
    world.statement("ses_2", 1)
    world.sign_out("ses_2")
    return begin, end


def test_a_period_verifies_by_itself_with_all_that_it_rests_on(world: World) -> None:
    begin, end = two_days(world)
    bundle = world.bundle(begin=begin, end=end)
    ran = alone(bundle.path, "--key", bundle.verifier_key, "--json")
    report = json.loads(ran.stdout)
    assert (ran.returncode, report["faults"]) == (0, [])
    assert report["entries"] == bundle.entries < report["tree_size"]
    kinds = [json.loads(line)["kind"] for line in _lines(bundle, "log/entries.jsonl")]
    assert (kinds[0], kinds[-1]) == ("statement.outcome", "session.closed")
    context = [json.loads(json.loads(c)["entry"]) for c in _lines(bundle, "log/context.jsonl")]
    assert [c["kind"] for c in context] == [
        "policy.loaded", "credential.minted", "session.opened", "approval.requested",
        "approval.answered", "statement.intent", "credential.minted",
    ]  # fmt: skip


def _lines(bundle: Bundle, name: str) -> list[bytes]:
    with zipfile.ZipFile(bundle.path) as archive:
        return archive.read(name).splitlines()


def test_a_lawful_log_verifies_between_any_two_of_its_entries(world: World) -> None:
    """Wherever the border falls: in a session, a statement, between question, answers and use."""
    two_days(world)
    for entry in (entries := list(stored_entries(world.store)))[1:]:
        time.sleep(0)
        for period in ({"begin": entry.at}, {"end": entry.at}):
            bundle = world.bundle(replays=False, recordings=False, **period)
            assert verify_bundle(bundle.path).faults == (), (entry.seq, period)
    middle = entries[len(entries) // 2]
    bundle = world.bundle(begin=middle.at, replays=False)
    seqs = [int(r["seq"]) for r in table(bundle, "CC6.1-access")]
    with zipfile.ZipFile(bundle.path) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    assert manifest["first_seq"] == middle.seq
    assert all(s >= middle.seq or s == 10 for s in seqs)


@pytest.mark.parametrize(
    "change",
    [
        {"from": None}, {"to": None}, {"population": 999}, {"first_seq": 3}, {"last_seq": 12},
        {"tables": {}}, {"tree_size": 5}, {"from": "9999"}, {"to": "2000"},
    ],
)  # fmt: skip
def test_a_manifest_that_tells_of_another_period_is_named_though_it_is_signed(
    world: World, change: dict[str, Any]
) -> None:
    begin, end = two_days(world)
    bundle = world.bundle(begin=begin, end=end)
    told = as_json("manifest.json", lambda manifest: manifest | change)
    report = verify_bundle(signed_anew(bundle, world, told), verifier_key=bundle.verifier_key)
    assert not report.ok


def test_rows_left_out_of_the_table_that_samples_are_drawn_from_are_named(world: World) -> None:
    two_days(world)
    bundle = world.bundle()

    def change(files: Files) -> None:
        rows = list(csv.reader(io.StringIO(files["tables/CC6.1-access.csv"].decode())))
        kept = io.StringIO()
        csv.writer(kept).writerows(rows[:-1])
        files["tables/CC6.1-access.csv"] = kept.getvalue().encode()
        manifest = json.loads(files["manifest.json"])
        manifest["tables"]["access"] -= 1
        files["manifest.json"] = json.dumps(manifest).encode()

    report = verify_bundle(signed_anew(bundle, world, change))
    assert [f.place for f in report.faults] == ["tables/CC6.1-access.csv"]


def test_what_was_in_force_and_who_was_there_is_told_of_an_idle_period(world: World) -> None:
    world.sign_in("ses_1")
    begin = right_behind(world)
    world.say("test", {})
    end = right_behind(world)
    world.sign_out("ses_1")
    bundle = world.bundle(begin=begin, end=end)
    assert verify_bundle(bundle.path).faults == ()
    assert [r["snowflake_user"] for r in table(bundle, "CC6.2-credentials")] == ["U_ses_1"]
    assert [r["digest"] for r in table(bundle, "CC8.1-policies")] == ["p1"]
    assert [r["snowflake_role"] for r in table(bundle, "CC6.3-roles")] == ["READER"]


@pytest.mark.parametrize("name", ["../../evil.sh", "/etc/evil", "C:\\x", "readme.txt", "a b"])
def test_a_name_that_unpacks_elsewhere_is_named(world: World, name: str) -> None:
    bundle = world.bundle()
    changed = rewritten(bundle, lambda files: files.update({name: b"x"}))
    assert any(name.casefold() == f.place.casefold() for f in verify_bundle(changed).faults)


def test_a_second_file_hidden_in_the_archive_is_named(world: World) -> None:
    bundle = world.bundle()
    raw, out = bundle.path.read_bytes(), bundle.path.with_name("hidden.zip")
    with zipfile.ZipFile(bundle.path) as archive:
        directory = archive.start_dir
    hidden = raw[:200]
    end = bytearray(raw[directory:])
    at = end.rindex(b"PK\x05\x06") + 16
    end[at : at + 4] = (directory + len(hidden)).to_bytes(4, "little")
    out.write_bytes(raw[:directory] + hidden + bytes(end))
    assert "the archive" in [f.place for f in verify_bundle(out).faults]


def test_a_file_with_another_name_for_other_readers_is_named(world: World) -> None:
    bundle, out = world.bundle(), world.folder / "names.zip"
    with zipfile.ZipFile(bundle.path) as old, zipfile.ZipFile(out, "w") as new:
        for item in old.infolist():
            if item.filename == "README.txt":
                item.extra = b"\x75\x70\x05\x00\x01abcd"  # Info-ZIP's Unicode Path
            new.writestr(item, old.read(item.filename))
    assert not verify_bundle(out).ok


def test_the_tables_of_a_period_tell_whole_rows(world: World) -> None:
    begin, end = two_days(world)
    bundle = world.bundle(begin=begin, end=end)
    access = table(bundle, "CC6.1-access")
    assert [(r["statement_id"], r["status"], r["approval"]) for r in access] == [
        ("ses_1/2", "succeeded", ""),
        ("ses_1/3", "succeeded", "apr_1"),
    ]
    (lease,) = table(bundle, "CC6.2-credentials")
    assert (lease["snowflake_user"], lease["confirmed_by"]) == ("U_ses_1", "show_users")
    moves = [(r["move"], r["person"]) for r in table(bundle, "CC8.1-approvals")]
    assert moves == [("answered", "https://idp#bob"), ("used", "")]
    assert [r["what"] for r in table(bundle, "C1.1-masks")] == ['["PROD.CRM.CUSTOMERS.SSN"]']
    assert [r["snowflake_role"] for r in table(bundle, "CC6.3-roles")] == ["READER"]
    names = {n.split("-", 1)[1] for n in _names(bundle) if n.startswith("tables/")}
    assert names == {f"{t}.csv" for _, tables in CRITERIA.values() for t in tables}
    assert set(COLUMNS) == {t for _, tables in CRITERIA.values() for t in tables}


def _names(bundle: Bundle) -> list[str]:
    with zipfile.ZipFile(bundle.path) as archive:
        return archive.namelist()


def test_only_the_criteria_that_were_asked_for_are_in_it(world: World) -> None:
    bundle = world.bundle(controls=chosen("cc6.2, A1"))
    assert {n for n in _names(bundle) if n.startswith("tables/")} == {
        "tables/CC6.2-credentials.csv", "tables/A1-starts.csv", "tables/A1-waits.csv",
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"CC9\.9"):
        chosen("CC9.9")


def test_recordings_can_be_left_out_and_their_digests_stay(world: World) -> None:
    two_days(world)
    bundle = world.bundle(recordings=False)
    assert not [n for n in _names(bundle) if n.startswith("recordings/")]
    assert alone(bundle.path).returncode == 0
    assert "recording_sha256" in table(bundle, "CC6.7-results")[0]


def test_a_cell_is_never_a_formula() -> None:
    for hostile in ("=1+1", "+1", "-1", "@x", "\t=1", "  =1", "\r=1", "|x", "%x"):
        assert cell(hostile).startswith("'")
    assert (cell(None), cell(3), cell(True), cell(["=x"])) == ("", "3", "true", '["=x"]')


def test_a_long_statement_is_in_the_table_whole(world: World) -> None:
    world.sign_in("s")
    world.statement("s", executed=f"SELECT '{'x' * 300_000}'")
    bundle = world.bundle(replays=False)
    assert verify_bundle(bundle.path).faults == ()


def test_a_reason_that_is_a_formula_is_text_in_the_table(world: World) -> None:
    world.ask("apr_1")
    world.answer("apr_1", "alice")
    assert "'=cmd()" in [r["reason"] for r in table(world.bundle(), "CC8.1-approvals")]


def test_a_reader_that_trusts_another_key_is_told_so(world: World, tmp_path: Path) -> None:
    other = World.made(_folder(tmp_path / "other"))
    bundle = world.bundle()
    ran = alone(bundle.path, "--key", other.log.key.verifier_key)
    assert ran.returncode == 1
    assert "is not signed by test.example/log" in ran.stdout
    other.store.close()


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_an_unpacked_bundle_verifies_too_and_a_link_in_it_does_not(
    world: World, tmp_path: Path
) -> None:
    two_days(world)
    bundle, folder = world.bundle(), tmp_path / "unpacked"
    with zipfile.ZipFile(bundle.path) as archive:
        archive.extractall(folder)
    assert verify_bundle(folder).faults == ()
    (folder / "README.txt").unlink()
    (folder / "README.txt").symlink_to("/etc/hostname")
    assert "README.txt" in [f.place for f in verify_bundle(folder).faults]


def test_something_else_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no zip")
    code = Path(__file__).parents[1] / "core/hoop_core/audit/standalone.py"
    ran = subprocess.run([sys.executable, str(code), str(tmp_path / "x")], capture_output=True,
                         check=False, timeout=60)  # fmt: skip
    assert ran.returncode == 2


# ------------------------------------------------------------------ changed bundles


Files = dict[str, bytes]


def rewritten(bundle: Bundle, change: Callable[[Files], None]) -> Path:
    with zipfile.ZipFile(bundle.path) as archive:
        files = {n: archive.read(n) for n in archive.namelist()}
    change(files)
    out = bundle.path.with_name("changed.zip")
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out


def line(name: str, at: int, change: Callable[[bytes], bytes | None]) -> Callable[[Files], None]:
    """Change, or take out, one line of one file."""

    def made(files: Files) -> None:
        lines = files[name].split(b"\n")
        new = change(lines[at])
        lines[at : at + 1] = [] if new is None else [new]
        files[name] = b"\n".join(lines)

    return made


def twice(name: str, at: int) -> Callable[[Files], None]:
    def made(files: Files) -> None:
        lines = files[name].split(b"\n")
        files[name] = b"\n".join([*lines[: at + 1], *lines[at:]])

    return made


def swapped(name: str, at: int) -> Callable[[Files], None]:
    def made(files: Files) -> None:
        lines = files[name].split(b"\n")
        lines[at], lines[at + 1] = lines[at + 1], lines[at]
        files[name] = b"\n".join(lines)

    return made


def as_json(name: str, change: Callable[[Any], Any]) -> Callable[[Files], None]:
    def made(files: Files) -> None:
        files[name] = json.dumps(change(json.loads(files[name]))).encode()

    return made


ENTRIES, LEAVES, CONTEXT = "log/entries.jsonl", "log/leaves.txt", "log/context.jsonl"
CHANGES: dict[str, tuple[Callable[[Files], None], str]] = {
    "entry changed": (line(ENTRIES, 2, lambda x: x.replace(b'"rows":1', b'"rows":2').replace(b"agent", b"agenu")), "entry {2}"),
    "entry dropped": (line(ENTRIES, 2, lambda _: None), "entry {2}"),
    "entries swapped": (swapped(ENTRIES, 1), "entry {1}"),
    "entry doubled": (twice(ENTRIES, 1), "entry {2}"),
    "entry back-dated": (line(ENTRIES, 1, lambda x: x.replace(b'"at":"20', b'"at":"19')), "entry {1}"),
    "entry added": (lambda f: f.update({ENTRIES: f[ENTRIES] + f[ENTRIES].split(b"\n")[0] + b"\n"}), "entry {end}"),
    "entry emptied": (line(ENTRIES, 2, lambda _: b""), "entry {2}"),
    "leaf changed": (line(LEAVES, 1, lambda x: b"00" + x[2:]), "entry {1}"),
    "leaf dropped": (line(LEAVES, 1, lambda _: None), "entry {1}"),
    "context changed": (line(CONTEXT, 2, lambda x: x.replace(b"agent", b"agenu")), "context"),
    "context proof changed": (line(CONTEXT, 1, lambda x: x.replace(b'"path":["', b'"path":["00', 1)), "context"),
    "context swapped": (swapped(CONTEXT, 0), CONTEXT),
    "context dropped": (line(CONTEXT, 0, lambda _: None), CONTEXT),
    "checkpoint changed": (
        as_json("log/checkpoints.json", lambda x: [x[0].replace("\n", "\n1", 1), *x[1:]]),
        "checkpoint 0"),
    "checkpoint dropped": (as_json("log/checkpoints.json", lambda x: x[1:]), "log/checkpoints.json"),
    "last checkpoint dropped": (as_json("log/checkpoints.json", lambda x: x[:-1]), "log/checkpoints.json"),
    "checkpoints swapped": (as_json("log/checkpoints.json", lambda x: x[::-1]), "log/checkpoints.json"),
    "checkpoint doubled": (as_json("log/checkpoints.json", lambda x: [x[0], *x]), "log/checkpoints.json"),
    "before changed": (as_json("log/before.json", lambda x: {**x, "subtrees": x["subtrees"][:-1]}), "log/before.json"),
    "after changed": (as_json("log/after.json", lambda x: {**x, "subtrees": x["subtrees"][:-1]}), "log/after.json"),
    "period moved": (as_json("manifest.json", lambda x: {**x, "to": "9"}), "manifest.json"),
    "population changed": (as_json("manifest.json", lambda x: {**x, "population": 1}), "manifest.json"),
    "manifest line dropped": (as_json("manifest.json", lambda x: {**x, "files": {k: v for k, v in x["files"].items() if k != "README.txt"}}), "README.txt"),
    "recording changed": (lambda f: f.update({_recording(f): b"other rows"}), "recording"),
    "recording dropped": (lambda f: f.pop(_recording(f)), "recording"),
    "recording added": (lambda f: f.update({"recordings/ses_1/x.arrow": b""}), "recordings/ses_1/x.arrow"),
    "recordings said to be left out": (as_json("manifest.json", lambda x: {**x, "recordings": "digests"}), "manifest.json"),
    "table changed": (lambda f: f.update({"tables/CC6.1-access.csv": f["tables/CC6.1-access.csv"].replace(b"agent", b"agenu")}), "tables/CC6.1-access.csv"),
    "policy changed": (lambda f: f.update({"policies/p1.yaml": b"version: 1\n"}), "policies/p1.yaml"),
    "verifier changed": (lambda f: f.update({"verify.py": b"print('VERIFIED')"}), "verify.py"),
    "file added": (lambda f: f.update({"SIGNED_BY_CISO.txt": b"fine"}), "SIGNED_BY_CISO.txt"),
}  # fmt: skip


def _recording(files: Files) -> str:
    return next(n for n in files if n.startswith("recordings/"))


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_bundle_is_refused_and_the_place_is_named(world: World, name: str) -> None:
    begin, end = two_days(world)
    bundle = world.bundle(begin=begin, end=end)
    change, place = CHANGES[name]
    changed = rewritten(bundle, change)
    first = json.loads(_lines(bundle, ENTRIES)[0])["seq"]
    wanted = {f"{{{n}}}": str(first + n) for n in range(5)} | {"{end}": str(first + bundle.entries)}
    for mark, number in wanted.items():
        place = place.replace(mark, number)
    report = verify_bundle(changed, verifier_key=bundle.verifier_key)
    places = [f.place for f in report.faults]
    assert any(
        place in p or (place == "context" and p.startswith(("entry", "log/context")))
        for p in places
    ), places
    code = Path(__file__).parents[1] / "core/hoop_core/audit/standalone.py"
    command = [sys.executable, "-I", str(code), str(changed), "--key", bundle.verifier_key]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (ran.returncode, "NOT VERIFIED" in ran.stdout) == (1, True)


def test_an_older_tree_is_found_by_a_published_head(world: World) -> None:
    two_days(world)
    older = world.bundle("older.zip")
    world.sign_in("ses_3")
    head = world.log.checkpoint().note
    assert verify_bundle(older.path, verifier_key=older.verifier_key).ok
    report = verify_bundle(older.path, verifier_key=older.verifier_key, heads=[head])
    assert [f.place for f in report.faults] == ["head 0", "the heads"]


def test_a_history_that_was_written_anew_with_the_same_key_is_found_by_a_published_head(
    world: World, tmp_path: Path
) -> None:
    two_days(world)
    head = world.log.checkpoint()
    world.store.close()
    (tmp_path / "w.db").unlink()
    again = World.made(tmp_path)
    while again.log.checkpoint().size < head.size:
        again.say("test", {})
    bundle = again.bundle("again.zip")
    assert verify_bundle(bundle.path, verifier_key=bundle.verifier_key).ok
    report = verify_bundle(bundle.path, verifier_key=bundle.verifier_key, heads=[head.note])
    assert [f.place for f in report.faults] == ["head 0"]
    again.store.close()


def test_heads_that_could_not_be_compared_are_no_proof(world: World, tmp_path: Path) -> None:
    begin, end = two_days(world)
    bundle = world.bundle(begin=begin, end=end)
    lies = tmp_path / "lies.txt"
    lies.write_text(world.log.key.sign(2, bytes(32)).note)  # of before the period
    ran = alone(bundle.path, "--key", bundle.verifier_key, "--heads", str(lies))
    assert (ran.returncode, "could be compared" in ran.stdout) == (1, True)
    lies.write_text("")
    assert alone(bundle.path, "--heads", str(lies)).returncode == 2


def test_the_report_says_what_published_heads_cover(world: World, tmp_path: Path) -> None:
    begin, end = two_days(world)
    bundle = world.bundle(begin=begin, end=end)
    heads = tmp_path / "heads.txt"
    heads.write_text("".join(world.log.checkpoints()[1:]))
    ran = alone(bundle.path, "--key", bundle.verifier_key, "--heads", str(heads), "--json")
    report = json.loads(ran.stdout)
    assert (ran.returncode, report["heads"], report["heads_compared"]) == (0, 3, 2)
    assert report["as_published"] == report["tree_size"]


def signed_anew(bundle: Bundle, world: World, change: Callable[[Files], None]) -> Path:
    """What whoever holds the key can hand over."""

    def made(files: Files) -> None:
        change(files)
        manifest = json.loads(files["manifest.json"])
        for name in manifest["files"]:
            digest = hashlib.sha256(files[name]).hexdigest()
            manifest["files"][name] = {"size": len(files[name]), "sha256": digest}
        files["manifest.json"] = json.dumps(manifest).encode()
        digest = hashlib.sha256(files["manifest.json"]).hexdigest()
        note = world.log.key.sign_note(f"hoop-evidence-manifest\n{digest}\n")
        files["manifest.note"] = note.encode()

    return rewritten(bundle, made)


def test_a_policy_that_no_entry_holds_is_named_though_it_is_signed(world: World) -> None:
    bundle = world.bundle()
    other = {"policies/p1.yaml": b"version: 1\n"}
    report = verify_bundle(signed_anew(bundle, world, lambda files: files.update(other)))
    assert [f.place for f in report.faults] == ["policies/p1.yaml"]


def test_what_an_auditor_has_to_be_told_of_is_an_alert(world: World) -> None:
    world.say("log.verified", {"ok": False, "first": ["entry 3: was changed"], "by": "root"})
    world.say("log.unpublished", {"witness": "w", "error": "away"})
    world.say("statement.refused", {"identity": person_("agent"), "error": {"reason": "X"}}, "s")
    bundle = world.bundle()
    alerts = table(bundle, "CC7.2-alerts")
    assert [a["what"] for a in alerts] == [
        "log does NOT verify", "witness not told", "statement refused",
    ]  # fmt: skip
    with zipfile.ZipFile(bundle.path) as archive:
        page = archive.read("summary.html").decode()
    assert all(a["what"] in page for a in alerts)


def test_names_in_the_summary_are_text(world: World) -> None:
    world.sign_in("s")
    world.statement("s", identity={**person_("x"), "name": "<script>alert(1)</script>"})
    with zipfile.ZipFile(world.bundle().path) as archive:
        page = archive.read("summary.html").decode()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


# ------------------------------------------------------------------ unlawful stories, signed by the log's own key


def _no_approval(w: World) -> int:
    return w.statement("s", decision="require_approval")


def _too_few(w: World) -> int:
    w.ask("apr_1", quorum=2)
    w.answer("apr_1", "alice", status="pending")
    return w.intent("s", approval="apr_1", decision="require_approval")


def _used_twice(w: World) -> int:
    w.ask("apr_1")
    w.answer("apr_1", "alice")
    w.intent("s", approval="apr_1", decision="require_approval")
    return w.intent("s", 2, approval="apr_1", decision="require_approval")


def _own_answer(w: World) -> int:
    w.ask("apr_1")
    return w.answer("apr_1", "agent")


def _acting(w: World) -> int:
    question = {"requester": person_("ann"), "actors": ["https://idp#bot"], "kind": "delete"}
    asked = {"approval": "apr_1", "binding": "b", "quorum": 1, "question": question}
    w.say("approval.requested", asked)
    return w.answer("apr_1", "bot")


def _anothers_user(w: World) -> int:
    w.sign_in("other")
    return w.intent("s", snowflake_user="U_other")


def _anothers_grant(w: World) -> int:
    w.ask("apr_1", who="eve")
    w.answer("apr_1", "alice")
    return w.intent("s", approval="apr_1", decision="require_approval")


def _two_voices(w: World) -> int:
    w.ask("apr_1", quorum=2)
    w.answer("apr_1", "alice", status="pending")
    return w.answer("apr_1", "alice")


def _over(w: World) -> int:
    w.ask("apr_1")
    w.answer("apr_1", "alice")
    w.say("approval.withdrawn", {"approval": "apr_1", "by": None})
    return w.intent("s", approval="apr_1", decision="require_approval")


def _rejected(w: World) -> int:
    w.ask("apr_1", quorum=1)
    w.answer("apr_1", "alice")
    w.answer("apr_1", "bob", "reject", "rejected")
    return w.intent("s", approval="apr_1", decision="require_approval")


def _after_sign_out(w: World) -> int:
    w.sign_out("s")
    return w.intent("s")


def _ends_twice(w: World) -> int:
    intent = w.intent("s")
    w.outcome("s", intent)
    return w.say("statement.outcome", {"intent": intent, "statement_id": "s/1", "status": "failed"})


STORIES: dict[str, tuple[Callable[[World], int], str]] = {
    "without its approval": (_no_approval, "without the approval"),
    "with too few voices": (_too_few, "1 of 2 agreed"),
    "with a grant that was used": (_used_twice, "a second time"),
    "answered by who asked": (_own_answer, "of one's own"),
    "answered by who acted for who asked": (_acting, "of one's own"),
    "two voices of one person": (_two_voices, "second answer"),
    "with a grant that was withdrawn": (_over, "was over"),
    "with a grant that somebody rejected": (_rejected, "agreed"),
    "with a grant of nobody": (lambda w: w.intent("s", approval="apr_9"), "nobody asked for"),
    "after its session": (_after_sign_out, "was not open"),
    "in no session": (lambda w: w.intent("t", snowflake_user="U_s"), "was not open"),
    "as nobody's user": (lambda w: w.intent("s", snowflake_user="ADMIN"), "was not there"),
    "under no policy": (lambda w: w.intent("s", policy="p9"), "never in force"),
    "although denied": (lambda w: w.intent("s", decision="deny"), "was denied"),
    "another text": (lambda w: w.intent("s", executed_sha256="00"), "text that ran"),
    "an end without a beginning": (lambda w: w.outcome("s", 2), "did not begin"),
    "two ends": (_ends_twice, "has ended"),
    "in another's session": (lambda w: w.intent("s", identity=person_("eve")), "somebody else had opened"),
    "as another's user": (_anothers_user, "minted for another session"),
    "with another's grant": (_anothers_grant, "somebody else asked for"),
    "described only, and a change": (
        lambda w: w.intent("s", decision="require_approval", describe_only=True, kind="delete"),
        "without the approval",
    ),
    "broken off": (lambda w: w.say("statement.intent", {}, "s"), "is missing"),
}  # fmt: skip


@pytest.mark.parametrize("name", STORIES)
def test_what_could_not_happen_by_the_rules_is_named_though_it_is_signed(
    world: World, name: str
) -> None:
    world.sign_in("s")
    act, says = STORIES[name]
    seq = act(world)
    if name == "without its approval":
        seq -= 1
    bundle = world.bundle()
    faults = verify_bundle(bundle.path).faults
    assert any(says in f.what for f in faults if f.place == f"entry {seq}"), faults
    assert set(verify_store(world.settings.store.url).faults) <= set(faults)


def test_a_lawful_story_has_no_fault(world: World) -> None:
    two_days(world)
    world.sign_in("s")
    world.ask("apr_2", quorum=2)
    world.say("approval.broken_glass", {"approval": "apr_2", "by": person_("olga")})
    world.statement("s", approval="apr_2", decision="require_approval")
    world.ask("apr_3")
    world.answer("apr_3", "alice")
    for number in (2, 3):
        world.statement("s", number, approval="apr_3", standing={"values": {}})
    world.statement("s", 4, decision="require_approval", describe_only=True)
    assert verify_bundle(world.bundle().path).faults == ()
    recordings = world.settings.store.recordings
    report = verify_store(world.settings.store.url, recordings=recordings)
    assert (report.faults, report.recordings) == ((), 8)


def person_(name: str) -> dict[str, Any]:
    return {"issuer": "https://idp", "subject": name}


def test_a_recording_that_was_changed_in_its_store_is_named(world: World, tmp_path: Path) -> None:
    two_days(world)
    world.log.checkpoint()
    changed, gone, *_ = sorted((tmp_path / "rec" / "ses_1").iterdir())
    changed.write_bytes(b"other")
    gone.unlink()
    url, recordings = world.settings.store.url, world.settings.store.recordings
    places = [f.place for f in verify_store(url, recordings=recordings).faults]
    assert places == [f"recordings/ses_1/{changed.name}", f"recordings/ses_1/{gone.name}"]
