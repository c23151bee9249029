from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from taskforge.domain.waits import bucket_of, histogram, middle, quantiles

WAITS = st.lists(st.floats(0, 1e6), min_size=1, max_size=300)


@given(waits=WAITS, share=st.floats(0.01, 1.0))
def test_a_quantile_is_off_by_a_tenth_at_most(waits: list[float], share: float) -> None:
    pairs = [part for wait in waits for part in (bucket_of(wait), 1)]
    exact = sorted(waits)[max(1, math.ceil(share * len(waits))) - 1]
    [found] = quantiles(histogram(pairs), (share,))
    assert found is not None
    assert abs(found - exact) <= max(0.0005, 0.1 * exact) * 1.001


def test_no_jobs_have_no_waits() -> None:
    assert quantiles({}, (0.5, 0.99)) == (None, None)


def test_a_bucket_may_come_in_parts() -> None:
    assert histogram([3, 10, 5, 1, 3, 2]) == {3: 12, 5: 1}


def test_the_middle_of_a_bucket_lies_in_it() -> None:
    assert all(bucket_of(middle(bucket)) == bucket for bucket in range(120))
