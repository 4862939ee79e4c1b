"""What is kept of statements: who may see them, their answers within bounds, and what was sent before."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from hoop_core.errors import HoopError
from hoop_core.gateway.sessions import Live
from hoop_core.http import BadRequest
from hoop_core.model import Json
from hoop_core.plan import Delivered
from hoop_core.results.answers import ChunkSet
from hoop_core.session.guarded import GuardedSession, Progress, QueryRequest

REQUESTS_KNOWN = 20_000
"""Request ids that a session remembers: one that comes again never runs again."""
_STATEMENTS_KNOWN = 1_000
_RESULTS_KEPT = 256
_ANSWER_BYTES = 64 << 20
"""Of one session; the first parts of results only, for the others stay with Snowflake."""
_ALL_ANSWER_BYTES = 512 << 20
_SHOWN_CHARS = 4_000
_CELL_BYTES = 64


@dataclass(slots=True)
class Running:
    """One submitted statement, from its request to the end of what is known of it."""

    live: Live
    statement_id: str
    text: str
    """Its first characters, for those who ask what it is."""
    detached: bool
    """Asked for asynchronously: its client does not wait for it."""
    abandoned: asyncio.Event = field(repr=False)
    progress: Progress
    task: asyncio.Task[None] = field(init=False, repr=False)
    """Never raises; it is done when the statement is."""
    begun_at: float = field(default_factory=time.time)
    ended_at: float | None = None
    delivered: Delivered | None = field(default=None, repr=False)
    """None as long as it runs, when it failed, and when its answer is not kept any more."""
    error: HoopError | None = None
    size: int = 0
    taken: bool = False
    """Whether the client has had the answer."""

    @classmethod
    def of(cls, live: Live, request: QueryRequest) -> Running:
        return cls(
            live,
            request.statement_id,
            request.sql[:_SHOWN_CHARS],
            request.asynchronous,
            request.abandoned,
            request.progress,
        )

    @property
    def done(self) -> bool:
        return self.ended_at is not None

    @property
    def chunks(self) -> ChunkSet | None:
        return self.delivered.chunks if self.delivered is not None else None


@dataclass(slots=True)
class Shelf:
    """One session's statements, oldest first."""

    requests: OrderedDict[str, tuple[str, str]] = field(default_factory=OrderedDict)
    """Request id → digest of what it said, and the id of the statement that it became."""
    taken_back: OrderedDict[str, None] = field(default_factory=OrderedDict)
    """Requests that were taken back before they came."""
    statements: OrderedDict[str, Running] = field(default_factory=OrderedDict)
    answered: OrderedDict[str, Running] = field(default_factory=OrderedDict)
    """Those whose answers are still kept."""
    under_way: int = 0
    bytes: int = 0

    def before(self, request_id: str, said: str) -> Running | None:
        """The statement of an earlier try of this request. Raises BadRequest when none can be answered."""
        known = self.requests.get(request_id)
        if known is None:
            return None
        if known[0] != said:
            raise BadRequest("This request id was used for another statement.", "Use a new one.")
        running = self.statements.get(known[1])
        if running is None:
            raise not_kept()
        return running

    def add(self, request_id: str, said: str, running: Running) -> None:
        self.requests[request_id] = said, running.statement_id
        self.statements[running.statement_id] = running
        self.under_way += 1
        while len(self.requests) > REQUESTS_KNOWN:
            self.requests.popitem(last=False)

    def take_back(self, request_id: str) -> Running | None:
        """The statement to be cancelled. A request that has not come yet will find that it was taken back."""
        known = self.requests.get(request_id)
        if known is not None:
            return self.statements.get(known[1])
        self.taken_back[request_id] = None
        while len(self.taken_back) > _STATEMENTS_KNOWN:
            self.taken_back.popitem(last=False)
        return None


def not_kept() -> BadRequest:
    return BadRequest(
        "This statement has run already and its answer is not kept any more.",
        "Look at what it did before you run it again.",
    )


class Shelves:
    """Those of all sessions. Answers go when room is needed: first those that their clients have had."""

    def __init__(self, *, most: int = _ALL_ANSWER_BYTES, each: int = _ANSWER_BYTES) -> None:
        self._most, self._each = most, each
        self._by_session: dict[str, Shelf] = {}
        self._by_id: dict[str, Running] = {}
        self._bytes: Counter[str] = Counter()

    def of(self, live: Live) -> Shelf:
        return self._by_session.setdefault(live.guarded.id, Shelf())

    def known(self, live: Live) -> Shelf | None:
        return self._by_session.get(live.guarded.id)

    def statement(self, statement_id: str) -> Running | None:
        return self._by_id.get(statement_id)

    def owned_by(self, session: GuardedSession) -> Iterator[Running]:
        """Every statement of the same caller, in whichever session."""
        scope = scope_of(session)
        return (r for r in list(self._by_id.values()) if scope_of(r.live.guarded) == scope)

    def add(self, request_id: str, said: str, running: Running) -> None:
        self.of(running.live).add(request_id, said, running)
        self._by_id[running.statement_id] = running

    def ended(self, running: Running) -> None:
        """Count an answer in, and make room."""
        running.ended_at = time.time()
        shelf = self._by_session.get(running.live.guarded.id)
        if shelf is None or running.statement_id not in shelf.statements:
            return
        shelf.under_way -= 1
        if running.delivered is not None:
            running.size = _size(running.delivered.answer)
            shelf.answered[running.statement_id] = running
            shelf.bytes += running.size
            self._bytes[running.live.guarded.identity.key] += running.size
        if len(shelf.statements) > _STATEMENTS_KNOWN:
            self._forget_oldest(shelf)
        self._make_room(shelf)
        while self._bytes.total() > self._most and self._empty_largest():
            pass

    def _forget_oldest(self, shelf: Shelf) -> None:
        oldest = next((r for r in shelf.statements.values() if r.done), None)
        if oldest is not None:
            self._empty(oldest, shelf)
            del shelf.statements[oldest.statement_id], self._by_id[oldest.statement_id]

    def _make_room(self, shelf: Shelf) -> None:
        while shelf.bytes > self._each or len(shelf.answered) > _RESULTS_KEPT:
            kept = shelf.answered.values()
            self._empty(next((r for r in kept if r.taken), next(iter(kept))), shelf)

    def _empty_largest(self) -> bool:
        """Whoever takes most gives first: nobody loses an answer by what others do."""
        key = self._bytes.most_common(1)[0][0]
        theirs = [r for r in self._by_id.values() if r.size and r.live.guarded.identity.key == key]
        for running in sorted(theirs, key=lambda r: not r.taken)[:1]:
            self._empty(running, self._by_session[running.live.guarded.id])
            return True
        return False

    def _empty(self, running: Running, shelf: Shelf) -> None:
        if running.delivered is None:
            return
        del shelf.answered[running.statement_id]
        shelf.bytes -= running.size
        key = running.live.guarded.identity.key
        self._bytes[key] -= running.size
        if self._bytes[key] <= 0:
            del self._bytes[key]
        running.delivered, running.size = None, 0

    def drop(self, live: Live) -> None:
        """Forget everything of a session that has ended."""
        shelf = self._by_session.pop(live.guarded.id, None)
        for running in shelf.statements.values() if shelf else ():
            if shelf is not None:
                self._empty(running, shelf)
            self._by_id.pop(running.statement_id, None)


def scope_of(session: GuardedSession) -> tuple[object, ...]:
    """Everything that must be the same for one session to see the results of another.

    The person alone would not do: somebody who acts for her, other groups or other claims see other rows.
    """
    caller = session.identity
    return (
        session.account,
        session.role.snowflake_role,
        caller.key,
        caller.actors,
        frozenset(caller.groups),
        tuple(sorted((k, v) for k, v in caller.claims.items())),
    )


def _size(answer: Json) -> int:
    """Bytes in memory, about."""
    data = answer.get("data") or {}
    rows = data.get("rowset") or ()
    cells = sum(len(str(v)) + _CELL_BYTES for row in rows for v in row)
    return 4_096 + len(data.get("rowsetBase64") or "") + cells
