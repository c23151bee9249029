"""The worker protocol's values: what a claim hands out and what a worker reports back."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from msgspec import Struct

from taskforge.domain.jobs import JobOptions
from taskforge.domain.retry import RetryPolicy


class RegisterWorker(Struct, frozen=True):
    """A worker process that wants to serve `queues` of one tenant, or, if it `is_shared`, of every tenant."""

    name: str
    queues: tuple[str, ...]
    job_types: tuple[str, ...] = ()
    concurrency: int = 1
    version: str = ""
    host: str = ""
    pid: int = 0
    is_shared: bool = False


class Registration(Struct, frozen=True):
    """`worker_id` names this registration, not the process: after `gone` the process takes a new one."""

    worker_id: int
    ttl: float
    queue_ids: tuple[int, ...]


class Lease(Struct, frozen=True):
    """Jobs of one queue handed to one worker for one attempt. `fence` must accompany every report on them.

    `job_types`, `payloads` and `options` run parallel to `ids`. A payload of None is too large to travel with the
    claim and is fetched when the job starts. `options` is None when no job of the lease has any. `is_limited`: others
    wait for the slots that these jobs hold, so they start first. A job may not start
    after its entry in `starts` or `ends`, nor run after the latter; both are None when no job has one. They are of the
    database's clock, as is `claimed_at`, which is no earlier than `asked_ns` on the monotonic clock of whoever claimed.
    """

    fence: int
    tenant_id: UUID
    queue_id: int
    queue_name: str
    priority: int
    attempt: int
    ids: list[int]
    job_types: list[str]
    payloads: list[bytes | None]
    max_attempts: list[int | None] | None
    timeouts: list[float | None] | None
    options: list[JobOptions | None] | None
    claimed_at: datetime
    claimed_us: int
    queue_max_attempts: int
    queue_timeout: float
    queue_retry: RetryPolicy
    is_limited: bool = False
    starts: list[datetime | None] | None = None
    ends: list[datetime | None] | None = None
    asked_ns: int = 0


class Succeeded(Struct, frozen=True):
    job_id: int
    started_us: int
    finished_us: int
    result: bytes | None = None


class Failed(Struct, frozen=True):
    """`retry_in` None ends the job as a dead letter, for a `reason` of its own if it could have been retried."""

    job_id: int
    started_us: int
    finished_us: int
    error_class: str
    message: str
    traceback: str
    retry_in: float | None = None
    reason: str | None = None


class Cancelled(Struct, frozen=True):
    job_id: int
    started_us: int
    finished_us: int
    reason: str = ""


class Expired(Struct, frozen=True):
    """It was not started, because it was too late; it ends cancelled."""

    job_id: int
    noticed_us: int
    reason: str


class Snoozed(Struct, frozen=True):
    """Come back later without having spent an attempt."""

    job_id: int
    started_us: int
    finished_us: int
    delay: float


class Released(Struct, frozen=True):
    """Given back unfinished, no attempt spent."""

    job_id: int


Outcome = Succeeded | Failed | Cancelled | Expired | Snoozed | Released


class Progress(Struct, frozen=True):
    """How far a running job says it is, 0 to 1."""

    fence: int
    job_id: int
    fraction: float
    message: str


class LeaseReport(Struct, frozen=True):
    """Outcomes of some jobs of one lease. Times are microseconds since the claim, by the worker's monotonic clock."""

    lease: Lease
    outcomes: list[Outcome]


class FinishResult(Struct, frozen=True):
    """`stale` lists (fence, job_id) that were no longer this worker's to report; they changed nothing."""

    stale: list[tuple[int, int]]


class Beat(Struct, frozen=True):
    """The answer to a heartbeat. `alive` False means the registration is gone and the leases are others' now."""

    alive: bool
    cancel: tuple[int, ...] = ()
    drain: bool = False
    maintain: bool = False
