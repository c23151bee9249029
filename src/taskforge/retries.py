"""Retry policies by name, for `@forge.job(retry=...)`. All are capped at ten years and refuse what makes no sense."""

from __future__ import annotations

from datetime import timedelta

from taskforge.domain.retry import RetryKind, RetryPolicy, check_policy
from taskforge.worker.answers import seconds


def exponential(
    base: float | timedelta = 2.0,
    *,
    factor: float = 2.0,
    longest: float | timedelta = 3_600.0,
    jitter: float = 0.2,
) -> RetryPolicy:
    """base, base * factor, base * factor^2 ... up to `longest`, each less a random share of up to `jitter`."""
    return _checked(
        RetryPolicy(RetryKind.EXPONENTIAL, seconds(base), factor, max_seconds=seconds(longest), jitter=jitter)
    )


def linear(
    base: float | timedelta, *, longest: float | timedelta = 3_600.0, jitter: float = 0.0
) -> RetryPolicy:
    """base, 2 * base, 3 * base ... up to `longest`."""
    return _checked(RetryPolicy(RetryKind.LINEAR, seconds(base), max_seconds=seconds(longest), jitter=jitter))


def fixed(delay: float | timedelta, *, jitter: float = 0.0) -> RetryPolicy:
    """The same delay each time."""
    return _checked(
        RetryPolicy(RetryKind.FIXED, seconds(delay), max_seconds=max(seconds(delay), 0.0), jitter=jitter)
    )


def custom(*delays: float | timedelta, jitter: float = 0.0) -> RetryPolicy:
    """These delays in turn; the last one repeats."""
    given = tuple(seconds(delay) for delay in delays)
    longest = max(given, default=0.0)
    return _checked(RetryPolicy(RetryKind.CUSTOM, max_seconds=longest, jitter=jitter, delays=given))


def _checked(policy: RetryPolicy) -> RetryPolicy:
    check_policy(policy)
    return policy
