"""Jobs that name a batch: may they join it?"""

from __future__ import annotations

from collections.abc import Iterable

from taskforge.domain.jobs import JobDraft
from taskforge.domain.tenants import Context
from taskforge.errors import TaskForgeError
from taskforge.postgres import groups
from taskforge.services.core import Core


async def refusals(core: Core, ctx: Context, drafts: Iterable[JobDraft]) -> dict[int, TaskForgeError]:
    """Why jobs may not join the batches they name, by batch. A batch sealed later is noticed when they are stored.

    Costs nothing unless one of them names a batch.
    """
    named = {batch_id for draft in drafts if (batch_id := groups.batch_of(draft)) is not None}
    if not named:
        return {}
    async with core.database.tenant(ctx.tenant_id) as connection:
        standing = await groups.standing(connection, ctx.tenant_id, list(named))
    found = {}
    for batch_id in named:
        if batch_id not in standing:
            found[batch_id] = groups.refusal(batch_id, "not_found")
        elif standing[batch_id]:
            found[batch_id] = groups.refusal(batch_id, "sealed")
    return found


def batch_of(draft: JobDraft) -> int | None:
    return groups.batch_of(draft)
