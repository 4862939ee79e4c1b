"""The log of a period as lines of JSON, as one table of accesses (CSV), and as OCSF events.

Each export is an entry of the log first, and comes with a manifest: what was asked for, what is in it, and the signed
tree that it was taken from.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

import rfc8785
from sqlalchemy import select

from hoop_core import __version__
from hoop_core.audit.log import AuditLog
from hoop_core.audit.ocsf import Ocsf
from hoop_core.audit.stored import Entry, bounds, stored_entries
from hoop_core.errors import ConfigError, EvidenceError
from hoop_core.evidence.criteria import COLUMNS, Tables
from hoop_core.evidence.tables import cell
from hoop_core.model import Json
from hoop_core.store import Store
from hoop_core.store.tables import log_entries

MANIFEST_HEADER = "hoop-export-manifest"
_MOST_REMEMBERED = 2_000
_e = log_entries.c


class Format(StrEnum):
    CSV = "csv"
    JSON = "json"
    OCSF = "ocsf"


@dataclass(frozen=True, slots=True)
class Period:
    """From `begin` on and before `end`, RFC 3339 UTC as in the entries; None: everything that there is."""

    begin: str | None = None
    end: str | None = None


@dataclass(frozen=True, slots=True)
class Exported:
    """`lines` are rows, entries or events, without a header. Entries are [first, end)."""

    format: Format
    lines: int
    first: int
    end: int
    sha256: str
    root: str


class _Counted:
    """A text stream that knows what went through it."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream, self.digest, self.lines = stream, hashlib.sha256(), 0

    def write(self, text: str) -> int:
        self.digest.update(text.encode("utf-8", "backslashreplace"))
        return self._stream.write(text)

    def line(self, text: str) -> None:
        self.write(text + "\n")
        self.lines += 1


class Remembered:
    """What entries name: the openings of sessions, and intents. Raises StoreUnavailable."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._opened: OrderedDict[str, Json | None] = OrderedDict()

    def session(self, session_id: str) -> Json | None:
        if session_id not in self._opened:
            query = select(_e.entry).where(
                _e.session_id == session_id, _e.kind == "session.opened", _e.entry != ""
            )
            self._opened[session_id] = self._data(query.limit(1))
            if len(self._opened) > _MOST_REMEMBERED:
                self._opened.popitem(last=False)
        return self._opened[session_id]

    def _data(self, query: Any) -> Json | None:
        with self._store.read() as connection:
            text = connection.scalar(query)
        return None if text is None else json.loads(text)["data"]

    def intent(self, seq: int) -> Json | None:
        with self._store.read() as connection:
            text = connection.scalar(select(_e.entry).where(_e.seq == seq))
        return json.loads(text) if text else None


def export(
    store: Store, log: AuditLog, out: IO[str], wanted: Format, period: Period, *, requester: str
) -> tuple[Exported, Json]:
    """Write it to `out`; the manifest is for whoever keeps it. Raises StoreUnavailable, EvidenceError."""
    asked = {"requester": requester, "format": wanted, "from": period.begin, "to": period.end}
    log.append("evidence.exported", asked)
    signed = log.checkpoint()
    first, end = bounds(store, period.begin, period.end)
    end = min(end, signed.size)
    counted = _Counted(out)
    entries = _between(store, first, end)
    match wanted:
        case Format.JSON:
            _as_json(counted, entries)
        case Format.CSV:
            _as_csv(counted, entries, Remembered(store))
        case Format.OCSF:
            _as_ocsf(counted, entries, Ocsf(signed.origin, Remembered(store)))
    digest = counted.digest.hexdigest()
    exported = Exported(wanted, counted.lines, first, end, digest, signed.root.hex())
    manifest = {
        **asked,
        "generator": f"hoop-guard {__version__}",
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "clock": "the exporting host; entries carry the gateway's",
        "first_seq": first,
        "last_seq": end - 1,
        "entries": max(end - first, 0),
        "gaps": 0,
        "lines": counted.lines,
        "sha256": digest,
        "tree_size": signed.size,
        "root": signed.root.hex(),
        "checkpoint": signed.note,
        "verifier_key": log.key.verifier_key,
    }
    return exported, manifest


def write_manifest(log: AuditLog, manifest: Json, beside: Path) -> Path:
    """`FILE.manifest.json`, and its digest signed by the log's key in `FILE.manifest.note`."""
    path = beside.with_name(beside.name + ".manifest.json")
    content = rfc8785.dumps(manifest)
    digest = hashlib.sha256(content).hexdigest()
    path.write_bytes(content)
    note = log.key.sign_note(f"{MANIFEST_HEADER}\n{digest}\n")
    path.with_suffix(".note").write_text(note, encoding="utf-8")
    return path


@contextmanager
def file_in_full(path: Path) -> Iterator[IO[str]]:
    """The file is there when all of it is. Raises ConfigError."""
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8", errors="backslashreplace", newline="") as opened:
            yield opened
        partial.replace(path)
    except OSError as e:
        raise ConfigError(
            f"{path} cannot be written: {e.strerror}.", "Name another place with --out."
        ) from None
    finally:
        partial.unlink(missing_ok=True)


def _between(store: Store, first: int, end: int) -> Iterator[Entry]:
    """All entries [first, end). Raises EvidenceError where one is not there."""
    expected = first
    if first >= end:
        return
    for entry in stored_entries(store, first=first):
        if entry.seq >= end:
            break
        if entry.seq != expected:
            break
        expected += 1
        yield entry
    if expected != end:
        raise EvidenceError(
            f"Entry {expected} is not in the store.",
            "Run `hoop audit verify` on it; the export has not been finished.",
        )


def _as_json(out: _Counted, entries: Iterator[Entry]) -> None:
    """Each line is what the entry's leaf is the hash of."""
    for entry in entries:
        if entry.text:
            out.line(entry.text)
            continue
        left: Json = {"at": entry.at, "kind": entry.kind, "leaf": entry.leaf.hex(), "pruned": True}
        out.line(rfc8785.dumps(left | {"seq": entry.seq}).decode())


class _Table:
    """The rows of one table, to a stream."""

    def __init__(self, out: _Counted, columns: tuple[str, ...]) -> None:
        self._out, self._columns = out, columns
        self._writer = csv.writer(out)
        self._writer.writerow(columns)

    def add(self, row: Json) -> None:
        self._writer.writerow([cell(row.get(column)) for column in self._columns])
        self._out.lines += 1

    def close(self) -> None: ...


class _Accesses(Tables):
    """The bundle's table of accesses, alone."""

    def __init__(self, out: _Counted) -> None:
        super().__init__(Path(), ())
        self.files = {"access": _Table(out, COLUMNS["access"])}  # type: ignore[dict-item]


def _as_csv(out: _Counted, entries: Iterator[Entry], around: Remembered) -> None:
    """One row for each statement that ran, failed or was refused in the period, when it ended."""
    table = _Accesses(out)
    begun: set[int] = set()
    for entry in entries:
        if not entry.text or not entry.kind.startswith("statement."):
            continue
        parsed: Json = json.loads(entry.text)
        if entry.kind == "statement.intent":
            begun.add(entry.seq)
        if entry.kind == "statement.outcome":
            seq = int(parsed["data"]["intent"])
            if seq in begun:
                begun.discard(seq)
            elif (intent := around.intent(seq)) is not None:  # from before the period
                table.known(intent)
        table.tell(parsed)
    table.close()


def _as_ocsf(out: _Counted, entries: Iterator[Entry], ocsf: Ocsf) -> None:
    begun: dict[int, None] = {}
    for entry in entries:
        if not entry.text:
            out.line(_dumped(ocsf.pruned(entry.seq, entry.kind, entry.at)))
            continue
        parsed: Json = json.loads(entry.text)
        if entry.kind == "statement.intent":
            begun[entry.seq] = None
        elif entry.kind == "statement.outcome":
            begun.pop(int(parsed["data"]["intent"]), None)
        event = ocsf.event(parsed)
        if event is not None:
            out.line(_dumped(event))
    for seq in begun:
        intent = ocsf.around.intent(seq)
        if intent is not None:
            out.line(_dumped(ocsf.unfinished(intent)))


def _dumped(event: Json) -> str:
    return json.dumps(event, ensure_ascii=False, separators=(",", ":"))
