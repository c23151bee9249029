"""How the queues are doing, right at any size and cheap enough to be asked all the time."""

from __future__ import annotations

from collections.abc import Sequence

from taskforge.domain.health import HealthSummary, QueueHealth, judge, summarise
from taskforge.domain.queues import Queue
from taskforge.domain.tenants import Context
from taskforge.errors import NotFound
from taskforge.postgres import queues
from taskforge.postgres.pool import Connection
from taskforge.services import queues as queue_service
from taskforge.services.core import Core


async def of_queue(core: Core, ctx: Context, name: str) -> QueueHealth:
    """Exact counts, the last minute's rates and waits, and a score. Raises NotFound."""
    async with core.database.tenant(ctx.tenant_id) as connection:
        queue = await queues.get_queue(connection, ctx.tenant_id, name)
        if queue is None:
            raise NotFound("queue.not_found", f'queue "{name}" does not exist')
        [health] = await judged(connection, ctx, [queue])
        return health


async def of_all(core: Core, ctx: Context, *, limit: int, cursor: str | None = None) -> HealthSummary:
    """A page of queues by name, all of the page in one snapshot and one query."""
    page = await queue_service.list_queues(core, ctx, limit=limit, cursor=cursor)
    async with core.database.tenant(ctx.tenant_id) as connection:
        return summarise(await judged(connection, ctx, page.data), page.next_cursor)


async def judged(connection: Connection, ctx: Context, found: Sequence[Queue]) -> list[QueueHealth]:
    figures = await queues.figures(connection, ctx.tenant_id, [queue.queue_id for queue in found])
    return [judge(queue, figures[queue.queue_id]) for queue in found]
