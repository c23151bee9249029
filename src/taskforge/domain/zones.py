"""Time zones, and what their clocks do when they are changed."""

from __future__ import annotations

import difflib
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from typing import TypeAlias
from zoneinfo import ZoneInfo

from taskforge.errors import FieldError, Invalid

Zone: TypeAlias = ZoneInfo

_SECOND = timedelta(seconds=1)


@cache
def zone_names() -> frozenset[str]:
    """The IANA names that are known everywhere this version is installed."""
    return frozenset((files("tzdata") / "zones").read_text(encoding="ascii").split())


def find_zone(name: str, pointer: str = "/timezone") -> Zone:
    """Raises Invalid `schedule.unknown_timezone`."""
    if name not in zone_names():
        near = difflib.get_close_matches(name, zone_names(), n=1) if len(name) <= 64 else []
        shown = (
            name if len(name) <= 64 and name.isprintable() else name[:64].encode("unicode_escape").decode()
        )
        hint = f"did you mean {near[0]}?" if near else "give an IANA name such as Europe/Berlin"
        detail = f'there is no time zone "{shown}"; {hint}'
        raise Invalid(
            "schedule.unknown_timezone",
            detail,
            fields=(FieldError(pointer, "schedule.unknown_timezone", detail),),
        )
    return ZoneInfo(name)


def is_skipped(wall: datetime, zone: Zone) -> bool:
    """Whether the clock never shows this reading."""
    return wall.replace(tzinfo=zone).astimezone(UTC).astimezone(zone).replace(tzinfo=None, fold=0) != wall


def is_repeated(local: datetime) -> bool:
    """Whether the clock shows this reading twice."""
    first, second = local.replace(fold=0), local.replace(fold=1)
    return first.utcoffset() > second.utcoffset()  # type: ignore[operator]  # a zone always knows


def first_reach(wall: datetime, zone: Zone) -> datetime:
    """The first instant, in UTC, at which the clock has reached this reading: the end of the gap, if it is skipped."""
    before = wall.replace(tzinfo=zone, fold=0)
    if not is_skipped(wall, zone):
        return before.astimezone(UTC)
    # In a gap fold 0 reads with the offset before it, which gives an instant after it, and fold 1 the other way round.
    return _change_between(wall.replace(tzinfo=zone, fold=1).astimezone(UTC), before.astimezone(UTC), zone)


def overlap_of(local: datetime) -> tuple[datetime, datetime]:
    """Around a reading that occurs twice: the reading at which the second pass begins, and the one after both."""
    zone = local.tzinfo
    assert isinstance(zone, ZoneInfo)
    first, second = local.replace(fold=0), local.replace(fold=1)
    back = first.utcoffset() - second.utcoffset()  # type: ignore[operator]  # a zone always knows
    change = _change_between(first.astimezone(UTC), second.astimezone(UTC), zone)
    begin = change.astimezone(zone).replace(tzinfo=None, fold=0)
    return begin, begin + back


def _change_between(low: datetime, high: datetime, zone: Zone) -> datetime:
    """The first instant that has the offset of `high`; `low` has another one."""
    new = high.astimezone(zone).utcoffset()
    low, high = low.replace(microsecond=0), high.replace(microsecond=0)
    while high - low > _SECOND:
        middle = low + timedelta(seconds=(high - low) // _SECOND // 2)
        if middle.astimezone(zone).utcoffset() == new:
            high = middle
        else:
            low = middle
    return high
