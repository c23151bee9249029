"""Speed must not fall with age: under a held snapshot, and with millions waiting. Each beside itself before."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
from rich.progress import track

from taskforge.app import open_core
from taskforge.bench.cluster import Cluster
from taskforge.bench.figures import Figure
from taskforge.bench.jobs import CALL, noop
from taskforge.domain.jobs import JobDraft, JobGroup
from taskforge.domain.leases import LeaseReport, RegisterWorker, Succeeded
from taskforge.domain.tenants import DEFAULT_TENANT, Context
from taskforge.postgres.ids import JobIds
from taskforge.postgres.submit import Lane, Place, Run, publish
from taskforge.runtime.maintenance import Maintenance
from taskforge.services import jobs, leases
from taskforge.services.core import Core

_PAYLOAD = noop.binding.write((), CALL)
_BATCH = 1_000
_PART = 20_000


class _Hands:
    """Claims and finishes without handlers, so that only the queue is measured."""

    def __init__(self, core: Core, queue: str, worker_id: int, queue_ids: tuple[int, ...]) -> None:
        self._core = core
        self._queue = queue
        self._worker_id = worker_id
        self._queue_ids = queue_ids

    async def submit(self, count: int) -> float:
        """In batches of 1,000; jobs a second."""
        group = JobGroup(JobDraft(self._queue, "noop", b""), [_PAYLOAD] * _BATCH)
        started = time.perf_counter()
        for _ in range(count // _BATCH):
            await jobs.submit_groups(self._core, Context(), [group])
        return count / (time.perf_counter() - started)

    async def submit_extents(self, count: int) -> None:
        """As lone submits leave them: every job an extent of its own."""
        lane = Lane(DEFAULT_TENANT, self._queue_ids[0], 5, Place.READY)
        part: list[tuple[JobDraft, Sequence[bytes]]] = [(JobDraft(self._queue, "noop", b""), [_PAYLOAD])]
        ids = JobIds(self._core.database)
        for _ in range(count // _BATCH):
            runs = [Run(lane, job_id, part, 1) for block in await ids.take(_BATCH) for job_id in block]
            async with self._core.database.ingest() as connection:
                await publish(connection, runs)

    async def work_off(self, count: int) -> float:
        """Claim 1,000, finish them, until `count` are done; jobs a second."""
        done, started = 0, time.perf_counter()
        while done < count:
            taken = await leases.claim(self._core, self._worker_id, self._queue_ids, want=_BATCH)
            if not taken:
                raise RuntimeError(f"only {done} of {count} jobs were there")
            reports = [
                LeaseReport(lease, [Succeeded(job_id, 0, 0) for job_id in lease.ids]) for lease in taken
            ]
            await leases.finish(self._core, self._worker_id, reports)
            done += sum(len(lease.ids) for lease in taken)
        return done / (time.perf_counter() - started)


@asynccontextmanager
async def _hands(cluster: Cluster, queue: str) -> AsyncIterator[_Hands]:
    """On a queue of its own, with the maintenance loop of a server beside it."""
    async with open_core(cluster.dsn) as core:
        worker = RegisterWorker(name=f"bench-{queue}", queues=(queue,))
        registration = await leases.register(core, Context(), worker)
        maintenance = Maintenance(core)
        maintenance.set_active(True)
        maintenance.start()
        beating = asyncio.create_task(_beat(core, registration.worker_id))
        try:
            yield _Hands(core, queue, registration.worker_id, registration.queue_ids)
        finally:
            beating.cancel()
            await maintenance.stop()


async def _beat(core: Core, worker_id: int) -> None:
    while True:
        await leases.heartbeat(core, worker_id)
        await asyncio.sleep(core.worker_ttl.total_seconds() / 4)


async def held_snapshot(cluster: Cluster, *, extents: int, runs: int) -> Figure:
    async with _hands(cluster, "snapshot") as hands:
        before, after = [], []
        await hands.submit_extents(_PART)
        await hands.work_off(_PART)
        for _ in range(runs):
            await hands.submit_extents(_PART)
            before.append(await hands.work_off(_PART))
        holder = await asyncpg.connect(cluster.admin_dsn)
        try:
            await holder.execute("begin isolation level repeatable read")
            await holder.fetchval("select count(*) from taskforge.lanes")
            for _ in track(
                range(extents // _PART), description="extents under a held snapshot", transient=True
            ):
                await hands.submit_extents(_PART)
                await hands.work_off(_PART)
            for _ in range(runs):
                await hands.submit_extents(_PART)
                after.append(await hands.work_off(_PART))
        finally:
            await holder.close()
    return _beside_itself(
        f"claim and finish under a held snapshot, {extents:,} single-job extents on", before, after
    )


async def deep_backlog(cluster: Cluster, *, waiting: int, runs: int) -> list[Figure]:
    async with _hands(cluster, "deep") as hands:
        submits: tuple[list[float], list[float]] = ([], [])
        claims: tuple[list[float], list[float]] = ([], [])
        await hands.submit(_PART)
        await hands.work_off(_PART)
        for phase in (0, 1):
            # What filling has left to the background is done first, or it would be measured, too.
            await cluster.meter.connection.execute("vacuum")
            await cluster.meter.connection.execute("checkpoint")
            for _ in range(runs):
                submits[phase].append(await hands.submit(5 * _PART))
                claims[phase].append(await hands.work_off(5 * _PART))
            if phase == 0:
                for _ in track(range(waiting // 100_000), description="filling the backlog", transient=True):
                    await hands.submit(100_000)
    return [
        _beside_itself(f"submit with {waiting:,} jobs waiting", *submits),
        _beside_itself(f"claim and finish with {waiting:,} jobs waiting", *claims),
    ]


def _beside_itself(name: str, before: list[float], after: list[float]) -> Figure:
    was, is_now = statistics.median(before), statistics.median(after)
    return Figure(
        name,
        is_now / was,
        "of its speed before",
        ">= 0.9",
        is_now / was >= 0.9,
        [round(rate) for rate in after],
        note=f"{was:,.0f} jobs/s before, {is_now:,.0f} after",
    )
