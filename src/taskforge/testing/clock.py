"""Time that moves when told to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from taskforge.worker.answers import seconds


class FakeClock:
    """A Clock that stands still. Starts at `now`, by default on 2030-01-01."""

    def __init__(self, now: datetime | None = None) -> None:
        self._now = now or datetime(2030, 1, 1, tzinfo=UTC)
        self._monotonic = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, by: float | timedelta) -> None:
        """Let so many seconds pass."""
        self._now += timedelta(seconds=seconds(by))
        self._monotonic += seconds(by)
