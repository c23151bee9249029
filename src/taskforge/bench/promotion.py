"""Jobs that are all due at one second: how fast they are made ready, and how late a heartbeat is meanwhile."""

from __future__ import annotations

import asyncio
import statistics
import time
from datetime import UTC, datetime, timedelta

from taskforge.app import open_core
from taskforge.bench.ceiling import copy_rate
from taskforge.bench.cluster import Cluster
from taskforge.bench.figures import Figure, against_ceiling
from taskforge.bench.jobs import CALL, noop
from taskforge.domain.jobs import JobDraft
from taskforge.domain.leases import RegisterWorker
from taskforge.domain.tenants import DEFAULT_TENANT, Context
from taskforge.postgres import workers
from taskforge.postgres.ids import JobIds
from taskforge.postgres.submit import Lane, Place, Run, publish
from taskforge.runtime.maintenance import Maintenance
from taskforge.services import leases
from taskforge.services.core import Core

_PAYLOAD = noop.binding.write((), CALL)
_BATCH = 10_000
_BEAT_SECONDS = 0.1
_SLOWEST_PARKED_PER_SECOND = 20_000


async def promotion(cluster: Cluster, *, count: int, runs: int) -> list[Figure]:
    rates: list[float] = []
    ceilings: list[float] = []
    beats: list[float] = []
    async with open_core(cluster.dsn) as core:
        for number in range(runs):
            ceilings.append(await copy_rate(cluster, count))
            rate, slowest = await _once(core, f"due-{number}", count)
            rates.append(rate)
            beats.append(slowest)
    slowest = statistics.median(beats)
    return [
        against_ceiling(
            "promotion of jobs due at one second", rates, ceilings, least=0.2, note=f"{count:,} jobs"
        ),
        Figure(
            "slowest heartbeat during promotion",
            slowest,
            "ms",
            "< 500 ms",
            slowest < 500,
            [round(beat, 1) for beat in beats],
        ),
    ]


async def _once(core: Core, queue: str, count: int) -> tuple[float, float]:
    """Jobs a second, and how long the slowest heartbeat took, in milliseconds."""
    worker = RegisterWorker(name=queue, queues=(queue,))
    registered = await leases.register(core, Context(), worker)
    due = datetime.now(UTC) + timedelta(seconds=5 + count / _SLOWEST_PARKED_PER_SECOND)
    await _park(core, registered.queue_ids[0], count, due)
    await asyncio.sleep(max(0.0, (due - datetime.now(UTC)).total_seconds()) + 0.1)
    maintenance = Maintenance(core)
    beats: list[float] = []
    beating = asyncio.create_task(_beat(core, registered.worker_id, beats))
    try:
        started = time.perf_counter()
        promoted = 0
        while promoted < count:
            promoted += (await maintenance.run_once()).promoted
        rate = count / (time.perf_counter() - started)
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        await maintenance.stop()
    return rate, max(beats)


async def _park(core: Core, queue_id: int, count: int, due: datetime) -> None:
    lane = Lane(DEFAULT_TENANT, queue_id, 5, Place.SCHEDULED)
    draft = JobDraft("", "noop", b"", run_at=due)
    ids = JobIds(core.database)
    for _ in range(count // _BATCH):
        runs = [
            Run(lane, block.start, [(draft, [_PAYLOAD] * len(block))], len(block))
            for block in await ids.take(_BATCH)
        ]
        async with core.database.ingest() as connection:
            await publish(connection, runs)


async def _beat(core: Core, worker_id: int, beats: list[float]) -> None:
    while True:
        started = time.perf_counter()
        await workers.heartbeat(core.database, worker_id, ttl=core.worker_ttl)
        beats.append((time.perf_counter() - started) * 1_000)
        await asyncio.sleep(_BEAT_SECONDS)
