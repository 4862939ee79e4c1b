#!/usr/bin/env python3
"""Check an evidence bundle of Hoop, without Hoop and without a network.

    pip install cryptography
    python verify.py evidence.zip [--key NAME+HASH+KEY] [--heads FILE] [--json]

Exit status: 0 when nothing was changed, left out or added; 1 otherwise, naming every place; 2 when this is no
bundle at all. The bundle may be the zip file or the folder that it was unpacked to. Python 3.9 or later.

--key    the log's verifier key as you know it from elsewhere. The bundle brings its own, by which it can only be
         checked against itself: whoever made another history would have signed it with another key.
--heads  checkpoints that were published while the log was written (signed notes, one after the other): no
         history but the one they tell of verifies.

What is checked, and where that is written down:
  entries      SHA-256(0x00 || line) of each line, and their Merkle tree (RFC 6962, section 2.1)
  checkpoints  C2SP tlog-checkpoint and signed-note, ed25519
  manifest     SHA-256 of every file, signed by the same key
  recordings   SHA-256 of what was shown, as the entries say
  the story    that what the entries tell could happen by Hoop's rules (class Story)
"""

from __future__ import annotations

import argparse
import base64
import binascii
import bisect
import csv
import hashlib
import io
import json
import re
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any, Iterator  # noqa: UP035 - for Python 3.9

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

FORMAT = "hoop-evidence/2"
MANIFEST = "hoop-evidence-manifest"
UNLISTED = {"manifest.json", "manifest.note"}
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*\Z")
LONGEST = 256 << 20
SHOWN = {
    "statement.intent", "statement.refused", "statement.answered", "result.shown_again",
    "upload.received", "upload.outcome",
}  # fmt: skip
ACCESS = "tables/CC6.1-access.csv"
Entry = dict[str, Any]


class Fault(Exception):
    """Something that does not verify."""


class NoBundle(Exception):
    """What was given is nothing that could be verified."""


# ------------------------------------------------------------------ hashes and signatures


def leaf_hash(line: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + line).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """A Merkle tree that grows at its right end; only the roots of its full subtrees are kept."""

    def __init__(self) -> None:
        self.size = 0
        self.peaks: list[tuple[int, bytes]] = []

    def add(self, root: bytes, level: int = 0) -> None:
        """The next leaf, or a full subtree of 2**level leaves."""
        if level < 0 or level > 62 or self.size % (1 << level):
            raise Fault("a subtree stands where none of its size can begin")
        self.size += 1 << level
        while self.peaks and self.peaks[-1][0] == level:
            root = node_hash(self.peaks.pop()[1], root)
            level += 1
        self.peaks.append((level, root))

    def root(self) -> bytes:
        if not self.peaks:
            return hashlib.sha256(b"").digest()
        root = self.peaks[-1][1]
        for _, left in reversed(self.peaks[:-1]):
            root = node_hash(left, root)
        return root


def root_by_path(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """The root that an inclusion proof leads to (RFC 9162, section 2.1.3.2)."""
    if not 0 <= index < size:
        raise Fault("the proof is for an entry that the tree does not have")
    number, last, root = index, size - 1, leaf
    for other in path:
        if last == 0:
            raise Fault("the proof is too long")
        if number & 1 or number == last:
            root = node_hash(other, root)
            while not number & 1 and number:
                number >>= 1
                last >>= 1
        else:
            root = node_hash(root, other)
        number >>= 1
        last >>= 1
    if last:
        raise Fault("the proof is too short")
    return root


class Key:
    """A verifier key, "name+hash+key"."""

    def __init__(self, text: str) -> None:
        try:
            self.name, self.hash, encoded = text.split("+", 2)
            blob = base64.b64decode(encoded, validate=True)
            known = hashlib.sha256(self.name.encode() + b"\n" + blob).hexdigest()[:8]
            if blob[:1] != b"\x01" or known != self.hash:
                raise ValueError
            self.public = Ed25519PublicKey.from_public_bytes(blob[1:])
        except (ValueError, binascii.Error):
            raise Fault("the verifier key is malformed") from None

    def open(self, note: str) -> str:
        """The text of a note that this key has signed."""
        text, gap, signatures = note.partition("\n\n")
        for line in signatures.splitlines() if gap else ():
            words = line.split(" ")
            if len(words) != 3 or words[:2] != ["\u2014", self.name]:
                continue
            try:
                blob = base64.b64decode(words[2], validate=True)
                if blob[:4].hex() == self.hash:
                    self.public.verify(blob[4:], (text + "\n").encode())
                    return text + "\n"
            except (binascii.Error, InvalidSignature):
                raise Fault(f"the signature of {self.name} is wrong") from None
        raise Fault(f"is not signed by {self.name} with the key {self.hash}")

    def checkpoint(self, note: str) -> tuple[int, bytes]:
        """Size and root of the tree that a checkpoint signs."""
        lines = self.open(note).split("\n")
        try:
            size, root = int(lines[1]), base64.b64decode(lines[2], validate=True)
        except (IndexError, ValueError, binascii.Error):
            raise Fault("the checkpoint is malformed") from None
        if lines[0] != self.name or str(size) != lines[1]:
            raise Fault("the checkpoint is of another log")
        return size, root


def notes_of(text: str) -> list[str]:
    """Signed checkpoints that stand one after the other: origin, size, root, an empty line, signatures.

    What is torn, because a writer was stopped in the middle, is passed over.
    """
    notes: list[str] = []
    before: list[str] = []
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if not line.startswith("\u2014 "):
            before.append(line)
            continue
        if before:
            notes.append("\n".join(before[-4:]) + "\n")
            before = []
        notes[-1:] = [notes[-1] + line + "\n"] if notes else []
        if number + 1 == len(lines) and not text.endswith("\n"):
            notes.pop()
    return [n for n in notes if n.count("\n\n") == 1 and n.split("\n")[3] == ""]


# ------------------------------------------------------------------ files


class Files:
    """The files of a bundle, packed or not. Their content is not trusted, nor what surrounds them."""

    def __init__(self, source: Path) -> None:
        self.faults: list[tuple[str, str]] = []
        self.archive: zipfile.ZipFile | None = None
        self.folder = source
        try:
            if source.is_dir():
                found = sorted(p for p in source.rglob("*") if not p.is_dir() or p.is_symlink())
                self.names = [p.relative_to(source).as_posix() for p in found]
                for path in found:
                    if path.is_symlink():
                        self.faults.append((path.name, "is a link to something else"))
                self.known = frozenset(self.names)
                self._names()
                return
            self.archive = zipfile.ZipFile(source)
            self.names = self.archive.namelist()
            self.known = frozenset(self.names)
        except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as e:
            raise NoBundle(f"{source} is not an evidence bundle: {e}") from None
        self._names()
        self._surroundings(self.archive, source.stat().st_size)

    def _surroundings(self, archive: zipfile.ZipFile, size: int) -> None:
        """One file right behind the other, then the directory, and nothing else: each reader sees the same."""
        if archive.comment:
            self.faults.append(("the archive", "carries a comment, which nothing vouches for"))
        at, directory = 0, 0
        for info in sorted(archive.infolist(), key=lambda i: i.header_offset):
            name = info.orig_filename.encode(
                "utf-8" if info.flag_bits & 0x800 else "cp437", "replace"
            )
            directory += 46 + len(name) + len(info.extra) + len(info.comment)
            held = self._local(archive, info.header_offset, name)
            odd = info.comment or info.flag_bits & 0x8 or _odd_extra(info.extra)
            if held is None or odd or info.header_offset != at:
                self.faults.append(
                    (info.filename, "is not packed as the directory of the archive says")
                )
                return
            at += held + info.compress_size
        endings = {22, 22 + 56 + 20}  # without and with the 64-bit form
        if archive.start_dir != at or size - at - directory not in endings:
            self.faults.append(("the archive", "has bytes that belong to none of its files"))

    @staticmethod
    def _local(archive: zipfile.ZipFile, offset: int, name: bytes) -> int | None:
        """How long the header in front of a file is, if it names the same file."""
        if archive.fp is None:
            return None
        archive.fp.seek(offset)
        head = archive.fp.read(30)
        if len(head) != 30 or head[:4] != b"PK\x03\x04":
            return None
        names, extra = int.from_bytes(head[26:28], "little"), int.from_bytes(head[28:30], "little")
        same = archive.fp.read(names) == name and not _odd_extra(archive.fp.read(extra))
        return 30 + names + extra if same else None

    def _names(self) -> None:
        for name, count in Counter(n.casefold() for n in self.names).items():
            if count > 1:
                self.faults.append((name, "is in the bundle more than once"))
        for name in self.names:
            if not NAME.match(name) or ".." in name:
                self.faults.append((name, "is no name for a file of a bundle"))

    def open(self, name: str) -> Any:
        if self.archive is not None:
            return self.archive.open(name)
        return (self.folder / name).open("rb")

    def chunks(self, name: str) -> Iterator[bytes]:
        """Raises Fault for what is missing or cannot be unpacked."""
        if name not in self.known:
            raise Fault("is missing")
        try:
            with self.open(name) as file:
                while True:
                    chunk = file.read(1 << 20)
                    if not chunk:
                        return
                    yield chunk
        except Fault:
            raise
        except Exception as e:  # zlib and zipfile raise errors of many types for a changed byte
            raise Fault(f"cannot be read: {type(e).__name__}") from None

    def lines(self, name: str) -> Iterator[bytes]:
        rest: list[bytes] = []
        held = 0
        for chunk in self.chunks(name):
            first, *more = chunk.split(b"\n")
            rest.append(first)
            held += len(first)
            if held > LONGEST:
                raise Fault("has a line that is too long to be an entry")
            if more:
                yield b"".join(rest)
                yield from more[:-1]
                rest, held = [more[-1]], len(more[-1])
        if any(rest):
            raise Fault("its last line has no end")

    def read(self, name: str) -> bytes:
        return b"".join(self.chunks(name))

    def digest(self, name: str) -> str:
        digest = hashlib.sha256()
        for chunk in self.chunks(name):
            digest.update(chunk)
        return digest.hexdigest()


def _odd_extra(extra: bytes) -> bool:
    """Whether there is more than the sizes of the 64-bit form: some fields give a file another name."""
    while extra:
        length = int.from_bytes(extra[2:4], "little")
        if len(extra) < 4 + length or extra[:2] != b"\x01\x00":
            return True
        extra = extra[4 + length :]
    return False


def parsed(text: bytes) -> Any:
    """JSON in which no name stands twice: two readers must not read two things."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise ValueError("a name stands twice")
        return dict(pairs)

    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError):
        raise Fault("is not JSON") from None


def parsed_or_none(text: bytes) -> Any:
    try:
        return parsed(text)
    except Fault:
        return None


# ------------------------------------------------------------------ what the entries tell


class Story:
    """Whether what the entries tell could happen by Hoop's own rules.

    The entries are given in their order. What came before the period is among them where the period rests on it.
    """

    def __init__(self) -> None:
        self.faults: list[tuple[str, str]] = []
        self.intents: dict[int, str] = {}
        """Statements that have begun and not ended."""
        self.asked: dict[str, Entry] = {}
        self.said: dict[str, dict[str, str]] = {}
        self.emergency: dict[str, str] = {}
        self.used: dict[str, int] = {}
        self.over: dict[str, str] = {}
        self.opened: dict[str, str] = {}
        """Sessions, and who opened them; those that are open."""
        self.users: dict[str, str | None] = {}
        """Users that are there, and the session that each was minted for."""
        self.policies: dict[str, int] = {}

    def tell(self, seq: int, entry: Entry) -> None:
        data, kind = entry.get("data"), str(entry.get("kind"))
        if not isinstance(data, dict):
            self.fault(seq, "has no data")
            return
        step = getattr(self, "_" + kind.replace(".", "_"), None)
        if step is not None:
            try:
                step(seq, entry.get("session"), data)
            except (KeyError, TypeError, ValueError, AttributeError):
                self.fault(seq, f"is no {kind}: something that belongs to one is missing")

    def fault(self, seq: int, what: str) -> None:
        self.faults.append((f"entry {seq}", what))

    def _policy_loaded(self, seq: int, _session: Any, data: Entry) -> None:
        self.policies[data["digest"]] = seq

    def _session_opened(self, seq: int, session: Any, data: Entry) -> None:
        if session in self.opened:
            self.fault(seq, f"opens the session {session} a second time")
        self.opened[session] = _key(data["identity"])

    def _session_closed(self, _seq: int, session: Any, _data: Entry) -> None:
        self.opened.pop(session, None)

    def _credential_minted(self, _seq: int, session: Any, data: Entry) -> None:
        self.users[data["snowflake_user"]] = session

    _credential_assigned = _credential_minted

    def _credential_gone(self, _seq: int, _session: Any, data: Entry) -> None:
        self.users.pop(data["snowflake_user"], None)

    def _approval_requested(self, seq: int, _session: Any, data: Entry) -> None:
        if data["approval"] in self.asked:
            self.fault(seq, f"asks {data['approval']} a second time")
        self.asked[data["approval"]] = data

    def _approval_answered(self, seq: int, _session: Any, data: Entry) -> None:
        question, person = self.asked[data["approval"]]["question"], _key(data["approver"])
        if person == _key(question["requester"]) or person in (question.get("actors") or ()):
            self.fault(seq, "is an answer to a question of one's own")
        voices = self.said.setdefault(data["approval"], {})
        if person in voices and data["verdict"] != "reject":  # a yes may be taken back
            self.fault(seq, "is a second answer of one person")
        voices[person] = data["verdict"]

    def _approval_broken_glass(self, seq: int, _session: Any, data: Entry) -> None:
        person = data["by"]
        if _key(person) == _key(self.asked[data["approval"]]["question"]["requester"]):
            self.fault(seq, "breaks the glass for a question of one's own")
        self.emergency[data["approval"]] = _key(person)

    def _end(self, seq: int, _session: Any, data: Entry) -> None:
        self.over[data["approval"]] = str(seq)

    _approval_withdrawn = _approval_revoked = _approval_drifted = _approval_expired = _end

    def _statement_intent(self, seq: int, session: Any, data: Entry) -> None:
        self.intents[seq] = data["statement_id"]
        who = _key(data["identity"])
        if _sha256(data["executed"]) != data["executed_sha256"]:
            self.fault(seq, "does not name the text that ran")
        asking = str(session).startswith(
            "ask_"
        )  # counts for a question, in no session of a client's
        if not asking and session not in self.opened:
            self.fault(seq, f"ran in {session}, which was not open")
        elif not asking and self.opened[session] != who:
            self.fault(seq, f"ran in {session}, which somebody else had opened")
        if data["decision"]["policy_digest"] not in self.policies:
            self.fault(seq, "was decided under a policy that was never in force")
        user = data["snowflake_user"]
        if user not in self.users:
            self.fault(seq, f"ran as {user}, who was not there")
        elif self.users[user] not in (None, "", session):
            self.fault(seq, f"ran as {user}, who was minted for another session")
        outcome, grant = data["decision"]["decision"], data["approval"]
        if outcome not in ("allow", "require_approval"):
            self.fault(seq, "ran although it was denied")
        described = data["describe_only"] and data["kind"] == "select"
        if outcome == "require_approval" and not grant and not described:
            self.fault(seq, "ran without the approval that it needs")
        if grant:
            self._granted(seq, grant, data)

    def _granted(self, seq: int, grant: str, data: Entry) -> None:
        if grant not in self.asked:
            self.fault(seq, f"rests on the approval {grant}, which nobody asked for")
            return
        if _key(self.asked[grant]["question"]["requester"]) != _key(data["identity"]):
            self.fault(seq, f"rests on the approval {grant}, which somebody else asked for")
        voices = self.said.get(grant, {})
        wanted = int(self.asked[grant]["quorum"])
        agreed = sum(verdict == "approve" for verdict in voices.values())
        if grant not in self.emergency and (agreed < wanted or "reject" in voices.values()):
            self.fault(seq, f"rests on the approval {grant}, to which {agreed} of {wanted} agreed")
        if grant in self.over:
            self.fault(
                seq, f"rests on the approval {grant}, which was over (entry {self.over[grant]})"
            )
        if not data.get("standing"):
            if grant in self.used:
                self.fault(
                    seq, f"uses the approval {grant} a second time (entry {self.used[grant]})"
                )
            self.used[grant] = seq

    def _statement_outcome(self, seq: int, _session: Any, data: Entry) -> None:
        intent = data["intent"]
        if self.intents.pop(intent, None) != data["statement_id"]:
            self.fault(
                seq,
                f"is the end of entry {intent}, where this statement did not begin or has ended",
            )


def _key(person: Entry) -> str:
    return f"{person['issuer']}#{person['subject']}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def recorded(entry: Entry) -> Iterator[Entry]:
    """The recordings that an entry vouches for."""
    data = entry.get("data")
    found = data.get("recording") or [] if isinstance(data, dict) else []
    for one in found if isinstance(found, list) else [found]:
        if isinstance(one, dict) and one.get("path"):
            yield one


def purged(entry: Entry) -> list[tuple[int, int]]:
    """The ranges of entries, both ends included, whose texts a purge record tells to be gone."""
    if entry.get("kind") != "log.pruned":
        return []
    return [(int(first), int(last)) for first, last in entry["data"]["entries"]]


class Ranges:
    """Numbers by ranges with both ends included, which may overlap."""

    def __init__(self, ranges: list[tuple[int, int]]) -> None:
        self.firsts: list[int] = []
        self.lasts: list[int] = []
        for first, last in sorted(ranges):
            if self.lasts and first <= self.lasts[-1] + 1:
                self.lasts[-1] = max(self.lasts[-1], last)
            else:
                self.firsts.append(first)
                self.lasts.append(last)

    def __contains__(self, number: int) -> bool:
        at = bisect.bisect_right(self.firsts, number) - 1
        return at >= 0 and number <= self.lasts[at]


def purged_files(entry: Entry) -> dict[str, str]:
    """The recordings that a purge record tells to be gone, with their digests."""
    if entry.get("kind") != "log.pruned":
        return {}
    return {one["path"]: one["sha256"] for one in entry["data"].get("recordings") or []}


# ------------------------------------------------------------------ the whole


class Verification:
    """One bundle against one key."""

    def __init__(self, source: Path, key: str | None, heads: list[str]) -> None:
        self.files = Files(source)
        self.faults = self.files.faults
        self.heads = heads
        self.manifest = self._guarded("manifest.json", self._manifest) or {}
        self.given = key is not None
        self.key_text = key or str(self.manifest.get("verifier_key", ""))
        self.key = self._guarded("the verifier key", lambda: Key(self.key_text))
        self.tree = Tree()
        self.first = self.end = self.count = self.recordings = self.empty = 0
        self.notes: dict[str, tuple[int, bytes]] = {}
        self.by_size: dict[int, list[tuple[str, bytes]]] = {}
        self.rests: set[int] = set()
        self.shown: set[int] = set()
        self.last_at = ""
        self.compared: dict[str, int] = {}
        self.policies: dict[str, str] = {}
        self.proofs: list[tuple[int, bytes, list[bytes]]] = []
        self.root = b""
        self.purged: list[tuple[int, int]] = []
        self.vouched: dict[str, tuple[int, str]] = {}
        self.purged_files: dict[str, str] = {}

    def fault(self, place: str, what: str) -> None:
        self.faults.append((place, what))

    def _guarded(self, place: str, step: Any) -> Any:
        try:
            return step()
        except Fault as e:
            self.fault(place, str(e))
        except (KeyError, TypeError, ValueError, AttributeError, csv.Error):
            self.fault(place, "is not what belongs there")
        return None

    def run(self) -> dict[str, Any]:
        known = self._guarded("log/context.jsonl", self._context) or []
        story = Story()
        for seq, entry in known:
            if seq < self._number("first_seq") and seq in self.rests:
                story.tell(seq, entry)
        self._guarded("log/entries.jsonl", lambda: self._entries(story))
        self._guarded("log/after.json", self._after)
        self.root = self.tree.root()
        told = (self.manifest.get("tree_size"), self.manifest.get("root"))
        if told != (self.tree.size, self.root.hex()):
            self.fault("manifest.json", "its tree size or root does not fit the entries")
        for seq, text, path in self.proofs:
            self._guarded(f"entry {seq}", lambda s=seq, t=text, p=path: self._included(s, t, p))
        self._borders(dict(known))
        self._guarded("manifest.json", self._signed_manifest)
        self._guarded("manifest.json", self._listed)
        self._same_policies()
        self._guarded("tables", self._tables)
        self.faults += story.faults
        return self.report()

    def report(self) -> dict[str, Any]:
        return {
            "ok": not self.faults,
            "entries": self.count,
            "pruned": self.empty,
            "recordings": self.recordings,
            "from": self.manifest.get("from"),
            "to": self.manifest.get("to"),
            "first_seq": self.first,
            "last_seq": self.end - 1,
            "ends": self.last_at,
            "tree_size": self.tree.size,
            "root": self.root.hex(),
            "checkpoints": sum(p.startswith("check") for p in self.compared),
            "heads": len(self.heads),
            "heads_compared": sum(p.startswith("head") for p in self.compared),
            "as_published": max(
                (n for p, n in self.compared.items() if p[:4] == "head"), default=0
            ),
            "verifier_key": self.key_text,
            "key_given": self.given,
            "faults": [{"place": place, "what": what} for place, what in self.faults],
        }

    def _number(self, name: str) -> int:
        told = self.manifest.get(name)
        return told if isinstance(told, int) else 0

    def _borders(self, known: dict[int, Entry]) -> None:
        """The entries right before and right after a period are shown, so that it is seen to be whole."""
        begin, end = str(self.manifest.get("from") or ""), str(self.manifest.get("to") or "")
        if not begin and self.first:
            self.fault(
                "manifest.json", "has no beginning, and the bundle does not begin with the log"
            )
        if not end and self.end != self.tree.size:
            self.fault("manifest.json", "has no end, and the bundle does not end with the log")
        if self.manifest.get("population") != self.count:
            self.fault("manifest.json", f"its population is not that of the bundle, {self.count}")
        for seq, needed in ((self.first - 1, begin and self.first), (self.end, end)):
            if not needed or seq >= self.tree.size:
                continue
            at = str(known.get(seq, {}).get("at", ""))
            if not at or (seq < self.first and at >= begin) or (seq >= self.end and at < end):
                self.fault(f"entry {seq}", "is not shown to lie outside the period of the bundle")

    def _tables(self) -> None:
        """The table that samples are drawn from has a row for each entry that it should, and no other."""
        counts = self.manifest.get("tables") or {}
        csv.field_size_limit(LONGEST)  # statements may be long
        for name in sorted(n for n in self.files.known if n.startswith("tables/")):
            text = io.StringIO(self.files.read(name).decode("utf-8-sig"), newline="")
            rows = list(csv.DictReader(text))
            if counts.get(name.rpartition("-")[2][: -len(".csv")]) != len(rows):
                self.fault(name, "has another number of rows than the manifest says")
            if name == ACCESS:
                told = {int(row["seq"]) for row in rows}
                for seq in sorted(told ^ self.shown)[:1]:
                    what = (
                        "has no row for"
                        if seq in self.shown
                        else "has a row that is none of the period:"
                    )
                    self.fault(name, f"{what} entry {seq}")

    def _manifest(self) -> dict[str, Any]:
        manifest = parsed(self.files.read("manifest.json"))
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise Fault(f"is not a manifest of the format {FORMAT}")
        return manifest

    def _signed_manifest(self) -> None:
        if self.key is None:
            return
        digest = self.files.digest("manifest.json")
        if self.key.open(self.files.read("manifest.note").decode()) != f"{MANIFEST}\n{digest}\n":
            raise Fault("is not the manifest that manifest.note signs")

    def _listed(self) -> None:
        listed = self.manifest["files"]
        for name in sorted(set(self.files.names) - set(listed) - UNLISTED):
            self.fault(name, "is not listed in the manifest")
        for name, told in listed.items():
            digest = self._guarded(name, lambda n=name: self.files.digest(n))
            if digest is not None and digest != told["sha256"]:
                self.fault(name, "was changed: its digest differs from the manifest")

    # -------------------------------------------------------------- the log

    def _context(self) -> list[tuple[int, Entry]]:
        """Entries from outside the period on which it rests; each brings its own proof."""
        found: list[tuple[int, Entry]] = []
        for line in self.files.lines("log/context.jsonl"):
            told = parsed(line)
            text, path = told["entry"].encode(), [bytes.fromhex(h) for h in told["path"]]
            entry = parsed(text)
            if type(told["seq"]) is not int or entry["seq"] != told["seq"]:
                raise Fault("is not numbered as its entry")
            if found and entry["seq"] <= found[-1][0]:
                raise Fault("is out of order")
            if told["why"] == "rests":
                self.rests.add(entry["seq"])
            self.proofs.append((entry["seq"], text, path))
            found.append((entry["seq"], entry))
            self._purge(entry)
            self._policy(entry)
            if (
                entry.get("kind") == "recording.key"
            ):  # of a session that was opened before the period
                for one in recorded(entry):
                    self.vouched["recordings/" + one["path"]] = (
                        entry["seq"],
                        str(one.get("sha256")),
                    )
        return found

    def _included(self, seq: int, text: bytes, path: list[bytes]) -> None:
        if root_by_path(leaf_hash(text), seq, self.tree.size, path) != self.root:
            raise Fault("is not in the log: its proof leads to another root")

    def _access(self, seq: int, entry: Entry) -> None:
        if entry["kind"] in SHOWN:
            self.shown.add(seq)
        elif entry["kind"] == "statement.outcome" and entry["data"]["intent"] in self.rests:
            self.shown.add(entry["data"]["intent"])  # it began before the period

    def _policy(self, entry: Entry) -> None:
        if entry.get("kind") == "policy.loaded":
            text = str(entry["data"]["text"]).encode("utf-8", "backslashreplace")
            name = f"policies/{entry['data']['digest']}.yaml"
            self.policies[name] = hashlib.sha256(text).hexdigest()

    def _same_policies(self) -> None:
        """The policies in the bundle are those that entries tell to have been in force."""
        for name in self.files.names:
            if name.startswith("policies/") and name != "policies/changes.diff":
                digest = self._guarded(name, lambda n=name: self.files.digest(n))
                if digest is not None and self.policies.get(name) != digest:
                    self.fault(name, "is not the text that an entry of the log holds")

    def _purge(self, entry: Entry) -> None:
        self.purged += purged(entry)
        self.purged_files.update(purged_files(entry))

    def _entries(self, story: Story) -> None:
        """The entries of the period, in order and without a gap."""
        before = parsed(self.files.read("log/before.json"))
        for level, root in before["subtrees"]:
            self.tree.add(bytes.fromhex(root), level)
        self.first = self.tree.size
        if self.first != self._number("first_seq") or self.first != before["entries"]:
            self.fault("log/before.json", "does not lead to the first entry of the manifest")
        self._notes()
        leaves = self.files.lines("log/leaves.txt")
        pruned: list[int] = []
        self._fits()
        for line in self.files.lines("log/entries.jsonl"):
            seq = self.tree.size
            told = next(leaves, b"").decode("ascii", "replace")
            leaf = leaf_hash(line) if line else _hex(told)
            if leaf.hex() != told:
                self.fault(f"entry {seq}", "was changed: its leaf hash differs")
            self.tree.add(leaf)
            if line:
                self._entry(seq, line, story)
            else:
                pruned.append(seq)
            self._fits()
        self.end = self.tree.size
        self.count = self.end - self.first
        if next(leaves, None) is not None:
            self.fault(f"entry {self.end}", "is missing")
        if self.end != self.manifest["last_seq"] + 1:
            self.fault("manifest.json", f"tells of entries up to {self.manifest['last_seq']}")
        self._pruned(pruned)
        self._recordings()

    def _entry(self, seq: int, line: bytes, story: Story) -> None:
        entry = self._guarded(f"entry {seq}", lambda: parsed(line))
        if not isinstance(entry, dict):
            return
        if entry.get("seq") != seq:
            self.fault(f"entry {seq}", f"says that it is number {entry.get('seq')}")
        story.tell(seq, entry)
        self._guarded(f"entry {seq}", lambda: self._purge(entry))
        self._guarded(f"entry {seq}", lambda: self._policy(entry))
        for one in recorded(entry):
            name, digest = "recordings/" + one["path"], str(one.get("sha256"))
            if self.vouched.setdefault(name, (seq, digest))[1] != digest:
                self.fault(
                    name, f"has two digests, in entry {self.vouched[name][0]} and entry {seq}"
                )
        self._guarded(f"entry {seq}", lambda: self._access(seq, entry))
        at = str(entry.get("at"))
        if at < self.last_at:
            self.fault(f"entry {seq}", "was written before the one before it")
        self.last_at = at
        begin, end = self.manifest.get("from") or "", self.manifest.get("to") or "9"
        if not begin <= at < end:
            self.fault(f"entry {seq}", f"is of {at}, outside the period of the bundle")

    def _after(self) -> None:
        """What came after the period, as subtrees, up to the tree of the last checkpoint."""
        after = parsed(self.files.read("log/after.json"))
        for level, root in after["subtrees"]:
            self.tree.add(bytes.fromhex(root), level)
            self._fits()
        self._fits()
        size, covered = self.tree.size, False
        for place, (told, _) in self.notes.items():
            if told > size:
                what = "the bundle is older than that, or later entries were cut off"
                self.fault(
                    place, f"covers {told} entries, and the bundle's tree has {size}: {what}"
                )
            elif told > self.end and place not in self.compared:
                self.fault(place, f"of size {told} could not be compared with the bundle's tree")
            covered = covered or (told == size and place.startswith("check"))
        if self.heads and not any(p.startswith("head") for p in self.compared):
            self.fault("the heads", "none of them could be compared with a tree of this bundle")
        if not covered:
            self.fault("log/checkpoints.json", "no checkpoint covers the last entries")

    def _notes(self) -> None:
        """Sizes and roots that were signed: by the bundle's checkpoints and the published heads."""
        if self.key is None:
            return
        noted = parsed(self.files.read("log/checkpoints.json"))
        told = [(f"checkpoint {n}", note) for n, note in enumerate(noted)]
        told += [(f"head {n}", note) for n, note in enumerate(self.heads)]
        for place, note in told:
            signed = self._guarded(place, lambda n=note: self.key.checkpoint(n))
            if signed is not None:
                self.notes[place] = signed
                self.by_size.setdefault(signed[0], []).append((place, signed[1]))
        sizes = [size for place, (size, _) in self.notes.items() if place.startswith("check")]
        if sizes != sorted(set(sizes)):
            self.fault("log/checkpoints.json", "is out of order")

    def _fits(self) -> None:
        """Compare whatever was signed for a tree of the present size."""
        for place, root in self.by_size.pop(self.tree.size, ()):
            self.compared[place] = self.tree.size
            if root != self.tree.root():
                self.fault(place, f"of size {self.tree.size} does not fit the entries before it")

    def _pruned(self, seqs: list[int]) -> None:
        told = Ranges(self.purged)
        self.empty = len(seqs)
        for seq in seqs:
            if seq not in told:
                self.fault(f"entry {seq}", "is empty, and no entry tells that it was pruned")

    def _recordings(self) -> None:
        if self.manifest.get("recordings") == "digests":
            for name in sorted(n for n in self.files.known if n.startswith("recordings/")):
                self.fault(name, "is there, and the manifest says that recordings are left out")
            return
        there = set(self.files.names)
        for name, (seq, digest) in self.vouched.items():
            if name not in there:
                if self.purged_files.get(name[len("recordings/") :]) != digest:
                    self.fault(name, f"is missing, and entry {seq} vouches for it")
                continue
            self.recordings += 1
            found = self._guarded(name, lambda n=name: self.files.digest(n))
            if found is not None and found != digest:
                self.fault(name, f"was changed: its digest differs from entry {seq}")
        for name in sorted(
            n for n in there if n.startswith("recordings/") and n not in self.vouched
        ):
            self.fault(name, "is vouched for by no entry of the period")


def _hex(text: str) -> bytes:
    try:
        leaf = bytes.fromhex(text)
    except ValueError:
        leaf = b""
    return leaf if len(leaf) == 32 else bytes(32)


def verify(source: Path, key: str | None = None, heads: list[str] | None = None) -> dict[str, Any]:
    """The report as JSON. Raises NoBundle."""
    return Verification(source, key, heads or []).run()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Check an evidence bundle of Hoop.")
    parser.add_argument("bundle", type=Path, help="evidence.zip, or the folder it was unpacked to")
    parser.add_argument("--key", help="the log's verifier key as you know it: name+hash+key")
    parser.add_argument("--heads", type=Path, help="a file of published checkpoints")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    given = parser.parse_args(arguments)
    try:
        heads = notes_of(given.heads.read_text(encoding="utf-8")) if given.heads else []
        if given.heads and not heads:
            raise NoBundle(f"there are no checkpoints in {given.heads}")
        report = verify(given.bundle, given.key, heads)
    except (NoBundle, OSError, UnicodeDecodeError) as e:
        print(_plain(str(e)), file=sys.stderr)
        return 2
    if given.json:
        print(json.dumps(report, indent=2))
    else:
        print("\n".join(_plain(line) for line in _told(report)))
    return 0 if report["ok"] else 1


def _told(report: dict[str, Any]) -> Iterator[str]:
    """The report for a person."""
    for fault in report["faults"]:
        yield f"{fault['place']}: {fault['what']}"
    yield f"period      {report['from'] or 'the beginning'} to {report['to'] or 'the end'}"
    yield (
        f"entries     {report['entries']}, numbers {report['first_seq']} to {report['last_seq']} of a log of "
        f"{report['tree_size']}; {report['pruned']} of them pruned"
    )
    if report["to"] and report["ends"] and report["last_seq"] + 1 == report["tree_size"]:
        yield f"            the log ends at {report['ends']}, before the period does"
    yield f"recordings  {report['recordings']}"
    yield f"checkpoints {report['checkpoints']} fit"
    if report["heads"]:
        yield (
            f"heads       {report['heads_compared']} of {report['heads']} compared: the entries before number "
            f"{report['as_published']} are as published"
        )
    yield f"root        {report['root']}"
    yield f"key         {report['verifier_key']}"
    if not report["ok"]:
        count = len(report["faults"])
        yield f"NOT VERIFIED: {count} fault{'s' if count > 1 else ''}, named above"
        return
    since = "" if report["key_given"] else " since this was signed"
    yield f"VERIFIED: of entries and recordings nothing was changed, left out or added{since}"
    yield "Tables and summary are the exporter's reading of the entries, signed by the same key."
    if not report["key_given"]:
        yield "Compare the key above with the one that you know from elsewhere, or give that by --key."


def _plain(text: str) -> str:
    """Foreign text for a terminal: no control sequences, no signs that look like others."""
    return "".join(c if " " <= c <= "~" else repr(c)[1:-1] for c in text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
