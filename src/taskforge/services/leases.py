"""The worker protocol: register, claim, finish, heartbeat, leave. Every write names the lease's fence."""

from __future__ import annotations

from collections.abc import Sequence

from taskforge.domain import queues as queue_rules
from taskforge.domain.leases import (
    Beat,
    FinishResult,
    Lease,
    LeaseReport,
    Progress,
    RegisterWorker,
    Registration,
)
from taskforge.domain.tenants import Context
from taskforge.postgres import claim as claims
from taskforge.postgres import finish as finishes
from taskforge.postgres import progress, workers
from taskforge.services.core import Core


async def register(core: Core, ctx: Context, worker: RegisterWorker) -> Registration:
    """A new registration for the worker's queues, which exist afterwards; one that is shared serves those of these
    names that tenants have. It lives as long as its heartbeat."""
    for name in worker.queues:
        queue_rules.check_name(name, "/queues")
    if worker.is_shared:
        queue_ids = await workers.shared_queues(core.database, worker.queues)
    else:
        ids = await core.directory.ensure(ctx.tenant_id, worker.queues)
        queue_ids = tuple(ids[name] for name in worker.queues)
    worker_id = await workers.register(
        core.database, ctx.tenant_id, worker, queue_ids=queue_ids, ttl=core.worker_ttl
    )
    return Registration(worker_id, core.worker_ttl.total_seconds(), queue_ids)


async def serve(core: Core, worker_id: int, names: Sequence[str]) -> tuple[int, ...]:
    """The queues of these names in every tenant, as they are now; the shared worker's registration says so, too."""
    return await workers.serve_shared(core.database, worker_id, names)


async def claim(
    core: Core, worker_id: int, queue_ids: Sequence[int], *, want: int, startable: int | None = None
) -> list[Lease]:
    """Lease up to `want` jobs, highest priority first, then oldest. Committed before it returns.

    Of queues and keys with a limit no more than `startable` are taken, which is what the worker could start at once, so
    that nobody sits on slots that another could use; `want` if not given.

    One round trip; grows with what is taken, not with the backlog; never waits for another claim.
    Raises WorkerLost when the registration is gone. Nothing to do is [].
    """
    return await claims.claim(
        core.database, worker_id, queue_ids, want=want, startable=want if startable is None else startable
    )


async def fetch_payloads(core: Core, worker_id: int, fence: int, ids: Sequence[int]) -> dict[int, bytes]:
    """Payloads too large for the claim, of the jobs this worker still holds."""
    return await claims.large_payloads(core.database, worker_id, fence, ids)


async def finish(core: Core, worker_id: int, reports: Sequence[LeaseReport]) -> FinishResult:
    """Write what became of jobs, one report per lease. The same report sent twice succeeds twice.

    Jobs that were no longer this worker's are listed as stale and changed nothing.
    """
    stale, freed = await finishes.finish(core.database, worker_id, reports)
    core.endings.heard(reports)
    if freed:
        core.wakeups.jobs_ready(freed)
    return FinishResult(stale)


async def report_progress(core: Core, worker_id: int, said: Sequence[Progress]) -> set[int]:
    """Store how far these jobs are, at most one word per job. Returns the jobs that were no longer this worker's."""
    return await progress.report_progress(core.database, worker_id, said)


async def heartbeat(core: Core, worker_id: int) -> Beat:
    """Renew the registration, and hear what to cancel, whether to drain and whether to run maintenance."""
    return await workers.heartbeat(core.database, worker_id, ttl=core.worker_ttl)


async def disown(core: Core, worker_id: int, *, above: int, known: Sequence[int]) -> int:
    """After a claim whose answer was lost: give back the leases above fence `above` that are not `known`, uncharged.

    Returns how many jobs came back.
    """
    returned = await workers.disown(core.database, worker_id, above=above, known=known)
    if returned:
        core.wakeups.everything()
    return returned


async def deregister(core: Core, worker_id: int) -> int:
    """Leave in order; jobs still held are given back uncharged. Returns their number."""
    return await workers.deregister(core.database, worker_id)


async def bury(core: Core, worker_id: int, running: Sequence[int]) -> int:
    """The worker process is dead and these jobs were running in it: hand back all it held, charging only them."""
    return await workers.bury(core.database, worker_id, running)
