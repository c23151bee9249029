"""What a call costs in pages, which no other load on the machine changes. It must not grow with age or backlog.

The first call of a session also reads the catalogs, so it is made before the one that counts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from taskforge.postgres.sql import queries
from tests.support.engine import AnyConnection, Engine, Worker, buffers

BACKLOG = 50_000
CLAIM = "select * from taskforge.claim($1, $2, $3, $3)"


@asynccontextmanager
async def held_snapshot(engine: Engine) -> AsyncIterator[None]:
    """Somebody reads for a long time: what dies meanwhile cannot be removed."""
    connection: AnyConnection = await asyncpg.connect(engine.core.database.dsn)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.fetchval("select count(*) from taskforge.ready")
            yield
    finally:
        await connection.close()


async def claim_cost(engine: Engine, worker: Worker, want: int = 1) -> int:
    async with engine.core.database.dispatch() as connection:
        return await buffers(connection, CLAIM, worker[0], list(worker[1]), want)


async def bear_and_bury_extents(engine: Engine, count: int) -> None:
    """As many single-job extents came and went."""
    await engine.admin.execute(
        "insert into ready (queue_id, priority, stream, tenant_id, attempt, lo, hi)"
        " select queue_id, 5, 1, tenant_id, 1, i, i"
        f" from queues, generate_series(100000000, 100000000 + {count} - 1) as i where name = 'default'"
    )
    await engine.admin.execute("delete from ready where lo >= 100000000")


async def test_a_claim_under_a_held_snapshot_does_not_walk_the_dead(engine: Engine) -> None:
    worker = await engine.register()
    await engine.submit()
    fresh = await claim_cost(engine, worker)
    async with held_snapshot(engine):
        await bear_and_bury_extents(engine, BACKLOG)
        await engine.submit()
        without = await claim_cost(engine, worker)
        await engine.raise_floors()
        await engine.submit(2)
        raised = await claim_cost(engine, worker)

    assert without > 500, "the scenario shows nothing: the dead rows cost nothing"
    assert raised < fresh + 60, f"{fresh} pages when young, {raised} after {BACKLOG} dead extents"


async def test_floors_rise_under_a_held_snapshot(engine: Engine) -> None:
    await engine.submit()
    async with held_snapshot(engine):
        await bear_and_bury_extents(engine, 5_000)
        await engine.raise_floors()
        assert await engine.admin.fetchval("select max(returned_floor) from lanes") > 4_000


@pytest.fixture
async def laden(engine: Engine) -> Engine:
    """An engine with a large backlog that nobody has analysed: single-job extents, parked and ended jobs."""
    await engine.submit()
    await engine.admin.execute(
        f"""
        insert into jobs (id, tenant_id, queue_id, priority, job_type, payload)
        select i, tenant_id, queue_id, 5, 'noop', convert_to(repeat('x', 80), 'UTF8')
        from queues, generate_series(10001, 10000 + 3 * {BACKLOG}) as i where name = 'default';
        insert into ready (queue_id, priority, stream, tenant_id, attempt, lo, hi)
        select queue_id, 5, 1, tenant_id, 1, i, i
        from queues, generate_series(10001, 10000 + {BACKLOG}) as i where name = 'default';
        insert into parked (id, tenant_id, queue_id, priority, attempt, kind, run_at)
        select i, tenant_id, queue_id, 5, 1, 1, now() + interval '1 h'
        from queues, generate_series(10001 + {BACKLOG}, 10000 + 2 * {BACKLOG}) as i where name = 'default';
        insert into outcomes (id, tenant_id, queue_id, state, attempt, finished_at)
        select i, tenant_id, queue_id, 1, 1, now()
        from queues, generate_series(10001 + 2 * {BACKLOG}, 10000 + 3 * {BACKLOG}) as i where name = 'default';
        """
    )
    return engine


async def test_a_claim_costs_the_same_with_a_large_unanalysed_backlog(laden: Engine) -> None:
    worker = await laden.register()
    costs = [await claim_cost(laden, worker) for _ in range(8)][1:]
    assert max(costs) < 150, f"pages per claim of one job: {costs}"


async def test_a_claim_of_a_thousand_single_extents_costs_a_few_pages_each(laden: Engine) -> None:
    worker = await laden.register()
    assert await claim_cost(laden, worker, 1_000) < 20_000


async def test_cancel_finds_its_job_in_a_large_backlog_by_index(laden: Engine) -> None:
    pending, parked, ended = 10_500, 10_500 + BACKLOG, 10_500 + 2 * BACKLOG
    for warm_up in (20_500, 20_500 + BACKLOG):
        await laden.cancel(warm_up)
    costs = {}
    for job_id, answer in ((pending, "cancelled"), (parked, "cancelled"), (ended, "ended")):
        async with laden.core.database.tenant(laden.ctx.tenant_id) as connection:
            statement = queries("jobs")["cancel"].rstrip(";")
            costs[answer, job_id] = await buffers(connection, statement, laden.ctx.tenant_id, job_id, "a")
        assert (await laden.state(job_id)) == ("succeeded" if answer == "ended" else "cancelled")
    assert max(costs.values()) < 150, costs


async def test_views_probe_an_index_per_place(laden: Engine) -> None:
    ids = [10_001 + i * 1_000 for i in range(BACKLOG * 3 // 1_000)]
    async with laden.core.database.tenant(laden.ctx.tenant_id) as connection:
        cost = await buffers(connection, queries("jobs")["views"], laden.ctx.tenant_id, ids)
    assert cost < 40 * len(ids), f"{cost} pages for {len(ids)} jobs"


async def test_promotion_reads_what_is_due_and_no_more(laden: Engine) -> None:
    await laden.make_due([10_050 + BACKLOG])
    assert await laden.promote() == 1
    await laden.make_due(range(10_100 + BACKLOG, 10_110 + BACKLOG))
    async with laden.core.database.dispatch() as connection:
        cost = await buffers(connection, "select * from taskforge.promote(1000)")
    assert cost < 300, f"{cost} pages for 10 due jobs among {BACKLOG} parked ones"


async def test_a_promotion_does_not_read_more_due_jobs_than_it_takes(laden: Engine) -> None:
    await laden.admin.execute("update parked set run_at = clock_timestamp()")
    assert await laden.promote() == 1_000
    costs = []
    for due in (BACKLOG - 1_000, 2_000):
        await laden.admin.execute(
            "update parked set run_at = now() + interval '1 h'"
            " where id > (select id from parked where run_at <= now() order by id offset $1 limit 1)",
            due - 1,
        )
        async with laden.core.database.dispatch() as connection:
            costs.append(await buffers(connection, "select * from taskforge.promote(1000)"))
    assert costs[0] < costs[1] * 1.25, f"pages for 1,000 of {BACKLOG} and of 2,000 due jobs: {costs}"


async def test_health_does_not_count_the_backlog(laden: Engine) -> None:
    queue_id = await laden.admin.fetchval("select queue_id from queues where name = 'default'")
    async with laden.core.database.tenant(laden.ctx.tenant_id) as connection:
        cost = await buffers(connection, queries("queues")["health"], laden.ctx.tenant_id, [queue_id])
    assert cost < 200, f"{cost} pages"


async def test_pages_of_listings_cost_the_same_wherever_they_start(laden: Engine) -> None:
    costs = []
    for below in (10_001 + BACKLOG, 10_001 + BACKLOG // 2):
        async with laden.core.database.tenant(laden.ctx.tenant_id) as connection:
            statement = queries("jobs")["spans_ready"]
            costs.append(await buffers(connection, statement, laden.ctx.tenant_id, below, None, 50))
    assert max(costs) < 200, costs
