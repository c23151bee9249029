from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from taskforge.domain.cron import Cron, next_after, parse, why_never
from taskforge.domain.zones import find_zone, zone_names
from taskforge.errors import Invalid

JAN = datetime(2026, 1, 1, tzinfo=UTC)  # a Thursday


def firings(text: str, count: int, *, zone: str = "UTC", after: datetime = JAN) -> list[str]:
    found: list[str] = []
    now: datetime | None = after
    for _ in range(count):
        now = next_after(parse(text), now, ZoneInfo(zone))  # type: ignore[arg-type]
        if now is None:
            break
        found.append(now.astimezone(ZoneInfo(zone)).strftime("%m-%d %H:%M:%S").removesuffix(":00"))
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*/20 * * * *", ["01-01 00:20", "01-01 00:40", "01-01 01:00"]),
        ("5/20 * * * *", ["01-01 00:05", "01-01 00:25", "01-01 00:45"]),
        ("10-30/10 4,5 * * *", ["01-01 04:10", "01-01 04:20", "01-01 04:30"]),
        ("0 0 1 jan,Mar *", ["03-01 00:00", "01-01 00:00"]),
        ("0 9 * * MON-FRI", ["01-01 09:00", "01-02 09:00", "01-05 09:00"]),
        ("0 9 * * FRI-SUN", ["01-02 09:00", "01-03 09:00", "01-04 09:00"]),
        ("0 0 * * 7", ["01-04 00:00", "01-11 00:00"]),
        ("0 0 13 * FRI", ["01-02 00:00", "01-09 00:00", "01-13 00:00"]),  # either day counts
        ("0 0 */2 * MON", ["01-05 00:00", "01-19 00:00"]),  # a star narrows
        ("0 0 L * *", ["01-31 00:00", "02-28 00:00", "03-31 00:00"]),
        ("0 0 L-2 * *", ["01-29 00:00", "02-26 00:00"]),
        ("0 0 LW * *", ["01-30 00:00", "02-27 00:00"]),
        ("0 0 3W * *", ["01-02 00:00", "02-03 00:00", "03-03 00:00"]),
        ("0 0 1W 2 *", ["02-02 00:00"]),  # Sunday the 1st: not in the month before
        ("0 0 * * FRI#2", ["01-09 00:00", "02-13 00:00"]),
        ("0 0 * * 5L", ["01-30 00:00", "02-27 00:00"]),
        ("30 0 0 * * *", ["01-01 00:00:30", "01-02 00:00:30"]),
        ("*/30 * * * * *", ["01-01 00:00:30", "01-01 00:01", "01-01 00:01:30"]),
        ("0 0 ? * MON", ["01-05 00:00"]),
        ("@hourly", ["01-01 01:00", "01-01 02:00"]),
        ("@DAILY", ["01-02 00:00", "01-03 00:00"]),
        ("@midnight", ["01-02 00:00"]),
        ("@weekly", ["01-04 00:00", "01-11 00:00"]),
        ("@monthly", ["02-01 00:00", "03-01 00:00"]),
        ("@yearly", ["01-01 00:00"]),
        ("@annually", ["01-01 00:00"]),
        ("@every 90s", ["01-01 00:01:30", "01-01 00:03"]),
        ("@every 1h30m", ["01-01 01:30", "01-01 03:00"]),
        ("@every 2d", ["01-03 00:00", "01-05 00:00"]),  # counted from 1970
    ],
)
def test_the_usual_expressions_mean_what_they_always_mean(text: str, expected: list[str]) -> None:
    assert firings(text, len(expected)) == expected


@pytest.mark.parametrize(
    ("text", "zone", "day", "expected"),
    [
        # 29 March 2026: 02:00 becomes 03:00.  25 October: 03:00 becomes 02:00.
        ("30 2 * * *", "Europe/Berlin", "03-28", ["03-28 02:30", "03-29 03:00", "03-30 02:30"]),
        ("0,30 2 * * *", "Europe/Berlin", "03-29", ["03-29 03:00", "03-30 02:00"]),
        ("0 2,3 * * *", "Europe/Berlin", "03-29", ["03-29 03:00", "03-30 02:00"]),
        ("0 * * * *", "Europe/Berlin", "03-29", ["03-29 00:00", "03-29 01:00", "03-29 03:00"]),
        ("*/30 2 * * *", "Europe/Berlin", "03-29", ["03-30 02:00", "03-30 02:30"]),
        ("30 2 * * *", "Europe/Berlin", "10-25", ["10-25 02:30", "10-26 02:30"]),
        (
            "0 */2 * * *",
            "Europe/Berlin",
            "10-25",
            ["10-25 00:00", "10-25 02:00", "10-25 02:00", "10-25 04:00"],
        ),
        (
            "30 * * * *",
            "Europe/Berlin",
            "10-25",
            ["10-25 00:30", "10-25 01:30", "10-25 02:30", "10-25 02:30"],
        ),
        # 4 October 2026: 02:00 becomes 02:30.
        ("15 2 * * *", "Australia/Lord_Howe", "10-04", ["10-04 02:30", "10-05 02:15"]),
        ("45 1 * * *", "Australia/Lord_Howe", "04-05", ["04-05 01:45", "04-06 01:45"]),
    ],
)
def test_changed_clocks_follow_the_stated_rule(text: str, zone: str, day: str, expected: list[str]) -> None:
    start = datetime.strptime(f"2026-{day}", "%Y-%m-%d").replace(tzinfo=ZoneInfo(zone)) - timedelta(seconds=1)
    assert firings(text, len(expected), zone=zone, after=start.astimezone(UTC)) == expected


def test_a_day_that_a_zone_never_had_fires_at_its_end() -> None:
    """Samoa went from 29 to 31 December 2011."""
    after = datetime(2011, 12, 29, 20, tzinfo=UTC)  # 10:00 on the 29th there
    assert firings("0 9 30 12 *", 1, zone="Pacific/Apia", after=after) == ["12-31 00:00"]
    assert firings("0 9 * * *", 2, zone="Pacific/Apia", after=after) == ["12-31 00:00", "12-31 09:00"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "0 fields"),
        ("* * * *", "4 fields"),
        ("* * * * * * *", "7 fields"),
        ("61 * * * *", "minute 61 is out of 0-59"),
        ("* 24 * * *", "hour 24 is out of 0-23"),
        ("* * 0 * *", "day of month 0 is out of 1-31"),
        ("* * * 13 *", "month 13 is out of 1-12"),
        ("* * * * 8", "day of week 8 is out of 0-7"),
        ("60 * * * * *", "second 60 is out of 0-59"),
        ("*/0 * * * *", 'minute: the step "0"'),
        ("*/x * * * *", 'minute: the step "x"'),
        ("*/99 * * * *", "minute: the step 99 is out of 1-59"),
        ("30-10 * * * *", "minute: 30-10 runs backwards"),
        ("0-10000000000000000000 * * * *", "out of 0-59"),
        ("1,,2 * * * *", "an empty part"),
        ("-5 * * * *", "an empty part"),
        ("5- * * * *", "an empty part"),
        ("* * * FOO *", '"FOO" is not a number or name'),
        ("* * * * FRI#6", "must end in #1 to #5"),
        ("* * L-31 * *", "must be L-1 to L-30"),
        ("* * W * *", "an empty part"),
        ("@reboot", "@reboot is not possible"),
        ("@fortnightly", 'there is no "@fortnightly"'),
        ("@every", "is no interval"),
        ("@every -5s", "is no interval"),
        ("@every 0s", "0 seconds is out of"),
        ("@every 367d", "is out of 1 second to 366 days"),
        ("* * * * *\x00", "not plain ASCII"),
        ("\u0661 * * * *", "not plain ASCII"),
        ("1," * 5_000, "10000 characters"),
    ],
)
def test_what_is_no_expression_is_refused_with_a_pointer_and_the_reason(text: str, words: str) -> None:
    started = time.perf_counter()
    with pytest.raises(Invalid) as refused:
        parse(text)
    assert time.perf_counter() - started < 0.05
    assert words in refused.value.detail
    assert refused.value.code == "schedule.invalid_expression"
    assert refused.value.fields[0].pointer == "/expression"


@pytest.mark.parametrize(
    ("text", "zone", "words"),
    [
        ("0 0 30 2 *", "UTC", "day 30 does not exist in FEB"),
        ("0 0 31 4,6,9,11 *", "UTC", "day 31 does not exist in APR, JUN, SEP, NOV"),
        ("* * * * * *", "UTC", ""),
        ("0 0 29 2 */7", "UTC", "no time within the next 5 years"),
        ("*/5 2 * 3 SUNL", "Europe/Berlin", "no time within the next 5 years"),  # always skipped
    ],
)
def test_the_search_ends_soon_and_says_why_nothing_was_found(text: str, zone: str, words: str) -> None:
    expression = parse(text)
    next_after(expression, JAN, ZoneInfo(zone))
    best = min(_seconds(expression, zone, JAN + timedelta(days=n)) for n in range(5))
    assert best < 0.005
    if words:
        assert next_after(expression, JAN, ZoneInfo(zone)) is None
        assert words in why_never(expression)


def _seconds(expression: object, zone: str, after: datetime) -> float:
    assert isinstance(expression, Cron)
    started = time.perf_counter()
    next_after(expression, after, ZoneInfo(zone))
    return time.perf_counter() - started


def test_every_zone_can_be_used() -> None:
    assert len(zone_names()) > 400
    for name in zone_names():
        assert next_after(parse("0 0 * * *"), JAN, find_zone(name)) is not None


@pytest.mark.parametrize(
    "name", ["", "Mars/Olympus", "../UTC", "/etc/localtime", "Europe", "posix/UTC", "\x00", "x" * 9999]
)
def test_what_is_no_zone_is_refused(name: str) -> None:
    with pytest.raises(Invalid) as refused:
        find_zone(name)
    assert refused.value.code == "schedule.unknown_timezone"
    assert len(refused.value.detail) < 400
