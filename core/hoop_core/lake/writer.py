"""Follows the log into Parquet files: each entry once, whatever ends in between.

What is to be written is made durable first, as a range of sequence numbers. Whoever comes after a crash, or works
beside one that is held up, writes the same range to the same names; so a file is there once, and says the same.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from itertools import groupby
from typing import Any

import structlog
from sqlalchemy import func, insert, or_, select, update

from hoop_core.audit.recording import Recorder
from hoop_core.audit.stored import Entry
from hoop_core.config import LakeSettings
from hoop_core.errors import HoopError, StoreUnavailable, where
from hoop_core.lake.files import Lake, LakeFile, write_rows
from hoop_core.lake.rows import (
    ENTRIES,
    RESULTS,
    emptied,
    entry_row,
    exchange_of,
    recorded,
    result_rows,
)
from hoop_core.model import Json
from hoop_core.store import Store
from hoop_core.store.tables import lake_progress, log_entries

_log = structlog.get_logger(__name__)
_CLAIM = timedelta(minutes=5)
_PAGE = 1000
_ID = 1
_c, _e = lake_progress.c, log_entries.c


class LakeWriter:
    """One process's; of several replicas the one that claims the range writes it."""

    def __init__(
        self, settings: LakeSettings, store: Store, recorder: Recorder, *, owner: str
    ) -> None:
        self._settings, self._store, self._recorder = settings, store, recorder
        self._owner = owner

    @property
    def configured(self) -> bool:
        return bool(self._settings.root)

    async def run(self) -> None:
        """Follow for ever."""
        while True:
            try:
                while await asyncio.to_thread(self.step):
                    pass
            except HoopError as e:
                _log.error("the Parquet files are not written", why=e.text)
            except Exception as e:  # the next try may find better
                _log.error("the Parquet files failed inside Hoop", where=where(e))
            await asyncio.sleep(self._settings.seconds)

    def step(self) -> bool:
        """Write what comes next; whether there may be more. Raises StoreUnavailable."""
        claimed = self._claim()
        if claimed is None:
            return False
        first, last = claimed
        lake = Lake(self._settings.root)
        self._write(lake, first, last)
        with self._store.write() as connection:
            done = connection.execute(
                update(lake_progress)
                .where(_c.id == _ID, _c.until == last, _c.owner == self._owner)
                .values(seq=last, until=None, owner=None, claimed_until=None)
            )
        return done.rowcount == 1

    def _claim(self) -> tuple[int, int] | None:
        """The range to write, made durable before anything of it is written."""
        with self._store.write() as connection:
            if connection.scalar(select(_c.id).where(_c.id == _ID)) is None:
                connection.execute(insert(lake_progress).values(id=_ID, seq=-1))
            now = self._store.now(connection)
            free = or_(_c.owner.is_(None), _c.owner == self._owner, _c.claimed_until <= now)
            row = connection.execute(
                select(_c.seq, _c.until).where(_c.id == _ID, free)
            ).one_or_none()
            if row is None:
                return None
            until = row.until
            if until is None:
                newest = connection.scalar(select(func.max(_e.seq)))
                until = min(row.seq + self._settings.entries, -1 if newest is None else newest)
                if until <= row.seq:
                    return None
            taken = connection.execute(
                update(lake_progress)
                .where(_c.id == _ID, _c.seq == row.seq, free)
                .values(until=until, owner=self._owner, claimed_until=now + _CLAIM)
            )
        return (row.seq + 1, until) if taken.rowcount == 1 else None

    # ------------------------------------------------------------------ writing

    def _write(self, lake: Lake, first: int, last: int) -> None:
        for day, entries in groupby(self._entries(first, last), key=_day):
            # Times never go back, so a day's entries stand together.
            self._write_day(lake, day, first, last, list(entries))

    def _write_day(
        self, lake: Lake, day: date, first: int, last: int, entries: Sequence[Entry]
    ) -> None:
        with lake.writing(LakeFile("entries", day, first, last)) as writer:
            write_rows(writer, map(entry_row, entries), ENTRIES)
        if self._settings.results:
            file = LakeFile("results", day, first, last)
            with lake.writing(file) as writer:
                count = write_rows(writer, self._results(entries), RESULTS)
            if not count:
                lake.remove(file)
        for entry in entries:
            if entry.kind == "log.pruned" and entry.text:
                prune(lake, json.loads(entry.text)["data"])

    def _entries(self, first: int, last: int) -> Iterator[Entry]:
        start = first
        while start <= last:
            query = select(log_entries).where(_e.seq >= start, _e.seq <= last)
            with self._store.read() as connection:
                rows = connection.execute(query.order_by(_e.seq).limit(_PAGE)).all()
            for row in rows:
                yield Entry(row.seq, row.kind, row.session_id, row.entry, bytes(row.leaf), row.at)
            if len(rows) < _PAGE:
                return
            start = rows[-1].seq + 1

    def _results(self, entries: Sequence[Entry]) -> Iterator[Json]:
        for entry in entries:
            if entry.kind not in {"statement.outcome", "result.part"} or not entry.text:
                continue
            data: Json = json.loads(entry.text)["data"]
            if recorded(data):
                exchange = exchange_of(data) or self._exchange_before(entry, data)
                yield from result_rows(entry, data, exchange, self._read)

    def _exchange_before(self, entry: Entry, data: Json) -> Json | None:
        """Of a further part: what the statement's outcome vouches for."""
        query = (
            select(_e.entry)
            .where(_e.session_id == entry.session_id, _e.kind == "statement.outcome")
            .where(_e.seq < entry.seq, _e.entry != "")
        )
        with self._store.read() as connection:
            for (text,) in connection.execute(query.order_by(_e.seq.desc())):
                found: Json = json.loads(text)["data"]
                if found.get("statement_id") == data.get("statement_id"):
                    return exchange_of(found)
        return None

    def _read(self, path: str) -> bytes | None:
        try:
            return self._recorder.read(path)
        except StoreUnavailable as e:
            if isinstance(e.__cause__, FileNotFoundError):
                return None  # pruned before it was written here
            raise


def prune(lake: Lake, record: Json) -> None:
    """Take out what a purge record names. To do it twice is to do it once."""
    ranges = [(int(a), int(b)) for a, b in record.get("ranges") or ()]
    paths = {str(r["path"]) for r in record.get("recordings") or ()}

    def gone(seq: int) -> bool:
        return any(a <= seq <= b for a, b in ranges)

    for file in lake.files("entries"):
        if any(file.first <= b and a <= file.last for a, b in ranges):
            rows = _rows(lake, file)
            _rewrite(lake, file, [emptied(r) if gone(r["seq"]) else r for r in rows])
    for file in lake.files("results") if ranges or paths else ():
        rows = _rows(lake, file)
        left = [r for r in rows if not gone(r["seq"]) and r["recording"] not in paths]
        if not left:
            lake.remove(file)
        elif len(left) < len(rows):
            _rewrite(lake, file, left)


def _rows(lake: Lake, file: LakeFile) -> list[dict[str, Any]]:
    return [row for batch in lake.batches(file) for row in batch.to_pylist()]


def _rewrite(lake: Lake, file: LakeFile, rows: Sequence[dict[str, Any]]) -> None:
    schema = ENTRIES if file.what == "entries" else RESULTS
    with lake.writing(file) as writer:
        write_rows(writer, rows, schema)


def _day(entry: Entry) -> date:
    return datetime.fromisoformat(entry.at).date()
