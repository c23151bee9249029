"""Direct throughput: produce and work at once, and work off a backlog."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from taskforge.app import open_core
from taskforge.bench.ceiling import copy_rate
from taskforge.bench.cluster import Cluster
from taskforge.bench.figures import Cost, Figure, against_ceiling
from taskforge.bench.jobs import QUEUE
from taskforge.bench.processes import Child, child, cpu_seconds, family
from taskforge.bench.producer import BATCH
from taskforge.domain.tenants import Context
from taskforge.postgres.queues import holds_jobs
from taskforge.services import queues
from taskforge.services.core import Core

_LOOK_SECONDS = 0.01


async def finished(core: Core) -> None:
    """Return when the queue holds nothing that has not ended. Asks as little as possible while others are measured."""
    ctx = Context()
    queue = await queues.get(core, ctx, QUEUE)
    while True:
        async with core.database.tenant(ctx.tenant_id) as connection:
            if not await holds_jobs(connection, ctx.tenant_id, queue.queue_id):
                return
        await asyncio.sleep(_LOOK_SECONDS)


class _Costs:
    """CPU, WAL and commits between two moments, for the job."""

    def __init__(self, cluster: Cluster, processes: dict[str, Child]) -> None:
        self._cluster = cluster
        self._pids = {name: family(process.pid) for name, process in processes.items()}

    async def read(self) -> tuple[dict[str, float], int, int]:
        cpu = {name: cpu_seconds(pids) for name, pids in self._pids.items()}
        cpu["postgresql"] = self._cluster.meter.cpu_seconds()
        return cpu, await self._cluster.meter.wal_bytes(), await self._cluster.meter.commits()

    @staticmethod
    def per_job(
        before: tuple[dict[str, float], int, int], after: tuple[dict[str, float], int, int], count: int
    ) -> Cost:
        cpu = {name: round((after[0][name] - before[0][name]) * 1e6 / count, 2) for name in before[0]}
        return Cost(cpu, round((after[1] - before[1]) / count, 1), round((after[2] - before[2]) / count, 5))


@asynccontextmanager
async def _core(cluster: Cluster) -> AsyncIterator[Core]:
    async with open_core(cluster.dsn) as core:
        await core.directory.ensure(Context().tenant_id, [QUEUE])
        yield core


async def produce_and_work(cluster: Cluster, *, count: int, runs: int) -> Figure:
    rates, ceilings, cost = [], [], None
    for _ in range(runs):
        ceilings.append(await copy_rate(cluster, count))
        async with (
            _core(cluster) as core,
            child("taskforge.bench.worker") as worker,
            child("taskforge.bench.producer", str(count)) as producer,
        ):
            await finished(core)  # the producer's first batch
            costs = _Costs(cluster, {"producer": producer, "worker": worker})
            before = await costs.read()
            started = time.perf_counter()
            producer.say("go")
            await producer.line()
            after_producing = await costs.read()
            await finished(core)
            rates.append(count / (time.perf_counter() - started))
            after = await costs.read()
            after[0]["producer"] = after_producing[0]["producer"]  # it has ended by now
            cost = costs.per_job(before, after, count)
    return against_ceiling("submit 1,000 a batch and work off at once", rates, ceilings, least=0.5, cost=cost)


async def work_off(cluster: Cluster, *, count: int, runs: int) -> Figure:
    rates, ceilings, cost = [], [], None
    ctx = Context()
    for _ in range(runs):
        ceilings.append(await copy_rate(cluster, count))
        async with _core(cluster) as core:
            await queues.pause(core, ctx, QUEUE)
            async with child("taskforge.bench.producer", str(count - BATCH)) as producer:
                producer.say("go")
                await producer.line()
            async with child("taskforge.bench.worker") as worker:
                costs = _Costs(cluster, {"worker": worker})
                before = await costs.read()
                started = time.perf_counter()
                await queues.resume(core, ctx, QUEUE)
                await finished(core)
                rates.append(count / (time.perf_counter() - started))
                cost = costs.per_job(before, await costs.read(), count)
    name = f"work off a backlog of {count:,} with one process"
    return against_ceiling(name, rates, ceilings, least=0.5, cost=cost)
