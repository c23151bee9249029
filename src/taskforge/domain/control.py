"""What people change of a job after its submission, and the record that is kept of it."""

from __future__ import annotations

from datetime import datetime, timedelta

from msgspec import UNSET, Raw, Struct, UnsetType

from taskforge.domain.jobs import EARLIEST
from taskforge.domain.queues import NAME
from taskforge.domain.retry import MAX_DELAY_SECONDS
from taskforge.errors import FieldError, Invalid


class JobChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to change; what is unset stays. `payload` takes the place of the whole payload, `payload_patch` is a JSON
    merge patch of it. A time that is now or past means at once."""

    run_at: datetime | UnsetType = UNSET
    delay_seconds: float | UnsetType = UNSET
    priority: int | UnsetType = UNSET
    queue_name: str | UnsetType = UNSET
    payload: Raw | UnsetType = UNSET
    payload_patch: Raw | UnsetType = UNSET


class ChangeView(Struct, frozen=True):
    """Who changed what of a job, and when. `operation_id` names the bulk operation that it was part of."""

    changed_at: datetime
    actor: str
    verb: str
    before: dict[str, Raw]
    after: dict[str, Raw]
    operation_id: str | None = None


def check_change(change: JobChange, *, now: datetime, max_payload_bytes: int) -> None:
    """Raise Invalid with one entry per wrong field."""
    wrong: list[FieldError] = []

    def refuse(name: str, code: str, detail: str) -> None:
        wrong.append(FieldError(f"/{name}", code, detail))

    if all(getattr(change, name) is UNSET for name in JobChange.__struct_fields__):
        refuse("", "empty", f"name at least one of {', '.join(JobChange.__struct_fields__)}")
    if change.run_at is not UNSET and change.delay_seconds is not UNSET:
        refuse("delay_seconds", "exclusive", "give either run_at or delay_seconds, not both")
    if change.delay_seconds is not UNSET and not 0 <= change.delay_seconds <= MAX_DELAY_SECONDS:
        refuse("delay_seconds", "out_of_range", f"must be between 0 and {MAX_DELAY_SECONDS:.0f}")
    if change.run_at is not UNSET:
        if change.run_at.tzinfo is None:
            refuse("run_at", "no_time_zone", "must carry a time zone, for example 2030-01-31T09:00:00Z")
        elif not EARLIEST <= change.run_at <= now + timedelta(seconds=MAX_DELAY_SECONDS):
            refuse("run_at", "out_of_range", "must be after 1970 and at most 10 years ahead")
    if change.priority is not UNSET and not 0 <= change.priority <= 9:
        refuse("priority", "out_of_range", "must be between 0 (lowest) and 9 (first)")
    if change.queue_name is not UNSET and not NAME.fullmatch(change.queue_name):
        refuse("queue_name", "pattern", f"must match {NAME.pattern}")
    if change.payload is not UNSET and change.payload_patch is not UNSET:
        refuse("payload_patch", "exclusive", "give either payload or payload_patch, not both")
    if change.payload is not UNSET and len(bytes(change.payload)) > max_payload_bytes:
        refuse("payload", "too_large", f"the limit is {max_payload_bytes} bytes")
    if wrong:
        raise Invalid(
            "job.invalid_change",
            f"the job cannot be changed like this: {wrong[0].detail}",
            fields=tuple(wrong),
        )
