"""Limits by the hour."""

from __future__ import annotations

import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyp2p.core.timetable import Timetable
from tinyp2p.errors import UsageError

RATES = {"500k": 500_000, "2M": 2_000_000, "1.5MiB/s": 1_572_864, "1g": 10**9, "20kb": 20_000, "off": math.inf}
MINUTES = st.integers(0, 24 * 60 - 1)


def clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


@pytest.mark.parametrize(("text", "rate"), RATES.items())
def test_one_rate_for_all_day(text: str, rate: float) -> None:
    assert {Timetable.parse(text).at(minute) for minute in range(24 * 60)} == {rate}


def test_hours_of_the_day_and_over_midnight() -> None:
    table = Timetable.parse("2M, 08:00-18:00 = 500k, 22:00-06:00=off")
    hours = {hour: table.at(hour * 60) for hour in range(24)}
    assert {hour for hour, rate in hours.items() if rate == 500_000} == set(range(8, 18))
    assert {hour for hour, rate in hours.items() if rate == math.inf} == {22, 23, 0, 1, 2, 3, 4, 5}
    assert hours[7] == hours[18] == 2_000_000
    assert Timetable.parse("08:00-24:00=1k").at(7 * 60) == math.inf


@given(usual=st.sampled_from(list(RATES)), spans=st.lists(st.tuples(MINUTES, MINUTES, st.sampled_from(list(RATES))), max_size=4), now=MINUTES)
def test_the_first_span_that_holds_a_minute_counts(usual: str, spans: list[tuple[int, int, str]], now: int) -> None:
    spans = [(begin, end, rate) for begin, end, rate in spans if begin != end]
    table = Timetable.parse(",".join([usual, *(f"{clock(begin)}-{clock(end)}={rate}" for begin, end, rate in spans)]))
    held = [rate for begin, end, rate in spans if (now - begin) % 1440 < (end - begin) % 1440]
    assert table.at(now) == RATES[held[0] if held else usual]


@pytest.mark.parametrize(
    "text",
    ["", "2", "fast", "0k", "-1M", "2M,500k", "2M,8-18=1M", "2M,08:00-18:00", "2M,08:00-08:00=1M", "2M,25:00-26:00=1M", "08:00-24:30=1M", "2M,"],
)
def test_what_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no"):
        Timetable.parse(text)


@given(st.text(max_size=40))
def test_any_text_is_a_limit_or_refused(text: str) -> None:
    with suppress(UsageError):
        assert Timetable.parse(text).at(0) >= 1
