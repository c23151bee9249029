"""The shapes that cross the wire and are not the domain's own."""

from __future__ import annotations

from datetime import datetime, timedelta

from msgspec import Raw, Struct

from taskforge.domain.batches import BatchView
from taskforge.domain.bulk import BulkOperation, Canary
from taskforge.domain.control import ChangeView
from taskforge.domain.jobs import JobDraft, JobState, JobView, Verdict
from taskforge.domain.limits import KeyView
from taskforge.domain.queues import (
    SETTING_NAMES,
    CircuitBreaker,
    CrashPolicy,
    Queue,
    QueueVersion,
    RateLimit,
    RetryBudget,
)
from taskforge.domain.retry import RetryKind, RetryPolicy
from taskforge.domain.terms import Webhook
from taskforge.domain.webhooks import DeliveryView, SecretView
from taskforge.domain.workflows import NodeView, WorkflowView
from taskforge.errors import FieldError, TaskForgeError
from taskforge.services.core import QueueLimits


class JobAccepted(Struct, frozen=True):
    """A job just submitted, with the limits that hold for it.

    `replaced` is the job that had to end because this one has its unique key.
    """

    id: str
    queue_name: str
    job_type: str
    state: JobState | None
    priority: int
    payload: Raw
    attempt: int
    max_attempts: int | None
    timeout_seconds: float | None
    tags: tuple[str, ...]
    submitted_at: datetime | None
    run_at: datetime | None
    idempotency_key: str | None
    replaced: str | None

    @classmethod
    def of(cls, draft: JobDraft, verdict: Verdict, limits: QueueLimits | None) -> JobAccepted:
        max_attempts, timeout, run_at = draft.max_attempts, draft.timeout_seconds, draft.run_at
        if limits is not None:
            max_attempts = limits.max_attempts if max_attempts is None else max_attempts
            timeout = limits.timeout_seconds if timeout is None else timeout
        if draft.delay_seconds and verdict.submitted_at is not None:
            run_at = verdict.submitted_at + timedelta(seconds=draft.delay_seconds)
        return cls(
            str(verdict.job_id),
            draft.queue_name,
            draft.job_type,
            verdict.state,
            draft.priority,
            Raw(draft.payload),
            0,
            max_attempts,
            timeout,
            draft.tags,
            verdict.submitted_at,
            run_at,
            draft.idempotency_key,
            None if verdict.replaced is None else str(verdict.replaced),
        )


class ItemError(Struct, frozen=True):
    """Why one job of a batch was not accepted. `job_id` is the job that is in the way, if one is."""

    code: str
    detail: str
    errors: tuple[FieldError, ...]
    job_id: str | None = None

    @classmethod
    def of(cls, error: TaskForgeError) -> ItemError:
        return cls(error.code, error.detail, error.fields, error.job_id)


class BatchItem(Struct, frozen=True, omit_defaults=True):
    """The verdict on one job of a batch. `created` is false when an idempotency key or a unique key led to an earlier
    job; `replaced` is the job that had to end for this one."""

    id: str | None = None
    state: JobState | None = None
    created: bool = True
    error: ItemError | None = None
    replaced: str | None = None


class BatchAnswer(Struct, frozen=True, omit_defaults=True):
    """Verdicts in the order of the jobs."""

    data: list[BatchItem]
    created: int
    replayed: int = 0
    failed: int = 0


class JobPage(Struct, frozen=True):
    data: list[JobView]
    next_cursor: str | None


class KeyPage(Struct, frozen=True):
    data: list[KeyView]
    next_cursor: str | None


class JobChanges(Struct, frozen=True):
    """Who changed what of a job, oldest first."""

    data: list[ChangeView]


class RetryView(Struct, frozen=True):
    """A retry policy with all its parts, also those that have their default."""

    kind: RetryKind
    base_seconds: float
    factor: float
    max_seconds: float
    jitter: float
    delays: tuple[float, ...]

    @classmethod
    def of(cls, policy: RetryPolicy) -> RetryView:
        return cls(
            policy.kind,
            policy.base_seconds,
            policy.factor,
            policy.max_seconds,
            policy.jitter,
            policy.delays,
        )


class QueueView(Struct, frozen=True):
    """A queue as the API shows it. `version` grows by one with every change."""

    name: str
    version: int
    priority: int
    paused: bool
    paused_by: str | None
    paused_at: datetime | None
    pause_reason: str | None
    max_attempts: int
    timeout_seconds: float
    retry: RetryView
    created_at: datetime
    updated_at: datetime
    max_concurrency: int | None
    rate_limits: tuple[RateLimit, ...]
    key_max_concurrency: int | None
    key_rate_limits: tuple[RateLimit, ...]
    ageing_seconds: float | None
    expires_in_seconds: float | None
    result_retention_seconds: float | None
    dead_letter_retention_seconds: float | None
    dead_letter_queue: str | None
    crash_policy: CrashPolicy
    retry_budget: RetryBudget | None
    circuit_breaker: CircuitBreaker | None
    webhook: Webhook | None

    @classmethod
    def of(cls, queue: Queue) -> QueueView:
        return cls(
            queue.name,
            queue.version,
            queue.priority,
            queue.paused,
            queue.paused_by,
            queue.paused_at,
            queue.pause_reason,
            queue.max_attempts,
            queue.timeout_seconds,
            RetryView.of(queue.retry),
            queue.created_at,
            queue.updated_at,
            **{name: getattr(queue.settings, name) for name in SETTING_NAMES},
        )


class QueuePage(Struct, frozen=True):
    data: list[QueueView]
    next_cursor: str | None


class DeadLetterFilter(Struct, frozen=True, forbid_unknown_fields=True):
    """Those that fit all that is given. `error_text` is looked for as it is, whatever its case."""

    job_type: str | None = None
    tag: str | None = None
    submitted_after: datetime | None = None
    submitted_before: datetime | None = None
    fingerprint: str | None = None
    error_text: str | None = None
    failed_after: datetime | None = None
    failed_before: datetime | None = None


class QueueVersionPage(Struct, frozen=True):
    data: list[QueueVersion]
    next_cursor: str | None


class DeadLetterSelection(Struct, frozen=True, forbid_unknown_fields=True):
    """Which dead letters: those with these ids that fit the filter, or all of the queue. Anything beside the ids makes
    it a bulk operation; with `preview` nothing is done."""

    job_ids: tuple[str, ...] | None = None
    filter: DeadLetterFilter | None = None
    rate_per_second: float | None = None
    canary: Canary | None = None
    preview: bool = False


class BulkPage(Struct, frozen=True):
    data: list[BulkOperation]
    next_cursor: str | None


class Redriven(Struct, frozen=True):
    redriven: int


class Purged(Struct, frozen=True):
    purged: int


class Health(Struct, frozen=True):
    status: str


class StreamVerdict(Struct, frozen=True, omit_defaults=True):
    """The verdict on one item of a stream. Without a number: why the stream ended early."""

    item: int | None = None
    id: str | None = None
    state: JobState | None = None
    created: bool = True
    error: ItemError | None = None


class BatchStreamed(Struct, frozen=True):
    """What became of a stream into a batch. `skipped` items had been received before; of errors the first 1,000 are
    named."""

    stored: int
    replayed: int
    refused: int
    skipped: int
    errors: list[StreamVerdict]
    batch: BatchView


class BatchPage(Struct, frozen=True):
    data: list[BatchView]
    next_cursor: str | None


class DeliveryPage(Struct, frozen=True):
    data: list[DeliveryView]
    next_cursor: str | None


class Secrets(Struct, frozen=True):
    """Newest first, retired ones too."""

    data: list[SecretView]


class SecretMade(Struct, frozen=True):
    """The only time that `secret` is told."""

    id: str
    secret: str
    created_at: datetime


class WorkflowPage(Struct, frozen=True):
    data: list[WorkflowView]
    next_cursor: str | None


class NodePage(Struct, frozen=True):
    data: list[NodeView]
    next_cursor: str | None
