from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
import pytest

from taskforge.cli.kinds import duration, moment, past


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("1.5s", 1.5), ("15m", 900), ("1h30m", 5400), ("7d", 604_800), ("0", 0), (" 2m ", 120)],
)
def test_a_duration_is_read_as_seconds(text: str, expected: float) -> None:
    assert duration(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "-1", "1w", "m", "1m1h", "1e3", "nan"])
def test_what_is_no_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(click.BadParameter, match="1h30m"):
        duration(text)


def test_an_instant_is_a_time_or_how_long_ago() -> None:
    assert (
        past("2030-01-31T09:00:00Z") == moment("2030-01-31T09:00:00Z") == datetime(2030, 1, 31, 9, tzinfo=UTC)
    )
    assert timedelta(minutes=14) < datetime.now(UTC) - past("15m") < timedelta(minutes=16)
    assert moment("2030-01-31T09:00:00").tzinfo is not None


@pytest.mark.parametrize("text", ["yesterday", "2030-13-01", "999999999999d"])
def test_what_is_no_instant_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no time"):
        past(text)
