"""Cron against an oracle that knows nothing but a clock: it looks at every instant of the zone, one after another."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskforge.domain.cron import next_after, parse

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",
    "America/Sao_Paulo",  # changed at midnight
    "America/Caracas",  # moved by half an hour
    "Australia/Lord_Howe",  # half an hour of daylight saving
    "Asia/Kathmandu",
    "Asia/Tehran",
    "Asia/Gaza",
    "Africa/Casablanca",  # leaves daylight saving for Ramadan
    "Africa/Cairo",
    "Pacific/Apia",  # had no 30 December 2011
    "Pacific/Chatham",
    "Pacific/Kwajalein",
    "Antarctica/Troll",  # two hours
    "Asia/Pyongyang",
)


def matches(text: str, wall: datetime) -> bool:
    """Of numbers, ranges, lists, steps and stars only; the rule written down once more, the plainest way."""
    parts = text.split()
    seconds, minutes, hours, days, months, weekdays = parts if len(parts) == 6 else ["0", *parts]
    if not (
        _has(seconds, wall.second, 59)
        and _has(minutes, wall.minute, 59)
        and _has(hours, wall.hour, 23)
        and _has(months, wall.month, 12, 1)
    ):
        return False
    day, weekday = _has(days, wall.day, 31, 1), _has(weekdays, wall.isoweekday() % 7, 6)
    return (day and weekday) if "*" in (days[0], weekdays[0]) else (day or weekday)


def _has(field: str, value: int, high: int, low: int = 0) -> bool:
    for item in field.split(","):
        base, _, step = item.partition("/")
        first, dash, last = base.partition("-")
        begin = low if base == "*" else int(first)
        end = high if base == "*" or (step and not dash) else int(last or first)
        if begin <= value <= end and (value - begin) % int(step or 1) == 0:
            return True
    return False


def oracle(text: str, zone: ZoneInfo, start: datetime, end: datetime, tick: timedelta) -> Iterator[datetime]:
    """Every firing in (start, end], by looking at the clock at each tick."""
    follows_elapsed_time = any(part[0] == "*" for part in text.split()[:-3])
    now = start - timedelta(days=2)
    reached = clock(now, zone)
    while now < end:
        now += tick
        wall = clock(now, zone)
        if follows_elapsed_time:
            fires = matches(text, wall)
        else:
            # What the clock has now shown for the first time, skipped readings included.
            fires = any(
                matches(text, reached + tick * step) for step in range(1, (wall - reached) // tick + 1)
            )
        reached = max(reached, wall)
        if fires and now > start:
            yield now


def clock(now: datetime, zone: ZoneInfo) -> datetime:
    return now.astimezone(zone).replace(tzinfo=None, fold=0)


def changes(zone: ZoneInfo, year: int) -> list[datetime]:
    """The hours in which the zone's offset changes, found by asking at every hour."""
    hours = [datetime(year, 1, 1, tzinfo=UTC) + timedelta(hours=n) for n in range(365 * 24)]
    offsets = [hour.astimezone(zone).utcoffset() for hour in hours]
    return [hour for hour, before, after in zip(hours, offsets, offsets[1:], strict=False) if before != after]


def numbers(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    ranges = st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}")
    single = st.one_of(
        number.map(str), ranges, st.tuples(ranges, st.integers(1, 7)).map("{0[0]}/{0[1]}".format)
    )
    return st.lists(single, min_size=1, max_size=3).map(",".join)


def star(high: int) -> st.SearchStrategy[str]:
    return st.one_of(st.just("*"), st.integers(2, high).map("*/{}".format))


@st.composite
def expressions(draw: st.DrawFn) -> str:
    """Those that fire now and then in a few days; hours are mostly those at which clocks are changed."""
    minute = draw(st.one_of(numbers(0, 59), star(59)))
    hour = draw(st.one_of(numbers(0, 4), numbers(0, 23), star(23)))
    day = draw(st.one_of(st.just("*"), st.just("*"), numbers(1, 31), star(30)))
    month = draw(st.one_of(st.just("*"), st.just("*"), numbers(1, 12)))
    weekday = draw(st.one_of(st.just("*"), st.just("*"), numbers(0, 6)))
    return f"{minute} {hour} {day} {month} {weekday}"


@st.composite
def moments(draw: st.DrawFn) -> tuple[str, datetime]:
    """A zone and a time, mostly close before its clocks are changed."""
    name = draw(st.sampled_from(ZONES))
    year = draw(st.integers(1993, 2040) if name != "Asia/Gaza" else st.integers(1995, 2035))
    known = changes(ZoneInfo(name), year)
    if known and draw(st.integers(0, 4)):
        return name, draw(st.sampled_from(known)) - timedelta(minutes=draw(st.integers(-180, 26 * 60)))
    return name, datetime(year, 1, 1, tzinfo=UTC) + timedelta(minutes=draw(st.integers(0, 364 * 1440)))


def found(text: str, zone: ZoneInfo, start: datetime, end: datetime) -> list[datetime]:
    expression = parse(text)
    times = []
    now: datetime | None = start
    while (now := next_after(expression, now, zone)) is not None and now <= end:
        times.append(now)
    return times


@settings(max_examples=60, deadline=None)
@given(expressions(), moments())
def test_it_fires_exactly_when_a_clock_that_is_watched_says_so(
    text: str, moment: tuple[str, datetime]
) -> None:
    name, start = moment
    zone, end = ZoneInfo(name), start + timedelta(days=3)
    assert found(text, zone, start, end) == list(oracle(text, zone, start, end, MINUTE))


@settings(max_examples=15, deadline=None)
@given(st.one_of(numbers(0, 59), star(59)), expressions(), moments(), st.integers(0, 59))
def test_seconds_are_exact_too(second: str, rest: str, moment: tuple[str, datetime], offset: int) -> None:
    name, start = moment
    text = f"{second} {rest}"
    zone, start = ZoneInfo(name), start + timedelta(seconds=offset, microseconds=offset * 7)
    end = (start + timedelta(hours=4)).replace(microsecond=0)
    expected = [
        time for time in oracle(text, zone, start.replace(microsecond=0), end, SECOND) if time > start
    ]
    assert found(text, zone, start, end) == expected


@pytest.mark.parametrize("name", ZONES)
@pytest.mark.parametrize(
    "text", ["30 2 * * *", "0 0 * * *", "*/30 * * * *", "0 */5 * * *", "15,45 1-3 * * 0"]
)
def test_a_whole_year_of_a_zone_is_what_its_clock_shows(name: str, text: str) -> None:
    zone = ZoneInfo(name)
    year = 2011 if name == "Pacific/Apia" else 2024
    for change in [*changes(zone, year), datetime(year, 6, 1, tzinfo=UTC)]:
        start = change - timedelta(days=2)
        end = change + timedelta(days=2)
        assert found(text, zone, start, end) == list(oracle(text, zone, start, end, MINUTE))


@settings(max_examples=200, deadline=None)
@given(st.dates(date(1990, 1, 1), date(2090, 1, 1)), st.sampled_from(ZONES), expressions())
def test_the_next_firing_is_later_and_does_not_depend_on_where_the_search_starts(
    day: date, name: str, text: str
) -> None:
    expression, zone = parse(text), ZoneInfo(name)
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    first = next_after(expression, start, zone)
    if first is None:
        return
    assert first > start
    halfway = start + (first - start) / 2
    assert next_after(expression, halfway, zone) == first
    assert next_after(expression, first - SECOND, zone) == first
