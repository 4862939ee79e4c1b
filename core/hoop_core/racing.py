"""Waiting for work or for the client to give up, whichever comes first."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from hoop_core.errors import Cancelled

T = TypeVar("T")


async def finished_first(task: asyncio.Task[T], abandoned: asyncio.Event) -> bool:
    """Wait for whichever comes first; true when it was the task."""
    giving_up = asyncio.create_task(abandoned.wait())
    try:
        await asyncio.wait({task, giving_up}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        giving_up.cancel()
    return task.done()


async def unless_abandoned(
    abandoned: asyncio.Event,
    work: Coroutine[Any, Any, T],
    while_: str = "it waited for an approval",
) -> T:
    """Wait for `work`. Raises Cancelled when the client gives up first; the work is cancelled then."""
    task = asyncio.create_task(work)
    try:
        if await finished_first(task, abandoned):
            return await task
    finally:
        task.cancel()
    raise Cancelled(f"The client took the statement back while {while_}.")
