"""Pages are made in threads of their own: one that is long to make holds up neither the store nor the log."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from hoop_core.errors import Refused

T = TypeVar("T")
_THREADS = 4
_AT_ONCE = 2
"""Of one person."""
_MOST_WAITING = 20
"""Of one person: a browser that opens all its tabs again is no attack."""


class TooManyPages(Refused):
    errno, sqlstate, reason = 99429, "53400", "TOO_MANY_PAGES"


class Workshop:
    """For one event loop. Nobody has more than half of the threads."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="pages")
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._asked: Counter[str] = Counter()

    async def make(self, person: str, work: Callable[[], T]) -> T:
        """What `work` gives, when it is the person's turn. Raises TooManyPages."""
        if self._asked[person] >= _MOST_WAITING:
            raise TooManyPages(
                f"{_MOST_WAITING} pages are being made for you already.",
                "Wait for them, then look again.",
            )
        self._asked[person] += 1
        turn = self._turns.setdefault(person, asyncio.Semaphore(_AT_ONCE))
        try:
            async with turn:
                return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._asked[person] -= 1
            if not self._asked[person]:  # who waits for nothing takes no memory
                del self._asked[person], self._turns[person]
