"""Checkpoints are told to others, and a log that was set back or written anew does not start again."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import ValidationError
from sqlalchemy import Table, delete, insert, select, update
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hoop_core.audit.checkpoint import LogKey, open_checkpoint
from hoop_core.audit.log import AuditLog
from hoop_core.audit.publishing import Publishing, cosigned
from hoop_core.audit.standalone import notes_of
from hoop_core.audit.verify import verify_store
from hoop_core.audit.witness import FileWitness, FolderWitness, HttpWitness, witnesses_of
from hoop_core.config import WitnessSettings
from hoop_core.errors import ConfigError, EvidenceError, StoreUnavailable
from hoop_core.store import Store
from hoop_core.store.tables import log_checkpoints, log_entries, log_head, log_witnesses
from tests.sign_in_world import new_ports, served


def node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def follows(first: int, second: int, proof: list[bytes], one: bytes, two: bytes) -> bool:
    """RFC 9162 section 2.1.4.2, word by word."""
    if first == second:
        return not proof and one == two
    if not proof:
        return False
    if first & (first - 1) == 0:
        proof = [one, *proof]
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = proof[0]
    for c in proof[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = node(c, fr), node(c, sr)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node(sr, c)
        fn, sn = fn >> 1, sn >> 1
    return fr == one and sr == two and sn == 0


class Stranger:
    """A witness as c2sp.org/tlog-witness describes one. It knows one log, and shares no code with ours."""

    def __init__(self, log_key: str) -> None:
        self.log_key, self.key = log_key, Ed25519PrivateKey.generate()
        self.size, self.root = 0, b""
        self.lie: bytes | None = None
        self.seen: list[int] = []

    @property
    def verifier_key(self) -> str:
        public = self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        blob = b"\x04" + public
        identifier = hashlib.sha256(b"stranger.example\n" + blob).hexdigest()[:8]
        return f"stranger.example+{identifier}+{base64.b64encode(blob).decode()}"

    async def add(self, request: Request) -> Response:
        head, _, note = (await request.body()).decode().partition("\n\n")
        old, *lines = head.split("\n")
        assert old.startswith("old ")
        signed = open_checkpoint(note, self.log_key)
        self.seen.append(int(old[4:]))
        if int(old[4:]) != self.size:
            return Response(f"{self.size}\n", 409, media_type="text/x.tlog.size")
        proof = [base64.b64decode(line, validate=True) for line in lines]
        if self.size and not follows(self.size, signed.size, proof, self.root, signed.root):
            return Response("", 422)
        assert self.size or not proof
        self.size, self.root = signed.size, signed.root
        now = int(time.time())
        body = note.partition("\n\n")[0] + "\n"
        text = f"cosignature/v1\ntime {now}\n{body}".encode()
        blob = bytes.fromhex(self.verifier_key.split("+")[1]) + now.to_bytes(8, "big")
        blob += self.key.sign(self.lie if self.lie is not None else text)
        return Response(f"\u2014 stranger.example {base64.b64encode(blob).decode()}\n")


@pytest.fixture
def stranger(log: AuditLog) -> Iterator[tuple[Stranger, HttpWitness]]:
    made, (port,) = Stranger(log.key.verifier_key), new_ports(1)
    app = Starlette(routes=[Route("/w/add-checkpoint", made.add, methods=["POST"])])
    with served(app, port):
        yield made, HttpWitness("stranger", f"http://127.0.0.1:{port}/w/", made.verifier_key)


def grow(log: AuditLog, entries: int) -> None:
    for number in range(entries):
        log.append("test", {"n": number})
    log.checkpoint()


def state(store: Store) -> Any:
    with store.read() as connection:
        return connection.execute(select(log_witnesses)).one()


def kinds(log: AuditLog) -> list[str]:
    return [e.kind for e in log.entries()]


def test_a_witness_cosigns_what_follows(
    log: AuditLog, store: Store, stranger: tuple[Stranger, HttpWitness]
) -> None:
    other, witness = stranger
    publishing = Publishing(store, log, [witness])
    for entries in (3, 1, 6):
        grow(log, entries)
        publishing.publish()
        publishing.publish()  # it is told of each once
    assert (other.size, other.seen) == (10, [0, 3, 4])
    assert state(store).cosigned.count("\u2014 ") == 2
    assert open_checkpoint(state(store).cosigned, log.key.verifier_key).size == 10


def test_a_witness_that_knows_more_is_told_from_there(
    log: AuditLog, store: Store, stranger: tuple[Stranger, HttpWitness]
) -> None:
    other, witness = stranger
    grow(log, 5)
    witness.tell(log.checkpoint(), 0, lambda _old: ())
    grow(log, 2)
    Publishing(store, log, [witness]).publish()
    assert (other.size, other.seen, state(store).last_error) == (7, [0, 0, 5], None)


def test_a_witness_refuses_another_history_and_the_log_tells_of_it_once(
    log: AuditLog, store: Store, stranger: tuple[Stranger, HttpWitness], log_key: LogKey
) -> None:
    other, witness = stranger
    grow(log, 4)
    other.size, other.root = 3, hashlib.sha256(b"another").digest()
    publishing = Publishing(store, log, [witness])
    publishing.publish()
    publishing.publish()
    assert "422" in state(store).last_error
    assert kinds(log).count("log.disputed") == 1
    assert "log.unpublished" not in kinds(log)


@pytest.mark.parametrize(("known", "disputed"), [(6, False), (9, True)])
def test_a_witness_that_another_replica_told_of_more_is_in_dispute_only_beyond_the_log(
    log: AuditLog,
    store: Store,
    stranger: tuple[Stranger, HttpWitness],
    known: int,
    *,
    disputed: bool,
) -> None:
    other, witness = stranger
    grow(log, 4)
    for _ in range(3):
        log.append("test", {})  # 7 entries; this process has signed for 4
    other.size = known
    publishing = Publishing(store, log, [witness])
    publishing.publish()
    assert ("log.disputed" in kinds(log)) is disputed
    assert "log.unpublished" not in kinds(log)


def test_an_answer_of_thousands_of_digits_is_a_dispute_and_no_crash(
    log: AuditLog, store: Store, stranger: tuple[Stranger, HttpWitness]
) -> None:
    other, witness = stranger
    other.size = "9" * 5000  # type: ignore[assignment]
    grow(log, 1)
    Publishing(store, log, [witness]).publish()
    assert kinds(log).count("log.disputed") == 1


def test_a_wrong_cosignature_is_no_witness(
    log: AuditLog, store: Store, stranger: tuple[Stranger, HttpWitness]
) -> None:
    other, witness = stranger
    other.lie = b"something else"
    grow(log, 1)
    with pytest.raises(StoreUnavailable, match="signature is wrong"):
        witness.tell(log.checkpoint(), 0, lambda _old: ())


def test_an_unreachable_witness_holds_nobody_up(log: AuditLog, store: Store) -> None:
    key = Stranger("").verifier_key
    publishing = Publishing(store, log, [HttpWitness("w", "http://127.0.0.1:9", key)])
    grow(log, 1)
    publishing.publish()
    assert "cannot be told" in state(store).last_error
    assert log.append("test", {}) == 2


@pytest.fixture(params=["file", "folder"])
def kept(
    request: pytest.FixtureRequest, tmp_path: Path, log: AuditLog
) -> FileWitness | FolderWitness:
    if request.param == "file":
        return FileWitness("kept", tmp_path / "heads.txt", log.key.verifier_key)
    return FolderWitness("kept", f"file://{tmp_path / 'heads'}", log.key.verifier_key)


def set_back(store: Store, log: AuditLog, entries: int) -> None:
    """The store as it was before, whole in itself: what somebody who rewrites it can do at best."""
    with store.write() as connection:
        connection.execute(delete(log_entries))
        connection.execute(delete(log_checkpoints))
        connection.execute(delete(log_head))
        connection.execute(delete(log_witnesses))
    again = AuditLog(store, log.key)
    again.claim()
    for _ in range(entries):
        again.append("test", {"n": "another history"})
    again.checkpoint()


@pytest.mark.parametrize(("entries", "says"), [(3, "knows of 5"), (7, "another one than kept")])
def test_a_log_that_does_not_continue_what_was_published_does_not_start(
    log: AuditLog, store: Store, kept: FileWitness | FolderWitness, entries: int, says: str
) -> None:
    grow(log, 5)
    publishing = Publishing(store, log, [kept])
    publishing.publish()
    publishing.check()
    set_back(store, log, entries)
    with pytest.raises(EvidenceError, match=says):
        Publishing(store, AuditLog(store, log.key), [kept]).check()


def test_a_published_head_shows_what_the_store_alone_does_not(
    log: AuditLog, store: Store, kept: FileWitness | FolderWitness
) -> None:
    grow(log, 5)
    Publishing(store, log, [kept]).publish()
    heads = notes_of(kept.newest() or "")
    url = str(store.url)
    assert verify_store(url, verifier_key=log.key.verifier_key, heads=heads).faults == ()
    set_back(store, log, 7)
    assert verify_store(url, verifier_key=log.key.verifier_key).faults == ()
    faults = verify_store(url, verifier_key=log.key.verifier_key, heads=heads).faults
    assert [f.place for f in faults] == ["published head 0"]
    set_back(store, log, 3)
    faults = verify_store(url, verifier_key=log.key.verifier_key, heads=heads).faults
    assert [f.place for f in faults] == ["entry 3"]


def test_a_kept_object_is_never_written_again(log: AuditLog, store: Store, tmp_path: Path) -> None:
    kept = FolderWitness("kept", str(tmp_path / "heads"), log.key.verifier_key)
    grow(log, 2)
    kept.tell(log.checkpoint(), 0, lambda _old: ())
    set_back(store, log, 2)
    with pytest.raises(StoreUnavailable, match="another tree of 2"):
        kept.tell(AuditLog(store, log.key).checkpoint(), 0, lambda _old: ())


def test_each_checkpoint_stands_in_the_file_one_after_the_other(
    log: AuditLog, store: Store, tmp_path: Path
) -> None:
    publishing = Publishing(
        store, log, [FileWitness("kept", tmp_path / "heads.txt", log.key.verifier_key)]
    )
    for _ in range(3):
        grow(log, 2)
        publishing.publish()
    notes = notes_of((tmp_path / "heads.txt").read_text())
    assert [open_checkpoint(n, log.key.verifier_key).size for n in notes] == [2, 4, 6]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"file": "a", "folder": "b"},
        {"url": "http://w"},
        {"file": "a", "witness_key": "x"},
        {"name": "a b", "file": "x"},
    ],
)
def test_a_witness_is_one_place(given: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        WitnessSettings.model_validate({"name": "w"} | given)


def test_witnesses_are_told_apart_by_name_and_have_a_real_key(log: AuditLog) -> None:
    same = [WitnessSettings(name="a", folder="x"), WitnessSettings(name="a", folder="y")]
    with pytest.raises(ConfigError, match="same name"):
        witnesses_of(same, log.key.verifier_key)
    with pytest.raises(ConfigError, match="cosigner"):
        key = log.key.verifier_key
        witnesses_of([WitnessSettings(name="a", url="http://w", witness_key=key)], key)


def test_a_witness_that_forgot_what_it_was_told_stops_the_start(
    log: AuditLog, store: Store, tmp_path: Path
) -> None:
    """A folder that is not mounted looks like a new one."""
    kept = FileWitness("kept", tmp_path / "heads.txt", log.key.verifier_key)
    publishing = Publishing(store, log, [kept])
    publishing.check()
    grow(log, 2)
    publishing.publish()
    (tmp_path / "heads.txt").unlink()
    with pytest.raises(StoreUnavailable, match="knows nothing of it any more"):
        publishing.check()


def test_a_torn_note_in_the_file_spoils_no_other(
    log: AuditLog, store: Store, tmp_path: Path
) -> None:
    file = tmp_path / "heads.txt"
    publishing = Publishing(store, log, [FileWitness("kept", file, log.key.verifier_key)])
    grow(log, 2)
    publishing.publish()
    whole = file.read_text()
    file.write_text(whole + whole[: len(whole) // 2])
    publishing.check()
    grow(log, 2)
    publishing.publish()
    publishing.check()
    assert file.read_text().endswith(log.checkpoints()[-1])


def junk(log: AuditLog, kept: FileWitness | FolderWitness) -> None:
    """Notes that anybody could have written, of a larger log than there is."""
    stranger = LogKey(log.key.name, Ed25519PrivateKey.generate())
    for note in (stranger.sign(10**9, bytes(32)).note, f"{log.key.name}\nx\n\n\u2014 y\n"):
        if isinstance(kept, FileWitness):
            with kept.file.open("a") as file:
                file.write(note)
        else:
            folder = Path(kept.folder.removeprefix("file://"))
            (folder / f"checkpoint-{10**9 + len(note):020d}.txt").write_text(note)
            first = min(folder.glob("checkpoint-*"))
            (folder / f"checkpoint-{10**10:020d}.txt").write_text(first.read_text())


def test_what_the_log_has_not_signed_is_passed_over_at_a_witness(
    log: AuditLog, store: Store, kept: FileWitness | FolderWitness
) -> None:
    for _ in range(2):
        grow(log, 3)
        Publishing(store, log, [kept]).publish()
    junk(log, kept)
    assert open_checkpoint(kept.newest() or "", log.key.verifier_key).size == 6
    Publishing(store, log, [kept]).check()
    set_back(store, log, 3)
    with pytest.raises(EvidenceError, match="knows of 6"):
        Publishing(store, AuditLog(store, log.key), [kept]).check()


def test_a_witness_that_has_only_what_another_key_signed_has_forgotten_the_log(
    log: AuditLog, store: Store, tmp_path: Path
) -> None:
    heads = tmp_path / "heads.txt"
    grow(log, 1)
    Publishing(store, log, [FileWitness("kept", heads, log.key.verifier_key)]).publish()
    heads.write_text(LogKey(log.key.name, Ed25519PrivateKey.generate()).sign(1, bytes(32)).note)
    with pytest.raises(StoreUnavailable, match="knows nothing of it any more"):
        Publishing(store, log, [FileWitness("kept", heads, log.key.verifier_key)]).check()


def test_rows_of_the_store_are_not_what_a_witness_is_asked_about(
    log: AuditLog, store: Store, tmp_path: Path
) -> None:
    """Whoever sets the store back sets its own memory back, too."""
    kept = FileWitness("kept", tmp_path / "heads.txt", log.key.verifier_key)
    grow(log, 5)
    Publishing(store, log, [kept]).publish()
    set_back(store, log, 1)
    with store.write() as connection:
        connection.execute(insert(log_witnesses).values(name="kept", size=0))
    with pytest.raises(EvidenceError):
        Publishing(store, AuditLog(store, log.key), [kept]).check()


def told(kept: FileWitness | FolderWitness, log: AuditLog) -> int:
    return open_checkpoint(kept.newest() or "", log.key.verifier_key).size


def changed(store: Store, table: Table, **values: object) -> None:
    with store.write() as connection:
        connection.execute(update(table).values(**values))


def test_a_checkpoint_that_says_it_is_of_the_future_stops_no_other(
    log: AuditLog, store: Store, kept: FileWitness | FolderWitness
) -> None:
    publishing = Publishing(store, log, [kept])
    grow(log, 3)
    changed(store, log_checkpoints, signed_at=datetime(2999, 1, 1, tzinfo=UTC))
    log.append("test", {})
    log.checkpoint_unless_within(0)
    publishing.publish()
    assert told(kept, log) == 4
    faults = verify_store(str(store.url), verifier_key=log.key.verifier_key, story=False).faults
    assert ["future" in f.what for f in faults] == [True]


def test_a_table_that_says_a_witness_knows_all_stops_no_publication(
    log: AuditLog, store: Store, kept: FileWitness | FolderWitness
) -> None:
    grow(log, 3)
    Publishing(store, log, [kept]).publish()
    changed(store, log_witnesses, size=2**62)
    faults = verify_store(str(store.url), verifier_key=log.key.verifier_key, story=False).faults
    assert [f.place for f in faults] == ["witness kept"]
    grow(log, 2)
    Publishing(store, log, [kept]).publish()
    assert (told(kept, log), state(store).size) == (5, 5)


def test_a_checkpoint_that_nobody_signed_is_told_to_no_witness_and_disputed(
    log: AuditLog, store: Store, kept: FileWitness | FolderWitness
) -> None:
    grow(log, 3)
    forged = LogKey(log.key.name, Ed25519PrivateKey.generate()).sign(10**9, bytes(32)).note
    with store.write() as connection:
        row = {"size": 10**9, "note": forged, "signed_at": datetime.now(UTC)}
        connection.execute(insert(log_checkpoints).values(**row))
    publishing = Publishing(store, log, [kept])
    publishing.publish()
    grow(log, 2)
    publishing.publish()
    assert told(kept, log) == 6  # with the entry that tells of it, once
    assert kinds(log).count("log.disputed") == 1


def test_signing_is_for_what_is_new_and_not_too_often(log: AuditLog) -> None:
    log.append("test", {})
    log.checkpoint_unless_within(1000)
    log.append("test", {})
    log.checkpoint_unless_within(1000)
    assert log.signed is not None and log.signed.size == 1
    log.checkpoint_unless_within(0)
    first = log.signed
    log.checkpoint_unless_within(0)
    assert log.signed is first and first.size == 2


def test_bundles_get_only_what_the_log_has_signed(
    log: AuditLog, store: Store, kept: FileWitness | FolderWitness
) -> None:
    grow(log, 2)
    Publishing(store, log, [kept]).publish()
    assert cosigned(store, log.key.verifier_key) == [log.checkpoints()[-1]]
    forged = LogKey(log.key.name, Ed25519PrivateKey.generate()).sign(2, bytes(32)).note
    changed(store, log_witnesses, cosigned=forged)
    assert cosigned(store, log.key.verifier_key) == []


def test_an_error_of_any_kind_does_not_end_the_signing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from hoop_core.server import app

    rounds: list[str] = []

    class Spoiled:
        def checkpoint_unless_within(self, seconds: float) -> None:
            raise EvidenceError("malformed")

        def publish(self) -> None:
            rounds.append("published")
            if len(rounds) == 3:
                raise asyncio.CancelledError
            raise ConfigError("spoiled")

    monkeypatch.setattr(app, "_CHECKPOINT_SECONDS", 0)
    spoiled = SimpleNamespace(log=Spoiled(), publishing=Spoiled())
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(app.Gateway._sign(spoiled))  # type: ignore[arg-type]
    assert len(rounds) == 3
