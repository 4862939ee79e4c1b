"""Removes what is due: first the purge record in the log, in the same transaction the bodies, then the recordings.

An entry that is pruned keeps its place, its kind, its time and its leaf, so the tree stays what it was. The purge
record says which entries and recordings went, by which class, with a digest over their leaves. Recordings that it
names and that are still there, because a process ended in between, go with the next run.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import fsspec
import structlog
from sqlalchemy import Connection, delete, insert, select, text, update
from sqlalchemy.exc import SQLAlchemyError

from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.audit.retention import Due, Selecting, Selection, rank, references, unit_key
from hoop_core.audit.standalone import recorded
from hoop_core.errors import ConfigError, StoreUnavailable
from hoop_core.model import Json
from hoop_core.policy.model import Policy, RetentionClass
from hoop_core.spans import in_words
from hoop_core.store import Store
from hoop_core.store.tables import answers, approvals, log_entries, purges, sessions

_log = structlog.get_logger(__name__)
_MOST_ENTRIES = 2000
"""Of one purge record."""
_IN = 500
_e = log_entries.c


@dataclass(frozen=True, slots=True)
class Pruned:
    """What went, or what would go. `classes` by name: entries and recordings."""

    entries: int
    recordings: int
    classes: dict[str, dict[str, int]]
    kept: dict[str, int]
    records: tuple[int, ...]
    finished: int
    """Purges of earlier runs whose recordings were still there."""

    def as_json(self) -> Json:
        return {
            "entries": self.entries,
            "recordings": self.recordings,
            "classes": self.classes,
            "kept": self.kept,
            "records": list(self.records),
            "finished": self.finished,
        }


class Pruning:
    """Raises ConfigError, StoreUnavailable."""

    def __init__(self, store: Store, log: AuditLog, policy: Policy, recordings: str) -> None:
        self._store, self._log, self._policy = store, log, policy
        self._fs, self._root = fsspec.core.url_to_fs(recordings)

    def look(self, *, now: datetime | None = None, below: int | None = None) -> Selection:
        return Selecting(self._store, self._policy, now=now or utc_now(), below=below).run()

    def run(
        self, *, by: str, reason: str, now: datetime | None = None, below: int | None = None
    ) -> Pruned:
        finished = self.finish()
        selection = self.look(now=now, below=below)
        records = [
            self._purge(rule, batch, selection, by=by, reason=reason)
            for rule, batch in _batches(selection.due)
        ]
        self.finish()
        if records:
            self._wipe()
        return told(selection, records, finished)

    def _purge(
        self,
        rule: RetentionClass,
        batch: Sequence[Due],
        selection: Selection,
        *,
        by: str,
        reason: str,
    ) -> int:
        purge = "prg_" + secrets.token_hex(8)
        recordings = [r for due in batch for r in due.unit.recordings]
        seqs = sorted(s for due in batch if due.bodies for s in due.unit.seqs)

        def write(connection: Connection) -> Json:
            self._nothing_new(connection, selection, batch)
            digest = _emptied(connection, seqs)
            _rows_gone(connection, [due for due in batch if due.bodies])
            # Named with what the record says: whoever comes after a crash needs no more than this row.
            row = {"id": purge, "recordings": [r["path"] for r in recordings]}
            connection.execute(insert(purges).values(**row))
            return {
                "purge": purge,
                "class": rule.name,
                "keep": rule.keep and in_words(rule.keep),
                "policy_digest": self._policy.digest,
                "reason": reason,
                "by": by,
                "count": len(seqs),
                "entries": _ranges(seqs),
                "leaves_sha256": digest,
                "recordings": recordings,
            }

        return self._log.append("log.pruned", write)

    def _nothing_new(
        self, connection: Connection, selection: Selection, batch: Sequence[Due]
    ) -> None:
        """What was appended since the log was looked at may hold, belong to or rest on what is to go."""
        having = {name for due in batch if due.bodies for name in due.unit.provides}
        keys = {due.unit.key for due in batch}
        query = select(_e.seq, _e.kind, _e.session_id, _e.entry).where(_e.seq > selection.scanned)
        for row in connection.execute(query.where(_e.entry != "").order_by(_e.seq)):
            data = json.loads(row.entry)["data"]
            key = unit_key(row.seq, row.kind, row.session_id, data)
            what = "A hold was placed" if row.kind == "hold.placed" else ""
            if key in keys or not having.isdisjoint(references(data)):
                what = "Something that was to go was used"
            if what:
                raise ConfigError(
                    f"{what} meanwhile; what was not removed before it is still there.",
                    "Run `hoop audit prune` again.",
                )

    def finish(self) -> int:
        """Remove the recordings of purge records; how many records had any left. Raises StoreUnavailable."""
        with self._store.read() as connection:
            query = select(purges.c.id, purges.c.recordings).where(purges.c.done_at.is_(None))
            open_ = connection.execute(query).all()
        for row in open_:
            for path in row.recordings:
                self._remove(str(path))
            for folder in {str(path).partition("/")[0] for path in row.recordings}:
                self._remove_folder(folder)
            with self._store.write() as connection:
                connection.execute(
                    update(purges).where(purges.c.id == row.id).values(done_at=utc_now())
                )
        return len(open_)

    def _remove(self, path: str) -> None:
        with suppress(FileNotFoundError):
            try:
                self._fs.rm_file(f"{self._root}/{path}")
            except FileNotFoundError:
                raise
            except OSError as e:
                raise StoreUnavailable(
                    f"The recording {path} cannot be removed: {type(e).__name__}.",
                    "It is in a purge record already; run `hoop audit prune` again.",
                ) from e

    def _remove_folder(self, session: str) -> None:
        """What no entry vouches for goes with the last recording: files that were never finished."""
        full = f"{self._root}/{session}"
        query = select(_e.entry).where(_e.session_id == session, _e.entry != "")
        with self._store.read() as connection:
            entries = [json.loads(text) for text in connection.scalars(query)]
        vouched = {str(one["path"]).rpartition("/")[2] for e in entries for one in recorded(e)}
        with suppress(FileNotFoundError):
            left = {str(f["name"]).rpartition("/")[2] for f in self._fs.ls(full, detail=True)}
            if left & vouched:
                return
            try:
                self._fs.rm(full, recursive=True)
            except FileNotFoundError:
                raise
            except OSError as e:
                _log.warning("a folder of recordings is left", why=type(e).__name__)

    def _wipe(self) -> None:
        """Have the database overwrite what is gone: before that the bytes may still be in its files."""
        try:
            with self._store.engine.connect() as raw:
                connection = raw.execution_options(isolation_level="AUTOCOMMIT")
                if self._store.shared:
                    connection.execute(text("VACUUM log_entries"))
                else:
                    connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        except SQLAlchemyError as e:
            _log.warning(
                "the database has not given up the space of what was pruned: run VACUUM",
                why=type(getattr(e, "orig", None) or e).__name__,
            )


def _emptied(connection: Connection, seqs: Sequence[int]) -> str:
    """SHA-256 (hex) over the leaves of the entries, in their order, whose bodies go now."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA secure_delete = ON")
    digest = hashlib.sha256()
    for some in _parts(seqs):
        query = select(_e.seq, _e.leaf).where(_e.seq.in_(some), _e.entry != "").order_by(_e.seq)
        rows = connection.execute(query).all()
        if [r.seq for r in rows] != list(some):
            raise StoreUnavailable(
                "The log changed while it was looked at: another process prunes it.",
                "Run `hoop audit prune` again.",
            )
        for row in rows:
            digest.update(bytes(row.leaf))
        connection.execute(update(log_entries).where(_e.seq.in_(some)).values(entry=""))
    return digest.hexdigest()


def _rows_gone(connection: Connection, batch: Sequence[Due]) -> None:
    """What the store has besides the log of the same sessions and requests."""
    keys = [due.unit.key.partition("/") for due in batch]
    for some in _parts([name for what, _, name in keys if what == "session"]):
        connection.execute(
            delete(sessions).where(sessions.c.id.in_(some), sessions.c.closed_at.is_not(None))
        )
    for some in _parts([name for what, _, name in keys if what == "request"]):
        connection.execute(delete(answers).where(answers.c.approval_id.in_(some)))
        connection.execute(delete(approvals).where(approvals.c.id.in_(some)))


def _batches(due: Sequence[Due]) -> Iterator[tuple[RetentionClass, list[Due]]]:
    """What belongs together is never in two of them; class by class, what others rest on last."""
    by_class: dict[tuple[int, str], list[Due]] = {}
    for one in due:
        by_class.setdefault((rank(one.unit), one.rule.name), []).append(one)
    for found in by_class.values():
        batch: list[Due] = []
        size = 0
        for one in found:
            weight = len(one.unit.seqs)
            if batch and size + weight > _MOST_ENTRIES:
                yield batch[0].rule, batch
                batch, size = [], 0
            batch.append(one)
            size += weight
        yield batch[0].rule, batch


def _ranges(seqs: Sequence[int]) -> list[list[int]]:
    """First and last of each run of numbers."""
    found: list[list[int]] = []
    for seq in seqs:
        if found and found[-1][1] == seq - 1:
            found[-1][1] = seq
        else:
            found.append([seq, seq])
    return found


def _parts(items: Sequence[int] | Sequence[str]) -> Iterator[Sequence[int] | Sequence[str]]:
    for at in range(0, len(items), _IN):
        yield items[at : at + _IN]


def told(selection: Selection, records: Iterable[int] = (), finished: int = 0) -> Pruned:
    """A selection in numbers."""
    classes: dict[str, dict[str, int]] = {}
    for due in selection.due:
        counts = classes.setdefault(due.rule.name, {"entries": 0, "recordings": 0})
        counts["entries"] += len(due.unit.seqs) if due.bodies else 0
        counts["recordings"] += len(due.unit.recordings)
    return Pruned(
        sum(c["entries"] for c in classes.values()),
        sum(c["recordings"] for c in classes.values()),
        classes,
        selection.kept,
        tuple(records),
        finished,
    )
