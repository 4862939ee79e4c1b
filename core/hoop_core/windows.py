"""Hours of the day in which something may happen, in a time zone of their own.

A window that ends at or before the hour it begins at ends on the next day; its days are those that it begins on.
Hours that a change of the clock leaves out begin when the clock has gone on; of hours that come twice a window has
the first at its beginning and the second at its end, so that it never closes early.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_LOOKED_AHEAD = 16
"""Days. Every window opens once a week; several that must be open at once may never be."""


@dataclass(frozen=True, slots=True)
class Window:
    """`days` are those of `DAYS`, `start` and `end` as HH:MM; `zone` is a name of the IANA time zone database."""

    days: tuple[str, ...]
    start: str
    end: str
    zone: str

    def __str__(self) -> str:
        days = "daily" if len(self.days) == len(DAYS) else ", ".join(self.days)
        return f"{days} {self.start}-{self.end} {self.zone}"

    def as_json(self) -> dict[str, Any]:
        return {
            "days": list(self.days),
            "from": self.start,
            "to": self.end,
            "timezone": self.zone,
        }

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Window:
        return cls(tuple(given["days"]), given["from"], given["to"], given["timezone"])

    def on(self, day: date) -> tuple[datetime, datetime] | None:
        """Beginning and end (UTC) of the window that begins on a local day; None where it does not."""
        if DAYS[day.weekday()] not in self.days:
            return None
        zone = ZoneInfo(self.zone)
        last = day if self.end > self.start else day + timedelta(days=1)
        start, end = time.fromisoformat(self.start), time.fromisoformat(self.end)
        begins = datetime.combine(day, start, zone).astimezone(UTC)
        ends = datetime.combine(last, end.replace(fold=1), zone).astimezone(UTC)
        return (begins, ends) if ends > begins else None

    def spans(self, now: datetime, days: int) -> list[tuple[datetime, datetime]]:
        """Those that are open at `now` or begin in so many days, the earliest first."""
        today = now.astimezone(ZoneInfo(self.zone)).date()
        found = (self.on(today + timedelta(days=n)) for n in range(-1, days))
        return [span for span in found if span is not None and span[1] > now]


def are_open(windows: Iterable[Window], now: datetime) -> bool:
    """Whether all of them are; of none, always."""
    return all(any(b <= now < e for b, e in w.spans(now, 1)) for w in windows)


def next_opening(windows: Sequence[Window], now: datetime) -> datetime | None:
    """The first moment from `now` on at which all are open; None where there is none in two weeks."""
    if are_open(windows, now):
        return now
    beginnings = sorted({b for w in windows for b, _ in w.spans(now, _LOOKED_AHEAD) if b > now})
    return next((b for b in beginnings if are_open(windows, b)), None)
