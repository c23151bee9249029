"""What limits cost: a queue with none, with slots, with a rate, with keys; and what fairness gives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from statistics import median
from uuid import UUID, uuid4

from msgspec import Struct, structs

from taskforge import TaskForge
from taskforge.app import open_core
from taskforge.bench.cluster import Cluster
from taskforge.bench.figures import Figure, percentile
from taskforge.domain.jobs import JobDraft, JobGroup
from taskforge.domain.queues import QueueDraft, RateLimit
from taskforge.domain.tenants import Context
from taskforge.domain.terms import JobTerms
from taskforge.services import jobs, queues
from taskforge.services.core import Core
from taskforge.worker.worker import Worker

_CTX = Context()
_PIECE = 1_000
_KEYS = 100
_PLAIN = JobDraft("", "noop", b"{}")
_AMPLE = RateLimit(1_000_000_000, 1)


class _Kind(Struct, frozen=True):
    title: str
    settings: Callable[[str], QueueDraft]
    is_keyed: bool = False


KINDS = (
    _Kind("no limit", lambda name: QueueDraft(name=name)),
    _Kind("1,000 slots", lambda name: QueueDraft(name=name, max_concurrency=1_000)),
    _Kind("100 slots", lambda name: QueueDraft(name=name, max_concurrency=100)),
    _Kind("10 slots", lambda name: QueueDraft(name=name, max_concurrency=10)),
    _Kind("a rate that is never reached", lambda name: QueueDraft(name=name, rate_limits=(_AMPLE,))),
    _Kind(f"{_KEYS} keys by turns", lambda name: QueueDraft(name=name), is_keyed=True),
    _Kind(
        f"{_KEYS} keys of 10 slots",
        lambda name: QueueDraft(name=name, key_max_concurrency=10),
        is_keyed=True,
    ),
)


async def limited(cluster: Cluster, *, count: int, seconds: float, runs: int) -> list[Figure]:
    """A backlog of `count` jobs worked off for so long, or until it is done, by a worker in this process."""
    found: dict[str, list[float]] = {}
    async with open_core(cluster.dsn) as core:
        for run in range(runs):
            for index, kind in enumerate(KINDS):
                rate = await _work_off(core, kind, name=f"q{run}-{index}", count=count, seconds=seconds)
                found.setdefault(kind.title, []).append(rate)
    return [
        Figure(f"work off a queue with {title}", median(rates), "jobs/s", "", None, rates)
        for title, rates in found.items()
    ]


async def _work_off(core: Core, kind: _Kind, *, name: str, count: int, seconds: float) -> float:
    forge = TaskForge()
    ended = 0
    done = asyncio.Event()

    @forge.job(queue=name)
    async def noop() -> None:
        nonlocal ended
        ended += 1
        if ended >= count:
            done.set()

    await queues.create(core, _CTX, kind.settings(name))
    keys = [f"k{n}" for n in range(_KEYS)] if kind.is_keyed else [None]
    each = count // len(keys)
    for key in keys:
        draft = structs.replace(_PLAIN, queue_name=name)
        if key is not None:
            draft = structs.replace(draft, terms=JobTerms(concurrency_key=key))
        await _submit(core, _CTX, draft, each)
    async with Worker(core, forge.handlers(), queues=[name], concurrency=1_000):
        started = time.perf_counter()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await done.wait()
        return ended / (time.perf_counter() - started)


async def _submit(core: Core, ctx: Context, draft: JobDraft, count: int) -> None:
    left = count
    while left > 0:
        piece = min(left, _PIECE)
        await jobs.submit_groups(core, ctx, [JobGroup(draft, [draft.payload] * piece)], ensure_queues=True)
        left -= piece


async def fairness(cluster: Cluster, *, flood: int, samples: int, runs: int) -> list[Figure]:
    """One tenant's jobs, one at a time, on a shared worker: alone, and while another tenant's flood is worked off."""
    figures: dict[str, list[float]] = {}
    async with open_core(cluster.dsn) as core:
        for _ in range(runs):
            for name, size in (("alone", 0), ("beside a flood", flood)):
                taken = await _starts(cluster, core, flood=size, samples=samples)
                figures.setdefault(f"{name}: p50", []).append(percentile(taken, 0.5))
                figures.setdefault(f"{name}: p99", []).append(percentile(taken, 0.99))
    bound = 2 * median(figures["alone: p99"])
    return [
        Figure(
            f"submit to start of a small tenant's job, {name}",
            median(values),
            "ms",
            f"<= {bound:.1f} ms" if name == "beside a flood: p99" else "",
            median(values) <= bound if name == "beside a flood: p99" else None,
            values,
            note=f"the other tenant has {flood:,} jobs of 5 ms waiting" if "flood" in name else "",
        )
        for name, values in figures.items()
    ]


async def _starts(cluster: Cluster, core: Core, *, flood: int, samples: int) -> list[float]:
    forge = TaskForge()
    started: asyncio.Queue[int] = asyncio.Queue()

    @forge.job
    async def stamp() -> None:
        started.put_nowait(time.monotonic_ns())

    @forge.job
    async def busy() -> None:
        await asyncio.sleep(0.005)

    big, small = [Context(await _tenant(cluster)) for _ in range(2)]
    for ctx in (big, small):
        await core.directory.ensure(ctx.tenant_id, ["default"])
    await _submit(core, big, JobDraft("default", "busy", b"{}"), flood)
    taken = []
    async with Worker(core, forge.handlers(), queues=["default"], concurrency=50, is_shared=True):
        for number in range(samples + 10):
            sent = time.monotonic_ns()
            await jobs.submit(core, small, [JobDraft("default", "stamp", b"{}")])
            async with asyncio.timeout(30):
                latency = (await started.get() - sent) / 1e6
            if number >= 10:
                taken.append(latency)
            await asyncio.sleep(0.02)
        await cluster.meter.connection.execute(
            "delete from taskforge.ready where tenant_id = $1", big.tenant_id
        )
    return taken


async def _tenant(cluster: Cluster) -> UUID:
    tenant_id = uuid4()
    await cluster.meter.connection.execute(
        "insert into taskforge.tenants (tenant_id, name) values ($1, $2)", tenant_id, str(tenant_id)
    )
    return tenant_id
