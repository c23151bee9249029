"""What it costs that something hangs on the end of jobs: nothing, a batch, a webhook of each, one of the queue."""

from __future__ import annotations

import time
from statistics import median

from msgspec import structs

from taskforge.app import open_core
from taskforge.bench.cluster import Cluster
from taskforge.bench.figures import Figure
from taskforge.domain.batches import BatchDraft
from taskforge.domain.jobs import JobDraft, JobGroup
from taskforge.domain.leases import LeaseReport, RegisterWorker, Succeeded
from taskforge.domain.queues import QueueChange
from taskforge.domain.tenants import Context
from taskforge.domain.terms import JobTerms, Webhook
from taskforge.services import batches, jobs, leases, queues
from taskforge.services.core import Core

_PIECE = 1_000
_QUEUE = "hanging"
_HOOK = Webhook("https://example.com/")
_PLAIN = JobDraft(_QUEUE, "noop", b"{}")
_CTX = Context()


async def hanging(cluster: Cluster, *, count: int, runs: int) -> list[Figure]:
    """Submit, claim and finish `count` jobs a thousand at a time, one after another, in this process."""
    found: dict[str, list[float]] = {}
    async with open_core(cluster.dsn) as core:
        await core.directory.ensure(_CTX.tenant_id, [_QUEUE])
        for _ in range(runs):
            for name in ("nothing", "a batch", "a webhook of each", "a webhook of the queue"):
                found.setdefault(name, []).append(await _rate(core, name, count))
    return [
        Figure(
            f"submit, claim and finish in turn; on the end hangs {name}",
            median(rates),
            "jobs/s",
            "",
            None,
            rates,
        )
        for name, rates in found.items()
    ]


async def _rate(core: Core, name: str, count: int) -> float:
    draft = _PLAIN
    batch_id: int | None = None
    if name == "a batch":
        batch_id = int((await batches.create(core, _CTX, BatchDraft())).id)
        draft = structs.replace(draft, terms=JobTerms(batch_id=str(batch_id)))
    elif name == "a webhook of each":
        draft = structs.replace(draft, terms=JobTerms(webhook=_HOOK))
    elif name == "a webhook of the queue":
        await queues.update(core, _CTX, _QUEUE, QueueChange(webhook=_HOOK))
    started = time.perf_counter()
    await _work(core, draft, count)
    if batch_id is not None:
        await batches.seal(core, _CTX, batch_id)
        assert (await batches.get(core, _CTX, batch_id)).succeeded == count
    rate = count / (time.perf_counter() - started)
    await queues.update(core, _CTX, _QUEUE, QueueChange(webhook=None))
    return rate


async def _work(core: Core, draft: JobDraft, count: int) -> None:
    worker = await leases.register(core, _CTX, RegisterWorker("bench", (_QUEUE,)))
    done = 0
    while done < count:
        await jobs.submit_groups(core, _CTX, [JobGroup(draft, [b"{}"] * _PIECE)])
        held = await leases.claim(core, worker.worker_id, worker.queue_ids, want=_PIECE)
        reports = [LeaseReport(lease, [Succeeded(i, 1, 2, None) for i in lease.ids]) for lease in held]
        await leases.finish(core, worker.worker_id, reports)
        done += sum(len(lease.ids) for lease in held)
    await leases.deregister(core, worker.worker_id)
