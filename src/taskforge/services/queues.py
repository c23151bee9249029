"""Queues: make, change, pause, look after, remove."""

from __future__ import annotations

import asyncio

from taskforge.domain import queues as rules
from taskforge.domain.queues import Pause, Queue, QueueChange, QueueDraft, QueueVersion, Revert
from taskforge.domain.tenants import Context
from taskforge.errors import Conflict, Invalid, NotFound, Outdated, Unavailable
from taskforge.postgres import queues
from taskforge.services.core import Core
from taskforge.services.pages import Page

NO_REASON = Pause()
_DELETE_PATIENCE_SECONDS = 5.0
_LOOK_SECONDS = 0.02


async def create(core: Core, ctx: Context, draft: QueueDraft) -> Queue:
    """Raises Invalid, or Conflict `queue.exists`."""
    rules.check_draft(draft)
    async with core.database.tenant(ctx.tenant_id) as connection:
        return await queues.create_queue(connection, ctx.tenant_id, draft, actor=ctx.actor)


async def get(core: Core, ctx: Context, name: str) -> Queue:
    """Raises NotFound; another tenant's queue does not exist."""
    async with core.database.tenant(ctx.tenant_id) as connection:
        return _found(await queues.get_queue(connection, ctx.tenant_id, name), name)


async def list_queues(core: Core, ctx: Context, *, limit: int, cursor: str | None = None) -> Page[Queue]:
    """By name."""
    if cursor is not None and not rules.NAME.fullmatch(cursor):
        raise Invalid("cursor.invalid", "the cursor is not one of ours; start again without it")
    async with core.database.tenant(ctx.tenant_id) as connection:
        found = await queues.list_queues(connection, ctx.tenant_id, after=cursor or "", limit=limit + 1)
    more = len(found) > limit
    return Page(found[:limit], found[limit - 1].name if more else None)


async def update(core: Core, ctx: Context, name: str, change: QueueChange, *, verb: str = "") -> Queue:
    """Applies to every job of the queue that has not said otherwise itself, those waiting included.

    Claims read it from the moment this returns. Raises Outdated when the queue is no longer at `change.if_version`.
    """
    rules.check_change(change)
    async with core.database.tenant(ctx.tenant_id) as connection:
        queue = await queues.update_queue(connection, ctx.tenant_id, name, change, actor=ctx.actor, verb=verb)
        if queue is None:
            now = _found(await queues.get_queue(connection, ctx.tenant_id, name), name)
            raise Outdated(
                "queue.version_changed",
                f'queue "{name}" is at version {now.version}, not {change.if_version}; look at it and try again',
            )
    core.wakeups.jobs_ready((queue.queue_id,))  # a limit may have been raised
    return queue


async def pause(core: Core, ctx: Context, name: str, pause: Pause = NO_REASON) -> Queue:
    """Afterwards no claim takes from the queue; submits are still accepted, running jobs go on."""
    rules.check_comment(pause.reason, "/reason")
    async with core.database.tenant(ctx.tenant_id) as connection:
        return _found(
            await queues.set_paused(
                connection, ctx.tenant_id, name, True, actor=ctx.actor, reason=pause.reason
            ),
            name,
        )


async def resume(core: Core, ctx: Context, name: str) -> Queue:
    async with core.database.tenant(ctx.tenant_id) as connection:
        queue = _found(await queues.set_paused(connection, ctx.tenant_id, name, False, actor=ctx.actor), name)
    core.wakeups.jobs_ready((queue.queue_id,))
    return queue


async def list_versions(
    core: Core, ctx: Context, name: str, *, limit: int, cursor: str | None = None
) -> Page[QueueVersion]:
    """Every change of the queue, newest first; the last thousand are kept."""
    before = _version_number(cursor)
    async with core.database.tenant(ctx.tenant_id) as connection:
        queue = _found(await queues.get_queue(connection, ctx.tenant_id, name), name)
        found = await queues.list_versions(
            connection, ctx.tenant_id, queue.queue_id, before=before, limit=limit + 1
        )
    more = len(found) > limit
    return Page(found[:limit], str(found[limit - 1].version) if more else None)


async def get_version(core: Core, ctx: Context, name: str, version: int) -> QueueVersion:
    """Raises NotFound, also for a version so old that it is no longer kept."""
    async with core.database.tenant(ctx.tenant_id) as connection:
        queue = _found(await queues.get_queue(connection, ctx.tenant_id, name), name)
        if 0 < version <= queue.version:
            found = await queues.list_versions(
                connection, ctx.tenant_id, queue.queue_id, before=version + 1, limit=1
            )
            if found and found[0].version == version:
                return found[0]
    raise NotFound("queue.version_not_found", f'queue "{name}" has no version {version}')


async def revert(core: Core, ctx: Context, name: str, version: int, wanted: Revert) -> Queue:
    """The queue with every setting as it was after that version; whether it is paused stays. This is a new version."""
    rules.check_comment(wanted.comment)
    change = rules.revert_to(await get_version(core, ctx, name, version), wanted)
    return await update(core, ctx, name, change, verb="reverted")


def _version_number(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    if not (cursor.isascii() and cursor.isdigit() and 0 < len(cursor) < 10):
        raise Invalid("cursor.invalid", "the cursor is not one of ours; start again without it")
    return int(cursor)


async def delete(core: Core, ctx: Context, name: str) -> None:
    """Remove a queue that holds no job which has not ended. Raises NotFound, or Conflict `queue.not_empty`.

    First it is closed to submits; then everyone who may still be submitting to it is waited for; only then is it
    looked at for the last time. So no job can slip into a queue that is gone.
    """
    async with core.database.tenant(ctx.tenant_id) as connection:
        queue = _found(await queues.get_queue(connection, ctx.tenant_id, name), name)
        if await queues.holds_jobs(connection, ctx.tenant_id, queue.queue_id):
            raise _not_empty(name)
    async with core.database.tenant(ctx.tenant_id) as connection:
        is_mine = await queues.set_deleted(connection, ctx.tenant_id, queue.queue_id, actor=ctx.actor)
    if not is_mine:
        raise NotFound("queue.not_found", f'queue "{name}" does not exist')
    core.directory.forget(ctx.tenant_id, [name])
    try:
        async with asyncio.timeout(_DELETE_PATIENCE_SECONDS):
            await _until_older_work_is_done(core, ctx)
        async with core.database.tenant(ctx.tenant_id) as connection:
            is_empty = not await queues.holds_jobs(connection, ctx.tenant_id, queue.queue_id)
    except BaseException as error:
        await _undelete(core, ctx, queue.queue_id)
        if isinstance(error, TimeoutError):
            raise Unavailable(
                "queue.busy",
                f'queue "{name}" could not be closed while a long transaction runs; try again',
                retry_after=5,
            ) from error
        raise
    if not is_empty:
        await _undelete(core, ctx, queue.queue_id)
        raise _not_empty(name)


async def _until_older_work_is_done(core: Core, ctx: Context) -> None:
    # Not the xid that marked the queue: a submit that drew a younger one may have looked before the mark was committed.
    async with core.database.tenant(ctx.tenant_id) as connection:
        xid = await queues.draw_xid(connection)
    while True:
        async with core.database.tenant(ctx.tenant_id) as connection:
            if await queues.is_older_work_done(connection, xid):
                return
        await asyncio.sleep(_LOOK_SECONDS)


async def _undelete(core: Core, ctx: Context, queue_id: int) -> None:
    async with core.database.tenant(ctx.tenant_id) as connection:
        await queues.undelete(connection, ctx.tenant_id, queue_id, actor=ctx.actor)


def _found(queue: Queue | None, name: str) -> Queue:
    if queue is None:
        raise NotFound("queue.not_found", f'queue "{name}" does not exist')
    return queue


def _not_empty(name: str) -> Conflict:
    return Conflict("queue.not_empty", f'queue "{name}" still holds jobs; cancel or finish them first')
