"""Changes of one job by hand: when it runs, how urgent it is, where it waits, what it carries."""

from __future__ import annotations

from typing import TypeVar

from msgspec import UNSET, UnsetType

from taskforge.domain import control as rules
from taskforge.domain.control import ChangeView, JobChange
from taskforge.domain.jobs import JobView
from taskforge.domain.merge_patch import merge_patch
from taskforge.domain.tenants import Context
from taskforge.errors import Conflict, FieldError, Invalid, NotFound, TaskForgeError, Unavailable
from taskforge.postgres import jobs
from taskforge.postgres.jobs import Changed
from taskforge.postgres.pool import Connection
from taskforge.services import jobs as job_service
from taskforge.services.core import Core

T = TypeVar("T")

_PATCH_TRIES = 5


async def change(core: Core, ctx: Context, job_id: int, wanted: JobChange) -> JobView:
    """The job as it is afterwards. All of it changes at once, or nothing; the change is recorded.

    Raises NotFound, Invalid, or Conflict: a running job cannot be changed, nor can one that succeeded.
    """
    rules.check_change(wanted, now=core.clock.now(), max_payload_bytes=core.max_payload_bytes)
    if not 0 < job_id <= job_service.MAX_ID:
        raise refusal("not_found", job_id)
    queue_id = None
    if wanted.queue_name is not UNSET:
        queue_id = (await core.directory.find(ctx.tenant_id, [wanted.queue_name]))[wanted.queue_name]
    changed = Changed("payload_changed", None, False)
    for _ in range(_PATCH_TRIES):
        try:
            async with core.database.tenant(ctx.tenant_id) as connection:
                changed = await _try(core, ctx, connection, job_id, wanted, queue_id)
        except Conflict as error:
            if error.code == "queue.gone" and wanted.queue_name is not UNSET:
                core.directory.forget(ctx.tenant_id, [wanted.queue_name])
            raise
        if changed.verdict != "payload_changed":
            break
    if changed.verdict != "changed":
        raise refusal(changed.verdict, job_id)
    if changed.ready_in is not None:
        core.wakeups.jobs_ready((changed.ready_in,))
    if changed.is_parked:
        core.wakeups.jobs_parked()
    return await job_service.get(core, ctx, job_id)


async def _try(
    core: Core, ctx: Context, connection: Connection, job_id: int, wanted: JobChange, queue_id: int | None
) -> Changed:
    replacement, expected = _given(wanted.payload), None
    payload = None if replacement is None else bytes(replacement)
    if wanted.payload_patch is not UNSET:
        expected = await jobs.payload_of(connection, ctx.tenant_id, job_id)
        if expected is None:
            return Changed("not_found", None, False)
        payload = merge_patch(expected, bytes(wanted.payload_patch))
        if len(payload) > core.max_payload_bytes:
            detail = f"the patched payload has {len(payload)} bytes, the limit is {core.max_payload_bytes}"
            raise Invalid(
                "job.invalid_change", detail, fields=(FieldError("/payload_patch", "too_large", detail),)
            )
    return await jobs.change(
        connection,
        ctx.tenant_id,
        job_id,
        ctx.actor,
        queue_id=queue_id,
        priority=_given(wanted.priority),
        run_at=_given(wanted.run_at),
        delay=_given(wanted.delay_seconds),
        payload=payload,
        expected=expected,
    )


async def changes(core: Core, ctx: Context, job_id: int) -> list[ChangeView]:
    """Who changed what of the job, oldest first; of a purged one, who purged it. Raises NotFound."""
    if not 0 < job_id <= job_service.MAX_ID:
        raise refusal("not_found", job_id)
    async with core.database.tenant(ctx.tenant_id) as connection:
        found = await jobs.changes(connection, ctx.tenant_id, job_id)
        if not found and await jobs.payload_of(connection, ctx.tenant_id, job_id) is None:
            raise refusal("not_found", job_id)
    return found


def refusal(verdict: str, job_id: int) -> TaskForgeError:
    """Why a job could not be changed."""
    match verdict:
        case "not_found":
            return NotFound("job.not_found", f'job "{job_id}" does not exist')
        case "running":
            return Conflict(
                "job.running",
                f"job {job_id} is running and cannot be changed; cancel it, or change it when it waits again",
            )
        case "succeeded":
            return Conflict("job.already_succeeded", f"job {job_id} has succeeded and cannot be changed")
        case "ended":
            return Conflict("job.already_ended", f"job {job_id} has ended; retry it to run it again")
        case "blocked":
            return Conflict(
                "job.blocked", f"job {job_id} waits for other jobs, not for a time; it starts when they end"
            )
        case _:
            return Unavailable("job.busy", f"job {job_id} is changing hands; try again", retry_after=1)


def _given(value: T | UnsetType) -> T | None:
    return None if isinstance(value, UnsetType) else value
