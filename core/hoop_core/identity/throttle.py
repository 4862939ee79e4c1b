"""Who failed too often lately. Memory is bounded: of many, those that failed longest ago are forgotten."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

_MOST = 10_000


class Throttle:
    """A leaky bucket for each key: `per_minute` failures fill it, and a minute empties it. 0: no limit."""

    def __init__(
        self, per_minute: int, *, most: int = _MOST, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_minute, self._most, self._clock = per_minute, most, clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = Lock()

    def level(self, key: str) -> float:
        """Failures that still count."""
        with self._lock:
            return self._level(key)

    def full(self, key: str) -> bool:
        """Whether `key` has to wait: one more would not fit. What leaks in an instant makes no room for it."""
        return 0 < self._per_minute < self.level(key) + 1.0

    def failed(self, key: str) -> None:
        """Note a failure, or whatever else is counted."""
        if not self._per_minute:
            return
        with self._lock:
            # No higher than full: who stops failing waits for seconds, not for what was piled up.
            level = min(self._level(key) + 1.0, float(self._per_minute))
            self._levels[key] = (level, self._clock())
            self._levels.move_to_end(key)
            while len(self._levels) > self._most:
                self._levels.popitem(last=False)

    def _level(self, key: str) -> float:
        level, at = self._levels.get(key, (0.0, 0.0))
        return max(0.0, level - (self._clock() - at) * self._per_minute / 60.0)


def neighbourhood(address: str | None) -> str:
    """What of a client's address counts: all of IPv4, the first 64 bits of IPv6 (one customer has the rest)."""
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return "?"
    if parsed.version == 4:
        return str(parsed)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
