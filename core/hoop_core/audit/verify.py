"""Verification of a bundle or a store by somebody who does not trust whoever handed it over."""

from __future__ import annotations

import base64
import hashlib
import json
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rfc8785

from hoop_core.audit import merkle
from hoop_core.audit.checkpoint import open_checkpoint, open_note
from hoop_core.audit.evidence import FORMAT, MANIFEST_HEADER, recorded_files
from hoop_core.audit.stored import Entry, stored_checkpoints, stored_entries
from hoop_core.errors import EvidenceError
from hoop_core.model import Json
from hoop_core.store import Store

_UNLISTED = {"manifest.json", "manifest.note"}


@dataclass(frozen=True, slots=True)
class Fault:
    """Where something is wrong, and what."""

    place: str
    what: str


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a verification. `root` is in hex."""

    entries: int
    recordings: int
    root: str
    verifier_key: str
    faults: tuple[Fault, ...]
    key_given: bool = False
    """Whether the key came from whoever verifies; the bundle's own key proves no authorship."""

    @property
    def ok(self) -> bool:
        return not self.faults

    def as_json(self) -> Json:
        return {
            "ok": self.ok,
            "entries": self.entries,
            "recordings": self.recordings,
            "root": self.root,
            "verifier_key": self.verifier_key,
            "key_given": self.key_given,
            "faults": [{"place": f.place, "what": f.what} for f in self.faults],
        }


def verify_bundle(path: Path, *, verifier_key: str | None = None) -> Report:
    """Check everything in the bundle. Without `verifier_key` the bundle's own key is taken.

    Raises EvidenceError only when the file is no bundle at all.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _Verification(archive, verifier_key).run()
    except (OSError, zipfile.BadZipFile, NotImplementedError) as e:
        raise EvidenceError(
            f"{path} is not an evidence bundle: {e}.", "Give the zip that `hoop audit export` made."
        ) from None


class _Verification:
    def __init__(self, archive: zipfile.ZipFile, pinned: str | None) -> None:
        self._archive, self._pinned = archive, pinned
        self._faults: list[Fault] = []
        self._contents: dict[str, bytes] = {}

    def run(self) -> Report:
        self._shape()
        self._read_all()
        manifest = self._manifest()
        key = self._pinned or str(manifest.get("verifier_key", ""))
        leaves = self._contents.get("log/leaves.txt", b"").decode("ascii", "replace").split()
        entries, roots = self._entries(leaves)
        root = roots[-1]
        self._checkpoints(key, roots)
        if manifest.get("tree_size") != len(entries) or manifest.get("root") != root.hex():
            self._fault("manifest.json", "its tree size or root does not fit the entries")
        recordings = self._recordings(entries)
        self._signed_manifest(key)
        self._listed_files(manifest)
        return Report(
            len(entries),
            recordings,
            root.hex(),
            key,
            tuple(self._faults),
            key_given=self._pinned is not None,
        )

    def _fault(self, place: str, what: str) -> None:
        self._faults.append(Fault(place, what))

    def _shape(self) -> None:
        """Anything in the file beside the archive's own entries could be made to look like evidence."""
        if self._archive.comment:
            self._fault("the archive", "carries a comment, which nothing vouches for")
        if min((i.header_offset for i in self._archive.infolist()), default=0) != 0:
            self._fault("the archive", "has bytes before its first file, which nothing vouches for")

    def _read_all(self) -> None:
        for name, count in Counter(self._archive.namelist()).items():
            if count > 1:
                self._fault(name, "is in the bundle more than once")
            try:
                self._contents[name] = self._archive.read(name)
            except (zipfile.BadZipFile, OSError, ValueError, EOFError) as e:
                self._fault(name, f"cannot be read: {e}")
            except Exception as e:
                # zlib raises its own error type for a changed byte; whatever it is, it is a fault.
                self._fault(name, f"cannot be unpacked: {type(e).__name__}")

    def _manifest(self) -> dict[str, Any]:
        try:
            manifest = json.loads(self._contents["manifest.json"])
            if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
                raise ValueError
        except (KeyError, ValueError):
            self._fault("manifest.json", "is missing or not a manifest of this format")
            return {}
        return manifest

    def _signed_manifest(self, key: str) -> None:
        digest = hashlib.sha256(self._contents.get("manifest.json", b"")).hexdigest()
        try:
            note = self._contents.get("manifest.note", b"").decode()
            if open_note(note, key) != f"{MANIFEST_HEADER}\n{digest}\n":
                self._fault("manifest.json", "is not the manifest that was signed")
        except (EvidenceError, UnicodeDecodeError) as e:
            self._fault("manifest.note", str(e))

    def _listed_files(self, manifest: dict[str, Any]) -> None:
        listed = manifest.get("files")
        files: dict[str, Any] = listed if isinstance(listed, dict) else {}
        for name in sorted(set(self._contents) - set(files) - _UNLISTED):
            self._fault(name, "is not listed in the manifest")
        for name, meta in files.items():
            content = self._contents.get(name)
            if content is None:
                self._fault(name, "is listed in the manifest but missing")
            elif hashlib.sha256(content).hexdigest() != meta.get("sha256"):
                self._fault(name, "was changed: its digest differs from the manifest")

    def _entries(self, leaves: list[str]) -> tuple[list[Json], list[bytes]]:
        """The parsed entries, and the root of the tree at every size from 0 on."""
        lines = self._contents.get("log/entries.jsonl", b"").split(b"\n")
        if lines and lines[-1] == b"":
            lines.pop()
        frontier = merkle.Frontier()
        roots, parsed = [frontier.root()], []
        for seq, line in enumerate(lines):
            leaf = merkle.leaf_hash(line)
            if seq >= len(leaves) or leaves[seq] != leaf.hex():
                self._fault(f"entry {seq}", "was changed: its leaf hash differs")
            parsed.append(self._entry(seq, line))
            frontier.append(leaf)
            roots.append(frontier.root())
        if len(leaves) > len(lines):
            self._fault(f"entry {len(lines)}", "is missing")
        return parsed, roots

    def _entry(self, seq: int, line: bytes) -> Json:
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict) or rfc8785.dumps(entry) != line:
                raise ValueError
        except (ValueError, RecursionError):
            self._fault(f"entry {seq}", "is not canonical JSON")
            return {}
        if entry.get("seq") != seq:
            self._fault(f"entry {seq}", f"says that it is number {entry.get('seq')}")
        return entry

    def _checkpoints(self, key: str, roots: list[bytes]) -> None:
        name = "log/checkpoints.json"
        try:
            notes = json.loads(self._contents[name])
            if not isinstance(notes, list) or not all(isinstance(n, str) for n in notes):
                raise ValueError
        except (KeyError, ValueError):
            self._fault(name, "is missing or not a list of signed notes")
            return
        last = -1
        for number, note in enumerate(notes):
            place = f"checkpoint {number}"
            try:
                signed = open_checkpoint(note, key)
            except EvidenceError as e:
                self._fault(place, str(e))
                continue
            last = max(last, signed.size)
            if signed.size >= len(roots):
                self._fault(place, f"covers {signed.size} entries, but {len(roots) - 1} are here")
            elif roots[signed.size] != signed.root:
                self._fault(place, f"of size {signed.size} does not fit the entries before it")
        if last < len(roots) - 1:
            self._fault(name, "no checkpoint covers the last entries")

    def _recordings(self, entries: list[Json]) -> int:
        vouched: dict[str, tuple[int, str]] = {}
        for seq, entry in enumerate(entries):
            for recorded in recorded_files(entry):
                vouched[f"recordings/{recorded['path']}"] = (seq, recorded["sha256"])
        for name, (seq, digest) in vouched.items():
            content = self._contents.get(name)
            if content is None:
                self._fault(name, f"is missing, and entry {seq} vouches for it")
            elif hashlib.sha256(content).hexdigest() != digest:
                self._fault(name, f"was changed: its digest differs from entry {seq}")
        for name in sorted(self._contents):
            if name.startswith("recordings/") and name not in vouched:
                self._fault(name, "is vouched for by no entry of the log")
        return len(vouched)


def verify_store(url: str, *, verifier_key: str | None = None) -> Report:
    """Check a store in place: every entry, its leaf, and every checkpoint. Raises StoreUnavailable.

    Without `verifier_key` the checkpoints' roots are compared and their signatures are not.
    """
    store = Store(url)
    faults: list[Fault] = []
    frontier = merkle.Frontier()
    roots = [frontier.root()]
    try:
        store.attach()
        for seq, entry in enumerate(stored_entries(store)):
            leaf = merkle.leaf_hash(entry.text.encode())
            if entry.seq != seq:
                faults.append(Fault(f"entry {seq}", f"is missing: {entry.seq} follows"))
                break
            faults += _stored_entry(entry, leaf)
            frontier.append(leaf)
            roots.append(frontier.root())
        notes = stored_checkpoints(store)
        for number, note in enumerate(notes):
            faults += _stored_checkpoint(f"checkpoint {number}", note, verifier_key, roots)
        if verifier_key is not None and not notes and len(roots) > 1:
            faults.append(Fault("the checkpoints", "are all gone: nothing vouches for the entries"))
    finally:
        store.close()
    return Report(
        len(roots) - 1,
        0,
        roots[-1].hex(),
        verifier_key or "",
        tuple(faults),
        key_given=verifier_key is not None,
    )


def _stored_entry(entry: Entry, leaf: bytes) -> list[Fault]:
    place = f"entry {entry.seq}"
    try:
        parsed = json.loads(entry.text)
        told = (parsed["seq"], parsed["kind"], parsed["session"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return [Fault(place, "is not an entry")]
    if leaf != entry.leaf:
        return [Fault(place, "was changed: its leaf hash differs")]
    if told != (entry.seq, entry.kind, entry.session_id):
        return [Fault(place, "is filed under another number, kind or session than it says")]
    return []


def _stored_checkpoint(
    place: str, note: str, verifier_key: str | None, roots: list[bytes]
) -> list[Fault]:
    try:
        if verifier_key is not None:
            signed = open_checkpoint(note, verifier_key)
            size, root = signed.size, signed.root
        else:
            lines = note.split("\n")
            size, root = int(lines[1]), base64.b64decode(lines[2], validate=True)
    except (EvidenceError, IndexError, ValueError) as e:
        return [Fault(place, str(e))]
    if size >= len(roots):
        return [Fault(place, f"covers {size} entries, but {len(roots) - 1} are here")]
    if roots[size] != root:
        return [Fault(place, f"of size {size} does not fit the entries before it")]
    return []
