from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from taskforge.domain.retry import MAX_DELAY_SECONDS, RetryKind, RetryPolicy, check_policy, next_delay
from taskforge.errors import Invalid

seconds = st.floats(0, MAX_DELAY_SECONDS)
attempts = st.integers(1, 100)


@st.composite
def policies(draw: st.DrawFn) -> RetryPolicy:
    kind = draw(st.sampled_from(RetryKind))
    return RetryPolicy(
        kind=kind,
        base_seconds=draw(seconds),
        factor=draw(st.floats(1, 100)),
        max_seconds=draw(seconds),
        jitter=draw(st.floats(0, 1)),
        delays=tuple(draw(st.lists(seconds, min_size=1, max_size=100))) if kind is RetryKind.CUSTOM else (),
    )


def without_jitter(policy: RetryPolicy, attempt: int) -> float:
    return next_delay(structs.replace(policy, jitter=0.0), attempt, Random(0))


@given(policies(), attempts, st.integers())
def test_a_policy_that_passes_the_check_gives_a_delay_between_zero_and_its_cap(
    policy: RetryPolicy, attempt: int, seed: int
) -> None:
    check_policy(policy)
    assert 0 <= next_delay(policy, attempt, Random(seed)) <= policy.max_seconds


@given(policies(), attempts, st.integers())
def test_jitter_takes_away_at_most_its_share(policy: RetryPolicy, attempt: int, seed: int) -> None:
    whole = without_jitter(policy, attempt)
    delay = next_delay(policy, attempt, Random(seed))
    assert whole * (1 - policy.jitter) * (1 - 1e-9) <= delay <= whole


@given(policies(), st.integers(1, 99))
def test_without_jitter_delays_never_shrink_but_for_custom_ones(policy: RetryPolicy, attempt: int) -> None:
    if policy.kind is not RetryKind.CUSTOM:
        assert without_jitter(policy, attempt) <= without_jitter(policy, attempt + 1)


@given(policies(), attempts, st.integers())
def test_one_seed_gives_one_delay(policy: RetryPolicy, attempt: int, seed: int) -> None:
    assert next_delay(policy, attempt, Random(seed)) == next_delay(policy, attempt, Random(seed))


@pytest.mark.parametrize(
    ("policy", "delays"),
    [
        (RetryPolicy(base_seconds=2, factor=3, jitter=0), [2, 6, 18, 54]),
        (RetryPolicy(base_seconds=2, factor=3, max_seconds=10, jitter=0), [2, 6, 10, 10]),
        (RetryPolicy(kind=RetryKind.LINEAR, base_seconds=5, jitter=0), [5, 10, 15, 20]),
        (RetryPolicy(kind=RetryKind.FIXED, base_seconds=7, jitter=0), [7, 7, 7, 7]),
        (RetryPolicy(kind=RetryKind.CUSTOM, delays=(1, 60), jitter=0), [1, 60, 60, 60]),
    ],
)
def test_each_kind_has_its_curve(policy: RetryPolicy, delays: list[float]) -> None:
    assert [without_jitter(policy, attempt) for attempt in (1, 2, 3, 4)] == delays


def test_an_exponent_beyond_floats_ends_at_the_cap() -> None:
    policy = RetryPolicy(base_seconds=1e8, factor=100, max_seconds=60, jitter=0)
    assert without_jitter(policy, 100_000) == 60


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"base_seconds": -1.0}, "base_seconds"),
        ({"base_seconds": float("nan")}, "base_seconds"),
        ({"factor": 0.5}, "factor"),
        ({"factor": float("inf")}, "factor"),
        ({"max_seconds": -0.1}, "max_seconds"),
        ({"max_seconds": float("nan")}, "max_seconds"),
        ({"jitter": 1.1}, "jitter"),
        ({"jitter": float("nan")}, "jitter"),
        ({"kind": RetryKind.CUSTOM}, "delays"),
        ({"delays": (1.0,)}, "delays"),
        ({"kind": RetryKind.CUSTOM, "delays": (1.0, -1.0)}, "delays"),
        ({"kind": RetryKind.CUSTOM, "delays": (1.0, float("nan"))}, "delays"),
        ({"kind": RetryKind.CUSTOM, "delays": (1.0,) * 101}, "delays"),
    ],
)
def test_what_cannot_be_used_is_refused_at_its_field(change: dict[str, object], field: str) -> None:
    with pytest.raises(Invalid) as refused:
        check_policy(structs.replace(RetryPolicy(), **change), "/x")
    assert [error.pointer for error in refused.value.fields] == [f"/x/{field}"]
