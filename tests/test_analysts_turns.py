"""Nobody takes all workers, and nobody waits forever. Counted, never timed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hoop_core.analysts.turns import Turn, Turns
from hoop_core.errors import AnalysisUnavailable

AT_MOST = 30.0


class Desk:
    """Turns, and a record of who holds one."""

    def __init__(self, slots: int, waiting: int = 100, seconds: float = AT_MOST) -> None:
        self.turns = Turns(slots, waiting=waiting, waiting_seconds=seconds)
        self.held: dict[int, Turn] = {}
        self.served: list[Turn] = []
        self._ends: list[asyncio.Event] = []

    @property
    def holding(self) -> list[Turn]:
        return list(self.held.values())

    def ask(self, principal: str, session: str = "s") -> asyncio.Task[None]:
        self._ends.append(asyncio.Event())
        return asyncio.create_task(self._hold(Turn(principal, session), len(self._ends) - 1))

    async def _hold(self, turn: Turn, number: int) -> None:
        async with self.turns.turn(turn):
            self.served.append(turn)
            self.held[number] = turn
            try:
                await self._ends[number].wait()
            finally:
                del self.held[number]

    async def end(self, which: int = 0) -> None:
        """Let one of those who hold a turn give it back."""
        self._ends[list(self.held)[which % len(self.held)]].set()
        await settle()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def runs(work: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(AT_MOST):
            await work()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

    asyncio.run(bounded())


def test_one_caller_never_holds_every_worker() -> None:
    async def go() -> None:
        desk = Desk(4)
        for i in range(20):
            desk.ask("mallory", f"s{i}")
        await settle()
        assert len(desk.holding) == 3
        desk.ask("ann")
        await settle()
        assert Counter(t.principal for t in desk.holding) == {"mallory": 3, "ann": 1}

    runs(go)


def test_one_session_leaves_a_worker_to_the_callers_other_sessions() -> None:
    async def go() -> None:
        desk = Desk(4)
        for _ in range(20):
            desk.ask("ann", "hostile")
        await settle()
        assert len(desk.holding) == 2
        desk.ask("ann", "normal")
        desk.ask("bob", "normal")
        await settle()
        assert Counter(t.session for t in desk.holding) == {"hostile": 2, "normal": 2}

    runs(go)


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_few_workers_still_serve_everybody(slots: int) -> None:
    async def go() -> None:
        desk = Desk(slots)
        for principal in ("ann", "bob", "ann", "bob"):
            desk.ask(principal)
        await settle()
        while desk.holding:
            await desk.end()
        assert len(desk.served) == 4 and desk.turns.held == desk.turns.queued == 0

    runs(go)


def test_callers_take_turns_and_each_one_keeps_its_order() -> None:
    async def go() -> None:
        desk = Desk(1)
        for i in range(4):
            desk.ask("mallory", f"{i}")
        desk.ask("ann", "0")
        desk.ask("bob", "0")
        await settle()
        while desk.holding:
            await desk.end()
        served = [(t.principal, t.session) for t in desk.served]
        assert served == [
            ("mallory", "0"), ("mallory", "1"), ("ann", "0"), ("bob", "0"), ("mallory", "2"),
            ("mallory", "3"),
        ]  # fmt: skip

    runs(go)


def test_a_full_queue_refuses_only_its_own_session() -> None:
    async def go() -> None:
        desk = Desk(4, waiting=3)
        for _ in range(2 + 3):
            desk.ask("ann", "full")
        await settle()
        with pytest.raises(AnalysisUnavailable) as refused:
            await desk.turns._wait(Turn("ann", "full"))
        assert refused.value.reason == "ANALYSIS_BUSY" and refused.value.exit_code == 3
        desk.ask("ann", "other")
        await settle()
        assert any(t.session == "other" for t in desk.holding)

    runs(go)


def test_sessions_without_end_do_not_make_a_queue_without_end() -> None:
    async def go() -> None:
        desk = Desk(2, waiting=3)
        tasks = [desk.ask("mallory", f"s{i}") for i in range(50)]
        await settle()
        assert desk.turns.queued == 12
        assert sum(t.done() for t in tasks) == 50 - 12 - 1

    runs(go)


def test_waiting_too_long_is_an_error_that_may_be_tried_again() -> None:
    async def go() -> None:
        desk = Desk(1, seconds=0.01)
        desk.ask("ann")
        await settle()
        with pytest.raises(AnalysisUnavailable) as refused:
            async with desk.turns.turn(Turn("bob", "s")):
                pass
        assert refused.value.reason == "ANALYSIS_BUSY"
        assert desk.turns.queued == 0 and desk.turns.held == 1

    runs(go)


@settings(max_examples=60, deadline=None)
@given(
    slots=st.integers(1, 5),
    steps=st.lists(
        st.tuples(st.sampled_from(["ask", "end", "cancel"]), st.integers(0, 3), st.integers(0, 2)),
        max_size=60,
    ),
)
def test_whatever_happens_no_cap_is_broken_and_no_turn_is_lost(
    slots: int, steps: list[tuple[str, int, int]]
) -> None:
    async def go() -> None:
        desk = Desk(slots)
        tasks: list[asyncio.Task[None]] = []
        for what, who, where in steps:
            if what == "ask":
                tasks.append(desk.ask(f"p{who}", f"s{where}"))
                if where:
                    await settle()
            elif what == "end" and desk.holding:
                await desk.end(who)
            elif what == "cancel" and tasks:
                tasks[(who + 3 * where) % len(tasks)].cancel()
                if who:
                    await settle()
            assert desk.turns.held <= slots
            assert max(Counter(t.principal for t in desk.turns._held).values(), default=0) <= max(
                1, slots - 1
            )
            assert max(Counter(desk.turns._held).values(), default=0) <= max(1, slots - 2)
        await settle()
        for _ in range(1000):
            if not desk.holding:
                break
            await desk.end()
        assert desk.turns.held == 0 and desk.turns.queued == 0
        assert all(t.done() for t in tasks)
        assert len(desk.served) >= sum(not t.cancelled() for t in tasks)

    runs(go)
