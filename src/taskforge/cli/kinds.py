"""Kinds of option values: durations and instants."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import click

_DURATION = re.compile(
    r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?"
)


def seconds(text: str) -> float | None:
    """`90`, `90s`, `1h30m` or `7d` in seconds; None for anything else."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or not any(match.groups()):
        return None
    days, hours, minutes, rest = (float(part or 0) for part in match.groups())
    return days * 86_400 + hours * 3_600 + minutes * 60 + rest


def duration(value: str | float) -> float:
    """An option's type: seconds."""
    if isinstance(value, int | float):
        return float(value)
    found = seconds(value)
    if found is None:
        raise click.BadParameter(f"{value!r} is no duration; write it like 90, 90s, 15m, 1h30m or 7d")
    return found


def moment(value: str | datetime) -> datetime:
    """An option's type: a point in time; without a zone it is local."""
    if isinstance(value, datetime):
        return value
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is no time; write it like 2030-01-31T09:00:00Z") from None
    return found if found.tzinfo else found.astimezone()


def past(value: str | datetime) -> datetime:
    """An option's type: a point in time, or how long ago."""
    ago = seconds(value) if isinstance(value, str) else None
    if ago is None:
        try:
            return moment(value)
        except click.BadParameter as error:
            raise click.BadParameter(f"{error.message}, or 15m for that long ago") from None
    try:
        return datetime.now(UTC) - timedelta(seconds=ago)
    except OverflowError:
        raise click.BadParameter(f"{value!r} is longer ago than there are dates; it is no time") from None
