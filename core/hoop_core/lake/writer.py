"""Follows the log into Parquet files: each entry once, whatever ends in between.

What is to be written is made durable first, as a range of sequence numbers. Whoever comes after a crash, or works
beside one that is held up, writes the same range to the same names; so a file is there once, and says the same.
Who was held up for so long that another one took over has looked at the log too early: it takes out again what was
pruned meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import date, datetime, timedelta
from itertools import chain
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
from hoop_core.replay.results import Changed, verified_file
from hoop_core.store import Store
from hoop_core.store.tables import lake_progress, log_entries

_log = structlog.get_logger(__name__)
_CLAIM = timedelta(minutes=2)
"""For one file; it is renewed for the next."""
_PAGE = 1000
_ID = 1
_c, _e = lake_progress.c, log_entries.c


class _Lost(Exception):
    """Another replica has taken the range over."""


class LakeWriter:
    """One process's; of several replicas the one that claims the range writes it. Raises ConfigError."""

    def __init__(
        self, settings: LakeSettings, store: Store, recorder: Recorder, *, owner: str
    ) -> None:
        self._settings, self._store, self._recorder = settings, store, recorder
        self._owner, self._turn = owner, threading.Lock()
        self._lake = Lake(settings.root) if settings.root else None

    @property
    def configured(self) -> bool:
        return self._lake is not None

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

    async def drain(self, seconds: float) -> None:
        """Write what is in the log already, for so long at most: the rest is written after the next start."""
        with suppress(TimeoutError, HoopError):
            async with asyncio.timeout(seconds):
                while await asyncio.to_thread(self.step):
                    pass

    def step(self) -> bool:
        """Write what comes next; whether there may be more. Raises StoreUnavailable."""
        # A thread that nobody waits for any more may still be at it.
        with self._turn:
            claimed = self._claim() if self._lake is not None else None
            if self._lake is None or claimed is None:
                return False
            try:
                self._write(self._lake, *claimed)
                self._written(claimed[1])
            except _Lost:
                self._pruned_meanwhile(self._lake, claimed[0])
                return False
            return True

    def _written(self, last: int) -> None:
        with self._store.write() as connection:
            done = connection.execute(
                update(lake_progress)
                .where(_c.id == _ID, _c.until == last, _c.owner == self._owner)
                .values(seq=last, until=None, owner=None, claimed_until=None)
            )
        if done.rowcount != 1:
            raise _Lost

    def _renew(self, last: int) -> None:
        with self._store.write() as connection:
            until = self._store.now(connection) + _CLAIM
            held = connection.execute(
                update(lake_progress)
                .where(_c.id == _ID, _c.until == last, _c.owner == self._owner)
                .values(claimed_until=until)
            )
        if held.rowcount != 1:
            raise _Lost

    def _pruned_meanwhile(self, lake: Lake, first: int) -> None:
        """Until there is no newer purge: those that come later are for whoever holds the claim."""
        while True:
            purges = list(self._purges(first))
            for _, record in purges:
                prune(lake, record)
            if not purges:
                return
            first = purges[-1][0] + 1

    def _purges(self, first: int) -> Iterator[tuple[int, Json]]:
        query = select(_e.seq, _e.entry).where(_e.seq >= first, _e.kind == "log.pruned")
        with self._store.read() as connection:
            for row in connection.execute(query.order_by(_e.seq)):
                yield row.seq, json.loads(row.entry)["data"]

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
        days: dict[date, list[Entry]] = {}
        for entry in self._entries(first, last):
            days.setdefault(datetime.fromisoformat(entry.at).date(), []).append(entry)
        for day, entries in days.items():
            self._write_day(lake, day, first, last, entries)
        for _, record in [p for p in self._purges(first) if p[0] <= last]:
            self._renew(last)
            prune(lake, record)

    def _write_day(
        self, lake: Lake, day: date, first: int, last: int, entries: Sequence[Entry]
    ) -> None:
        self._renew(last)
        with lake.writing(LakeFile("entries", day, first, last)) as writer:
            write_rows(writer, map(entry_row, entries), ENTRIES)
        if self._settings.results:
            self._renew(last)
            file = LakeFile("results", day, first, last)
            rows = self._results(entries)
            any_row = next(rows, None)
            if any_row is None:
                lake.remove(file)  # of a batch that is written again
            else:
                with lake.writing(file) as writer:
                    write_rows(writer, chain((any_row,), rows), RESULTS)

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
                yield from result_rows(entry, data, exchange, self._verified)

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

    def _verified(self, told: Json) -> bytes | None:
        """What lies there, if it is what the log says. None too where it is gone: it was pruned before this."""
        try:
            return verified_file(told, self._recorder.read(str(told["path"])))
        except Changed:
            _log.error("a recording is not what the log says", path=str(told["path"]))
            return None
        except StoreUnavailable as e:
            if isinstance(e.__cause__, FileNotFoundError):
                return None
            raise


def prune(lake: Lake, record: Json) -> None:
    """Take out what a purge record names. To do it twice is to do it once."""
    ranges = [(int(a), int(b)) for a, b in record.get("entries") or ()]
    paths = {str(r["path"]) for r in record.get("recordings") or ()}

    def gone(seq: int) -> bool:
        return any(a <= seq <= b for a, b in ranges)

    def going(row: Json) -> bool:
        return gone(row["seq"]) or row["recording"] in paths

    for file in lake.files("entries"):
        if any(file.first <= b and a <= file.last for a, b in ranges):
            rows = lake.rows(file)
            if any(gone(r["seq"]) and not r["pruned"] for r in rows):
                _rewrite(lake, file, [emptied(r) if gone(r["seq"]) else r for r in rows])
    for file in lake.files("results") if ranges or paths else ():
        if any(going(r) for r in lake.rows(file, ("seq", "recording"))):
            left = [r for r in lake.rows(file) if not going(r)]
            if left:
                _rewrite(lake, file, left)
            else:
                lake.remove(file)


def _rewrite(lake: Lake, file: LakeFile, rows: Sequence[dict[str, Any]]) -> None:
    schema = ENTRIES if file.what == "entries" else RESULTS
    with lake.writing(file) as writer:
        write_rows(writer, rows, schema)
