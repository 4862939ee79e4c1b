"""A token that is fetched anew before it ends: one at a time, with a pause after a failure."""

from __future__ import annotations

import base64
import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from hoop_core.errors import HoopError

_UNKNOWN_SECONDS = 300.0
"""How long a token is used of which nobody says when it ends."""
_LEAST_LEFT = 15.0
"""A token that ends sooner is not handed out: it has to arrive, and clocks differ."""
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class Fetched:
    """A token and how many seconds it is good for; None where the token itself has to say it."""

    token: str = field(repr=False)
    seconds: float | None = None


class Fetches(Protocol):
    """Whatever gets a new token, and takes its time for it."""

    def fetch(self) -> Fetched:
        """Raises IdentityError or Unavailable."""


class Refreshing:
    """The token of `source`, asked for when a fifth of its life is left, or a minute.

    While it is good, nobody waits for the next one but the caller who fetches it, and a fetch that fails
    goes unnoticed. Safe to share between threads.
    """

    def __init__(
        self,
        source: Fetches,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._source, self._clock, self._wall = source, clock, wall
        self._lock = threading.Lock()
        self._token = ""
        self._ends = self._due = self._not_before = float("-inf")
        self._pause = _FIRST_PAUSE
        self._failure: HoopError | None = None

    def token(self) -> str:
        """Raises what the source raised when there is no token that is good."""
        good = self._good()
        if good is not None and self._clock() < self._due:
            return good
        # With a good token nobody waits for whoever is fetching; without one all wait for the same fetch.
        if not self._lock.acquire(blocking=good is None):
            return good or self._token
        try:
            good = self._good()
            if good is not None and self._clock() < max(self._due, self._not_before):
                return good
            if good is None and self._failure is not None and self._clock() < self._not_before:
                raise self._failure
            return self._fetch(good)
        finally:
            self._lock.release()

    def _good(self) -> str | None:
        return self._token if self._clock() < self._ends - _LEAST_LEFT else None

    def _fetch(self, good: str | None) -> str:
        try:
            found = self._source.fetch()
        except HoopError as e:
            self._failure = e
            self._not_before = self._clock() + self._pause * random.uniform(0.5, 1.0)  # noqa: S311
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            if good is None:
                raise
            return good
        self._failure, self._pause = None, _FIRST_PAUSE
        left = (
            found.seconds if found.seconds is not None else _seconds_left(found.token, self._wall())
        )
        self._token, self._ends = found.token, self._clock() + left
        # Jitter: a thousand tasks that began together do not come back together.
        margin = max(left * 0.2, min(60.0, left / 2)) * random.uniform(1.0, 1.5)  # noqa: S311
        self._due = self._ends - min(margin, left)
        self._not_before = float("-inf")
        return found.token


def _seconds_left(token: str, now: float) -> float:
    """By the token's own `exp`; nothing is proven by it, it only says when to ask again."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        ends = claims["exp"]
        if isinstance(ends, (int, float)) and not isinstance(ends, bool):
            return max(0.0, min(float(ends) - now, 24 * 3600.0))
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, RecursionError):
        pass
    return _UNKNOWN_SECONDS
