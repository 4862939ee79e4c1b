"""How long a process that is asked to stop waits for its clients."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hoop_core.config import LimitSettings
from hoop_core.gateway.limits import Limits
from hoop_core.server import serving
from hoop_core.server.served import Served


class Book:
    """Comes to rest after so many looks; None: never."""

    def __init__(self, looks: int | None) -> None:
        self.left, self.closed, self.looked = looks, False, 0

    def at_rest(self, _seconds: float) -> bool:
        self.looked += 1
        return self.left is not None and self.looked > self.left

    async def close_all(self) -> None:
        self.closed = True


def served(book: Book) -> Any:
    return SimpleNamespace(
        health=SimpleNamespace(draining=False),
        limits=Limits(LimitSettings()),
        gateway=SimpleNamespace(book=book),
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_LOOK_SECONDS", 0.001)


async def drained(book: Book, seconds: float, *, hurry: bool = False) -> Any:
    asked = asyncio.Event()
    if hurry:
        asyncio.get_running_loop().call_later(0.01, asked.set)
    made = served(book)
    await asyncio.wait_for(serving.drain(cast("Served", made), seconds, asked), 20)
    return made


def test_clients_that_come_to_rest_are_waited_for() -> None:
    book = Book(5)
    made = asyncio.run(drained(book, 3600))
    assert (book.looked, book.closed) == (6, True)
    assert made.health.draining and made.limits.draining


def test_clients_that_never_rest_are_ended_when_the_time_is_over() -> None:
    book = Book(None)
    asyncio.run(drained(book, 0.05))
    assert book.closed


def test_a_second_signal_ends_the_wait() -> None:
    book = Book(None)
    asyncio.run(drained(book, 3600, hurry=True))
    assert book.closed


def test_no_time_to_drain_is_no_wait() -> None:
    book = Book(None)
    asyncio.run(drained(book, 0))
    assert (book.looked, book.closed) == (0, True)
