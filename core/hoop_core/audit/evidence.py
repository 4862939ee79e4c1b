"""Evidence bundles: the log, its signed checkpoints and the recordings in one file for an auditor.

manifest.json        what is in the bundle, with the SHA-256 of every file
manifest.note        the digest of manifest.json, signed with the log's key
log/entries.jsonl    one canonical JSON entry a line, exactly as hashed
log/leaves.txt       the RFC 6962 leaf hash of each entry, one a line
log/checkpoints.json every signed checkpoint; the last one covers the whole bundle
recordings/…         what clients were shown
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import rfc8785

from hoop_core import __version__
from hoop_core.audit.checkpoint import Checkpoint, load_or_create_key
from hoop_core.audit.log import AuditLog
from hoop_core.audit.recording import Recorder
from hoop_core.config import Settings
from hoop_core.model import Json
from hoop_core.store import Store

FORMAT = "hoop-evidence/1"
MANIFEST_HEADER = "hoop-evidence-manifest"
# A fixed time: the same evidence gives the same bytes.
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Bundle:
    """What was exported; `root` is the tree's root hash in hex."""

    path: Path
    entries: int
    recordings: int
    root: str
    verifier_key: str


def recorded_files(entry: Json) -> Iterator[Json]:
    """The recordings that a log entry vouches for: {"path", "size", "sha256"}."""
    data = entry.get("data")
    if not isinstance(data, dict):
        return
    found = data.get("recording") or []
    yield from found if isinstance(found, list) else [found]


def export_bundle(settings: Settings, out: Path, *, requester: str) -> Bundle:
    """Write the bundle of the whole log to `out`; the export itself is its last entry.

    Raises StoreUnavailable when the store cannot be read or a recording is missing.
    """
    store = Store(settings.store.url)
    try:
        store.attach()
        log = AuditLog(store, load_or_create_key(settings.audit.key_file, settings.audit.origin))
        log.claim()
        log.append("evidence.exported", {"requester": requester, "format": FORMAT})
        signed = log.checkpoint()
        return _write(log, signed, Recorder(settings.store.recordings), out, requester)
    finally:
        store.close()


class _Zip:
    """Adds files and keeps the digests for the manifest."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self.files: dict[str, Json] = {}

    def add(self, name: str, content: bytes) -> None:
        info = zipfile.ZipInfo(name, _ZIP_TIME)
        info.compress_type = zipfile.ZIP_DEFLATED
        info.external_attr = 0o644 << 16
        self._archive.writestr(info, content)
        self.files[name] = {
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }


def _write(
    log: AuditLog, signed: Checkpoint, recorder: Recorder, out: Path, requester: str
) -> Bundle:
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    entries, leaves = io.BytesIO(), io.StringIO()
    recordings = 0
    with zipfile.ZipFile(partial, "w") as archive:
        bundle = _Zip(archive)
        for entry in log.entries():
            if entry.seq >= signed.size:
                break
            entries.write(entry.text.encode() + b"\n")
            leaves.write(entry.leaf.hex() + "\n")
            for recorded in recorded_files(json.loads(entry.text)):
                bundle.add(f"recordings/{recorded['path']}", recorder.read(recorded["path"]))
                recordings += 1
        bundle.add("log/entries.jsonl", entries.getvalue())
        bundle.add("log/leaves.txt", leaves.getvalue().encode())
        notes = [n for n in log.checkpoints() if int(n.split("\n", 2)[1]) <= signed.size]
        bundle.add("log/checkpoints.json", json.dumps(notes, ensure_ascii=False).encode())
        guide = resources.files("hoop_core.audit").joinpath("bundle_readme.txt").read_text()
        bundle.add("README.txt", guide.encode())
        manifest = rfc8785.dumps(
            {
                "format": FORMAT,
                "generator": f"hoop-guard {__version__}",
                "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "clock": "the exporting host",
                "requester": requester,
                "origin": signed.origin,
                "verifier_key": log.key.verifier_key,
                "first_seq": 0,
                "last_seq": signed.size - 1,
                "tree_size": signed.size,
                "root": signed.root.hex(),
                "files": bundle.files,
            }
        )
        digest = hashlib.sha256(manifest).hexdigest()
        bundle.add("manifest.json", manifest)
        bundle.add("manifest.note", log.key.sign_note(f"{MANIFEST_HEADER}\n{digest}\n").encode())
    partial.replace(out)
    return Bundle(out, signed.size, recordings, signed.root.hex(), log.key.verifier_key)
