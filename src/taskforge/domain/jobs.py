"""The job: what is submitted, the states it can be in, and what is said about it.

State is derived from the tables (see docs/state_machine.md), never stored:

    scheduled --due--> pending --claim--> processing --> succeeded | failed | cancelled
                          ^                   |
                          +---- retrying <----+
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from msgspec import Raw, Struct, structs

from taskforge.domain.queues import MAX_TIMEOUT_SECONDS, NAME
from taskforge.domain.retry import MAX_DELAY_SECONDS, RetryPolicy, check_policy
from taskforge.domain.terms import JobTerms, check_terms
from taskforge.errors import FieldError, Invalid, TaskForgeError

JOB_TYPE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:-]{0,127}")
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,255}")
MAX_TAGS = 20
MAX_ATTEMPTS = 100
DEFAULT_PRIORITY = 5
BATCH_LIMIT = 10_000


_Refuse = Callable[[str, str, str], None]


class JobState(StrEnum):
    PENDING = "pending"
    SCHEDULED = "scheduled"
    RETRYING = "retrying"
    BLOCKED = "blocked"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in FINAL_STATES


FINAL_STATES = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


class JobDraft(Struct, frozen=True):
    """A job to be submitted. `payload` is JSON, kept byte for byte. None means: as the queue says."""

    queue_name: str
    job_type: str
    payload: bytes
    priority: int = DEFAULT_PRIORITY
    max_attempts: int | None = None
    timeout_seconds: float | None = None
    run_at: datetime | None = None
    delay_seconds: float | None = None
    retry: RetryPolicy | None = None
    idempotency_key: str | None = None
    tags: tuple[str, ...] = ()
    trace: str | None = None
    terms: JobTerms | None = None
    inputs: dict[str, str] | None = None


class JobOptions(Struct, frozen=True, omit_defaults=True):
    """The rarely used part of a job, stored as one JSON column that is null for a plain job."""

    retry: RetryPolicy | None = None
    idempotency_key: str | None = None
    tags: tuple[str, ...] = ()
    trace: str | None = None
    terms: JobTerms | None = None
    inputs: dict[str, str] | None = None
    """Parameters of the payload that are the results of other jobs, by their ids."""


class JobGroup(Struct, frozen=True):
    """Drafts that differ in nothing but their payload. `draft.payload` is not used; one with an idempotency
    key or a unique key has one payload."""

    draft: JobDraft
    payloads: Sequence[bytes]


class GroupAnswer(Struct):
    """What became of a group: the ids in the order of its payloads, or the error that kept it out.

    `kept`: the id is that of the job which holds the unique key. `replaced`: the job that had to end for this one.
    """

    ids: list[int]
    state: JobState | None = None
    created: bool = True
    error: TaskForgeError | None = None
    kept: bool = False
    replaced: int | None = None
    submitted_at: datetime | None = None


class Verdict(Struct, frozen=True):
    """What became of one draft. `created` is False when an idempotency key or a unique key (`kept`) led to an earlier
    job. `replaced` is the job that had to end because this one has its unique key."""

    job_id: int | None
    state: JobState | None = None
    created: bool = True
    error: TaskForgeError | None = None
    kept: bool = False
    replaced: int | None = None
    submitted_at: datetime | None = None


class AttemptView(Struct, frozen=True):
    """One execution: how it ended (`succeeded`, `failed`, `lost`, `returned`, `snoozed`, `released` or `cancelled`), on
    which worker and when. Only the last of a job can have succeeded; the error fields are those of one that did not."""

    attempt: int
    outcome: str
    worker: str | None
    started_at: datetime | None
    finished_at: datetime
    error_class: str | None
    message: str | None
    traceback: str | None
    fingerprint: str | None = None


class ProgressView(Struct, frozen=True):
    """How far the job said it was, 0 to 1, when it last said so."""

    fraction: float
    message: str
    reported_at: datetime


class JobView(Struct, frozen=True):
    """A job as the API shows it."""

    id: str
    queue_name: str
    job_type: str
    state: JobState
    priority: int
    payload: Raw
    attempt: int
    max_attempts: int
    timeout_seconds: float
    tags: tuple[str, ...]
    submitted_at: datetime
    run_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    result: Raw | None = None
    error: AttemptView | None = None
    attempts: tuple[AttemptView, ...] = ()
    progress: ProgressView | None = None
    reason: str | None = None
    """Why it ended without a handler's having said so."""
    cancel_requested: bool = False
    idempotency_key: str | None = None
    worker: str | None = None
    unique_key: str | None = None
    expires_at: datetime | None = None
    deadline_at: datetime | None = None
    parent_id: str | None = None


class JobFilter(Struct, frozen=True):
    """The last four are for dead letters. `error_text` is looked for in class and message as it is, in any case."""

    queue_name: str | None = None
    state: JobState | None = None
    job_type: str | None = None
    tag: str | None = None
    submitted_after: datetime | None = None
    submitted_before: datetime | None = None
    fingerprint: str | None = None
    error_text: str | None = None
    failed_after: datetime | None = None
    failed_before: datetime | None = None


def names_one_job(draft: JobDraft) -> bool:
    """True for a draft that only one job can be made of."""
    return draft.idempotency_key is not None or (draft.terms is not None and draft.terms.unique is not None)


def with_payload(draft: JobDraft, payload: bytes) -> JobDraft:
    return structs.replace(draft, payload=payload)


def group(drafts: Iterable[JobDraft]) -> list[JobGroup]:
    """Neighbours that differ only in their payload, together; order is kept."""
    groups: list[JobGroup] = []
    payloads: list[bytes] = []
    last: JobDraft | None = None
    for draft in drafts:
        if last is not None and _is_like(draft, last):
            payloads.append(draft.payload)
        else:
            payloads = [draft.payload]
            groups.append(JobGroup(draft, payloads))
            last = draft
    return groups


def _is_like(draft: JobDraft, other: JobDraft) -> bool:
    return (
        draft.job_type == other.job_type
        and draft.queue_name == other.queue_name
        and draft.priority == other.priority
        and draft.idempotency_key is None
        and other.idempotency_key is None
        and draft.run_at == other.run_at
        and draft.delay_seconds == other.delay_seconds
        and draft.tags == other.tags
        and draft.max_attempts == other.max_attempts
        and draft.timeout_seconds == other.timeout_seconds
        and draft.trace == other.trace
        and draft.retry == other.retry
        and draft.terms == other.terms
        and draft.inputs == other.inputs
        and (draft.terms is None or draft.terms.unique is None)
    )


def is_plain(draft: JobDraft) -> bool:
    """True for a draft that uses nothing beyond queue, type, payload and priority."""
    return (
        draft.run_at is None
        and draft.delay_seconds is None
        and draft.retry is None
        and draft.idempotency_key is None
        and not draft.tags
        and draft.trace is None
        and draft.max_attempts is None
        and draft.timeout_seconds is None
        and draft.terms is None
        and draft.inputs is None
    )


def check_draft(draft: JobDraft, *, now: datetime, max_payload_bytes: int, pointer: str = "") -> None:
    """Raise Invalid with one entry per wrong field; `pointer` is where the draft stands in its document."""
    wrong: list[FieldError] = []

    def refuse(name: str, code: str, detail: str) -> None:
        wrong.append(FieldError(f"{pointer}/{name}", code, detail))

    if not NAME.fullmatch(draft.queue_name):
        refuse("queue_name", "pattern", f"must match {NAME.pattern}")
    if not JOB_TYPE.fullmatch(draft.job_type):
        refuse("job_type", "pattern", f"must match {JOB_TYPE.pattern}")
    if len(draft.payload) > max_payload_bytes:
        refuse("payload", "too_large", f"has {len(draft.payload)} bytes, the limit is {max_payload_bytes}")
    if not 0 <= draft.priority <= 9:
        refuse("priority", "out_of_range", "must be between 0 (lowest) and 9 (first)")
    if not is_plain(draft):
        _check_options(draft, now, refuse, wrong, pointer)
    if wrong:
        raise Invalid("job.invalid", f"the job cannot be accepted: {wrong[0].detail}", fields=tuple(wrong))


def _check_options(
    draft: JobDraft, now: datetime, refuse: _Refuse, wrong: list[FieldError], pointer: str
) -> None:
    if draft.max_attempts is not None and not 1 <= draft.max_attempts <= MAX_ATTEMPTS:
        refuse("max_attempts", "out_of_range", f"must be between 1 and {MAX_ATTEMPTS}")
    if draft.timeout_seconds is not None and not 0.001 <= draft.timeout_seconds <= MAX_TIMEOUT_SECONDS:
        refuse("timeout_seconds", "out_of_range", f"must be between 0.001 and {MAX_TIMEOUT_SECONDS:.0f}")
    if draft.run_at is not None and draft.delay_seconds is not None:
        refuse("delay_seconds", "exclusive", "give either run_at or delay_seconds, not both")
    if draft.delay_seconds is not None and not 0 <= draft.delay_seconds <= MAX_DELAY_SECONDS:
        refuse("delay_seconds", "out_of_range", f"must be between 0 and {MAX_DELAY_SECONDS:.0f}")
    if draft.run_at is not None:
        if draft.run_at.tzinfo is None:
            refuse("run_at", "no_time_zone", "must carry a time zone, for example 2030-01-31T09:00:00Z")
        elif not EARLIEST <= draft.run_at <= now + timedelta(seconds=MAX_DELAY_SECONDS):
            refuse("run_at", "out_of_range", "must be after 1970 and at most 10 years ahead")
    if draft.idempotency_key is not None and not IDEMPOTENCY_KEY.fullmatch(draft.idempotency_key):
        refuse("idempotency_key", "pattern", "must have 1 to 255 printable ASCII characters without spaces")
    if len(draft.tags) > MAX_TAGS:
        refuse("tags", "too_many", f"at most {MAX_TAGS} tags")
    elif any(not TAG.fullmatch(tag) for tag in draft.tags):
        refuse("tags", "pattern", f"each tag must match {TAG.pattern}")
    if draft.terms is not None:
        check_terms(draft.terms, now, refuse)
    if draft.retry is not None:
        try:
            check_policy(draft.retry, f"{pointer}/retry")
        except Invalid as error:
            wrong.extend(error.fields)


EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
