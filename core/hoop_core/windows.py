"""Hours of the day in which something may happen, in a time zone of their own.

A window that ends at or before the hour it begins at ends on the next day; its days are those that it begins on.
It is open as long as the local clock shows its hours. So a beginning or an end in an hour that a change of the clock
leaves out is when the clock goes on, and a window whose hours are all left out does not open that day. Of hours that
come twice a window has the first at its beginning and the second at its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import reduce
from typing import Any
from zoneinfo import ZoneInfo

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_LOOKED_AHEAD = 16
"""Days. Every window opens once a week, or the week after; several that must be open at once may never be."""
_A_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
"""Any year will do: whether a policy is right must not depend on the day."""


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
        begins = _reached(datetime.combine(day, start, zone))
        ends = _reached(datetime.combine(last, end.replace(fold=1), zone))
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
    return next((max(begins, now) for begins, _ in _common(windows, now, _LOOKED_AHEAD)), None)


def are_ever_open(windows: Sequence[Window]) -> bool:
    """Whether all of them are open at once at any time of a year: zones change their clocks on different days."""
    return len(windows) < 2 or bool(_common(windows, _A_YEAR, 366))


Span = tuple[datetime, datetime]


def _common(windows: Sequence[Window], now: datetime, days: int) -> list[Span]:
    """When all are open, from `now` on, the earliest first."""
    return reduce(_overlaps, (w.spans(now, days) for w in windows))


def _overlaps(ours: list[Span], theirs: list[Span]) -> list[Span]:
    found: list[Span] = []
    one, other = iter(ours), iter(theirs)
    mine, yours = next(one, None), next(other, None)
    while mine is not None and yours is not None:
        begins, ends = max(mine[0], yours[0]), min(mine[1], yours[1])
        if begins < ends:
            found.append((begins, ends))
        if mine[1] <= yours[1]:
            mine = next(one, None)
        else:
            yours = next(other, None)
    return found


def _reached(local: datetime) -> datetime:
    """When (UTC) a local clock has come to a time, or has gone past it where it leaves that time out.

    Such a time is read by the offset before the change or after it (PEP 495); the change is between the two.
    """
    at = local.astimezone(UTC)
    if at.astimezone(local.tzinfo).replace(tzinfo=None) == local.replace(tzinfo=None):
        return at
    before, after = sorted(local.replace(fold=f).astimezone(UTC) for f in (0, 1))
    changed = after.astimezone(local.tzinfo).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = before + timedelta(seconds=(after - before) // timedelta(seconds=2))
        if middle.astimezone(local.tzinfo).utcoffset() == changed:
            after = middle
        else:
            before = middle
    return after
