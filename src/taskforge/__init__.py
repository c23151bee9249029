"""TaskForge: a durable job queue on PostgreSQL."""

from __future__ import annotations

from taskforge.batching import Batch, callback
from taskforge.bulk import BulkHandle
from taskforge.domain.bulk import Canary
from taskforge.domain.retry import RetryPolicy
from taskforge.domain.terms import Unique, Webhook
from taskforge.errors import TaskForgeError
from taskforge.forge import TaskForge
from taskforge.handles import JobCancelled, JobFailed, JobHandle, JobHandles
from taskforge.retries import custom, exponential, fixed, linear
from taskforge.worker.answers import Cancel, Discard, Retry, Snooze
from taskforge.worker.context import JobContext, current_job

__all__ = [
    "Batch",
    "BulkHandle",
    "Canary",
    "Cancel",
    "Discard",
    "JobCancelled",
    "JobContext",
    "JobFailed",
    "JobHandle",
    "JobHandles",
    "Retry",
    "RetryPolicy",
    "Snooze",
    "TaskForge",
    "TaskForgeError",
    "Unique",
    "Webhook",
    "callback",
    "current_job",
    "custom",
    "exponential",
    "fixed",
    "linear",
]
