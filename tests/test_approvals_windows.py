"""Windows over midnight and over changes of the clock."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hoop_core.errors import ConfigError
from hoop_core.policy.file import parse_policy
from hoop_core.windows import DAYS, Window, are_open, next_opening

BERLIN = ZoneInfo("Europe/Berlin")
NIGHT = Window(DAYS, "22:00", "06:00", "Europe/Berlin")
HOURS = st.integers(0, 23).map("{:02}:00".format)
ZONES = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]
)
MOMENTS = st.datetimes(
    datetime(2024, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
    datetime(2027, 12, 31),  # noqa: DTZ001
    timezones=st.just(UTC),
)


def berlin(text: str, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold)


@pytest.mark.parametrize(
    ("when", "is_open"),
    [
        ("2026-11-23T21:59", False),
        ("2026-11-23T22:00", True),
        ("2026-11-23T23:59", True),
        ("2026-11-24T00:00", True),
        ("2026-11-24T05:59", True),
        ("2026-11-24T06:00", False),
    ],
)
def test_a_window_goes_over_midnight(when: str, is_open: bool) -> None:
    assert are_open([NIGHT], berlin(when)) is is_open


def test_the_days_of_a_window_are_those_that_it_begins_on() -> None:
    friday = Window(("fri",), "22:00", "06:00", "Europe/Berlin")
    assert are_open([friday], berlin("2026-11-28T05:00"))  # Saturday morning
    assert not are_open([friday], berlin("2026-11-27T05:00"))  # Friday morning


def test_the_night_that_loses_an_hour_is_an_hour_shorter() -> None:
    begins, ends = NIGHT.on(date(2026, 3, 28)) or (None, None)
    assert begins is not None and ends is not None
    assert ends - begins == timedelta(hours=7)


def test_the_night_that_gains_an_hour_is_an_hour_longer() -> None:
    begins, ends = NIGHT.on(date(2026, 10, 24)) or (None, None)
    assert begins is not None and ends is not None
    assert ends - begins == timedelta(hours=9)


def test_a_window_that_begins_in_the_hour_that_is_left_out_begins_when_the_clock_has_gone_on() -> (
    None
):
    early = Window(DAYS, "02:30", "04:00", "Europe/Berlin")
    assert not are_open([early], berlin("2026-03-29T01:59"))
    assert are_open([early], berlin("2026-03-29T03:31"))
    assert not are_open([early], berlin("2026-03-29T04:00"))


def test_a_window_in_the_hour_that_comes_twice_is_open_in_both() -> None:
    early = Window(DAYS, "02:00", "02:30", "Europe/Berlin")
    assert are_open([early], berlin("2026-10-25T02:15"))
    assert are_open([early], berlin("2026-10-25T02:15", fold=1))
    assert not are_open([early], berlin("2026-10-25T02:45", fold=1))


@given(HOURS, HOURS, ZONES, st.sets(st.sampled_from(DAYS), min_size=1), MOMENTS)
def test_the_next_opening_is_open_and_nothing_before_it_is(
    start: str, end: str, zone: str, days: set[str], now: datetime
) -> None:
    windows = [Window(tuple(days), start, end, zone)]
    opening = next_opening(windows, now)
    assert opening is not None
    assert are_open(windows, opening)
    assert opening >= now
    step = timedelta(minutes=15)
    moment = now
    while moment < opening:
        assert not are_open(windows, moment)
        moment += step


def test_windows_that_are_never_open_at_once_have_no_opening() -> None:
    monday, tuesday = (Window((d,), "01:00", "02:00", "UTC") for d in ("mon", "tue"))
    assert next_opening([monday, tuesday], datetime(2026, 11, 23, tzinfo=UTC)) is None


def test_of_no_window_every_moment_is_an_opening() -> None:
    now = datetime(2026, 11, 23, tzinfo=UTC)
    assert next_opening([], now) == now


def policy(window: str) -> str:
    return (
        "version: 1\nrules:\n  - {name: n, then: require_approval, approval: {approvers: [a], "
        f"windows: [{window}]}}}}\n"
    )


def test_a_policy_says_when_what_was_approved_may_run() -> None:
    read = parse_policy(
        policy('{days: [fri], from: "22:00", to: "06:00", timezone: Europe/Berlin}'), "p"
    )
    terms = read.rules[0].approval
    assert terms is not None
    assert [str(w) for w in terms.windows] == ["fri 22:00-06:00 Europe/Berlin"]


@pytest.mark.parametrize(
    ("window", "says"),
    [
        ('{from: 22:00, to: "06:00", timezone: UTC}', "in quotes"),  # YAML makes 1320 of it
        ('{from: "24:00", to: "06:00", timezone: UTC}', "in quotes"),
        ('{from: "22:00", to: "06:00", timezone: Mars/Olympus}', "no time zone"),
        ('{from: "22:00", to: "06:00", timezone: "../../etc/passwd"}', "no time zone"),
        ('{days: [funday], from: "22:00", to: "06:00", timezone: UTC}', "funday"),
        ('{from: "22:00", to: "06:00"}', "timezone"),
    ],
)
def test_a_window_that_cannot_be_is_a_fault_of_the_policy(window: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_policy(policy(window), "p")
