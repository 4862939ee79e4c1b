"""How much one caller may have: at once, in a minute, and while the process is about to stop."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hoop_core.config import LimitSettings
from hoop_core.errors import HoopError
from hoop_core.gateway.limits import Draining, Limits, Rate, TooMany


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_caller_has_so_many_statements_at_once_and_another_one_is_not_kept_out() -> None:
    limits = Limits(LimitSettings(statements_at_once=2))
    limits.begin_statement("a")
    limits.begin_statement("a")
    with pytest.raises(TooMany, match="2 statements under way") as refused:
        limits.begin_statement("a")
    assert (refused.value.errno, refused.value.reason) == (99429, "TOO_MANY_STATEMENTS")
    assert refused.value.hint
    limits.begin_statement("b")
    limits.end_statement("a")
    limits.begin_statement("a")


def test_a_caller_has_so_many_statements_in_a_minute() -> None:
    clock = Clock()
    limits = Limits(LimitSettings(statements_per_minute=60), clock=clock)
    for _ in range(60):
        limits.begin_statement("a")
        limits.end_statement("a")
    with pytest.raises(TooMany) as refused:
        limits.begin_statement("a")
    assert refused.value.reason == "TOO_FAST"
    assert limits.statements == 0
    clock.now += 1.0
    limits.begin_statement("a")


def test_a_caller_has_so_many_sessions_open() -> None:
    limits = Limits(LimitSettings(sessions_at_once=1))
    limits.open_session("a")
    with pytest.raises(TooMany, match="1 sessions open"):
        limits.open_session("a")
    limits.close_session("a")
    limits.open_session("a")


def test_while_it_stops_nobody_opens_a_session_and_statements_still_begin() -> None:
    limits = Limits(LimitSettings())
    limits.draining = True
    with pytest.raises(Draining) as refused:
        limits.open_session("a")
    assert refused.value.errno == 99503
    limits.begin_statement("a")


def test_without_limits_nothing_is_refused_and_everything_is_still_counted() -> None:
    limits = Limits(
        LimitSettings(statements_at_once=0, statements_per_minute=0, sessions_at_once=0)
    )
    for _ in range(2000):
        limits.begin_statement("a")
        limits.open_session("a")
    assert (limits.statements, limits.sessions) == (2000, 2000)


@given(st.lists(st.tuples(st.sampled_from(["begin", "end", "open", "close"]), st.integers(0, 3))))
def test_what_is_counted_is_what_was_begun_and_not_ended(steps: list[tuple[str, int]]) -> None:
    limits = Limits(LimitSettings(statements_at_once=2, sessions_at_once=2))
    under_way = {"s": [0] * 4, "o": [0] * 4}
    for step, who in steps:
        kind = "s" if step in {"begin", "end"} else "o"
        key = f"caller-{who}"
        try:
            match step:
                case "begin":
                    limits.begin_statement(key)
                case "open":
                    limits.open_session(key)
                case _ if not under_way[kind][who]:
                    continue
                case "end":
                    limits.end_statement(key)
                case "close":
                    limits.close_session(key)
        except HoopError:
            assert under_way[kind][who] == 2
            continue
        under_way[kind][who] += 1 if step in {"begin", "open"} else -1
    assert limits.statements == sum(under_way["s"])
    assert limits.sessions == sum(under_way["o"])
    assert len(limits._statements) == sum(n > 0 for n in under_way["s"])


@given(st.lists(st.tuples(st.text(max_size=3), st.floats(0, 5)), max_size=200))
def test_a_rate_keeps_a_bounded_number_of_keys(calls: list[tuple[str, float]]) -> None:
    clock = Clock()
    rate = Rate(30, most=10, clock=clock)
    for key, passed in calls:
        clock.now += passed
        rate.take(key)
        assert len(rate) <= 10


@given(st.lists(st.floats(0, 10), max_size=300))
def test_no_minute_holds_more_than_twice_the_rate(pauses: list[float]) -> None:
    clock = Clock()
    rate = Rate(20, clock=clock)
    taken: list[float] = []
    for pause in pauses:
        clock.now += pause
        if rate.take("a"):
            taken.append(clock.now)
    for begun in taken:
        assert len([t for t in taken if begun <= t < begun + 60.0]) <= 40
