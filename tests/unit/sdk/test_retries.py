from __future__ import annotations

from datetime import timedelta
from random import Random

import pytest

from taskforge import custom, exponential, fixed, linear
from taskforge.domain.retry import next_delay
from taskforge.errors import Invalid


def delays(policy) -> list[float]:
    return [next_delay(policy, attempt, Random(1)) for attempt in range(1, 6)]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (exponential(1, jitter=0), [1, 2, 4, 8, 16]),
        (exponential(1, factor=3, longest=10, jitter=0), [1, 3, 9, 10, 10]),
        (linear(2, longest=timedelta(seconds=7)), [2, 4, 6, 7, 7]),
        (fixed(timedelta(hours=2)), [7200] * 5),
        (custom(1, 5, timedelta(hours=2)), [1, 5, 7200, 7200, 7200]),
    ],
)
def test_delays_by_policy(policy, expected) -> None:
    assert delays(policy) == expected


def test_the_default_spreads_jobs_that_failed_together() -> None:
    assert len({next_delay(exponential(), 3, Random(seed)) for seed in range(50)}) == 50


@pytest.mark.parametrize(
    "make", [lambda: exponential(-1), lambda: exponential(factor=0.5), lambda: fixed(1, jitter=2), custom]
)
def test_senseless_policies_are_refused(make) -> None:
    with pytest.raises(Invalid):
        make()
