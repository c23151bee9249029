"""Jobs that belong together: counted as one, with callbacks for how it went."""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum

import msgspec
from msgspec import Raw, Struct

from taskforge.domain.jobs import DEFAULT_PRIORITY, MAX_TAGS, TAG, JobDraft, JobOptions, check_draft
from taskforge.domain.retry import RetryPolicy
from taskforge.domain.webhooks import why_not_url
from taskforge.errors import FieldError, Invalid

MAX_NAME = 200
CALLBACK_NAMES = ("on_success", "on_failure", "on_complete")
_ARGUMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


class BatchState(StrEnum):
    OPEN = "open"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self not in (BatchState.OPEN, BatchState.RUNNING)


class CallbackJob(Struct, frozen=True, forbid_unknown_fields=True):
    """A job that is made when the callback goes off."""

    queue_name: str
    job_type: str
    payload: Raw = msgspec.field(default_factory=lambda: Raw(b"{}"))
    priority: int = DEFAULT_PRIORITY
    max_attempts: int | None = None
    timeout_seconds: float | None = None
    delay_seconds: float | None = None
    retry: RetryPolicy | None = None
    tags: tuple[str, ...] = ()

    def draft(self) -> JobDraft:
        return JobDraft(
            self.queue_name,
            self.job_type,
            bytes(self.payload),
            self.priority,
            self.max_attempts,
            self.timeout_seconds,
            None,
            self.delay_seconds,
            self.retry,
            None,
            self.tags,
        )


class CallbackHook(Struct, frozen=True, forbid_unknown_fields=True):
    """Where to POST how the batch went."""

    url: str


class Callback(Struct, frozen=True, forbid_unknown_fields=True):
    """A job, a webhook, or both. With `batch_as` the job's payload carries how the batch went, under that key."""

    job: CallbackJob | None = None
    webhook: CallbackHook | None = None
    batch_as: str | None = None


class Callbacks(Struct, frozen=True, forbid_unknown_fields=True):
    """Each goes off at most once: `on_failure` when the first member has failed, `on_complete` when all have ended,
    `on_success` when all have ended well."""

    on_success: Callback | None = None
    on_failure: Callback | None = None
    on_complete: Callback | None = None


NO_CALLBACKS = Callbacks()


class BatchDraft(Struct, frozen=True, forbid_unknown_fields=True):
    """A batch to be made; it is open until it is sealed."""

    name: str = ""
    callbacks: Callbacks = NO_CALLBACKS
    tags: tuple[str, ...] = ()


class Fired(Struct, frozen=True):
    """A callback that has gone off: the job or the delivery it made, or why it could not."""

    at: datetime
    job_id: str | None = None
    delivery_id: str | None = None
    error: str | None = None


class BatchView(Struct, frozen=True):
    """A batch as the API shows it. `progress` is the share of its members that have ended. `received` is how many items
    of a numbered stream are settled: the next one is `received + 1`."""

    id: str
    name: str
    state: BatchState
    total: int
    succeeded: int
    failed: int
    cancelled: int
    pending: int
    progress: float
    received: int
    tags: tuple[str, ...]
    created_at: datetime
    sealed_at: datetime | None
    ended_at: datetime | None
    cancel_requested_at: datetime | None
    callbacks: Callbacks
    fired: dict[str, Fired]


class Piece(Struct, frozen=True):
    """Consecutive items of a numbered stream into a batch: those after the first `before`, up to the first `after`."""

    batch_id: int
    before: int
    after: int


def check_batch(draft: BatchDraft, *, now: datetime, max_payload_bytes: int) -> None:
    """Raise Invalid with one entry per wrong field."""
    wrong: list[FieldError] = []
    if len(draft.name) > MAX_NAME:
        wrong.append(FieldError("/name", "too_long", f"has at most {MAX_NAME} characters"))
    if len(draft.tags) > MAX_TAGS:
        wrong.append(FieldError("/tags", "too_many", f"at most {MAX_TAGS} tags"))
    elif any(not TAG.fullmatch(tag) for tag in draft.tags):
        wrong.append(FieldError("/tags", "pattern", f"each tag must match {TAG.pattern}"))
    for name in CALLBACK_NAMES:
        callback: Callback | None = getattr(draft.callbacks, name)
        if callback is not None:
            _check_callback(callback, f"/callbacks/{name}", now, max_payload_bytes, wrong)
    if wrong:
        raise Invalid("batch.invalid", f"the batch cannot be made: {wrong[0].detail}", fields=tuple(wrong))


def callback_queues(callbacks: Callbacks) -> dict[str, str]:
    """The queues that callbacks submit to, by where they are named."""
    found = {}
    for name in CALLBACK_NAMES:
        callback: Callback | None = getattr(callbacks, name)
        if callback is not None and callback.job is not None:
            found[f"/callbacks/{name}/job/queue_name"] = callback.job.queue_name
    return found


def stored(callbacks: Callbacks) -> bytes:
    """As the database keeps them: each job in the form that `taskforge.enqueue` takes."""
    kept: dict[str, object] = {}
    for name in CALLBACK_NAMES:
        callback: Callback | None = getattr(callbacks, name)
        if callback is None:
            continue
        entry: dict[str, object] = {}
        if callback.job is not None:
            entry["job"] = _as_enqueued(callback.job)
        if callback.webhook is not None:
            entry["webhook"] = callback.webhook
        if callback.batch_as is not None:
            entry["batch_as"] = callback.batch_as
        kept[name] = entry
    return msgspec.json.encode(kept)


def _as_enqueued(job: CallbackJob) -> dict[str, object]:
    fields: dict[str, object] = {
        "queue_name": job.queue_name,
        "job_type": job.job_type,
        "payload": job.payload,
        "priority": job.priority,
    }
    for name in ("max_attempts", "timeout_seconds", "delay_seconds"):
        if (value := getattr(job, name)) is not None:
            fields[name] = value
    options = JobOptions(retry=job.retry, tags=job.tags)
    if options != JobOptions():
        fields["options"] = options
    return fields


class _Options(Struct, frozen=True):
    retry: RetryPolicy | None = None
    tags: tuple[str, ...] = ()


class _StoredJob(Struct):
    queue_name: str
    job_type: str
    payload: Raw
    priority: int
    max_attempts: int | None = None
    timeout_seconds: float | None = None
    delay_seconds: float | None = None
    options: _Options = _Options()


class _StoredCallback(Struct):
    job: _StoredJob | None = None
    webhook: CallbackHook | None = None
    batch_as: str | None = None


_decode_stored = msgspec.json.Decoder(dict[str, _StoredCallback]).decode


def restored(text: str) -> Callbacks:
    """The inverse of `stored`."""
    found = {}
    for name, kept in _decode_stored(text).items():
        job = kept.job
        made = None
        if job is not None:
            made = CallbackJob(
                job.queue_name,
                job.job_type,
                job.payload,
                job.priority,
                job.max_attempts,
                job.timeout_seconds,
                job.delay_seconds,
                job.options.retry,
                job.options.tags,
            )
        found[name] = Callback(made, kept.webhook, kept.batch_as)
    return Callbacks(**found)


def _check_callback(
    callback: Callback, pointer: str, now: datetime, max_payload_bytes: int, wrong: list[FieldError]
) -> None:
    if callback.job is None and callback.webhook is None:
        wrong.append(FieldError(pointer, "empty", "give a job, a webhook, or both"))
    if callback.job is not None:
        try:
            check_draft(
                callback.job.draft(),
                now=now,
                max_payload_bytes=max_payload_bytes,
                pointer=f"{pointer}/job",
            )
        except Invalid as error:
            wrong.extend(error.fields)
    if callback.webhook is not None and (why := why_not_url(callback.webhook.url)) is not None:
        wrong.append(FieldError(f"{pointer}/webhook/url", "url", why))
    if callback.batch_as is not None:
        if not _ARGUMENT.fullmatch(callback.batch_as):
            wrong.append(FieldError(f"{pointer}/batch_as", "pattern", f"must match {_ARGUMENT.pattern}"))
        elif callback.job is None or not bytes(callback.job.payload).lstrip().startswith(b"{"):
            wrong.append(
                FieldError(f"{pointer}/batch_as", "no_object", "needs a job whose payload is an object")
            )
