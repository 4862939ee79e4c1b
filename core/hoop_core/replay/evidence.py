"""Where replay reads from: a store with its recordings, or a bundle. Nothing is written, and nothing believed.

Whether the entries are those that were written is `hoop audit verify`'s question; here they are taken as they are.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sqlalchemy import select

from hoop_core.audit import described
from hoop_core.audit.recording import MOST_BYTES, Recorder
from hoop_core.errors import ConfigError, EvidenceError, StoreUnavailable
from hoop_core.model import Json
from hoop_core.rehearsal.history import log_lines
from hoop_core.sql.catalog import CatalogObject
from hoop_core.store import Store
from hoop_core.store.tables import log_entries

_SHARED = ("policy.loaded", described.KIND, "log.pruned")
_ASKING = ("statement.intent", "statement.refused")
_CONTEXT = "log/context.jsonl"
_PAGE = 500


class Source(Protocol):
    """What replay asks for."""

    def shared(self) -> Iterator[Json]:
        """The entries `policy.loaded`, `catalog.described` and `log.pruned`, in order."""

    def session(self, session_id: str) -> Iterator[Json]:
        """The entries of a session, in order; `data` is None of one whose body is not kept any more."""

    def sessions(self) -> list[str]:
        """The ids of all sessions that asked for a statement, in order."""

    def recording(self, path: str) -> bytes | None:
        """The bytes of a recorded file as they are stored; None when it is not there."""


@dataclass(frozen=True, slots=True)
class StoreSource:
    """A store, and the recordings that belong to it. Raises StoreUnavailable."""

    store: Store
    recorder: Recorder

    def shared(self) -> Iterator[Json]:
        return self._read(log_entries.c.kind.in_(_SHARED))

    def session(self, session_id: str) -> Iterator[Json]:
        return self._read(log_entries.c.session_id == session_id)

    def sessions(self) -> list[str]:
        query = select(log_entries.c.session_id).where(
            log_entries.c.kind.in_(_ASKING),
            log_entries.c.session_id.is_not(None),
        )
        with self.store.read() as connection:
            found = connection.scalars(query.order_by(log_entries.c.seq)).all()
        return list(dict.fromkeys(map(str, found)))

    def recording(self, path: str) -> bytes | None:
        try:
            return self.recorder.read(path)
        except StoreUnavailable:
            return None

    def _read(self, condition: object) -> Iterator[Json]:
        start = 0
        columns = (log_entries.c.seq, log_entries.c.kind, log_entries.c.session_id)
        while True:
            query = select(*columns, log_entries.c.entry).where(
                condition,  # type: ignore[arg-type]
                log_entries.c.seq >= start,
            )
            with self.store.read() as connection:
                rows = connection.execute(query.order_by(log_entries.c.seq).limit(_PAGE)).all()
            for row in rows:
                yield _entry(row.entry) if row.entry else _pruned(*row[:3])
            if len(rows) < _PAGE:
                return
            start = rows[-1].seq + 1


@dataclass(slots=True)
class BundleSource:
    """An evidence bundle. It is read once, and the entries of its sessions are kept in memory.

    Raises ConfigError for what is no bundle, EvidenceError for an entry that is none.
    """

    path: Path
    _shared: list[Json] = field(default_factory=list)
    _sessions: dict[str, list[Json]] = field(default_factory=dict)
    _asked: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.path.is_file() or not zipfile.is_zipfile(self.path):
            raise ConfigError(
                f"{self.path} is no evidence bundle.", "Give the zip that `hoop audit export` made."
            )
        for line in self._context():
            self._take(line)
        last = -1
        for text in log_lines(self.path):
            if not text.strip():  # a body that is not kept any more; whose it was, neither
                continue
            entry = _entry(text.decode("utf-8", "replace"))
            if entry["seq"] <= last:
                raise EvidenceError(
                    f"Entry {entry['seq']} of the log follows entry {last}.",
                    "Run `hoop audit verify` on the bundle.",
                )
            last = entry["seq"]
            self._take(entry)
        for taken in (self._shared, *self._sessions.values()):
            taken.sort(key=lambda e: int(e["seq"]))

    def _context(self) -> Iterator[Json]:
        """Entries from outside a bundle's period that it rests on."""
        with zipfile.ZipFile(self.path) as archive:
            if _CONTEXT not in archive.namelist():
                return
        for line in log_lines(self.path, _CONTEXT):
            try:
                text = str(json.loads(line)["entry"])
            except (ValueError, KeyError, TypeError, RecursionError):
                raise _no_entry() from None
            yield _entry(text)

    def _take(self, entry: Json) -> None:
        if entry["kind"] in _SHARED:
            self._shared.append(entry)
        session = entry["session"]
        if session is not None:
            self._sessions.setdefault(str(session), []).append(entry)
            if entry["kind"] in _ASKING:
                self._asked[str(session)] = None

    def shared(self) -> Iterator[Json]:
        return iter(self._shared)

    def session(self, session_id: str) -> Iterator[Json]:
        return iter(self._sessions.get(session_id, ()))

    def sessions(self) -> list[str]:
        return list(self._asked)

    def recording(self, path: str) -> bytes | None:
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(f"recordings/{path}") as file:
                content = file.read(MOST_BYTES + 1)
        except KeyError:
            return None
        except Exception as e:  # zlib and zipfile have errors of many types for a changed byte
            raise EvidenceError(
                f"The recording {path} cannot be unpacked: {type(e).__name__}.",
                "Run `hoop audit verify` on the bundle.",
            ) from None
        if len(content) > MOST_BYTES:
            raise EvidenceError(f"The recording {path} has more than {MOST_BYTES >> 20} MB.")
        return content


def _entry(text: str) -> Json:
    try:
        entry = json.loads(text)
        if not isinstance(entry["seq"], int) or not isinstance(entry["kind"], str):
            raise ValueError
        if not isinstance(entry["data"], dict) or not isinstance(entry["at"], str):
            raise ValueError
        if not isinstance(entry["session"], str | None):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _no_entry() from None
    found: Json = entry
    return found


def _no_entry() -> EvidenceError:
    return EvidenceError(
        "The log holds something that is no entry.", "Run `hoop audit verify` on it."
    )


def _pruned(seq: int, kind: str, session: str | None) -> Json:
    return {"seq": seq, "kind": kind, "session": session, "at": "", "data": None}


@dataclass(slots=True)
class Known:
    """Policies and descriptions of a log, by their digests; of tables also the last description before an entry."""

    policies: dict[str, str] = field(default_factory=dict)
    objects: dict[str, CatalogObject] = field(default_factory=dict)
    by_name: dict[tuple[str, str], list[tuple[int, str]]] = field(default_factory=dict)
    """By account and name: entry and digest, in order."""
    removed: dict[str, str] = field(default_factory=dict)
    """Recordings whose time was over, with their digests."""

    @classmethod
    def of(cls, source: Source, wrong: Callable[[str], None] = lambda _what: None) -> Known:
        """`wrong` hears of descriptions that are not what they say."""
        known = cls()
        for entry in source.shared():
            data = entry["data"]
            if data is None:
                continue
            if entry["kind"] == "policy.loaded":
                known.policies[str(data["digest"])] = str(data["text"])
                continue
            if entry["kind"] == "log.pruned":
                removed = data.get("recordings") or []
                known.removed |= {str(r["path"]): str(r["sha256"]) for r in removed}
                continue
            try:
                found = described.described_object(data["object"])
                if found.digest != data["sha256"]:
                    raise ValueError("its digest differs")
            except (ValueError, KeyError, TypeError) as e:
                wrong(f"entry {entry['seq']} describes nothing: {e}")
                continue
            known.objects[found.digest] = found
            place = (str(data["account"]), str(data["name"]))
            known.by_name.setdefault(place, []).append((entry["seq"], found.digest))
        return known

    def last(self, account: str, name: str, before: int) -> CatalogObject | None:
        """What was last said of a table before an entry."""
        for seq, digest in reversed(self.by_name.get((account, name), [])):
            if seq < before:
                return self.objects[digest]
        return None
