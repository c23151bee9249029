"""What a handler can say besides returning a value or failing. Each may be raised or returned."""

from __future__ import annotations

from datetime import timedelta


def seconds(duration: float | timedelta) -> float:
    return duration.total_seconds() if isinstance(duration, timedelta) else float(duration)


class Answer(Exception):
    """A handler's answer that is no failure of its code; see the four kinds below."""


class Retry(Answer):
    """Try again `after` so many seconds (None: as the retry policy says). Spends the attempt."""

    def __init__(self, reason: str = "", *, after: float | timedelta | None = None) -> None:
        super().__init__(reason or "the handler asked for a retry")
        self.after = None if after is None else seconds(after)


class Snooze(Answer):
    """Come back in so many seconds. Spends no attempt."""

    def __init__(self, delay: float | timedelta) -> None:
        super().__init__(f"snoozed for {seconds(delay):g} s")
        self.delay = seconds(delay)


class Cancel(Answer):
    """End the job as cancelled."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "cancelled by its handler")


class Discard(Answer):
    """End the job as failed at once, whatever attempts are left; it goes to the dead letters."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "discarded by its handler")
