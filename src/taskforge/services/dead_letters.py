"""Dead letters: the failed jobs of a queue, kept for people."""

from __future__ import annotations

from collections.abc import Sequence

from taskforge.domain.jobs import JobFilter, JobState, JobView
from taskforge.domain.tenants import Context
from taskforge.postgres import dead_letters
from taskforge.services import jobs as job_service
from taskforge.services import queues as queue_service
from taskforge.services.core import Core
from taskforge.services.pages import Page

_PER_TRANSACTION = 1_000


async def list_dead_letters(
    core: Core, ctx: Context, queue_name: str, *, limit: int, cursor: str | None = None
) -> Page[JobView]:
    """Newest first. Raises NotFound for an unknown queue."""
    await queue_service.get(core, ctx, queue_name)
    wanted = JobFilter(queue_name=queue_name, state=JobState.FAILED)
    return await job_service.list_jobs(core, ctx, wanted, limit=limit, cursor=cursor)


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
        count = len(redriven)
        total += count
        if count:
            core.wakeups.jobs_ready((queue.queue_id,))
        if count < _PER_TRANSACTION:
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
        count = len(purged)
        total += count
        if count < _PER_TRANSACTION:
            return total


def _possible(job_ids: Sequence[int] | None) -> Sequence[int] | None:
    """Without the numbers that no job can have."""
    return None if job_ids is None else [job_id for job_id in job_ids if 0 < job_id <= job_service.MAX_ID]
