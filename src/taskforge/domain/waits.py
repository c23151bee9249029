"""How long jobs waited before they were claimed, counted in buckets that grow by a fifth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

GROWTH = 1.2
"""Bucket b holds waits above GROWTH^(b-1) and up to GROWTH^b milliseconds; bucket 0 those of up to 1 ms. The counting
is done by `wait_bucket` in functions/claim.sql."""

Histogram = Mapping[int, int]


def bucket_of(seconds: float) -> int:
    return 0 if seconds <= 0.001 else math.ceil(math.log(seconds * 1_000) / math.log(GROWTH))


def histogram(pairs: Sequence[int]) -> dict[int, int]:
    """Jobs by bucket, from `bucket, jobs, bucket, jobs, ...`, where a bucket may come more than once."""
    jobs: dict[int, int] = {}
    for bucket, count in zip(pairs[::2], pairs[1::2], strict=True):
        jobs[bucket] = jobs.get(bucket, 0) + count
    return jobs


def quantiles(waits: Histogram, shares: Iterable[float]) -> tuple[float | None, ...]:
    """For each share, a wait in seconds that the share of the jobs did not exceed; None when there are no jobs.

    Error: the answer lies in the bucket that holds the exact one, so it is off by at most 10 % (or 0.5 ms, if more).
    """
    total = sum(waits.values())
    return tuple(_quantile(waits, total, share) if total else None for share in shares)


def _quantile(waits: Histogram, total: int, share: float) -> float:
    rank = max(1, math.ceil(share * total))
    for bucket in sorted(waits):
        rank -= waits[bucket]
        if rank <= 0:
            return middle(bucket)
    raise AssertionError("the ranks add up to the total")


def middle(bucket: int) -> float:
    """In seconds."""
    return 0.0005 if bucket == 0 else GROWTH ** (bucket - 0.5) / 1_000
