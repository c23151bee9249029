"""Dead letters: the failed jobs of a queue, kept for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import structs

from taskforge.domain.bulk import check_filter
from taskforge.domain.dead_letters import DeadLetterGroups
from taskforge.domain.jobs import JobFilter, JobState, JobView
from taskforge.domain.tenants import Context
from taskforge.postgres import dead_letters
from taskforge.services import jobs as job_service
from taskforge.services import queues as queue_service
from taskforge.services.core import Core
from taskforge.services.pages import Page

LOOK_AT: Final = 100_000
_PER_TRANSACTION = 1_000


async def list_dead_letters(
    core: Core,
    ctx: Context,
    queue_name: str,
    *,
    limit: int,
    cursor: str | None = None,
    wanted: JobFilter | None = None,
) -> Page[JobView]:
    """Newest first. `wanted` narrows the list; a page of rare matches may be short, even empty, and have a next one.

    Raises NotFound for an unknown queue, Invalid for a filter that cannot be.
    """
    wanted = structs.replace(wanted or JobFilter(), queue_name=queue_name, state=JobState.FAILED)
    await queue_service.get(core, ctx, queue_name)
    check_filter(wanted)
    return await job_service.list_jobs(core, ctx, wanted, limit=limit, cursor=cursor)


async def groups(core: Core, ctx: Context, queue_name: str, *, limit: int) -> DeadLetterGroups:
    """The newest 100,000 dead letters by what went wrong, the largest groups first. Raises NotFound."""
    queue = await queue_service.get(core, ctx, queue_name)
    async with core.database.tenant(ctx.tenant_id) as connection:
        return await dead_letters.groups(
            connection, ctx.tenant_id, queue.queue_id, look_at=LOOK_AT, limit=limit
        )


async def redrive(core: Core, ctx: Context, queue_name: str, job_ids: Sequence[int] | None = None) -> int:
    """Give these dead letters, or all, new attempts; returns their number. Each comes back once, however many ask."""
    queue = await queue_service.get(core, ctx, queue_name)
    job_ids = _possible(job_ids)
    total = 0
    while True:
        async with core.database.tenant(ctx.tenant_id) as connection:
            redriven = await dead_letters.redrive(
                connection, ctx.tenant_id, queue.queue_id, job_ids, ctx.actor, limit=_PER_TRANSACTION
            )
        total += len(redriven)
        if redriven:
            core.wakeups.jobs_ready((queue.queue_id,))
        if len(redriven) < _PER_TRANSACTION:
            return total


async def purge(core: Core, ctx: Context, queue_name: str, job_ids: Sequence[int] | None = None) -> int:
    """Delete these dead letters, or all, for good; returns their number."""
    queue = await queue_service.get(core, ctx, queue_name)
    job_ids = _possible(job_ids)
    total = 0
    while True:
        async with core.database.tenant(ctx.tenant_id) as connection:
            purged = await dead_letters.purge(
                connection, ctx.tenant_id, queue.queue_id, job_ids, ctx.actor, limit=_PER_TRANSACTION
            )
        total += len(purged)
        if len(purged) < _PER_TRANSACTION:
            return total


def _possible(job_ids: Sequence[int] | None) -> Sequence[int] | None:
    """Without the numbers that no job can have."""
    return None if job_ids is None else [job_id for job_id in job_ids if 0 < job_id <= job_service.MAX_ID]
