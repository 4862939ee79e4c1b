"""Windows over midnight and over changes of the clock."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
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


@pytest.mark.parametrize(
    ("start", "end", "last_open"),
    [("01:00", "02:30", "2026-03-29T01:59"), ("01:00", "02:00", "2026-03-29T01:59")],
)
def test_a_window_that_ends_in_the_hour_that_is_left_out_ends_when_the_clock_goes_on(
    start: str, end: str, last_open: str
) -> None:
    night = Window(DAYS, start, end, "Europe/Berlin")
    assert are_open([night], berlin(last_open))
    assert not are_open([night], berlin("2026-03-29T03:00"))


def test_a_window_whose_hours_are_all_left_out_opens_the_next_time() -> None:
    sundays = Window(("sun",), "02:00", "02:30", "Europe/Berlin")
    assert sundays.on(date(2026, 3, 29)) is None
    assert next_opening([sundays], berlin("2026-03-28T12:00")) == berlin("2026-04-05T02:00")


MINUTES = st.times().map("{:%H:%M}".format)
CHANGING = st.sampled_from(
    [
        *("Africa/Cairo", "America/Havana", "America/St_Johns", "Antarctica/Troll", "Asia/Beirut"),
        *("Australia/Lord_Howe", "Europe/Berlin", "Pacific/Auckland"),
    ]
)


@st.composite
def nights(draw: st.DrawFn) -> tuple[str, date]:
    """A zone, and a day on which its clock may be changed."""
    zone = draw(CHANGING)
    day = draw(st.dates(date(2024, 1, 1), date(2027, 12, 31)))
    for n in range(366):
        at = datetime.combine(day + timedelta(days=n), time(), ZoneInfo(zone))
        if at.utcoffset() != (at + timedelta(days=1)).utcoffset():
            return zone, at.date() + timedelta(days=draw(st.integers(-1, 1)))
    return zone, day


@given(MINUTES, MINUTES, nights())
def test_a_window_is_open_from_when_the_clock_shows_its_beginning_until_it_shows_its_end(
    start: str, end: str, night: tuple[str, date]
) -> None:
    zone, day = night

    def shown(at: datetime) -> datetime:
        return at.astimezone(ZoneInfo(zone)).replace(tzinfo=None)

    first = datetime.combine(day, time.fromisoformat(start))
    last = datetime.combine(day + timedelta(days=end <= start), time.fromisoformat(end))
    span = Window(DAYS, start, end, zone).on(day)
    if span is None:  # the clock shows none of its hours
        noon = datetime.combine(day, time(12), ZoneInfo(zone)).astimezone(UTC)
        around = (shown(noon + timedelta(minutes=m)) for m in range(-24 * 60, 36 * 60))
        assert not any(first <= m < last for m in around)
        return
    a_moment = timedelta(seconds=1)
    assert shown(span[0] - a_moment) < first <= shown(span[0])
    assert shown(span[1] - a_moment) < last <= shown(span[1])


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


@given(st.lists(st.tuples(HOURS, HOURS, ZONES), min_size=2, max_size=3), MOMENTS)
def test_several_windows_open_when_the_last_of_them_does(
    given_: list[tuple[str, str, str]], now: datetime
) -> None:
    windows = [Window(DAYS, *w) for w in given_]
    opening = next_opening(windows, now)
    moments = (now + timedelta(minutes=15 * n) for n in range(4 * 24 * 3))
    first = next((m for m in moments if are_open(windows, m)), None)
    if opening is None:
        assert first is None
    else:
        assert are_open(windows, opening)
        assert first is None or opening <= first < opening + timedelta(minutes=15)


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


def asking(*windows: str) -> str:
    rules = "".join(
        f"  - {{name: n{n}, then: require_approval, approval: {{approvers: [a], windows: {w}}}}}\n"
        for n, w in enumerate(windows)
    )
    return (
        "version: 1\nrules:\n"
        '  - {name: read, kinds: [delete], writes: ["D.S.*"], reads: ["D.S.*"], then: allow}\n'
        + rules
    )


EARLY = '{from: "01:00", to: "02:00", timezone: UTC}'
LATER = '{from: "02:00", to: "03:00", timezone: UTC}'


def test_windows_of_one_rule_that_are_never_open_at_once_are_a_fault_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"p:5.*never open at once"):
        parse_policy(asking("[" + EARLY + "]", f"[{EARLY}, {LATER}]"), "p")


def test_windows_that_meet_only_where_clocks_are_changed_on_different_days_are_no_fault() -> None:
    berlin_, new_york = (
        f'{{from: "{f}", to: "{t}", timezone: {z}}}'
        for f, t, z in (("12:00", "13:00", "Europe/Berlin"), ("07:00", "08:00", "America/New_York"))
    )
    parse_policy(asking(f"[{berlin_}, {new_york}]"), "p")
