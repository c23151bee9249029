"""A named line of jobs in one tenant, with its defaults and its pause switch."""

from __future__ import annotations

import re
from datetime import datetime
from uuid import UUID

from msgspec import UNSET, Struct, UnsetType

from taskforge.domain.retry import DEFAULT_POLICY, RetryPolicy, check_policy
from taskforge.errors import FieldError, Invalid

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
MAX_TIMEOUT_SECONDS = 7 * 86_400.0


class Queue(Struct, frozen=True):
    """What the database knows of one queue. `priority` decides between queues, higher first."""

    queue_id: int
    tenant_id: UUID
    name: str
    priority: int
    paused: bool
    max_attempts: int
    timeout_seconds: float
    retry: RetryPolicy
    created_at: datetime
    updated_at: datetime


class QueueDraft(Struct, frozen=True, forbid_unknown_fields=True):
    """A queue to be made."""

    name: str
    priority: int = 0
    max_attempts: int = 5
    timeout_seconds: float = 300.0
    retry: RetryPolicy = DEFAULT_POLICY


class QueueChange(Struct, frozen=True, forbid_unknown_fields=True):
    """What to change; what is unset stays."""

    priority: int | UnsetType = UNSET
    max_attempts: int | UnsetType = UNSET
    timeout_seconds: float | UnsetType = UNSET
    retry: RetryPolicy | UnsetType = UNSET


class QueueHealth(Struct, frozen=True):
    """Counts are exact as of one snapshot; rates are per second over the last minute."""

    queue_name: str
    paused: bool
    pending: int
    scheduled: int
    retrying: int
    blocked: int
    processing: int
    dead_letters: int
    oldest_wait_seconds: float | None
    submitted_per_second: float
    finished_per_second: float
    failed_per_second: float
    workers: int


def check_name(name: str, pointer: str = "/name") -> None:
    if not NAME.fullmatch(name):
        raise Invalid(
            "queue.invalid_name",
            "a queue name has 1 to 128 characters of a-z, 0-9, '.', '_' and '-', and starts with a letter or digit",
            fields=(FieldError(pointer, "pattern", f"must match {NAME.pattern}"),),
        )


def check_draft(draft: QueueDraft) -> None:
    """Raise Invalid with one entry per wrong field."""
    check_name(draft.name)
    check_change(
        QueueChange(
            priority=draft.priority,
            max_attempts=draft.max_attempts,
            timeout_seconds=draft.timeout_seconds,
            retry=draft.retry,
        )
    )


def check_change(change: QueueChange) -> None:
    """Raise Invalid with one entry per wrong field."""
    wrong: list[FieldError] = []
    if change.priority is not UNSET and not -1000 <= change.priority <= 1000:
        wrong.append(FieldError("/priority", "out_of_range", "must be between -1000 and 1000"))
    if change.max_attempts is not UNSET and not 1 <= change.max_attempts <= 100:
        wrong.append(FieldError("/max_attempts", "out_of_range", "must be between 1 and 100"))
    if change.timeout_seconds is not UNSET and not 0.001 <= change.timeout_seconds <= MAX_TIMEOUT_SECONDS:
        wrong.append(
            FieldError(
                "/timeout_seconds", "out_of_range", f"must be between 0.001 and {MAX_TIMEOUT_SECONDS:.0f}"
            )
        )
    if change.retry is not UNSET:
        try:
            check_policy(change.retry)
        except Invalid as error:
            wrong.extend(error.fields)
    if wrong:
        raise Invalid("queue.invalid", "the queue cannot be configured like this", fields=tuple(wrong))
