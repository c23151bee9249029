"""Prometheus metrics of the HTTP edge. One registry an application, so that several can live in one process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from taskforge.clock import Clock
from taskforge.domain.health import QueueHealth

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)


QueueStats = Callable[[], Awaitable[Sequence[QueueHealth]]]


class Metrics:
    """`queue_stats` is asked at a scrape, at most once a second, for what the database knows of the queues."""

    def __init__(self, clock: Clock, queue_stats: QueueStats | None) -> None:
        self._clock = clock
        self._queue_stats = queue_stats
        self._asked_at = float("-inf")
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "taskforge_http_requests",
            "Requests answered.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "taskforge_http_request_duration_seconds",
            "Time from the first look at a request to the start of its answer.",
            ("method", "route"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._jobs = Counter(
            "taskforge_http_jobs_submitted", "Jobs accepted over HTTP.", registry=self.registry
        )
        self._queue_jobs = Gauge(
            "taskforge_queue_jobs", "Jobs of a queue by state.", ("queue", "state"), registry=self.registry
        )
        self._oldest = Gauge(
            "taskforge_queue_oldest_wait_seconds",
            "How long the oldest pending job of a queue has waited.",
            ("queue",),
            registry=self.registry,
        )
        self._scores = Gauge(
            "taskforge_queue_health_score",
            "How well a queue is doing, 0 to 100.",
            ("queue",),
            registry=self.registry,
        )
        # `labels()` takes longer than the increment itself, so the children are held.
        self._held: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        key = (method, route, status)
        held = self._held.get(key)
        if held is None:
            held = self._held[key] = (
                self._requests.labels(method, route, str(status)),
                self._seconds.labels(method, route),
            )
        held[0].inc()
        held[1].observe(seconds)

    def submitted(self, count: int) -> None:
        self._jobs.inc(count)

    async def render(self) -> bytes:
        if self._queue_stats is not None and self._clock.monotonic() - self._asked_at >= 1.0:
            self._asked_at = self._clock.monotonic()
            self._show(await self._queue_stats())
        return generate_latest(self.registry)

    def _show(self, queues: Sequence[QueueHealth]) -> None:
        self._queue_jobs.clear()
        self._oldest.clear()
        self._scores.clear()
        for queue in queues:
            for state in ("pending", "scheduled", "retrying", "blocked", "processing", "dead_letters"):
                self._queue_jobs.labels(queue.queue_name, state).set(getattr(queue, state))
            self._oldest.labels(queue.queue_name).set(queue.oldest_wait_seconds or 0.0)
            self._scores.labels(queue.queue_name).set(queue.score)
