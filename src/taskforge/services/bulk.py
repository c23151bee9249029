"""One verb for all jobs that a filter finds: how many that would be, starting it, following and stopping it."""

from __future__ import annotations

import time
from datetime import datetime

from msgspec import Struct, structs

from taskforge.domain import bulk as rules
from taskforge.domain.bulk import BulkFilter, BulkOperation, BulkPreview, BulkRequest
from taskforge.domain.jobs import JobState
from taskforge.domain.tenants import Context
from taskforge.errors import Conflict, FieldError, Invalid, NotFound
from taskforge.postgres import bulk, jobs
from taskforge.postgres.bulk import How
from taskforge.postgres.pool import Connection
from taskforge.services.core import Core
from taskforge.services.jobs import MAX_ID
from taskforge.services.pages import Page

_LOOK = 2_000
_PREVIEW_MATCHES = 50_000
_PREVIEW_SECONDS = 2.0
_SAMPLE = 20


class Selection(Struct, frozen=True):
    """What an operation is for: no job above `upto`, and none that was submitted, or failed, after `until`."""

    filter: BulkFilter
    states: tuple[JobState, ...]
    queue_id: int | None
    upto: int
    until: datetime


class Look(Struct, frozen=True):
    """A stretch of ids: those that match, and how far it reached. `is_end`: there are no more."""

    matches: list[int]
    reached: int
    is_end: bool


async def preview(core: Core, ctx: Context, request: BulkRequest) -> BulkPreview:
    """How many jobs there are to do it to: exact up to 50,000 or 2 seconds of looking, beyond that at least so many."""
    rules.check_request(request, now=core.clock.now())
    queue_id = await _queue_id(core, ctx, request.filter.queue_name)
    async with core.database.tenant(ctx.tenant_id) as connection:
        return await _count(connection, ctx, await _select(connection, ctx, request, queue_id))


async def start(core: Core, ctx: Context, request: BulkRequest) -> BulkOperation:
    """An operation that the process which does the maintenance works off, piece by piece; it survives all of them.

    Raises Invalid, naming what is wrong with the filter or the arguments.
    """
    rules.check_request(request, now=core.clock.now())
    if request.arguments.queue_name is not None:
        await core.directory.find(ctx.tenant_id, [request.arguments.queue_name])
    queue_id = await _queue_id(core, ctx, request.filter.queue_name)
    async with core.database.tenant(ctx.tenant_id) as connection:
        selection = await _select(connection, ctx, request, queue_id)
        found = await _count(connection, ctx, selection)
        operation = await bulk.create(
            connection,
            ctx.tenant_id,
            request.verb,
            request.filter,
            How(request.arguments, request.rate_per_second, request.canary),
            actor=ctx.actor,
            created_at=selection.until,
            upto=selection.upto,
            total=found.count,
            is_total_exact=found.is_exact,
        )
    core.wakeups.jobs_parked()
    return operation


async def get(core: Core, ctx: Context, operation_id: int) -> BulkOperation:
    """Raises NotFound; another tenant's operation does not exist."""
    async with core.database.tenant(ctx.tenant_id) as connection:
        found = (
            await bulk.get(connection, ctx.tenant_id, operation_id) if 0 < operation_id <= MAX_ID else None
        )
    if found is None:
        raise NotFound("bulk.not_found", f'bulk operation "{operation_id}" does not exist')
    return found


async def list_operations(
    core: Core, ctx: Context, *, limit: int, cursor: str | None = None
) -> Page[BulkOperation]:
    """Newest first."""
    below = MAX_ID
    if cursor is not None:
        if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 19 or int(cursor) > MAX_ID:
            raise Invalid("cursor.invalid", "the cursor is not one of ours; start again without it")
        below = int(cursor)
    async with core.database.tenant(ctx.tenant_id) as connection:
        found = await bulk.list_operations(connection, ctx.tenant_id, below=below, limit=limit + 1)
    more = len(found) > limit
    return Page(found[:limit], found[limit - 1].id if more else None)


async def stop(core: Core, ctx: Context, operation_id: int) -> BulkOperation:
    """When this returns, no further job is touched; what was done stays done. Raises NotFound, or Conflict when it has
    ended already."""
    async with core.database.tenant(ctx.tenant_id) as connection:
        stopped = (
            await bulk.stop(connection, ctx.tenant_id, operation_id, reason="asked", actor=ctx.actor)
            if 0 < operation_id <= MAX_ID
            else None
        )
    if stopped is not None:
        return stopped
    operation = await get(core, ctx, operation_id)
    raise Conflict("bulk.already_ended", f"bulk operation {operation_id} is {operation.state} already")


async def look(connection: Connection, ctx: Context, selection: Selection, *, after: int, limit: int) -> Look:
    """The next stretch of ids after `after`, at most `limit` of them."""
    wanted = selection.filter
    if wanted.job_ids is not None:
        named = sorted({int(job_id) for job_id in wanted.job_ids if after < int(job_id) <= selection.upto})
        stretch = named[:limit]
        views = await jobs.views(connection, ctx.tenant_id, stretch)
        found = [int(view.id) for view in views if view.state in selection.states]
        is_end = len(named) <= limit
    else:
        stretch = found = await bulk.candidates(
            connection,
            ctx.tenant_id,
            states=selection.states,
            queue_id=selection.queue_id,
            after=after,
            upto=selection.upto,
            failed_until=selection.until,
            limit=limit,
        )
        is_end = len(stretch) < limit
    if found:
        # Only the outcomes are a state that the filter must check once more; the places say the others.
        state = wanted.state
        if state is None and selection.states == (JobState.FAILED,):
            state = JobState.FAILED
        narrowed = structs.replace(wanted, state=state)
        found = await jobs.match(
            connection,
            ctx.tenant_id,
            narrowed,
            queue_id=selection.queue_id,
            ids=found,
            submitted_until=selection.until,
        )
    return Look(found, stretch[-1] if stretch else selection.upto, is_end)


async def resume(core: Core, ctx: Context, held: bulk.Held) -> Selection:
    """What an operation that was started earlier is for. Raises Invalid when its queue is gone."""
    operation = held.operation
    request = BulkRequest(operation.verb, operation.filter)
    return Selection(
        operation.filter,
        rules.states_of(request),
        await _queue_id(core, ctx, operation.filter.queue_name),
        held.upto,
        operation.created_at,
    )


async def _select(
    connection: Connection, ctx: Context, request: BulkRequest, queue_id: int | None
) -> Selection:
    return Selection(
        request.filter,
        rules.states_of(request),
        queue_id,
        await bulk.last_id(connection, ctx.tenant_id),
        await bulk.now(connection),
    )


async def _queue_id(core: Core, ctx: Context, name: str | None) -> int | None:
    if name is None:
        return None
    known = await core.directory.known(ctx.tenant_id, [name])
    if name not in known:
        detail = f'no queue "{name}"'
        raise Invalid(
            "queue.not_found",
            f'queue "{name}" does not exist',
            fields=(FieldError("/filter/queue_name", "queue.not_found", detail),),
        )
    return known[name]


async def _count(connection: Connection, ctx: Context, selection: Selection) -> BulkPreview:
    count, after, is_end = 0, 0, False
    sample: list[int] = []
    deadline = time.monotonic() + _PREVIEW_SECONDS
    while not is_end and count < _PREVIEW_MATCHES and time.monotonic() < deadline:
        found = await look(connection, ctx, selection, after=after, limit=_LOOK)
        count += len(found.matches)
        sample += found.matches[: _SAMPLE - len(sample)]
        after, is_end = found.reached, found.is_end
    return BulkPreview(count, is_end, tuple(str(job_id) for job_id in sample))
