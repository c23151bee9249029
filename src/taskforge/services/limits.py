"""Keys of a queue, and what a tenant may run: look at them, set them apart."""

from __future__ import annotations

from taskforge.domain import limits as rules
from taskforge.domain import queues as queue_rules
from taskforge.domain.limits import KeyPolicy, KeyView, TenantChange, TenantView
from taskforge.domain.queues import Queue
from taskforge.domain.tenants import Context
from taskforge.domain.terms import KEY
from taskforge.errors import Invalid, NotFound
from taskforge.postgres import limits, queues
from taskforge.postgres.pool import Connection
from taskforge.services.core import Core
from taskforge.services.pages import Page


async def list_keys(
    core: Core, ctx: Context, queue_name: str, *, limit: int, cursor: str | None = None
) -> Page[KeyView]:
    """By key: those that jobs have used and those that were set apart. Raises NotFound for the queue."""
    if cursor is not None and not KEY.fullmatch(cursor):
        raise Invalid("cursor.invalid", "the cursor is not one of ours; start again without it")
    async with core.database.tenant(ctx.tenant_id) as connection:
        queue = await _queue(connection, ctx, queue_name)
        found = await limits.list_keys(
            connection, ctx.tenant_id, queue.queue_id, after=cursor or "", limit=limit + 1
        )
    more = len(found) > limit
    return Page(found[:limit], found[limit - 1].key if more else None)


async def get_key(core: Core, ctx: Context, queue_name: str, key: str) -> KeyView:
    """Raises NotFound for a key that no job has used and nobody has set apart."""
    async with core.database.tenant(ctx.tenant_id) as connection:
        queue = await _queue(connection, ctx, queue_name)
        found = await limits.get_key(connection, ctx.tenant_id, queue.queue_id, key=key)
    if found is None:
        raise NotFound("key.not_found", f'the queue "{queue_name}" has no such key')
    return found


async def set_key(core: Core, ctx: Context, queue_name: str, key: str, policy: KeyPolicy) -> KeyView:
    """In force at the next claim. What runs already goes on, even above the limit."""
    rules.check_key(key)
    rules.check_policy(policy)
    async with core.database.tenant(ctx.tenant_id) as connection:
        queue = await _queue(connection, ctx, queue_name)
        view = await limits.set_key(connection, ctx.tenant_id, queue.queue_id, key=key, policy=policy)
    core.wakeups.jobs_ready((queue.queue_id,))
    return view


async def get_tenant(core: Core, ctx: Context) -> TenantView:
    async with core.database.tenant(ctx.tenant_id) as connection:
        return await _tenant(connection, ctx)


async def change_tenant(core: Core, ctx: Context, change: TenantChange) -> TenantView:
    """In force at the next claim of any queue of the tenant. What runs already goes on, even above the limit."""
    rules.check_tenant(change)
    assert change.max_concurrency is None or isinstance(change.max_concurrency, int)
    async with core.database.tenant(ctx.tenant_id) as connection:
        await _tenant(connection, ctx)
        await limits.limit_tenant(connection, ctx.tenant_id, change.max_concurrency)
        view = await _tenant(connection, ctx)
    core.wakeups.everything()
    return view


async def weigh_tenant(core: Core, ctx: Context, weight: float) -> TenantView:
    """The tenant's share of workers that serve several. For operators, who are on the database."""
    rules.check_weight(weight)
    await get_tenant(core, ctx)
    await limits.weigh_tenant(core.database, ctx.tenant_id, weight)
    return await get_tenant(core, ctx)


async def _queue(connection: Connection, ctx: Context, name: str) -> Queue:
    queue = None
    if queue_rules.NAME.fullmatch(name):
        queue = await queues.get_queue(connection, ctx.tenant_id, name)
    if queue is None:
        raise NotFound("queue.not_found", f'queue "{name}" does not exist')
    return queue


async def _tenant(connection: Connection, ctx: Context) -> TenantView:
    found = await limits.get_tenant(connection, ctx.tenant_id)
    if found is None:
        raise NotFound("tenant.not_found", "the token names a tenant that does not exist here")
    return found
