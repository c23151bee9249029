"""Many jobs due at one second become ready in order, at a bounded rate, while everything else goes on."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import pytest

from taskforge.postgres import maintenance, workers
from taskforge.runtime.maintenance import Maintenance
from tests.support.engine import Engine, buffers

TTL = timedelta(seconds=10)


async def park(engine: Engine, count: int) -> list[int]:
    """That many jobs, due at the same instant, which is now."""
    ids: list[int] = []
    for _ in range(count // 10_000 or 1):
        ids += await engine.submit(min(count, 10_000), delay_seconds=3_600)
    await engine.admin.execute("update parked set run_at = now()")
    return ids


@pytest.mark.timeout(120)
async def test_fifty_thousand_due_at_once_are_promoted_in_bounded_passes_while_heartbeats_and_reaping_go_on(
    engine: Engine,
) -> None:
    ids = await park(engine, 50_000)
    living, lost = await engine.register(), await engine.register()
    await engine.expire(lost)
    engine.core.worker_ttl = timedelta(0)  # no grace for the time before the server was started
    loop = Maintenance(engine.core)
    beats: list[float] = []

    async def beat() -> None:
        while True:
            started = time.perf_counter()
            assert (await workers.heartbeat(engine.core.database, living[0], ttl=TTL)).alive
            beats.append(time.perf_counter() - started)
            await asyncio.sleep(0.02)

    beating = asyncio.create_task(beat())
    passes = []
    while sum(passes) < len(ids):
        done = await loop.run_once()
        passes.append(done.promoted)
        assert done.promoted <= 20_000
        if len(passes) == 1:
            state = await engine.admin.fetchval("select state from workers where worker_id = $1", lost[0])
            assert state == 3, "the lost worker was reaped between two passes"
    assert not beating.done()
    beating.cancel()
    await loop.stop()

    assert len(passes) >= 3 and sum(passes) == len(ids)
    assert len(beats) > len(passes) and max(beats) < TTL.total_seconds() / 4
    # Neighbours share an extent, so that claiming them costs little.
    extents = await engine.admin.fetch("select lo, hi from ready order by seq")
    assert len(extents) <= len(ids) / 1_000 * 2
    assert [i for extent in extents for i in range(extent["lo"], extent["hi"] + 1)] == ids


async def test_what_was_due_first_is_promoted_first(engine: Engine) -> None:
    ids = await engine.submit(3_000, delay_seconds=3_600)
    await engine.admin.execute("update parked set run_at = now() - make_interval(secs => id)")
    for part in (ids[2_000:], ids[1_000:2_000], ids[:1_000]):
        before = set(await _ready(engine))
        assert await engine.promote() == 1_000
        assert set(await _ready(engine)) - before == set(part)


async def test_under_a_held_snapshot_each_call_reads_only_what_it_promotes(
    engine: Engine, other: Engine
) -> None:
    await park(engine, 20_000)
    async with other.admin.transaction(isolation="repeatable_read", readonly=True):
        await other.admin.fetchval("select count(*) from parked")
        promoted = await maintenance.promote(engine.core.database, limit=1_000)
        costs = []
        for _ in range(10):
            assert promoted.upto is not None
            costs.append(await buffers(engine.admin, "select * from promote(1, $1, $2)", *promoted.upto))
            promoted = await maintenance.promote(engine.core.database, limit=1_000, after=promoted.upto)
            assert promoted.count == 1_000
        assert costs[-1] <= costs[0] + 20


async def test_a_job_parked_behind_the_front_is_not_forgotten(engine: Engine) -> None:
    """It was locked, or its transaction had not committed, when the others were promoted."""
    ids = await park(engine, 30_000)
    loop = Maintenance(engine.core)
    async with engine.holding("select from parked where id = $1 for update", ids[0]):
        assert (await loop.run_once()).promoted == 20_000
        assert await engine.places(ids[:1]) == {ids[0]: ["parked"]}
    total = 20_000
    while total < len(ids):
        total += (await loop.run_once()).promoted
    await loop.stop()
    assert await engine.places(ids[:1]) == {ids[0]: ["ready"]}
    assert await engine.admin.fetchval("select count(*) from parked") == 0


async def test_two_at_once_promote_every_job_once(engine: Engine, other: Engine) -> None:
    ids = await park(engine, 10_000)
    counts = await asyncio.gather(*(one.promote() for one in (engine, other) * 6))
    while sum(counts) < len(ids):
        counts.append(await engine.promote())
    assert sum(counts) == len(ids)
    await engine.assert_one_place(ids)


async def _ready(engine: Engine) -> list[int]:
    rows = await engine.admin.fetch("select lo, hi from ready")
    return [i for row in rows for i in range(row["lo"], row["hi"] + 1)]
