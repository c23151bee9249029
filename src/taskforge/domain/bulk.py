"""One verb for all jobs that a filter finds: what may be asked, and when a canary has proved itself."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Literal

from msgspec import Struct, structs

from taskforge.domain.jobs import BATCH_LIMIT, EARLIEST, JOB_TYPE, TAG, JobFilter, JobState
from taskforge.domain.queues import NAME
from taskforge.domain.retry import MAX_DELAY_SECONDS
from taskforge.domain.terms import JOB_ID, Refuse
from taskforge.errors import FieldError, Invalid

MAX_RATE: Final = 100_000.0
MAX_CANARY: Final = 1_000
MAX_WATCH_SECONDS: Final = 86_400.0
MAX_TEXT: Final = 200

BulkVerb = Literal["cancel", "retry", "move", "change_priority", "reschedule", "redrive", "purge"]

WAITING: Final = (JobState.PENDING, JobState.SCHEDULED, JobState.RETRYING, JobState.BLOCKED)

STATES: Final[dict[BulkVerb, tuple[tuple[JobState, ...], tuple[JobState, ...]]]] = {
    "cancel": ((*WAITING, JobState.PROCESSING), ()),
    "retry": ((JobState.FAILED,), (JobState.CANCELLED, JobState.SCHEDULED, JobState.RETRYING)),
    "move": (WAITING, (JobState.FAILED,)),
    "change_priority": (WAITING, (JobState.FAILED,)),
    "reschedule": ((JobState.PENDING, JobState.SCHEDULED, JobState.RETRYING), ()),
    "redrive": ((JobState.FAILED,), ()),
    "purge": ((JobState.FAILED,), ()),
}
"""Of each verb: the states it is for when the filter names none, and those it also takes when it does."""


class BulkState(StrEnum):
    RUNNING = "running"
    CANARY = "canary"
    WATCHING = "watching"
    COMPLETED = "completed"
    STOPPED = "stopped"

    @property
    def is_final(self) -> bool:
        return self in (BulkState.COMPLETED, BulkState.STOPPED)


class BulkFilter(JobFilter, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Jobs that fit all that is given. `job_ids` names them one by one."""

    job_ids: tuple[str, ...] | None = None


class BulkArguments(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`queue_name` is where to move, `priority` what to change it to, `run_at` or `delay_seconds` when to run."""

    queue_name: str | None = None
    priority: int | None = None
    run_at: datetime | None = None
    delay_seconds: float | None = None


class Canary(Struct, frozen=True, forbid_unknown_fields=True):
    """First only `count` jobs; the rest when, after `watch_seconds` or once all of them have ended, at least
    `min_success_ratio` of them have succeeded."""

    count: int = 10
    watch_seconds: float = 60.0
    min_success_ratio: float = 1.0


class BulkRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """With `preview` nothing is done: the answer says how many jobs it would be."""

    verb: BulkVerb
    filter: BulkFilter
    arguments: BulkArguments = BulkArguments()
    rate_per_second: float | None = None
    canary: Canary | None = None
    preview: bool = False


class BulkPreview(Struct, frozen=True):
    """`is_exact` false: there are at least `count`; the look ended there. `sample` are the oldest."""

    count: int
    is_exact: bool
    sample: tuple[str, ...]


class FailedItem(Struct, frozen=True):
    """A job that was left as it is, and why."""

    job_id: str
    code: str


class BulkOperation(Struct, frozen=True):
    """`total` is what there was to do at the beginning, at least that when `is_total_exact` is false. `failures` are
    the first hundred of the `failed`."""

    id: str
    verb: BulkVerb
    filter: BulkFilter
    arguments: BulkArguments
    rate_per_second: float | None
    canary: Canary | None
    state: BulkState
    reason: str | None
    created_by: str
    created_at: datetime
    stopped_by: str | None
    finished_at: datetime | None
    total: int
    is_total_exact: bool
    done: int
    failed: int
    failures: tuple[FailedItem, ...]
    canary_job_ids: tuple[str, ...] = ()


def check_request(request: BulkRequest, *, now: datetime) -> None:
    """Raise Invalid with one entry per wrong field."""
    wrong: list[FieldError] = []

    def refuse(name: str, code: str, detail: str) -> None:
        wrong.append(FieldError(f"/{name}", code, detail))

    wrong.extend(_wrong_filter(request.filter, "/filter"))
    default, more = STATES[request.verb]
    state = request.filter.state
    if state is not None and state not in default + more:
        allowed = ", ".join((*default, *more))
        refuse("filter/state", "not_allowed", f"{request.verb} takes jobs that are {allowed}")
    if needs_failed(request.filter) and states_of(request) != (JobState.FAILED,):
        refuse("filter/state", "required", 'filters by error are for dead letters: add "state": "failed"')
    _check_arguments(request, now, refuse)
    if request.rate_per_second is not None and not 0.01 <= request.rate_per_second <= MAX_RATE:
        refuse("rate_per_second", "out_of_range", f"must be between 0.01 and {MAX_RATE:.0f}")
    if request.canary is not None:
        _check_canary(request, request.canary, refuse)
    if wrong:
        raise Invalid(
            "bulk.invalid", f"this cannot be done: {wrong[0].pointer}: {wrong[0].detail}", fields=tuple(wrong)
        )


def check_filter(wanted: JobFilter, pointer: str = "") -> None:
    """Raise Invalid with one entry per wrong field. The error filters are for lists of dead letters."""
    if wrong := _wrong_filter(wanted, pointer):
        raise Invalid("request.invalid", f"{wrong[0].pointer}: {wrong[0].detail}", fields=tuple(wrong))


def states_of(request: BulkRequest) -> tuple[JobState, ...]:
    """The states in which jobs are looked for."""
    return STATES[request.verb][0] if request.filter.state is None else (request.filter.state,)


def needs_failed(wanted: JobFilter) -> bool:
    """Whether it asks about an error, which only dead letters have for good."""
    return any((wanted.fingerprint, wanted.error_text, wanted.failed_after, wanted.failed_before))


def canary_verdict(
    canary: Canary, *, count: int, succeeded: int, ended: int, is_over: bool
) -> Literal["wait", "go", "stop"]:
    """What follows from a canary of `count` jobs of which `ended` have ended and `succeeded` have succeeded."""
    needed = math.ceil(canary.min_success_ratio * count)
    if count - (ended - succeeded) < needed:
        return "stop"
    if ended < count and not is_over:
        return "wait"
    return "go" if succeeded >= needed else "stop"


def _wrong_filter(wanted: JobFilter, pointer: str) -> list[FieldError]:
    wrong: list[FieldError] = []

    def refuse(name: str, code: str, detail: str) -> None:
        wrong.append(FieldError(f"{pointer}/{name}" if name else pointer, code, detail))

    if isinstance(wanted, BulkFilter):
        if all(value is None for value in structs.asdict(wanted).values()):
            refuse("", "empty", "name at least one condition; a queue, for example")
        if wanted.job_ids is not None:
            if not 1 <= len(wanted.job_ids) <= BATCH_LIMIT:
                refuse("job_ids", "too_many", f"between 1 and {BATCH_LIMIT} ids")
            elif any(not JOB_ID.fullmatch(job_id) or int(job_id) >= 2**63 for job_id in wanted.job_ids):
                refuse("job_ids", "pattern", "must be ids of jobs")
    for name, pattern in (("queue_name", NAME), ("job_type", JOB_TYPE), ("tag", TAG)):
        value = getattr(wanted, name)
        if value is not None and not pattern.fullmatch(value):
            refuse(name, "pattern", f"must match {pattern.pattern}")
    if wanted.fingerprint is not None and not _is_fingerprint(wanted.fingerprint):
        refuse("fingerprint", "pattern", "must be 16 hex digits, as an error shows them")
    if wanted.error_text is not None and not 1 <= len(wanted.error_text) <= MAX_TEXT:
        refuse("error_text", "length", f"has 1 to {MAX_TEXT} characters")
    for name in ("submitted_after", "submitted_before", "failed_after", "failed_before"):
        value = getattr(wanted, name)
        if value is not None and value.tzinfo is None:
            refuse(name, "no_time_zone", "must carry a time zone, for example 2030-01-31T09:00:00Z")
    return wrong


def _is_fingerprint(text: str) -> bool:
    return len(text) == 16 and all(char in "0123456789abcdef" for char in text)


def _check_arguments(request: BulkRequest, now: datetime, refuse: Refuse) -> None:
    arguments = request.arguments
    wanted = {
        "move": ("queue_name",),
        "change_priority": ("priority",),
        "reschedule": ("run_at", "delay_seconds"),
    }.get(request.verb, ())
    given = [name for name in arguments.__struct_fields__ if getattr(arguments, name) is not None]
    for name in given:
        if name not in wanted:
            refuse(f"arguments/{name}", "not_allowed", f"{request.verb} takes no {name}")
    if wanted and not set(given) & set(wanted):
        refuse(f"arguments/{wanted[0]}", "required", f"{request.verb} needs {' or '.join(wanted)}")
    if arguments.queue_name is not None and not NAME.fullmatch(arguments.queue_name):
        refuse("arguments/queue_name", "pattern", f"must match {NAME.pattern}")
    if arguments.priority is not None and not 0 <= arguments.priority <= 9:
        refuse("arguments/priority", "out_of_range", "must be between 0 (lowest) and 9 (first)")
    if arguments.delay_seconds is not None:
        if arguments.run_at is not None:
            refuse("arguments/delay_seconds", "exclusive", "give either run_at or delay_seconds, not both")
        if not 0 <= arguments.delay_seconds <= MAX_DELAY_SECONDS:
            refuse(
                "arguments/delay_seconds", "out_of_range", f"must be between 0 and {MAX_DELAY_SECONDS:.0f}"
            )
    if arguments.run_at is not None:
        if arguments.run_at.tzinfo is None:
            refuse("arguments/run_at", "no_time_zone", "must carry a time zone")
        elif not EARLIEST <= arguments.run_at <= now + timedelta(seconds=MAX_DELAY_SECONDS):
            refuse("arguments/run_at", "out_of_range", "must be after 1970 and at most 10 years ahead")


def _check_canary(request: BulkRequest, canary: Canary, refuse: Refuse) -> None:
    if request.verb not in ("redrive", "retry"):
        refuse("canary", "not_allowed", "a canary shows whether jobs succeed now: for redrive and retry")
    if not 1 <= canary.count <= MAX_CANARY:
        refuse("canary/count", "out_of_range", f"must be between 1 and {MAX_CANARY}")
    if not 0 <= canary.watch_seconds <= MAX_WATCH_SECONDS:
        refuse("canary/watch_seconds", "out_of_range", f"must be between 0 and {MAX_WATCH_SECONDS:.0f}")
    if not 0 <= canary.min_success_ratio <= 1:
        refuse("canary/min_success_ratio", "out_of_range", "must be between 0 and 1")
