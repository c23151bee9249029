"""How well a queue is doing: its figures, and a score with the reasons that cost it points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Literal

from msgspec import Struct, structs

from taskforge.domain.queues import Queue
from taskforge.domain.waits import histogram, quantiles

MINUTE = 60.0
MOMENT = 10.0
"""What is predicted rests on the last ten seconds when enough happened in them, so that a burst is soon forgotten."""
ENOUGH = 20
"""Fewer attempts than this say nothing about a share of them."""

Status = Literal["healthy", "degraded", "unhealthy"]
HEALTHY, DEGRADED = 80, 50

ReasonCode = Literal[
    "no_workers",
    "paused",
    "breaker_open",
    "failing",
    "retrying",
    "growing",
    "slow_drain",
    "old_wait",
    "dead_letters",
]

_Lose = Callable[[ReasonCode, int, str], None]

# Thresholds, worst first: from this value on, so many points are lost.
FAILURE_RATE = ((0.5, 40), (0.2, 25), (0.05, 10))
RETRY_SHARE = ((0.5, 20), (0.2, 10))
OLDEST_WAIT_SECONDS = ((3_600.0, 30), (600.0, 20), (60.0, 10))
DRAIN_SECONDS = ((3_600.0, 20), (600.0, 10))
NO_WORKERS, PAUSED, BREAKER_OPEN, GROWING, DEAD_LETTERS = 60, 30, 25, 15, 5


class Figures(Struct, frozen=True, kw_only=True):
    """What one snapshot of the database says of a queue. `*_minute` and `*_moment` count the last 60 and 10 seconds."""

    pending: int
    scheduled: int
    retrying: int
    blocked: int
    processing: int
    dead_letters: int
    oldest_wait_seconds: float | None
    submitted_minute: int
    finished_minute: int
    started_minute: int
    restarted_minute: int
    failed_minute: int
    failed_attempts_minute: int
    attempts_minute: int
    submitted_moment: int
    finished_moment: int
    waits: Sequence[int]
    """As pairs; see waits.histogram."""
    workers: int
    slots: int
    open_breakers: Sequence[str] = ()
    retries_put_off: int = 0
    """How many retries the queue's budget has put off in the last minute."""


class HealthReason(Struct, frozen=True):
    """Why points are missing."""

    code: ReasonCode
    points: int
    detail: str


class QueueHealth(Struct, frozen=True, kw_only=True):
    """Counts are exact as of one snapshot; rates are per second over the last minute, shares are of its attempts.

    Waits are those of the jobs started in the last minute, right to 10 %. `drain_seconds` is how long until nothing is
    pending, as things go; null when it cannot be said.
    """

    queue_name: str
    score: int
    status: Status
    reasons: tuple[HealthReason, ...]
    paused: bool
    paused_by: str | None
    paused_at: datetime | None
    pause_reason: str | None
    pending: int
    scheduled: int
    retrying: int
    blocked: int
    processing: int
    dead_letters: int
    oldest_wait_seconds: float | None
    wait_p50_seconds: float | None
    wait_p95_seconds: float | None
    wait_p99_seconds: float | None
    submitted_per_second: float
    started_per_second: float
    finished_per_second: float
    failed_per_second: float
    drain_seconds: float | None
    failure_rate: float | None
    retry_share: float | None
    workers: int
    slots: int
    open_breakers: tuple[str, ...] = ()
    retries_put_off: int = 0


class HealthSummary(Struct, frozen=True):
    """All queues at a glance; `score` is that of the worst."""

    score: int
    status: Status
    queues: list[QueueHealth]
    next_cursor: str | None


def judge(queue: Queue, figures: Figures) -> QueueHealth:
    """The queue's health as these figures say."""
    p50, p95, p99 = quantiles(histogram(figures.waits), (0.5, 0.95, 0.99))
    unscored = QueueHealth(
        queue_name=queue.name,
        score=100,
        status="healthy",
        reasons=(),
        paused=queue.paused,
        paused_by=queue.paused_by,
        paused_at=queue.paused_at,
        pause_reason=queue.pause_reason,
        pending=figures.pending,
        scheduled=figures.scheduled,
        retrying=figures.retrying,
        blocked=figures.blocked,
        processing=figures.processing,
        dead_letters=figures.dead_letters,
        oldest_wait_seconds=figures.oldest_wait_seconds,
        wait_p50_seconds=_rounded(p50),
        wait_p95_seconds=_rounded(p95),
        wait_p99_seconds=_rounded(p99),
        submitted_per_second=round(figures.submitted_minute / MINUTE, 3),
        started_per_second=round(figures.started_minute / MINUTE, 3),
        finished_per_second=round(figures.finished_minute / MINUTE, 3),
        failed_per_second=round(figures.failed_minute / MINUTE, 3),
        drain_seconds=_drain_seconds(figures, is_paused=queue.paused),
        failure_rate=_share(figures.failed_attempts_minute, figures.attempts_minute),
        retry_share=_share(figures.restarted_minute, figures.started_minute),
        workers=figures.workers,
        slots=figures.slots,
        open_breakers=tuple(figures.open_breakers),
        retries_put_off=figures.retries_put_off,
    )
    reasons = sorted(_reasons(unscored, figures), key=lambda reason: -reason.points)
    score = max(0, 100 - sum(reason.points for reason in reasons))
    return structs.replace(unscored, score=score, status=status_of(score), reasons=tuple(reasons))


def status_of(score: int) -> Status:
    return "healthy" if score >= HEALTHY else "degraded" if score >= DEGRADED else "unhealthy"


def summarise(queues: list[QueueHealth], next_cursor: str | None) -> HealthSummary:
    score = min((queue.score for queue in queues), default=100)
    return HealthSummary(score, status_of(score), queues, next_cursor)


def _reasons(health: QueueHealth, figures: Figures) -> list[HealthReason]:
    found: list[HealthReason] = []

    def lose(code: ReasonCode, points: int, detail: str) -> None:
        if points:
            found.append(HealthReason(code, points, detail))

    waiting = health.pending > 0
    if health.paused and waiting:
        by = f" by {health.paused_by}" if health.paused_by else ""
        lose("paused", PAUSED, f"paused{by} while {health.pending} jobs wait")
    if health.workers == 0 and waiting:
        lose("no_workers", NO_WORKERS, f"no live worker serves it and {health.pending} jobs wait")
    if health.open_breakers:
        lose("breaker_open", BREAKER_OPEN, f"held back by open breakers: {', '.join(health.open_breakers)}")
    if health.failure_rate is not None and figures.attempts_minute >= ENOUGH:
        lose(
            "failing",
            _points(health.failure_rate, FAILURE_RATE),
            f"{health.failure_rate:.0%} of the last minute's {figures.attempts_minute} attempts failed",
        )
    if health.retry_share is not None and figures.started_minute >= ENOUGH:
        lose(
            "retrying",
            _points(health.retry_share, RETRY_SHARE),
            f"{health.retry_share:.0%} of the last minute's starts were retries",
        )
    if waiting and not health.paused:
        _lose_for_backlog(health, lose)
    if health.dead_letters:
        lose("dead_letters", DEAD_LETTERS, f"{health.dead_letters} dead letters wait for somebody")
    return found


def _lose_for_backlog(health: QueueHealth, lose: _Lose) -> None:
    oldest = health.oldest_wait_seconds or 0.0
    lose(
        "old_wait", _points(oldest, OLDEST_WAIT_SECONDS), f"the oldest pending job has waited {oldest:.0f} s"
    )
    if health.drain_seconds is None and oldest >= MOMENT:
        lose("growing", GROWING, "jobs come in at least as fast as they are finished")
    elif health.drain_seconds is not None:
        lose(
            "slow_drain",
            _points(health.drain_seconds, DRAIN_SECONDS),
            f"what waits will take about {health.drain_seconds:.0f} s",
        )


def _points(value: float, thresholds: Sequence[tuple[float, int]]) -> int:
    return next((points for least, points in thresholds if value >= least), 0)


def _drain_seconds(figures: Figures, *, is_paused: bool) -> float | None:
    if figures.pending <= 0:
        return 0.0
    if is_paused:
        return None
    if figures.finished_moment >= ENOUGH:
        gain = (figures.finished_moment - figures.submitted_moment) / MOMENT
    else:
        gain = (figures.finished_minute - figures.submitted_minute) / MINUTE
    return round(figures.pending / gain, 1) if gain > 0 else None


def _share(part: int, whole: int) -> float | None:
    return round(min(1.0, part / whole), 4) if whole > 0 else None


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
