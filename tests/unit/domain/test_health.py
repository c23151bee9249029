from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from taskforge.domain.health import Figures, judge, status_of, summarise
from taskforge.domain.queues import Queue
from taskforge.domain.retry import DEFAULT_POLICY

NOW = datetime(2030, 1, 1, tzinfo=UTC)
QUEUE = Queue(1, uuid4(), "email", 0, False, 5, 300.0, DEFAULT_POLICY, NOW, NOW)
CALM = Figures(
    pending=0,
    scheduled=0,
    retrying=0,
    blocked=0,
    processing=0,
    dead_letters=0,
    oldest_wait_seconds=None,
    submitted_minute=0,
    finished_minute=0,
    started_minute=0,
    restarted_minute=0,
    failed_minute=0,
    failed_attempts_minute=0,
    attempts_minute=0,
    submitted_moment=0,
    finished_moment=0,
    waits=(),
    workers=1,
    slots=10,
)


def reasons(queue: Queue = QUEUE, **figures: Any) -> dict[str, int]:
    health = judge(queue, structs.replace(CALM, **figures))
    assert health.score == max(0, 100 - sum(reason.points for reason in health.reasons))
    return {reason.code: reason.points for reason in health.reasons}


def test_a_queue_with_nothing_to_do_is_healthy_even_without_workers() -> None:
    assert reasons(workers=0) == {}


def test_jobs_that_nobody_serves_cost_most() -> None:
    assert reasons(pending=3, workers=0, finished_moment=30)["no_workers"] == 60


def test_a_pause_is_told_with_its_author_and_only_when_jobs_wait() -> None:
    paused = structs.replace(QUEUE, paused=True, paused_by="ann")
    assert reasons(paused) == {}
    assert reasons(paused, pending=1) == {"paused": 30}
    [reason] = judge(paused, structs.replace(CALM, pending=1)).reasons
    assert reason.detail == "paused by ann while 1 jobs wait"


@pytest.mark.parametrize(("failed", "points"), [(4, 0), (5, 10), (20, 25), (50, 40)])
def test_failing_attempts_cost_by_their_share(failed: int, points: int) -> None:
    assert reasons(attempts_minute=100, failed_attempts_minute=failed).get("failing", 0) == points


def test_a_few_attempts_say_nothing() -> None:
    assert (
        reasons(attempts_minute=19, failed_attempts_minute=19, started_minute=19, restarted_minute=19) == {}
    )


def test_the_drain_is_predicted_from_what_is_gained() -> None:
    gained = structs.replace(CALM, pending=1_000, finished_moment=300, submitted_moment=100)
    assert judge(QUEUE, gained).drain_seconds == 50.0
    slow = structs.replace(CALM, pending=90, finished_minute=60, submitted_minute=30)
    assert judge(QUEUE, slow).drain_seconds == 180.0
    losing = structs.replace(
        CALM, pending=90, finished_minute=30, submitted_minute=30, oldest_wait_seconds=11.0
    )
    assert judge(QUEUE, losing).drain_seconds is None
    assert reasons(pending=90, finished_minute=30, submitted_minute=30, oldest_wait_seconds=11.0) == {
        "growing": 15
    }


def test_reasons_come_worst_first() -> None:
    found = reasons(pending=5, workers=0, dead_letters=1, oldest_wait_seconds=700.0, attempts_minute=30)
    assert list(found) == ["no_workers", "old_wait", "growing", "dead_letters"]


def test_the_summary_is_as_bad_as_its_worst_queue() -> None:
    well, ill = judge(QUEUE, CALM), judge(QUEUE, structs.replace(CALM, pending=1, workers=0))
    found = summarise([well, ill], None)
    assert (found.score, found.status) == (ill.score, "unhealthy")
    assert summarise([], None).status == "healthy"


@given(
    counts=st.fixed_dictionaries(
        {
            name: st.integers(0, 10**7)
            for name in structs.asdict(CALM)
            if name.endswith(("_minute", "_moment")) or name in ("pending", "dead_letters", "workers")
        }
    ),
    oldest=st.none() | st.floats(0, 1e7),
    is_paused=st.booleans(),
)
def test_every_score_is_between_0_and_100_and_has_its_reasons(
    counts: dict[str, int], oldest: float | None, is_paused: bool
) -> None:
    queue = structs.replace(QUEUE, paused=is_paused)
    health = judge(queue, structs.replace(CALM, oldest_wait_seconds=oldest, **counts))
    assert 0 <= health.score <= 100
    assert health.status == status_of(health.score)
    assert (health.score == 100) == (health.reasons == ())
    assert all(reason.points > 0 and reason.detail for reason in health.reasons)
