"""Cron expressions: what they say, and when they fire next in a time zone.

    minute hour day-of-month month day-of-week          five fields; six begin with the second
    *  5  1-5  */15  10-40/10  1,15  JAN  MON-FRI        in every field
    L  L-3  15W  LW                                      days of the month: the last, 3 before it, the nearest workday
    FRI#2  FRIL                                          days of the week: the second Friday, the last one
    @hourly @daily @midnight @weekly @monthly @yearly @annually, and @every 90s

When both day fields are restricted, a day that matches either of them counts; a field that begins with `*` does not
restrict.

Clocks that are changed: an expression whose second, minute or hour begins with `*` follows elapsed time and fires
whenever the local clock matches, in a repeated hour again and in a skipped hour not. Any other expression fires once
for each local time that matches, at the first instant at which the clock has reached it: one that is skipped fires at
the first instant after the gap, one that occurs twice at its first occurrence.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from calendar import monthrange
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

from msgspec import Struct

from taskforge.domain.zones import Zone, first_reach, is_repeated, is_skipped, overlap_of
from taskforge.errors import FieldError, Invalid

MAX_TEXT = 256
HORIZON_YEARS = 5
MAX_EVERY_SECONDS = 366 * 86_400
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_NAMED = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_EVERY = re.compile(r"@every\s+(?=\d)(?:(\d{1,3})d)?(?:(\d{1,4})h)?(?:(\d{1,6})m)?(?:(\d{1,8})s?)?", re.ASCII)
_PRINTABLE = re.compile(r"[ \t!-~]*")


class _Field(Struct, frozen=True):
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()
    names_from: int = 0


_FIELDS = (
    _Field("second", 0, 59),
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, _MONTHS, 1),
    _Field("day of week", 0, 7, _WEEKDAYS),
)


class Cron(Struct, frozen=True):
    """An expression of fields. `weekdays` are 0 (Sunday) to 6; None in a day field means that it does not restrict."""

    text: str
    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    months: frozenset[int]
    days: DayOfMonth | None
    weekdays: DayOfWeek | None
    follows_elapsed_time: bool


class DayOfMonth(Struct, frozen=True):
    numbers: frozenset[int]
    from_last: frozenset[int] = frozenset()
    """0 is the last day of the month, 1 the one before it."""
    nearest_workday: frozenset[int] = frozenset()
    last_workday: bool = False
    narrows: bool = False
    """`*/2` narrows the other day field, where `1,15` adds to it."""


class DayOfWeek(Struct, frozen=True):
    numbers: frozenset[int]
    nth: frozenset[tuple[int, int]] = frozenset()
    last: frozenset[int] = frozenset()
    narrows: bool = False


class Every(Struct, frozen=True):
    """A fixed interval of elapsed time, whatever the clocks do."""

    text: str
    interval: timedelta


Expression = Cron | Every


def parse(text: str) -> Expression:
    """Raises Invalid `schedule.invalid_expression`, pointing at /expression, with what is wrong in which field."""
    if len(text) > MAX_TEXT:
        raise _refuse(f"the expression has {len(text)} characters, the limit is {MAX_TEXT}")
    if not _PRINTABLE.fullmatch(text):
        raise _refuse("the expression holds a character that is not plain ASCII text")
    return _parse(" ".join(text.split()))


@lru_cache(maxsize=1024)
def _parse(text: str) -> Expression:
    if text.startswith("@"):
        return _parse_named(text)
    fields = text.split(" ")
    if len(fields) not in (5, 6) or not text:
        raise _refuse(
            f"the expression has {len(fields) if text else 0} fields; it needs five "
            "(minute, hour, day of month, month, day of week), or six with the second first"
        )
    if len(fields) == 5:
        fields.insert(0, "0")
    seconds, minutes, hours = (
        tuple(sorted(_parse_numbers(field, part)))
        for field, part in zip(_FIELDS[:3], fields[:3], strict=True)
    )
    return Cron(
        text,
        seconds,
        minutes,
        hours,
        _parse_numbers(_FIELDS[4], fields[4]),
        _parse_days(fields[3]),
        _parse_weekdays(fields[5]),
        any(part.startswith("*") for part in fields[:3]),
    )


def _parse_named(text: str) -> Expression:
    name = text.lower()
    if name in _NAMED:
        return _parse(_NAMED[name])
    if match := _EVERY.fullmatch(name):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        total = days * 86_400 + hours * 3_600 + minutes * 60 + seconds
        if not 1 <= total <= MAX_EVERY_SECONDS:
            raise _refuse(f"the interval of {total} seconds is out of 1 second to 366 days")
        return Every(text, timedelta(seconds=total))
    if name.startswith("@every"):
        raise _refuse(f'"{text}" is no interval; write it like @every 90s, @every 15m or @every 1h30m')
    if name == "@reboot":
        raise _refuse("@reboot is not possible: there is no machine whose start could be meant")
    raise _refuse(f'there is no "{text}"; there are {", ".join(_NAMED)} and @every')


def _parse_numbers(field: _Field, text: str) -> frozenset[int]:
    found: set[int] = set()
    for item in text.split(","):
        found |= _parse_item(field, item)
    return frozenset(found)


def _parse_item(field: _Field, item: str) -> set[int]:
    base, slash, step_text = item.partition("/")
    step = 1
    if slash:
        if not step_text.isdigit() or not (step := int(step_text)):
            raise _refuse(f'{field.name}: the step "{step_text}" must be a whole number of at least 1')
        if step > field.high - field.low:
            raise _refuse(f"{field.name}: the step {step_text} is out of 1-{field.high - field.low}")
    if base == "*":
        # Sunday has two numbers; a star means each day once.
        low, high = field.low, 6 if field.high == 7 else field.high
    else:
        first, dash, last = base.partition("-")
        low = _parse_number(field, first)
        high = _parse_number(field, last) if dash else (field.high if slash else low)
        if field.high == 7 and high == 0 < low:
            high = 7  # FRI-SUN
        if high < low:
            raise _refuse(f"{field.name}: {base} runs backwards; write it as two ranges")
    numbers = set(range(low, high + 1, step))
    return {number % 7 for number in numbers} if field.high == 7 else numbers


def _parse_number(field: _Field, text: str) -> int:
    if text.upper() in field.names:
        return field.names.index(text.upper()) + field.names_from
    if not text.isdigit():
        shown = f'"{text}"' if text else "an empty part"
        raise _refuse(f"{field.name}: {shown} is not a number{' or name' if field.names else ''}")
    number = int(text)
    if not field.low <= number <= field.high:
        raise _refuse(f"{field.name} {text} is out of {field.low}-{field.high}")
    return number


def _parse_days(text: str) -> DayOfMonth | None:
    if text in ("*", "?"):
        return None
    field = _FIELDS[3]
    numbers: set[int] = set()
    from_last: set[int] = set()
    workdays: set[int] = set()
    last_workday = False
    for item in text.upper().split(","):
        if item == "LW":
            last_workday = True
        elif item == "L":
            from_last.add(0)
        elif item.startswith("L-"):
            if not item[2:].isdigit() or not 1 <= int(item[2:]) <= 30:
                raise _refuse(f'day of month: "{item}" must be L-1 to L-30')
            from_last.add(int(item[2:]))
        elif item.endswith("W"):
            workdays.add(_parse_number(field, item[:-1]))
        else:
            numbers |= _parse_item(field, item)
    return DayOfMonth(
        frozenset(numbers), frozenset(from_last), frozenset(workdays), last_workday, text.startswith("*")
    )


def _parse_weekdays(text: str) -> DayOfWeek | None:
    if text in ("*", "?"):
        return None
    field = _FIELDS[5]
    numbers: set[int] = set()
    nth: set[tuple[int, int]] = set()
    last: set[int] = set()
    for item in text.upper().split(","):
        day, hash_, count = item.partition("#")
        if hash_:
            if count not in ("1", "2", "3", "4", "5"):
                raise _refuse(f'day of week: "{item}" must end in #1 to #5')
            nth.add((_parse_number(field, day) % 7, int(count)))
        elif item.endswith("L") and item != "L":
            last.add(_parse_number(field, item[:-1]) % 7)
        else:
            numbers |= _parse_item(field, item)
    return DayOfWeek(frozenset(numbers), frozenset(nth), frozenset(last), text.startswith("*"))


def next_after(
    expression: Expression, after: datetime, zone: Zone, *, anchor: datetime = EPOCH
) -> datetime | None:
    """The first time after `after` at which it fires, in UTC and on a whole second; None if that is not within 5 years.

    An interval counts from `anchor`. Cost: microseconds for what fires often, about a millisecond for what never does.
    """
    if isinstance(expression, Every):
        passed = (after - anchor) // expression.interval
        return anchor + (passed + 1) * expression.interval
    local = after.astimezone(zone)
    wall = local.replace(tzinfo=None, microsecond=0, fold=0) + _SECOND
    end = wall.replace(year=wall.year + HORIZON_YEARS, day=min(wall.day, 28))
    if not expression.follows_elapsed_time:
        return _next_reached(expression, after, wall, end, zone)
    if is_repeated(local):
        begin_again, go_on = overlap_of(local)
        if not local.fold:
            found = _next_wall(expression, wall, go_on)
            if found is not None:
                return found.replace(tzinfo=zone, fold=0).astimezone(UTC)
            wall = begin_again
        found = _next_wall(expression, wall, go_on)
        if found is not None:
            return found.replace(tzinfo=zone, fold=1).astimezone(UTC)
        wall = max(wall, go_on)
    while (found := _next_wall(expression, wall, end)) is not None:
        if not is_skipped(found, zone):
            return found.replace(tzinfo=zone).astimezone(UTC)
        wall = first_reach(found, zone).astimezone(zone).replace(tzinfo=None)
    return None


def _next_reached(cron: Cron, after: datetime, wall: datetime, end: datetime, zone: Zone) -> datetime | None:
    """The clock reaches later times later, so the first match that is reached after `after` is the answer."""
    while (found := _next_wall(cron, wall, end)) is not None:
        reached = first_reach(found, zone)
        if reached > after:
            return reached
        # A second pass of an hour: all of it was reached in the first one.
        repeated = found.replace(tzinfo=zone)
        wall = overlap_of(repeated)[1] if is_repeated(repeated) else found + _SECOND
    return None


def _next_wall(cron: Cron, wall: datetime, end: datetime) -> datetime | None:
    """The first matching reading of a clock from `wall` on and before `end`."""
    day = wall.date()
    time = _next_time(cron, wall.hour, wall.minute, wall.second)
    if time is None or not _matches_day(cron, day):
        next_day = _next_day(cron, day + _DAY, end.date())
        if next_day is None:
            return None
        day, time = next_day, (cron.hours[0], cron.minutes[0], cron.seconds[0])
    found = datetime(day.year, day.month, day.day, *time)
    return found if found < end else None


def _next_time(cron: Cron, hour: int, minute: int, second: int) -> tuple[int, int, int] | None:
    if hour in cron.hours:
        if minute in cron.minutes and (place := bisect_left(cron.seconds, second)) < len(cron.seconds):
            return hour, minute, cron.seconds[place]
        if (place := bisect_left(cron.minutes, minute + 1)) < len(cron.minutes):
            return hour, cron.minutes[place], cron.seconds[0]
    if (place := bisect_left(cron.hours, hour + 1)) < len(cron.hours):
        return cron.hours[place], cron.minutes[0], cron.seconds[0]
    return None


def _matches_day(cron: Cron, day: date) -> bool:
    return day.month in cron.months and day.day in _days_of(cron, day.year, day.month)


def _next_day(cron: Cron, day: date, last: date) -> date | None:
    year, month, least = day.year, day.month, day.day
    while (year, month) <= (last.year, last.month):
        if month in cron.months:
            found = min((number for number in _days_of(cron, year, month) if number >= least), default=None)
            if found is not None:
                return date(year, month, found)
        year, month, least = (year, month + 1, 1) if month < 12 else (year + 1, 1, 1)
    return None


@lru_cache(maxsize=4096)
def _days_of(cron: Cron, year: int, month: int) -> frozenset[int]:
    weekday, length = monthrange(year, month)
    first = (weekday + 1) % 7  # of the month's first day, Sunday being 0
    if cron.days is None and cron.weekdays is None:
        return frozenset(range(1, length + 1))
    if cron.weekdays is None:
        assert cron.days is not None
        return _by_number(cron.days, first, length)
    by_weekday = _by_weekday(cron.weekdays, first, length)
    if cron.days is None:
        return by_weekday
    by_number = _by_number(cron.days, first, length)
    if cron.days.narrows or cron.weekdays.narrows:
        return by_number & by_weekday
    return by_number | by_weekday


def _by_number(days: DayOfMonth, first: int, length: int) -> frozenset[int]:
    found = {day for day in days.numbers if day <= length}
    found |= {length - back for back in days.from_last if back < length}
    found |= {_workday(day, first, length) for day in days.nearest_workday if day <= length}
    if days.last_workday:
        found.add(_workday(length, first, length))
    return frozenset(found)


def _workday(day: int, first: int, length: int) -> int:
    """The workday nearest to `day` in its month."""
    match (first + day - 1) % 7:
        case 6:
            return day - 1 if day > 1 else day + 2
        case 0:
            return day + 1 if day < length else day - 2
        case _:
            return day


def _by_weekday(days: DayOfWeek, first: int, length: int) -> frozenset[int]:
    found = {day for day in range(1, length + 1) if (first + day - 1) % 7 in days.numbers}
    for weekday, count in days.nth:
        day = 1 + (weekday - first) % 7 + 7 * (count - 1)
        if day <= length:
            found.add(day)
    for weekday in days.last:
        found.add(length - (first + length - 1 - weekday) % 7)
    return frozenset(found)


def why_never(expression: Expression) -> str:
    """For an expression that does not fire: the reason, in words."""
    if isinstance(expression, Cron) and expression.days is not None and expression.weekdays is None:
        longest = max(29 if month == 2 else monthrange(2001, month)[1] for month in expression.months)
        days = expression.days
        wanted = days.numbers | days.nearest_workday
        if not days.from_last and not days.last_workday and min(wanted, default=0) > longest:
            months = ", ".join(_MONTHS[month - 1] for month in sorted(expression.months))
            return f"day {min(wanted)} does not exist in {months}"
    return f"no time within the next {HORIZON_YEARS} years matches it"


def _refuse(detail: str) -> Invalid:
    return Invalid(
        "schedule.invalid_expression",
        detail,
        fields=(FieldError("/expression", "schedule.invalid_expression", detail),),
    )
