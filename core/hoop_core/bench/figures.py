"""Times of many runs."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hoop_core.analysts.analyst import COLLECT_AFTER


@dataclass(frozen=True, slots=True)
class Spread:
    """Percentiles of many runs, in the unit that `of` was asked for."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float], per_second: float = 1e3) -> Spread:
        """`per_second`: how many of the wanted unit a second has (1e3: milliseconds)."""
        known = seconds if len(seconds) > 1 else [*seconds, *seconds]
        cuts = statistics.quantiles(known, n=100, method="inclusive")
        return cls(*(round(cuts[p - 1] * per_second, 2) for p in (50, 95, 99)))


@contextmanager
def between_collections() -> Iterator[Callable[[], None]]:
    """Garbage is collected between two runs only, and when there is enough of it, as in a worker."""

    def collect() -> None:
        if gc.get_count()[0] > COLLECT_AFTER:
            gc.collect()

    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield collect
    finally:
        gc.enable()
        gc.unfreeze()


def timed(work: Callable[[], Any]) -> float:
    """Seconds."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
