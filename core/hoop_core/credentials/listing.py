"""One question for many: who asks for the list of users while it is being fetched shares the next one.

Never the one that is under way: what it shows may be older than what the asker has just done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class Listing:
    """`fetch` gives the list; it may raise, and then everybody who waited for it hears of it."""

    def __init__(self, fetch: Callable[[], Awaitable[list[str]]]) -> None:
        self._fetch = fetch
        self._under_way: asyncio.Task[list[str]] | None = None
        self._next: asyncio.Task[list[str]] | None = None

    async def after_now(self) -> list[str]:
        """The list as it is at some moment after this call."""
        if self._next is None:
            self._next = asyncio.create_task(self._ask(self._under_way))
        return await asyncio.shield(self._next)

    async def _ask(self, before: asyncio.Task[list[str]] | None) -> list[str]:
        if before is not None:
            await asyncio.wait({before})
        self._under_way, self._next = self._next, None
        return await self._fetch()
