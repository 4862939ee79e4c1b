"""Follows the log and tells the lineage receiver: behind the statements' backs, in order, at least once.

What the receiver does not take now is tried again from the log, with pauses, for as long as it takes. What it
refuses for its content, again and again, is given up, and that is on record.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Row

from hoop_core.audit.cursors import Cursor, Cursors, LeaseLost, pause
from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.errors import HoopError, StoreUnavailable, where
from hoop_core.lineage.events import KINDS, Events
from hoop_core.lineage.metrics import EVENTS, LAG
from hoop_core.lineage.transports import NotDelivered, Sender
from hoop_core.store import Store

_log = structlog.get_logger(__name__)
FOLLOWER = "lineage:events"
"""No notification channel can be called so."""
_PAGE = 500
_WORK_SECONDS = 10.0
"""How long one turn goes on before the next one is claimed."""
_LEASE_SECONDS = 30.0
_MOST_REFUSALS = 5


@dataclass(frozen=True, slots=True)
class _Stopped:
    """Where a turn ended: `done` is the last entry that is told; `why` the next one is not."""

    done: int
    failed: NotDelivered | None = None
    seq: int = -1
    kind: str = ""
    at: str = ""


class LineageFollower:
    """One process's. Without a sender nothing is told, and no cursor is kept."""

    def __init__(
        self,
        sender: Sender | None,
        events: Events,
        store: Store,
        log: AuditLog,
        *,
        owner: str,
        poll_seconds: float = 1.0,
    ) -> None:
        self._sender, self._events, self._poll = sender, events, poll_seconds
        self._cursors = Cursors(
            store, log, owner=owner, failed="lineage.failed", kinds=KINDS, page=_PAGE
        )

    @property
    def configured(self) -> bool:
        return self._sender is not None

    def begin(self) -> None:
        """Where lineage is new, it starts with what comes next. Raises StoreUnavailable."""
        if self.configured:
            self._cursors.begin([FOLLOWER])

    async def run(self) -> None:
        """Tell for ever."""
        while True:
            if not await self._tell_unless_broken():
                await asyncio.sleep(self._poll)

    async def drain(self, seconds: float) -> None:
        """Tell what is in the log already, for so long at most: the rest goes out after the next start."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.configured and await self._tell_unless_broken():
                    pass

    def close(self) -> None:
        if self._sender is not None:
            self._sender.close()

    async def _tell_unless_broken(self) -> bool:
        try:
            return await asyncio.to_thread(self.tell_next)
        except HoopError as e:
            _log.warning("lineage cannot follow the log", why=e.text)
        except Exception as e:  # the next try may find better
            _log.error("lineage failed inside Hoop", where=where(e))
        return False

    def tell_next(self) -> bool:
        """One turn; whether there may be more at once. Raises StoreUnavailable."""
        sender = self._sender
        if sender is None:
            return False
        at, rows = self._cursors.news(FOLLOWER)
        if at is None or not rows:
            if at is not None:
                LAG.set(0)
            return False
        seconds = _WORK_SECONDS + sender.seconds + _LEASE_SECONDS
        if not self._cursors.claim(FOLLOWER, at, seconds):
            return False
        stopped = self._work(sender, at, rows)
        try:
            return self._moved(at, stopped)
        except LeaseLost:
            _log.warning("another replica took lineage over")
            return False

    def _work(self, sender: Sender, at: Cursor, rows: Sequence[Row[Any]]) -> _Stopped:
        done, until = at.seq, time.monotonic() + _WORK_SECONDS
        for row in rows:
            try:
                for event in self._events.of(row.seq, row.kind, row.entry):
                    sender.send(event)
                    EVENTS.labels("sent").inc()
            except NotDelivered as e:
                return _Stopped(done, e, row.seq, row.kind, row.at)
            except StoreUnavailable:
                raise
            except Exception as e:
                _log.error("no lineage event can be made", entry=row.seq, where=where(e))
                unmade = NotDelivered("no event can be made of it", for_good=True)
                return _Stopped(done, unmade, row.seq, row.kind, row.at)
            done = row.seq
            if time.monotonic() > until:
                break
        return _Stopped(done)

    def _moved(self, at: Cursor, stopped: _Stopped) -> bool:
        """Write down how far it came. Raises LeaseLost, StoreUnavailable."""
        failed = stopped.failed
        if failed is None:
            self._cursors.advance(FOLLOWER, stopped.done)
            return True
        LAG.set(_age(stopped.at))
        tries = at.tries + 1 if stopped.done == at.seq else 1
        if failed.for_good and tries >= _MOST_REFUSALS:
            EVENTS.labels("given_up").inc()
            _log.error("a lineage event is given up", entry=stopped.seq, why=failed.why)
            entry = {
                "of_entry": stopped.seq,
                "kind": stopped.kind,
                "tries": tries,
                "why": failed.why,
            }
            self._cursors.give_up(FOLLOWER, stopped.seq, entry)
            return True
        EVENTS.labels("failed").inc()
        told = stopped.done if stopped.done != at.seq else None
        self._cursors.failed(FOLLOWER, failed.why, pause(tries - 1), done=told)
        return False


def _age(at: str) -> float:
    """Seconds. Entries of old versions have no time of their own in the store."""
    return max(0.0, (utc_now() - datetime.fromisoformat(at)).total_seconds()) if at else 0.0
