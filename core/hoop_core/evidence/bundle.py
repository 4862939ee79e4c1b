"""The evidence bundle of a period: one file that verifies with Python alone.

manifest.json         what is in the bundle, with the SHA-256 of every file; manifest.note signs it
verify.py README.txt  how to check it
summary.html          the period in charts
log/entries.jsonl     the entries of the period, one a line, exactly as hashed; empty: pruned
log/leaves.txt        the RFC 6962 leaf hash of each
log/before.json       what was before, log/after.json what came after: as full subtrees, up to the last checkpoint
log/context.jsonl     entries from outside that the period rests on, each with its inclusion proof
log/checkpoints.json  every signed checkpoint from the period's first entry on; log/witnessed.txt what witnesses signed
tables/               one table for each part of a criterion; policies/ the policies in force, and their differences
recordings/           what clients were shown
"""

from __future__ import annotations

import difflib
import hashlib
import json
import shutil
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import rfc8785

from hoop_core import __version__
from hoop_core.audit.checkpoint import Checkpoint, read_checkpoint
from hoop_core.audit.log import AuditLog
from hoop_core.audit.proofs import StoredTree, checked_inclusion
from hoop_core.audit.publishing import cosigned
from hoop_core.audit.recording import Recorder
from hoop_core.audit.standalone import FORMAT, MANIFEST, purged_files, recorded
from hoop_core.audit.stored import (
    bounds,
    stored_checkpoints,
    stored_entries,
    unpruned_borders,
)
from hoop_core.config import Settings
from hoop_core.errors import HoopError, StoreUnavailable
from hoop_core.evidence.context import References, context_of
from hoop_core.evidence.criteria import CRITERIA, Tables
from hoop_core.evidence.summary import Summary
from hoop_core.model import Json
from hoop_core.policy.file import parse_policy
from hoop_core.replay.evidence import StoreSource
from hoop_core.replay.session import Replay, Result
from hoop_core.replay.unsealing import Unsealer
from hoop_core.store import Store

# A fixed time: the same evidence gives the same bytes.
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
Progress = Callable[[str, int, int], None]
"""What is being done, how much of it, of how much."""


@dataclass(frozen=True, slots=True)
class Population:
    """`begin` and `end` are RFC 3339 in UTC as entries have them; None: from the first entry, to the last."""

    requester: str
    begin: str | None = None
    end: str | None = None
    controls: tuple[str, ...] = tuple(CRITERIA)
    recordings: bool = True
    """False: their digests only, which the entries hold."""
    replays: bool = True
    """Decide the statements of the period anew, for PI1."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """What was exported; `root` is the tree's root hash in hex."""

    path: Path
    entries: int
    recordings: int
    root: str
    verifier_key: str
    tables: dict[str, int] = field(default_factory=dict)
    """Rows of each table."""

    def as_json(self) -> Json:
        return {
            "path": str(self.path),
            "entries": self.entries,
            "recordings": self.recordings,
            "root": self.root,
            "verifier_key": self.verifier_key,
            "tables": self.tables,
        }


def export_bundle(
    settings: Settings,
    out: Path,
    wanted: Population,
    *,
    log: AuditLog,
    store: Store,
    progress: Progress = lambda _what, _done, _of: None,
) -> Bundle:
    """Write the bundle of a period to `out`. That it was exported is in the log, and so in a bundle without an end.

    Raises StoreUnavailable when the store cannot be read or a recording is missing.
    """
    told = {"from": wanted.begin, "to": wanted.end, "controls": list(wanted.controls)}
    log.append("evidence.exported", {"requester": wanted.requester, "format": FORMAT, **told})
    signed = log.checkpoint()
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    try:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".evidence-") as folder:
            making = _Making(settings, wanted, log, store, signed, Path(folder), progress)
            bundle = making.write(partial)
        partial.replace(out)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return Bundle(out, *bundle)


@dataclass(slots=True)
class _Making:
    settings: Settings
    wanted: Population
    log: AuditLog
    store: Store
    signed: Checkpoint
    folder: Path
    progress: Progress
    files: dict[str, Json] = field(default_factory=dict)
    recorded: dict[str, str] = field(default_factory=dict)
    """Recordings that entries vouch for, with their digests; `purged` are those whose time is over."""
    purged: dict[str, str] = field(default_factory=dict)
    policies: list[tuple[int, str, str]] = field(default_factory=list)
    sessions: set[str] = field(default_factory=set)
    alerts: Counter[str] = field(default_factory=Counter)

    def write(self, partial: Path) -> tuple[int, int, str, str, dict[str, int]]:
        first, end = bounds(self.store, self.wanted.begin, self.wanted.end)
        first, end = unpruned_borders(
            self.store, min(first, self.signed.size), min(end, self.signed.size), self.signed.size
        )
        tree = StoredTree(self.store, self.signed.size)
        if not tree.leads_to(self.signed.root):
            raise StoreUnavailable(
                "The log's leaves do not lead to its signed root.",
                "Run `hoop audit verify` on the store: it names what was changed.",
            )
        (self.folder / "tables").mkdir()
        tables = Tables(self.folder / "tables", self.wanted.controls)
        summary = Summary(self.wanted.begin, self.wanted.end)
        self._context(tree, first, end, tables)
        self._entries(first, end, tables, summary)
        self._more_tables(tables)
        self._replays(tables, first, end)
        tables.close()
        self.alerts = tables.alerts
        rows = {name: file.rows for name, file in tables.files.items()}
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            self._pack(archive, tree, first, end, summary)
            self._manifest(archive, first, end, rows)
        kept = sum(n.startswith("recordings/") for n in self.files)
        return end - first, kept, self.signed.root.hex(), self.log.key.verifier_key, rows

    def _context(self, tree: StoredTree, first: int, end: int, tables: Tables) -> None:
        """What the period rests on: into a file with the proofs, and known to the tables."""
        references = References()
        for seq, entry in self._parsed(first, end, "looking for what the period rests on"):
            references.note(seq, entry)
        with (self.folder / "context.jsonl").open("wb") as file:
            context = context_of(self.store, references, first, end, self.signed.size)
            for seq, leaf, text, why in context.entries(self.store):
                path = [h.hex() for h in checked_inclusion(tree, seq, leaf, self.signed)]
                line: Any = {"seq": seq, "why": why, "entry": text, "path": path}
                file.write(rfc8785.dumps(line) + b"\n")
                entry = json.loads(text)
                self.purged |= purged_files(entry)
                if seq < first and why == "rests":
                    tables.known(entry)
                    self._policy(entry)
                    if entry["kind"] == "recording.key":  # what opens the period's files
                        self._vouched(entry)

    def _parsed(self, first: int, end: int, what: str) -> Iterator[tuple[int, Json]]:
        for entry in stored_entries(self.store, first=first):
            if entry.seq >= end:
                return
            if entry.seq % 10_000 == 0:
                self.progress(what, entry.seq - first, end - first)
            if entry.text:
                yield entry.seq, json.loads(entry.text)

    def _entries(self, first: int, end: int, tables: Tables, summary: Summary) -> None:
        with (
            (self.folder / "entries.jsonl").open("wb") as entries,
            (self.folder / "leaves.txt").open("w") as leaves,
        ):
            for entry in stored_entries(self.store, first=first):
                if entry.seq >= end:
                    break
                if entry.seq % 10_000 == 0:
                    self.progress("writing entries and tables", entry.seq - first, end - first)
                entries.write(entry.text.encode() + b"\n")
                leaves.write(entry.leaf.hex() + "\n")
                if not entry.text:
                    continue
                parsed = json.loads(entry.text)
                tables.tell(parsed)
                summary.tell(parsed)
                self._policy(parsed)
                if (
                    parsed["kind"] in ("statement.intent", "statement.refused")
                    and parsed["session"]
                ):
                    self.sessions.add(parsed["session"])
                self.purged |= purged_files(parsed)
                self._vouched(parsed)

    def _vouched(self, entry: Json) -> None:
        self.recorded |= {str(one["path"]): str(one["sha256"]) for one in recorded(entry)}

    def _policy(self, entry: Json) -> None:
        if entry["kind"] == "policy.loaded":
            data = entry["data"]
            self.policies.append((entry["seq"], data["digest"], data["text"]))

    def _more_tables(self, tables: Tables) -> None:
        """Role map and masks of each policy that was in force."""
        seen: set[str] = set()
        for seq, digest, text in self.policies:
            if digest in seen:
                continue
            seen.add(digest)
            try:
                policy = parse_policy(text, digest)
            except HoopError:
                continue  # of an older Hoop: its text is in policies/
            head = {"policy_digest": digest, "seq": seq}
            for role in policy.roles:
                binding = role.binding
                tables.add("roles", {
                    **head, "groups": sorted(role.groups), "snowflake_role": binding.snowflake_role,
                    "vault_role": binding.vault_role, "warehouse": binding.warehouse,
                })  # fmt: skip
            for rule in policy.masks:
                tables.add("masks", {
                    **head, "what": [str(c) for c in rule.columns], "mask": str(rule.mask.name),
                    "except_groups": sorted(rule.except_groups),
                })  # fmt: skip

    def _replays(self, tables: Tables, first: int, end: int) -> None:
        """Each statement of the period decided anew under what is on record, and its recorded result looked at."""
        if not self.wanted.replays or "replays" not in tables.files:
            return
        recorder = Recorder(self.settings.store.recordings)
        replaying = Replay(StoreSource(self.store, recorder), Unsealer())
        sessions = sorted(self.sessions)
        for number, session in enumerate(sessions):
            self.progress("deciding anew", number, len(sessions))
            told = [r for r in replaying.session(session) if first <= r.entry["seq"] < end]
            counted = Counter(r.result for r in told)
            tables.add("replays", {
                "session": session, "statements": len(told),
                "matches": counted[Result.MATCHES], "not_decided": counted[Result.NOT_DECIDED],
                "differs": counted[Result.DIFFERS],
                "differences": [r.as_json() for r in told if r.result is Result.DIFFERS],
            })  # fmt: skip

    def _pack(
        self, archive: zipfile.ZipFile, tree: StoredTree, first: int, end: int, summary: Summary
    ) -> None:
        package = resources.files("hoop_core")
        self._add(archive, "README.txt", package.joinpath("evidence/README.txt").read_bytes())
        self._add(archive, "verify.py", package.joinpath("audit/standalone.py").read_bytes())
        self._add(
            archive,
            "summary.html",
            summary.html(self.wanted.controls, self.alerts, self._told(first, end)).encode(),
        )
        for name in ("entries.jsonl", "leaves.txt", "context.jsonl"):
            self._copy(archive, f"log/{name}", self.folder / name)
        notes = [n for n in stored_checkpoints(self.store)
                 if max(first, 1) <= read_checkpoint(n).size <= self.signed.size]  # fmt: skip
        # Cut where something was signed, so that each checkpoint, and each published head, can be compared.
        later = sorted({*(n for n in map(_size, notes) if n > end), end, self.signed.size})
        for name, cuts in (("before", [0, first]), ("after", later)):
            begin, until = cuts[0], cuts[-1]
            subtrees = [
                [level, root.hex()]
                for one, other in pairwise(cuts)
                for level, root in tree.subtrees(one, other)
            ]
            told: Any = {"entries": until - begin, "subtrees": subtrees}
            self._add(archive, f"log/{name}.json", rfc8785.dumps(told))
        if not notes:  # of an empty log
            notes = [self.signed.note]
        self._add(archive, "log/checkpoints.json", json.dumps(notes, ensure_ascii=False).encode())
        told = cosigned(self.store, self.log.key.verifier_key)
        if told:
            self._add(archive, "log/witnessed.txt", "".join(told).encode())
        for path in sorted((self.folder / "tables").iterdir()):
            self._copy(archive, f"tables/{path.name}", path)
        self._policies(archive)
        if self.wanted.recordings:
            self._recordings(archive)

    def _told(self, first: int, end: int) -> dict[str, str]:
        return {
            "log": self.signed.origin,
            "entries": f"{first} to {end - 1} of {self.signed.size}",
            "root": self.signed.root.hex(),
            "key": self.log.key.verifier_key,
            "made by": f"{self.wanted.requester}, hoop-guard {__version__}",
        }

    def _policies(self, archive: zipfile.ZipFile) -> None:
        changes: list[str] = []
        before: tuple[str, list[str]] = ("", [])
        for seq, digest, text in self.policies:
            name = f"policies/{digest}.yaml"
            if name not in self.files:
                self._add(archive, name, text.encode())
            after = (digest, text.splitlines(keepends=True))
            if before[0] and before[0] != digest:
                names = (before[0], f"{digest} (entry {seq})")
                changes += difflib.unified_diff(before[1], after[1], *names)
            before = after
        if changes:
            self._add(archive, "policies/changes.diff", "".join(changes).encode())

    def _recordings(self, archive: zipfile.ZipFile) -> None:
        recorder = Recorder(self.settings.store.recordings)
        for number, (path, digest) in enumerate(self.recorded.items()):
            if number % 100 == 0:
                self.progress("adding recordings", number, len(self.recorded))
            if self.purged.get(path) == digest:
                continue
            self._add(archive, f"recordings/{path}", recorder.read(path))

    def _add(self, archive: zipfile.ZipFile, name: str, content: bytes) -> None:
        archive.writestr(_info(name), content)
        self.files[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    def _copy(self, archive: zipfile.ZipFile, name: str, path: Path) -> None:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            with archive.open(_info(name), "w", force_zip64=True) as packed:
                shutil.copyfileobj(file, packed, 1 << 20)
        self.files[name] = {"size": path.stat().st_size, "sha256": digest}

    def _manifest(
        self, archive: zipfile.ZipFile, first: int, end: int, rows: dict[str, int]
    ) -> None:
        manifest = rfc8785.dumps(
            {
                "format": FORMAT,
                "generator": f"hoop-guard {__version__}",
                "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "clock": "the exporting host",
                "requester": self.wanted.requester,
                "origin": self.signed.origin,
                "verifier_key": self.log.key.verifier_key,
                "from": self.wanted.begin,
                "to": self.wanted.end,
                "population": end - first,
                "first_seq": first,
                "last_seq": end - 1,
                "tree_size": self.signed.size,
                "root": self.signed.root.hex(),
                "controls": {c: CRITERIA[c][0] for c in self.wanted.controls},
                "tables": rows,
                "recordings": "all" if self.wanted.recordings else "digests",
                "files": self.files,
            }
        )
        digest = hashlib.sha256(manifest).hexdigest()
        archive.writestr(_info("manifest.json"), manifest)
        note = self.log.key.sign_note(f"{MANIFEST}\n{digest}\n")
        archive.writestr(_info("manifest.note"), note.encode())


def _size(note: str) -> int:
    return read_checkpoint(note).size


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _ZIP_TIME)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    return info
