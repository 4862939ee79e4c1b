"""Open pages hear of changes: one look at the store serves all of them, and none costs a thread.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable

import structlog
from sqlalchemy import func, select

from hoop_core.approvals.approval import OPEN
from hoop_core.errors import HoopError
from hoop_core.store import Store
from hoop_core.store.tables import answers, approvals

_log = structlog.get_logger(__name__)
_LOOK_SECONDS = 1.0
_LONGEST_SECONDS = 50.0
"""Then the browser comes again, and who is in front of it is asked anew."""
ALL = ""
_AT_ONCE = 500


class Live:
    """What changed since a page was made. `stopping` says that the process is about to end."""

    def __init__(self, store: Store, *, most: int, stopping: Callable[[], bool]) -> None:
        self._store, self._most, self._stopping = store, most, stopping
        self._stamps: dict[str, str] = {}
        self._watching: defaultdict[str, int] = defaultdict(int)
        self._changed = asyncio.Condition()
        self._looking: asyncio.Task[None] | None = None

    @property
    def full(self) -> bool:
        return sum(self._watching.values()) >= self._most

    async def events(self, subject: str) -> AsyncIterator[bytes]:
        """Server-sent events: the stamp of one approval, or of all that wait, whenever it is another."""
        self._watching[subject] += 1
        self._start()
        loop = asyncio.get_running_loop()
        until, told = loop.time() + _LONGEST_SECONDS, ""
        try:
            yield b"retry: 2000\n\n"
            while loop.time() < until and not self._stopping():
                stamp = self._stamps.get(subject, "")
                if stamp and stamp != told:
                    told = stamp
                    yield f"event: stamp\ndata: {stamp}\n\n".encode()
                async with self._changed:
                    await self._changed.wait()
        finally:
            self._watching[subject] -= 1
            if not self._watching[subject]:
                del self._watching[subject]
                self._stamps.pop(subject, None)

    def _start(self) -> None:
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        """For as long as somebody has a page open."""
        while self._watching:
            try:
                self._stamps = await asyncio.to_thread(self._read, list(self._watching))
            except HoopError as e:
                _log.warning("open pages are not told of changes", why=e.text)
            async with self._changed:
                self._changed.notify_all()
            await asyncio.sleep(_LOOK_SECONDS)

    def _read(self, subjects: list[str]) -> dict[str, str]:
        """One query for the list, and one for some hundred requests that are looked at."""
        named = [s for s in subjects if s != ALL]
        found: dict[str, str] = {}
        columns = approvals.c
        with self._store.read() as connection:
            for start in range(0, len(named), _AT_ONCE):
                some = named[start : start + _AT_ONCE]
                given = (
                    select(func.count())
                    .where(answers.c.approval_id == columns.id)
                    .correlate(approvals)
                    .scalar_subquery()
                )
                query = select(
                    columns.id, columns.status, columns.review_open, columns.impact.is_(None), given
                ).where(columns.id.in_(some))
                for row in connection.execute(query):
                    found[row.id] = _stamp(*row[1:])
            if ALL in subjects:
                waiting = connection.execute(
                    select(func.count(), func.max(columns.created_at)).where(
                        columns.status.in_(OPEN)
                    )
                ).one()
                last = connection.scalar(select(func.max(answers.c.id)))
                found[ALL] = _stamp(*waiting, last)
        return found


def _stamp(*values: object) -> str:
    """Tells nothing but that something is different."""
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]
