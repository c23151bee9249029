"""Schedules: the template of a job, the times at which it is submitted, and what becomes of times that were missed."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, structs

from taskforge.domain.cron import EPOCH, HORIZON_YEARS, Expression, next_after, parse, why_never
from taskforge.domain.jobs import DEFAULT_PRIORITY, JobDraft, check_draft
from taskforge.domain.queues import NAME
from taskforge.domain.retry import RetryPolicy
from taskforge.domain.terms import NO_TERMS, JobTerms, Refuse, Webhook
from taskforge.domain.zones import Zone, find_zone
from taskforge.errors import FieldError, Invalid

MAX_JITTER_SECONDS = 86_400.0
MAX_MISSED = 100
MAX_PREVIEW = 100
RESERVED_NAMES = frozenset({"preview"})
MISSED_AFTER = timedelta(seconds=60)
"""A slot handled later than this is a missed one; so is one whose successor is due as well."""

_SECOND = timedelta(seconds=1)
_LOOK_FOR_CLASHES = 10
_COUNT_UP_TO = 100
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(2200, 1, 1, tzinfo=UTC)


class Missed(StrEnum):
    """What becomes of slots that nobody could handle in time."""

    SKIP = "skip"
    RUN_ONCE = "run_once"
    RUN_ALL = "run_all"


class Overlap(StrEnum):
    """What becomes of a slot while the job of the one before has not ended."""

    ALLOW = "allow"
    SKIP = "skip"
    QUEUE = "queue"
    CANCEL_RUNNING = "cancel_running"


class Source(StrEnum):
    """Who made the schedule: somebody through the API, or a worker from its code."""

    API = "api"
    CODE = "code"


class Verdict(StrEnum):
    FIRED = "fired"
    SKIPPED = "skipped"
    QUEUED = "queued"


class ScheduleDraft(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A schedule to be made. Limits of the job that are None are the queue's."""

    name: str
    expression: str
    job_type: str
    timezone: str = "UTC"
    jitter_seconds: float = 0.0
    missed: Missed = Missed.RUN_ONCE
    missed_limit: int = 10
    overlap: Overlap = Overlap.ALLOW
    start_at: datetime | None = None
    end_at: datetime | None = None
    paused: bool = False
    queue_name: str = "default"
    payload: Raw = msgspec.field(default_factory=lambda: Raw(b"{}"))
    priority: int = DEFAULT_PRIORITY
    max_attempts: int | None = None
    timeout_seconds: float | None = None
    retry: RetryPolicy | None = None
    tags: tuple[str, ...] = ()
    concurrency_key: str | None = None
    dependency_key: str | None = None
    expires_in_seconds: float | None = None
    deadline_in_seconds: float | None = None
    result_retention_seconds: float | None = None
    schema_version: int | None = None
    webhook: Webhook | None = None

    @property
    def timing(self) -> Timing:
        """Raises Invalid when the expression or the time zone cannot be used."""
        start_at = None if self.start_at is None else _whole(self.start_at)
        return Timing(
            parse(self.expression),
            find_zone(self.timezone),
            start_at,
            self.end_at,
            self.jitter_seconds,
        )

    @property
    def job(self) -> JobDraft:
        """The job that each slot submits."""
        terms = JobTerms(**{name: getattr(self, name) for name in TERM_NAMES})
        return JobDraft(
            queue_name=self.queue_name,
            job_type=self.job_type,
            payload=bytes(self.payload),
            priority=self.priority,
            max_attempts=self.max_attempts,
            timeout_seconds=self.timeout_seconds,
            retry=self.retry,
            tags=self.tags,
            terms=None if terms == NO_TERMS else terms,
        )


TERM_NAMES = (
    "concurrency_key",
    "dependency_key",
    "expires_in_seconds",
    "deadline_in_seconds",
    "result_retention_seconds",
    "schema_version",
    "webhook",
)
FIELD_NAMES = tuple(name for name in ScheduleDraft.__struct_fields__ if name not in ("name", "paused"))
TIMING_NAMES = frozenset({"expression", "timezone", "jitter_seconds", "start_at", "end_at"})


class ScheduleChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to change; what is unset stays."""

    expression: str | UnsetType = UNSET
    job_type: str | UnsetType = UNSET
    timezone: str | UnsetType = UNSET
    jitter_seconds: float | UnsetType = UNSET
    missed: Missed | UnsetType = UNSET
    missed_limit: int | UnsetType = UNSET
    overlap: Overlap | UnsetType = UNSET
    start_at: datetime | UnsetType | None = UNSET
    end_at: datetime | UnsetType | None = UNSET
    queue_name: str | UnsetType = UNSET
    payload: Raw | UnsetType = UNSET
    priority: int | UnsetType = UNSET
    max_attempts: int | UnsetType | None = UNSET
    timeout_seconds: float | UnsetType | None = UNSET
    retry: RetryPolicy | UnsetType | None = UNSET
    tags: tuple[str, ...] | UnsetType = UNSET
    concurrency_key: str | UnsetType | None = UNSET
    dependency_key: str | UnsetType | None = UNSET
    expires_in_seconds: float | UnsetType | None = UNSET
    deadline_in_seconds: float | UnsetType | None = UNSET
    result_retention_seconds: float | UnsetType | None = UNSET
    schema_version: int | UnsetType | None = UNSET
    webhook: Webhook | UnsetType | None = UNSET

    @property
    def given(self) -> dict[str, Any]:
        return {name: value for name in FIELD_NAMES if (value := getattr(self, name)) is not UNSET}


class Timing(Struct, frozen=True):
    """When a schedule fires. An interval counts from `start_at`, or from 1970."""

    expression: Expression
    zone: Zone
    start_at: datetime | None = None
    end_at: datetime | None = None
    jitter_seconds: float = 0.0

    def slot_after(self, after: datetime) -> datetime | None:
        """The first slot after `after`; None when there is none within 5 years or before `end_at`."""
        if self.start_at is not None:
            after = max(after, self.start_at - _SECOND)
        slot = next_after(self.expression, after, self.zone, anchor=self.start_at or EPOCH)
        return None if slot is None or (self.end_at is not None and slot > self.end_at) else slot

    def due(self, schedule_id: int, slot: datetime) -> datetime:
        """When the slot's job is submitted: delayed by a share of the jitter that every process computes alike."""
        if not self.jitter_seconds:
            return slot
        digest = hashlib.blake2b(f"{schedule_id}/{slot.timestamp():.0f}".encode(), digest_size=8).digest()
        share = int.from_bytes(digest, "big") / 2**64
        return slot + timedelta(seconds=round(self.jitter_seconds * share, 3))


class Schedule(Struct, frozen=True):
    """What the database knows of one schedule. `next_slot` is None when it is paused or has no slot left."""

    schedule_id: int
    tenant_id: UUID
    definition: ScheduleDraft
    version: int
    source: Source
    edited: bool
    next_slot: datetime | None
    due_at: datetime | None
    waiting_slot: datetime | None
    last_slot: datetime | None
    last_job_id: int | None
    created_at: datetime
    updated_at: datetime


class Tick(Struct, frozen=True):
    """What became of a slot, or of all slots from `slot` through `through` when they were skipped together."""

    slot: datetime
    verdict: Verdict
    reason: str | None
    job_id: str | None
    through: datetime
    slots: int | None
    decided_at: datetime


class Firing(Struct, frozen=True):
    """A time at which a schedule will fire, in UTC and as its own clock shows it."""

    at: datetime
    local: str


class Skipped(Struct, frozen=True):
    """Slots that are skipped together. How many is known for up to 100."""

    first: datetime
    last: datetime
    count: int | None


class Plan(Struct, frozen=True):
    """What to do with the slots that are due: these are skipped, then these fire, and this one comes next."""

    skipped: Skipped | None
    fires: tuple[datetime, ...]
    is_late: bool
    next_slot: datetime | None


def plan(schedule: Schedule, now: datetime) -> Plan:
    """For a schedule whose `next_slot` is due at `now`. Any process that asks with the same rows plans the same."""
    definition, timing, slot = schedule.definition, schedule.definition.timing, schedule.next_slot
    assert slot is not None

    def is_due(other: datetime) -> bool:
        return timing.due(schedule.schedule_id, other) <= now

    following = timing.slot_after(slot)
    last = slot
    if following is not None and is_due(following):
        last = _last_due(timing, slot, now, is_due)
        following = timing.slot_after(last)
    on_time = now - timing.due(schedule.schedule_id, last) <= MISSED_AFTER
    if last == slot and on_time:
        return Plan(None, (slot,), False, following)
    match definition.missed:
        case Missed.SKIP:
            fires = [last] if on_time else []
        case Missed.RUN_ONCE:
            fires = [last]
        case Missed.RUN_ALL:
            # One that is on time is none of those missed, and comes on top of them.
            fires = _latest(timing, slot, last, definition.missed_limit + on_time)
    if definition.overlap is Overlap.CANCEL_RUNNING and len(fires) > 1:
        # One a transaction: what is cancelled has to be there.
        following, fires = fires[1], fires[:1]
    if not fires:
        return Plan(_skipped(timing, slot, last), (), True, following)
    if fires[0] == slot:
        return Plan(None, tuple(fires), True, following)
    return Plan(_skipped(timing, slot, _previous(timing, slot, fires[0])), tuple(fires), True, following)


def _last_due(timing: Timing, slot: datetime, now: datetime, is_due: Callable[[datetime], bool]) -> datetime:
    last = _previous(timing, slot, now.replace(microsecond=0) + _SECOND)
    while last > slot and not is_due(last):
        last = _previous(timing, slot, last)
    return last


def _latest(timing: Timing, slot: datetime, last: datetime, count: int) -> list[datetime]:
    """The last `count` slots from `slot` through `last`, ascending."""
    found = [last]
    while len(found) < count and found[-1] > slot:
        found.append(_previous(timing, slot, found[-1]))
    return found[::-1]


def _previous(timing: Timing, slot: datetime, before: datetime) -> datetime:
    """The last slot before `before`, at the earliest `slot`. Cost: the logarithm of how long before that is."""

    def is_between(start: datetime) -> bool:
        found = timing.slot_after(start - _SECOND)
        return found is not None and found < before

    low, high, step = before - _SECOND, before, _SECOND
    while low > slot and not is_between(low):
        low, high, step = max(slot, low - step), low, step * 2
    while high - low > _SECOND:
        middle = low + timedelta(seconds=(high - low) // _SECOND // 2)
        if is_between(middle):
            low = middle
        else:
            high = middle
    return low


def _skipped(timing: Timing, slot: datetime, last: datetime) -> Skipped:
    """The slots from `slot` through `last`, counted if they are few."""
    current: datetime | None = slot
    for count in range(1, _COUNT_UP_TO + 1):
        if current is None or current >= last:
            return Skipped(slot, last, count)
        current = timing.slot_after(current)
    return Skipped(slot, last, None)


def check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise _invalid(
            "name",
            "pattern",
            "must have 1 to 128 characters of a-z, 0-9, '.', '_' and '-', and start with a letter or digit",
        )
    if name in RESERVED_NAMES:
        raise _invalid("name", "reserved", f'"{name}" is a path of the API; choose another name')


def check(draft: ScheduleDraft, *, now: datetime, max_payload_bytes: int) -> Timing:
    """The timing of a schedule that can be used from `now` on. Raises Invalid with every wrong field, in the end
    `schedule.never_fires`."""
    wrong: list[FieldError] = []

    def refuse(name: str, code: str, detail: str) -> None:
        wrong.append(FieldError(f"/{name}", code, detail))

    timing = _timing(draft, wrong)
    if not 0 <= draft.jitter_seconds <= MAX_JITTER_SECONDS:
        refuse("jitter_seconds", "out_of_range", f"must be between 0 and {MAX_JITTER_SECONDS:.0f}")
    if not 1 <= draft.missed_limit <= MAX_MISSED:
        refuse("missed_limit", "out_of_range", f"must be between 1 and {MAX_MISSED}")
    for name in ("start_at", "end_at"):
        check_instant(getattr(draft, name), name, refuse)
    if (
        not wrong
        and draft.start_at is not None
        and draft.end_at is not None
        and draft.end_at < draft.start_at
    ):
        refuse("end_at", "out_of_range", "must not be before start_at")
    try:
        check_name(draft.name)
    except Invalid as error:
        wrong.extend(error.fields)
    try:
        check_draft(draft.job, now=now, max_payload_bytes=max_payload_bytes)
    except Invalid as error:
        wrong.extend(error.fields)
    if wrong or timing is None:
        raise Invalid(
            wrong[0].code if wrong[0].code.startswith("schedule.") else "schedule.invalid",
            f"the schedule cannot be used: {wrong[0].detail}",
            fields=tuple(wrong),
        )
    _check_fires(timing, now)
    return timing


def _timing(draft: ScheduleDraft, wrong: list[FieldError]) -> Timing | None:
    parts: list[Any] = []
    for find, text in ((parse, draft.expression), (find_zone, draft.timezone)):
        try:
            parts.append(find(text))
        except Invalid as error:
            wrong.extend(error.fields)
    if len(parts) < 2 or _is_naive(draft.start_at) or _is_naive(draft.end_at):
        return None
    return draft.timing


def _is_naive(instant: datetime | None) -> bool:
    return instant is not None and instant.tzinfo is None


def check_instant(instant: datetime | None, name: str, refuse: Refuse) -> None:
    if instant is None:
        return
    if instant.tzinfo is None:
        refuse(name, "no_time_zone", "must carry a time zone, for example 2030-01-31T09:00:00Z")
    elif not _EARLIEST <= instant <= _LATEST:
        refuse(name, "out_of_range", "must be between 1970 and 2200")


def _check_fires(timing: Timing, now: datetime) -> None:
    slots = firings(timing, now, _LOOK_FOR_CLASHES)
    if not slots:
        ever = structs.replace(timing, start_at=None, end_at=None).slot_after(now)
        reason = (
            why_never(timing.expression)
            if ever is None
            else f"its next time is {ever:%Y-%m-%dT%H:%M:%SZ}, which is not between start_at and end_at, "
            f"or more than {HORIZON_YEARS} years after start_at"
        )
        detail = f"the schedule never fires: {reason}"
        raise Invalid(
            "schedule.never_fires",
            detail,
            fields=(FieldError("/expression", "schedule.never_fires", detail),),
        )
    gaps = [(after - before).total_seconds() for before, after in itertools.pairwise(slots)]
    if gaps and timing.jitter_seconds >= min(gaps):
        detail = f"must be less than the {min(gaps):.0f} seconds between two of its times"
        raise _invalid("jitter_seconds", "out_of_range", detail)


def firings(timing: Timing, after: datetime, count: int) -> list[datetime]:
    """The next slots after `after`, up to `count`."""
    found: list[datetime] = []
    while len(found) < count and (slot := timing.slot_after(found[-1] if found else after)) is not None:
        found.append(slot)
    return found


def preview(timing: Timing, after: datetime, count: int) -> tuple[Firing, ...]:
    """Raises Invalid for more than a hundred, and for a time beyond 2200."""

    def refuse(name: str, code: str, detail: str) -> None:
        raise _invalid(name, code, detail)

    if not 1 <= count <= MAX_PREVIEW:
        refuse("count", "out_of_range", f"must be between 1 and {MAX_PREVIEW}")
    check_instant(after, "after", refuse)
    return tuple(
        Firing(slot, slot.astimezone(timing.zone).isoformat()) for slot in firings(timing, after, count)
    )


def changed(draft: ScheduleDraft, change: ScheduleChange) -> ScheduleDraft:
    return structs.replace(draft, **change.given)


def fingerprint(draft: ScheduleDraft) -> bytes:
    """Equal for equal definitions: how a worker knows what it has declared before."""
    return hashlib.blake2b(msgspec.json.encode(draft), digest_size=16).digest()


def _whole(instant: datetime) -> datetime:
    """The next whole second: slots are on whole seconds."""
    return instant.replace(microsecond=0) + (_SECOND if instant.microsecond else timedelta(0))


def _invalid(name: str, code: str, detail: str) -> Invalid:
    return Invalid(
        "schedule.invalid",
        f"the schedule cannot be used: {detail}",
        fields=(FieldError(f"/{name}", code, detail),),
    )
