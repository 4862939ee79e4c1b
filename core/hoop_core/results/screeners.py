"""Threads and memory for the detectors, shared out so that no caller can take all of them.

A thread cannot be stopped. So a caller has one of them at a time at most, what waits for one waits for a limited
time, and the detectors themselves take time by the length of what they read, whatever is in it. Who gives up
no longer waits for the thread; its turn is given back when the thread is free.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from hoop_core.analysts.turns import Turn, Turns
from hoop_core.errors import AnalysisUnavailable, Cancelled, Unavailable
from hoop_core.racing import finished_first

T = TypeVar("T")
_THREADS = 2
_WAITING, _SECONDS = 64, 60.0
_ROOM, _ROOM_OF_ONE = 512 << 20, 256 << 20


class ScreeningBusy(Unavailable):
    """The detectors have no turn or no room for a part of a result."""

    reason = "SCREENING_BUSY"


class Screeners:
    """For one event loop; `room` is the memory that parts of results may take meanwhile."""

    def __init__(self, *, seconds: float = _SECONDS, room: Room | None = None) -> None:
        self._turns = Turns(_THREADS, waiting=_WAITING, waiting_seconds=seconds)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="screening")
        self._under_way: set[asyncio.Task[object]] = set()
        self.room = room or Room(_ROOM, _ROOM_OF_ONE, seconds=seconds)

    async def run(
        self, turn: Turn, work: Callable[[], T], abandoned: asyncio.Event | None = None
    ) -> T:
        """What `work` returns, run on a thread. Raises ScreeningBusy, and Cancelled once it is abandoned."""
        started = asyncio.Event()

        async def in_turn() -> T:
            async with self._turns.turn(turn):
                started.set()
                return await asyncio.get_running_loop().run_in_executor(self._threads, work)

        task = asyncio.create_task(in_turn())
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        try:
            if not await finished_first(task, abandoned or asyncio.Event()):
                raise Cancelled("The client took the statement back.")
            return task.result()
        except AnalysisUnavailable:
            raise ScreeningBusy(
                "The statement ran; its result is withheld, for it did not come to its turn with the "
                "policy's detectors.",
                "Ask for fewer results at once, and try it again.",
            ) from None
        finally:
            if not started.is_set():
                task.cancel()

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited has it, or nobody waits any more

    def close(self) -> None:
        """Begin nothing more, and wait for nothing."""
        self._threads.shutdown(wait=False, cancel_futures=True)


@dataclass(eq=False, slots=True)
class Held:
    """Bytes of the room that one part takes."""

    principal: str
    size: int
    _room: Room

    def resize(self, size: int) -> None:
        """What the part takes now. Raises ScreeningBusy when it takes more and there is no room for that."""
        self._room.resize(self, size)


class Room:
    """Bytes that parts of results may take in memory: of all callers, and of one. For one event loop."""

    def __init__(self, most: int, of_one: int, *, seconds: float) -> None:
        self._most, self._of_one, self._seconds = most, min(of_one, most), seconds
        self._taken: Counter[str] = Counter()
        self._waiting: deque[tuple[Held, asyncio.Future[None]]] = deque()

    @property
    def taken(self) -> int:
        return self._taken.total()

    @asynccontextmanager
    async def holding(self, principal: str, size: int) -> AsyncIterator[Held]:
        """Room for one part; waits for it. Raises ScreeningBusy when there is none in time.

        A part that is larger than one caller's share comes in when the caller has no other.
        """
        held = Held(principal, min(max(size, 1), self._of_one), self)
        if self._waiting or not self._fits(held):
            await self._wait(held)
        else:
            self._taken[principal] += held.size
        try:
            yield held
        finally:
            self._take(held, 0)

    async def _wait(self, held: Held) -> None:
        mine = (held, asyncio.get_running_loop().create_future())
        self._waiting.append(mine)
        self._grant()
        try:
            async with asyncio.timeout(self._seconds):
                await mine[1]
        except BaseException as e:
            if mine[1].done() and not mine[1].cancelled():
                self._take(held, 0)
            else:
                self._waiting.remove(mine)
                self._grant()
            if isinstance(e, TimeoutError):
                raise _no_room() from None
            raise

    def resize(self, held: Held, size: int) -> None:
        if size > held.size:
            others, own = self.taken - held.size, self._taken[held.principal] - held.size
            # What is alone may be as large as a part can be.
            fits = not others or others + size <= self._most
            if not fits or (own and own + size > self._of_one):
                raise _no_room()
        self._take(held, size)

    def _fits(self, held: Held) -> bool:
        own = self._taken[held.principal] + held.size
        return self.taken + held.size <= self._most and own <= self._of_one

    def _take(self, held: Held, size: int) -> None:
        self._taken[held.principal] += size - held.size
        held.size = size
        if not self._taken[held.principal]:
            del self._taken[held.principal]
        self._grant()

    def _grant(self) -> None:
        """Let in who waits, in order. Who waits for others of the same caller holds up nobody else."""
        for mine in list(self._waiting):
            held, granted = mine
            if granted.done() or self._taken[held.principal] + held.size > self._of_one:
                continue
            if self.taken + held.size > self._most:
                return
            self._waiting.remove(mine)
            self._taken[held.principal] += held.size
            granted.set_result(None)


def _no_room() -> ScreeningBusy:
    return ScreeningBusy(
        "A part of the result is withheld: there is no room for it until others are read.",
        "Read the parts that were begun, and fetch this one again.",
    )
