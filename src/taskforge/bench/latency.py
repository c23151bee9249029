"""Submit to handler start, idle system, one job at a time."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from taskforge import TaskForge
from taskforge.app import open_core
from taskforge.bench.cluster import Cluster
from taskforge.bench.figures import Figure, percentile
from taskforge.bench.jobs import QUEUE, forge, stamp
from taskforge.bench.processes import child
from taskforge.clients import DirectClient
from taskforge.domain.tenants import Context
from taskforge.settings import load
from taskforge.worker.worker import Worker

Sample = Callable[[], Awaitable[float]]
_WARM_UP = 30
_PAUSE_SECONDS = 0.005
"""Long enough that the job before has been reported. After longer rests the disk itself answers later."""


@asynccontextmanager
async def _one_process(cluster: Cluster) -> AsyncIterator[Sample]:
    """Submitter and worker share a process and its wake-ups."""
    here = TaskForge(database_url=cluster.dsn)
    started: asyncio.Queue[int] = asyncio.Queue()

    @here.job(queue=QUEUE)
    async def note() -> None:
        started.put_nowait(time.monotonic_ns())

    async with open_core(cluster.dsn) as core:
        with here.use(DirectClient(core, Context(), load(), AsyncExitStack())):
            async with Worker(core, here.handlers(), queues=[QUEUE]):

                async def sample() -> float:
                    sent = time.monotonic_ns()
                    await note.submit()
                    return (await started.get() - sent) / 1e6

                yield sample


@asynccontextmanager
async def _two_processes(cluster: Cluster) -> AsyncIterator[Sample]:
    """The worker hears of the job from the database."""
    async with child("taskforge.bench.worker") as worker:

        async def sample() -> float:
            await stamp.submit(sent_ns=time.monotonic_ns())
            return int(await worker.line()) / 1e6

        yield sample
    await forge.close()


async def latencies(cluster: Cluster, *, samples: int, runs: int) -> list[Figure]:
    figures = []
    for name, place, asked in (
        ("in one process", _one_process, 2.0),
        ("worker in another process", _two_processes, 4.0),
    ):
        p50s, p99s = [], []
        async with place(cluster) as sample:
            for _ in range(_WARM_UP):
                await sample()
            for _ in range(runs):
                taken = []
                for _ in range(samples):
                    taken.append(await sample())
                    await asyncio.sleep(_PAUSE_SECONDS)
                p50s.append(percentile(taken, 0.5))
                p99s.append(percentile(taken, 0.99))
        for label, values, limit in (("p50", p50s, asked), ("p99", p99s, 10.0)):
            value = statistics.median(values)
            title = f"submit to handler start, {name}: {label}"
            note = f"one job every {_PAUSE_SECONDS * 1e3:g} ms"
            figures.append(Figure(title, value, "ms", f"<= {limit:g} ms", value <= limit, values, note=note))
    return figures
