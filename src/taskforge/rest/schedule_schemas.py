"""The shapes of schedules that cross the wire and are not the domain's own."""

from __future__ import annotations

from datetime import datetime

from msgspec import Raw, Struct

from taskforge.domain.schedules import FIELD_NAMES, Firing, Missed, Overlap, Schedule, Source, Tick
from taskforge.domain.terms import Webhook
from taskforge.rest.schemas import RetryView


class ScheduleView(Struct, frozen=True, kw_only=True):
    """A schedule as the API shows it. `next_at` is null when it is paused or has no time left; `waiting_at` is the time
    that waits for the job before it, under the overlap policy `queue`. `edited` says that a schedule declared in code
    was changed by hand since."""

    name: str
    expression: str
    timezone: str
    jitter_seconds: float
    missed: Missed
    missed_limit: int
    overlap: Overlap
    start_at: datetime | None
    end_at: datetime | None
    paused: bool
    source: Source
    edited: bool
    version: int
    next_at: datetime | None
    waiting_at: datetime | None
    last_at: datetime | None
    last_job_id: str | None
    queue_name: str
    job_type: str
    payload: Raw
    priority: int
    max_attempts: int | None
    timeout_seconds: float | None
    retry: RetryView | None
    tags: tuple[str, ...]
    concurrency_key: str | None
    dependency_key: str | None
    expires_in_seconds: float | None
    deadline_in_seconds: float | None
    result_retention_seconds: float | None
    schema_version: int | None
    webhook: Webhook | None
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, schedule: Schedule) -> ScheduleView:
        draft = schedule.definition
        return cls(
            name=draft.name,
            paused=draft.paused,
            source=schedule.source,
            edited=schedule.edited,
            version=schedule.version,
            next_at=schedule.next_slot,
            waiting_at=schedule.waiting_slot,
            last_at=schedule.last_slot,
            last_job_id=None if schedule.last_job_id is None else str(schedule.last_job_id),
            retry=None if draft.retry is None else RetryView.of(draft.retry),
            created_at=schedule.created_at,
            updated_at=schedule.updated_at,
            **{name: getattr(draft, name) for name in FIELD_NAMES if name != "retry"},
        )


class SchedulePage(Struct, frozen=True):
    data: list[ScheduleView]
    next_cursor: str | None


class TickPage(Struct, frozen=True):
    data: list[Tick]
    next_cursor: str | None


class ScheduleRun(Struct, frozen=True):
    """The job that was submitted."""

    job_id: str


class PreviewRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An expression to be looked at. `after` is now if not given."""

    expression: str
    timezone: str = "UTC"
    start_at: datetime | None = None
    end_at: datetime | None = None
    after: datetime | None = None
    count: int = 10


class Firings(Struct, frozen=True):
    """The next times, in UTC and as the schedule's own clock shows them; empty when there is none."""

    data: tuple[Firing, ...]
