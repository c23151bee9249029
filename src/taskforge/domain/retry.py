"""How long to wait before the next attempt."""

from __future__ import annotations

from enum import StrEnum
from random import Random
from typing import assert_never

from msgspec import Struct

from taskforge.errors import FieldError, Invalid

MAX_DELAY_SECONDS = 10 * 365 * 86_400.0


class RetryKind(StrEnum):
    EXPONENTIAL = "exponential"
    LINEAR = "linear"
    FIXED = "fixed"
    CUSTOM = "custom"


class RetryPolicy(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The rule that gives the delay after attempt n.

    exponential: base * factor^(n-1)    linear: base * n    fixed: base    custom: delays[n-1], the last one repeats.
    The result is capped at `max_seconds`, then a random share of up to `jitter` is taken off, so that jobs
    that failed together do not come back together.
    """

    kind: RetryKind = RetryKind.EXPONENTIAL
    base_seconds: float = 2.0
    factor: float = 2.0
    max_seconds: float = 3_600.0
    jitter: float = 0.2
    delays: tuple[float, ...] = ()


DEFAULT_POLICY = RetryPolicy()


def next_delay(policy: RetryPolicy, attempt: int, rng: Random) -> float:
    """Seconds to wait after attempt number `attempt` (1 is the first) has failed."""
    return _capped(policy, attempt) * (1.0 - policy.jitter * rng.random())


def _capped(policy: RetryPolicy, attempt: int) -> float:
    match policy.kind:
        case RetryKind.EXPONENTIAL:
            try:
                delay = policy.base_seconds * policy.factor ** (attempt - 1)
            except OverflowError:
                delay = policy.max_seconds
        case RetryKind.LINEAR:
            delay = policy.base_seconds * attempt
        case RetryKind.FIXED:
            delay = policy.base_seconds
        case RetryKind.CUSTOM:
            delay = policy.delays[min(attempt, len(policy.delays)) - 1]
        case _:
            assert_never(policy.kind)
    return min(delay, policy.max_seconds)


def check_policy(policy: RetryPolicy, pointer: str = "/retry") -> None:
    """Raise Invalid with one entry per wrong field."""
    wrong: list[FieldError] = []

    def refuse(name: str, detail: str) -> None:
        wrong.append(FieldError(f"{pointer}/{name}", "out_of_range", detail))

    if not 0 <= policy.base_seconds <= MAX_DELAY_SECONDS:
        refuse("base_seconds", f"must be between 0 and {MAX_DELAY_SECONDS:.0f}, got {policy.base_seconds}")
    if not 1 <= policy.factor <= 100:
        refuse("factor", f"must be between 1 and 100, got {policy.factor}")
    if not 0 <= policy.max_seconds <= MAX_DELAY_SECONDS:
        refuse("max_seconds", f"must be between 0 and {MAX_DELAY_SECONDS:.0f}, got {policy.max_seconds}")
    if not 0 <= policy.jitter <= 1:
        refuse("jitter", f"must be between 0 and 1, got {policy.jitter}")
    if (policy.kind is RetryKind.CUSTOM) != bool(policy.delays):
        refuse("delays", 'must be given for kind "custom" and for no other')
    if len(policy.delays) > 100 or any(not 0 <= d <= MAX_DELAY_SECONDS for d in policy.delays):
        refuse("delays", f"at most 100 delays, each between 0 and {MAX_DELAY_SECONDS:.0f} seconds")
    if wrong:
        raise Invalid("retry.invalid", "the retry policy cannot be used", fields=tuple(wrong))
