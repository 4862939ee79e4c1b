"""Threads and memory of the detectors: shared out among callers, given back, never waited for in vain."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from hoop_core.analysts.turns import Turn
from hoop_core.errors import Cancelled
from hoop_core.results.screeners import Room, Screeners, ScreeningBusy

A, B = Turn("a", "s1"), Turn("b", "s2")


def until(test: Callable[[], bool]) -> Coroutine[Any, Any, None]:
    async def wait() -> None:
        while not test():
            await asyncio.sleep(0.001)

    return wait()


class Blocking:
    """Work that lasts until it is let go."""

    def __init__(self) -> None:
        self.go, self.begun = threading.Event(), 0

    def __call__(self) -> str:
        self.begun += 1
        assert self.go.wait(60)
        return "done"


def test_one_caller_never_takes_the_last_thread() -> None:
    async def run() -> None:
        screeners, work = Screeners(), Blocking()
        hers = [asyncio.create_task(screeners.run(Turn("a", f"s{i}"), work)) for i in range(8)]
        await until(lambda: work.begun == 1)
        assert await screeners.run(B, lambda: "at once") == "at once"
        assert work.begun == 1
        work.go.set()
        assert await asyncio.gather(*hers) == ["done"] * 8
        screeners.close()

    asyncio.run(run())


def test_who_gives_up_waits_no_longer_and_the_turn_stays_taken_until_the_thread_is_free() -> None:
    async def run() -> None:
        screeners, work, gone = Screeners(), Blocking(), asyncio.Event()
        first = asyncio.create_task(screeners.run(A, work, gone))
        await until(lambda: work.begun == 1)
        gone.set()
        with pytest.raises(Cancelled):
            await first
        second = asyncio.create_task(screeners.run(A, lambda: "second"))
        await asyncio.sleep(0.02)
        assert not second.done()
        work.go.set()
        assert await second == "second"
        screeners.close()

    asyncio.run(run())


def test_who_is_cancelled_before_the_turn_leaves_the_queue() -> None:
    async def run() -> None:
        screeners, work, ran = Screeners(), Blocking(), []
        first = asyncio.create_task(screeners.run(A, work))
        await until(lambda: work.begun == 1)
        second = asyncio.create_task(screeners.run(A, lambda: ran.append(1)))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        work.go.set()
        await first
        assert await screeners.run(A, lambda: "third") == "third" and ran == []
        screeners.close()

    asyncio.run(run())


def test_waiting_for_a_turn_has_an_end() -> None:
    async def run() -> None:
        screeners, work = Screeners(seconds=0.01), Blocking()
        first = asyncio.create_task(screeners.run(A, work))
        await until(lambda: work.begun == 1)
        with pytest.raises(ScreeningBusy, match="withheld"):
            await screeners.run(A, lambda: None)
        work.go.set()
        await first
        screeners.close()

    asyncio.run(run())


def test_closing_waits_for_no_thread() -> None:
    async def run() -> None:
        screeners, work = Screeners(), Blocking()
        first = asyncio.create_task(screeners.run(A, work))
        await until(lambda: work.begun == 1)
        screeners.close()
        assert not first.done()
        work.go.set()
        assert await first == "done"

    asyncio.run(run())


def test_room_is_limited_for_all_and_for_one() -> None:
    async def run() -> None:
        room = Room(100, 60, seconds=0.01)
        async with room.holding("a", 40):
            with pytest.raises(ScreeningBusy):
                async with room.holding("a", 30):
                    pass
            async with room.holding("b", 60):
                assert room.taken == 100
                with pytest.raises(ScreeningBusy):
                    async with room.holding("c", 1):
                        pass
        assert room.taken == 0

    asyncio.run(run())


def test_room_goes_to_the_next_when_it_is_given_back() -> None:
    async def run() -> None:
        room, order = Room(100, 60, seconds=30), []

        async def take(principal: str, size: int) -> None:
            async with room.holding(principal, size):
                order.append(principal)
                await asyncio.sleep(0)

        async with room.holding("a", 60):
            waiting = [asyncio.create_task(take(*w)) for w in [("a", 10), ("c", 40), ("b", 60)]]
            await asyncio.sleep(0.01)
            assert order == ["c"]  # a has its share, and b's part is too large for what is left
        await asyncio.gather(*waiting)
        assert sorted(order) == ["a", "b", "c"] and room.taken == 0

    asyncio.run(run())


def test_a_part_that_grows_must_find_room() -> None:
    async def run() -> None:
        room = Room(100, 60, seconds=0.01)
        async with room.holding("a", 1) as alone:
            alone.resize(500)  # what is alone may be as large as a part is
            alone.resize(50)
            async with room.holding("b", 10) as other:
                with pytest.raises(ScreeningBusy):
                    other.resize(51)
                other.resize(50)
            async with room.holding("a", 5) as second:
                with pytest.raises(ScreeningBusy):
                    second.resize(11)
        assert room.taken == 0

    asyncio.run(run())


def test_who_stops_waiting_for_room_takes_none() -> None:
    async def run() -> None:
        room = Room(100, 60, seconds=30)

        async def take() -> None:
            async with room.holding("a", 60):
                raise AssertionError

        async with room.holding("a", 60):
            waiting = asyncio.create_task(take())
            await asyncio.sleep(0.01)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        assert room.taken == 0

    asyncio.run(run())
