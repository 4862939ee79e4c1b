"""Whose statement is analysed next: nobody can take all workers, and nobody waits forever.

Who holds a turn counts against two caps, the caller's and the session's. A caller's statements are taken in
the order in which they came; callers take turns.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from hoop_core.errors import AnalysisUnavailable

_SESSIONS_WORTH = 4
"""A caller may have as many statements waiting as this many full sessions."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Who asks: the caller's key and the session's id."""

    principal: str
    session: str


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    turn: Turn
    granted: asyncio.Future[None]


class Turns:
    """For one event loop."""

    def __init__(self, slots: int, *, waiting: int, waiting_seconds: float) -> None:
        self.slots = slots
        self.of_principal = max(1, slots - 1)
        self.of_session = max(1, slots - 2)
        self._waiting, self._seconds = waiting, waiting_seconds
        self._held: list[Turn] = []
        self._queues: OrderedDict[str, deque[_Waiting]] = OrderedDict()

    @property
    def held(self) -> int:
        return len(self._held)

    @property
    def queued(self) -> int:
        return sum(map(len, self._queues.values()))

    @asynccontextmanager
    async def turn(self, turn: Turn) -> AsyncIterator[None]:
        """Hold a turn; waits for it. Raises AnalysisUnavailable when too many wait, or for too long."""
        if turn.principal not in self._queues and self._may(turn):
            self._held.append(turn)
        else:
            await self._wait(turn)
        try:
            yield
        finally:
            self._give_back(turn)

    async def _wait(self, turn: Turn) -> None:
        queue = self._queues.setdefault(turn.principal, deque())
        in_session = sum(w.turn == turn for w in queue)
        if in_session >= self._waiting or len(queue) >= self._waiting * _SESSIONS_WORTH:
            raise AnalysisUnavailable(
                "Too many of your statements wait to be analysed; nothing was executed.",
                "Send fewer at once, and try this one again.",
                reason="ANALYSIS_BUSY",
            )
        mine = _Waiting(turn, asyncio.get_running_loop().create_future())
        queue.append(mine)
        self._grant()
        try:
            async with asyncio.timeout(self._seconds):
                await mine.granted
        except BaseException as e:
            self._leave(mine)
            if isinstance(e, TimeoutError):
                raise AnalysisUnavailable(
                    f"The statement waited {self._seconds:g} s for its analysis; nothing was executed.",
                    "Try it again.",
                    reason="ANALYSIS_BUSY",
                ) from None
            raise

    def _leave(self, mine: _Waiting) -> None:
        """Out of the queue; a turn that was granted in the same moment is given back."""
        if mine.granted.done() and not mine.granted.cancelled():
            self._give_back(mine.turn)
            return
        self._remove(mine)
        self._grant()

    def _remove(self, waiting: _Waiting) -> None:
        queue = self._queues[waiting.turn.principal]
        queue.remove(waiting)
        if not queue:
            del self._queues[waiting.turn.principal]

    def _may(self, turn: Turn) -> bool:
        return (
            len(self._held) < self.slots
            and sum(t.principal == turn.principal for t in self._held) < self.of_principal
            and sum(t == turn for t in self._held) < self.of_session
        )

    def _give_back(self, turn: Turn) -> None:
        self._held.remove(turn)
        self._grant()

    def _grant(self) -> None:
        """Give the free turns to those who wait: callers one after the other, each in its own order."""
        while (chosen := self._next()) is not None:
            self._remove(chosen)
            if chosen.turn.principal in self._queues:
                self._queues.move_to_end(chosen.turn.principal)
            self._held.append(chosen.turn)
            chosen.granted.set_result(None)

    def _next(self) -> _Waiting | None:
        if len(self._held) >= self.slots:
            return None
        for queue in self._queues.values():
            for waiting in queue:
                if not waiting.granted.done() and self._may(waiting.turn):
                    return waiting
        return None
