"""How much one caller may have at once and in a minute. Each replica counts for itself."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hoop_core.config import LimitSettings
from hoop_core.errors import Refused

_MOST = 10_000


class TooMany(Refused):
    """Nothing was begun: the caller has as much under way as the settings allow. Try again later."""

    errno, sqlstate, reason = 99429, "53400", "TOO_MANY"


class Draining(Refused):
    """Nothing was begun: this process is about to stop, and others serve."""

    errno, sqlstate, reason = 99503, "57P01", "DRAINING"

    def __init__(self) -> None:
        super().__init__(
            "This gateway is about to stop and opens no more sessions.",
            "Connect again: another one answers, or this one does after its restart.",
        )


class Rate:
    """A token bucket for each key: `per_minute` in a row, then one after another. 0: no limit.

    Memory is bounded. A key that is forgotten begins with a full bucket, so those are forgotten first that
    were not used for longest: their buckets are full, or nearly.
    """

    def __init__(
        self, per_minute: int, *, most: int = _MOST, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_minute, self._most, self._clock = per_minute, most, clock
        self._used: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> bool:
        """Whether one more is within the limit; a refused one does not count."""
        if not self._per_minute:
            return True
        now = self._clock()
        level, at = self._used.get(key, (0.0, now))
        level = max(0.0, level - (now - at) * self._per_minute / 60.0)
        if level + 1.0 > self._per_minute:
            return False
        self._used[key] = (level + 1.0, now)
        self._used.move_to_end(key)
        while len(self._used) > self._most:
            self._used.popitem(last=False)
        return True

    def __len__(self) -> int:
        return len(self._used)


class Limits:
    """What callers have under way, by identity. For one event loop."""

    def __init__(
        self, settings: LimitSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._statements: Counter[str] = Counter()
        self._sessions: Counter[str] = Counter()
        self._rate = Rate(settings.statements_per_minute, clock=clock)
        self.draining = False
        """Set when the process is about to stop: no session is opened any more."""

    def begin_statement(self, identity: str) -> None:
        """Count a statement that begins; `end_statement` must follow. Raises TooMany."""
        most = self._settings.statements_at_once
        if most and self._statements[identity] >= most:
            raise TooMany(
                f"You have {most} statements under way, which is the limit. This one was not begun.",
                "Wait for some of them, then send it again.",
                reason="TOO_MANY_STATEMENTS",
            )
        if not self._rate.take(identity):
            raise TooMany(
                f"You have sent more than {self._settings.statements_per_minute} statements in a "
                "minute. This one was not begun.",
                "Wait a moment, then send it again.",
                reason="TOO_FAST",
            )
        self._statements[identity] += 1

    def end_statement(self, identity: str) -> None:
        _less(self._statements, identity)

    @contextmanager
    def statement(self, identity: str) -> Iterator[None]:
        """One that is under way for as long as this is entered. Raises TooMany."""
        self.begin_statement(identity)
        try:
            yield
        finally:
            self.end_statement(identity)

    def open_session(self, identity: str) -> None:
        """Count a session that is opened; `close_session` must follow. Raises TooMany, Draining."""
        if self.draining:
            raise Draining
        most = self._settings.sessions_at_once
        if most and self._sessions[identity] >= most:
            raise TooMany(
                f"You have {most} sessions open, which is the limit.",
                "Close some of them, then connect again.",
                reason="TOO_MANY_SESSIONS",
            )
        self._sessions[identity] += 1

    def close_session(self, identity: str) -> None:
        _less(self._sessions, identity)

    @property
    def statements(self) -> int:
        """Statements under way, of all callers."""
        return self._statements.total()

    @property
    def sessions(self) -> int:
        """Open sessions, of all callers."""
        return self._sessions.total()


def _less(counts: Counter[str], key: str) -> None:
    """Who has nothing under way takes no memory."""
    counts[key] -= 1
    if counts[key] <= 0:
        del counts[key]
