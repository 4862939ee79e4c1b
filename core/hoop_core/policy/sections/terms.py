"""`approval` of a rule and `exceptions` of a mask: who answers, how many, in what time, and what else they offer."""

from __future__ import annotations

import re
from datetime import timedelta
from zoneinfo import ZoneInfo

from hoop_core.model import ApprovalTerms, BreakGlass, StandingTerms
from hoop_core.policy.sections.common import duration, word
from hoop_core.windows import DAYS, Window, are_ever_open
from hoop_core.yaml_reader import Value

EXCEPTION_KEYS = ("approvers", "quorum", "pending_for", "valid_for")
APPROVAL_KEYS = (*EXCEPTION_KEYS, "windows", "break_glass", "standing")
WINDOW_KEYS = ("days", "from", "to", "timezone")
BREAK_GLASS_KEYS = ("groups", "valid_for")
STANDING_KEYS = ("longest", "rows_at_most")
MOST_ROWS = 10**12
CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9]"


def approval_terms(value: Value, what: str, *, exceptions: bool = False) -> ApprovalTerms:
    """The terms of a rule; with `exceptions` those of a mask's exceptions, which know fewer keys."""
    f = value.mapping(what, EXCEPTION_KEYS if exceptions else APPROVAL_KEYS, ("approvers",))
    pending, valid = timedelta(hours=24), timedelta(hours=4)
    return ApprovalTerms(
        approvers=tuple(dict.fromkeys(f["approvers"].texts("`approvers`"))),
        quorum=f["quorum"].integer("`quorum`", 1, 20) if "quorum" in f else 1,
        pending_for=duration(f["pending_for"], "`pending_for`") if "pending_for" in f else pending,
        valid_for=duration(f["valid_for"], "`valid_for`") if "valid_for" in f else valid,
        windows=_windows(f["windows"]) if "windows" in f else (),
        break_glass=_break_glass(f["break_glass"]) if "break_glass" in f else None,
        standing=_standing(f["standing"]) if "standing" in f else None,
    )


def _windows(value: Value) -> tuple[Window, ...]:
    windows = tuple(dict.fromkeys(_window(w) for w in value.items("`windows`")))
    if not are_ever_open(windows):
        raise value.wrong(
            "these `windows` are never open at once, so what is approved could never run.",
            "What is approved runs when all of them are open: let them overlap.",
        )
    return windows


def _window(value: Value) -> Window:
    """When a grant may be used; one that ends before it begins goes over midnight."""
    f = value.mapping("a window", WINDOW_KEYS, ("from", "to", "timezone"))
    days = (
        tuple(dict.fromkeys(word(d, "a day", DAYS, kind="day") for d in f["days"].items("`days`")))
        if "days" in f
        else DAYS
    )
    if not days:
        raise f["days"].wrong("`days` must not be empty.")
    zone = f["timezone"].text("`timezone`")
    try:
        ZoneInfo(zone)
    except (ValueError, OSError, KeyError):
        raise f["timezone"].wrong(
            f"`{zone}` is no time zone.", "Write Europe/Berlin, or UTC."
        ) from None
    return Window(days, _clock(f["from"], "`from`"), _clock(f["to"], "`to`"), zone)


def _clock(value: Value, what: str) -> str:
    # YAML 1.1 reads 22:00 without quotes as the number 1320
    data = value.data
    if not isinstance(data, str) or not re.fullmatch(CLOCK, data):
        raise value.wrong(f"{what} must be a time of day in quotes.", 'Write "22:00".')
    return data


def _break_glass(value: Value) -> BreakGlass:
    f = value.mapping("`break_glass`", BREAK_GLASS_KEYS, ("groups",))
    valid = timedelta(minutes=15)
    return BreakGlass(
        tuple(dict.fromkeys(f["groups"].texts("`groups`"))),
        duration(f["valid_for"], "`valid_for`") if "valid_for" in f else valid,
    )


def _standing(value: Value) -> StandingTerms:
    f = value.mapping("`standing`", STANDING_KEYS, STANDING_KEYS)
    return StandingTerms(
        duration(f["longest"], "`longest`"),
        f["rows_at_most"].integer("`rows_at_most`", 0, MOST_ROWS),
    )
