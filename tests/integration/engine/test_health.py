"""Health is exact, does not depend on what has been rolled up, and costs the same at ten million jobs as at none."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec import structs

from taskforge.domain.health import QueueHealth
from taskforge.postgres import maintenance
from taskforge.postgres.sql import queries
from taskforge.runtime.maintenance import Maintenance
from taskforge.services import health
from tests.support.engine import NEVER, Engine, buffers, failed, report, retrying, succeeded
from tests.support.waiting import until

HEALTH = queries("queues")["health"]


async def ask(engine: Engine) -> QueueHealth:
    return await health.of_queue(engine.core, engine.ctx, "default")


async def roll_up(engine: Engine, age: timedelta = NEVER) -> int:
    """0 while any transaction of before still runs on the server, another test's included."""
    first = await maintenance.look(engine.core.database)
    return await maintenance.roll_up(engine.core.database, first, age=age)


async def busy(engine: Engine) -> None:
    """Six submitted; two succeeded, one failed, one will be retried, one runs, one waits."""
    await engine.submit(6)
    worker = await engine.register()
    [lease] = await engine.claim(worker, 5)
    await engine.finish(worker, report(lease, succeeded, lease.ids[:2]))
    await engine.finish(worker, report(lease, failed, lease.ids[2:3]))
    await engine.finish(worker, report(lease, retrying, lease.ids[3:4]))


async def test_what_happened_is_counted_whether_rolled_up_or_not(engine: Engine) -> None:
    await busy(engine)
    before = await ask(engine)
    assert (before.pending, before.processing, before.retrying, before.dead_letters) == (1, 1, 1, 1)
    assert before.submitted_per_second == 0.1
    assert (before.started_per_second, before.finished_per_second) == (round(5 / 60, 3), 0.05)
    assert (before.failure_rate, before.retry_share, before.workers) == (0.5, 0.0, 1)

    await until(lambda: roll_up(engine), timeout=60)

    assert await engine.admin.fetchval("select count(*) from flow") == 0
    after = await ask(engine)
    still = {"oldest_wait_seconds": None}
    assert structs.replace(after, **still) == structs.replace(before, **still)


async def test_a_second_folded_in_two_steps_holds_both(engine: Engine) -> None:
    await engine.admin.execute("update lanes set fresh_floor = 0")
    for _ in range(2):
        await busy(engine)
        await engine.admin.execute("update flow set at = '2100-01-01'")
        await until(lambda: roll_up(engine, timedelta(days=-100_000)), timeout=60)
    row = await engine.admin.fetchrow("select *, cardinality(waits) as parts from queue_seconds")
    assert (row["submitted"], row["started"], row["succeeded"], row["failed"], row["retried"]) == (
        12,
        10,
        4,
        2,
        2,
    )
    assert sum(row["waits"][1::2]) == 10


async def test_a_retry_that_is_started_is_in_the_retry_share(engine: Engine) -> None:
    await engine.submit(4)
    worker = await engine.register()
    [lease] = await engine.claim(worker, 4)
    await engine.finish(worker, report(lease, retrying))
    await engine.make_due(lease.ids)
    await engine.promote()
    await engine.claim(worker, 4)
    assert (await ask(engine)).retry_share == 0.5


async def test_waits_are_those_of_the_jobs_that_were_started(engine: Engine) -> None:
    await engine.submit(60)
    await engine.admin.execute("update ready set ready_at = now() - interval '10 s'")
    await engine.submit(39)
    await engine.admin.execute(
        "update ready set ready_at = now() - interval '100 s' where ready_at > now() - interval '5 s'"
    )
    worker = await engine.register()
    await engine.claim(worker, 99)
    for _ in range(2):
        found = await ask(engine)
        assert found.wait_p50_seconds == pytest.approx(10, rel=0.11)
        assert found.wait_p95_seconds == pytest.approx(100, rel=0.11)
        await roll_up(engine)


async def test_nothing_is_rolled_up_while_somebody_who_may_have_drawn_an_older_id_is_at_work(
    engine: Engine,
) -> None:
    await busy(engine)
    async with engine.holding(
        "insert into flow (tenant_id, queue_id, submitted) select tenant_id, queue_id, 1 from queues"
    ):
        assert await roll_up(engine) == 0
        assert (await ask(engine)).pending == 1
    await until(lambda: roll_up(engine), timeout=60)


async def test_ids_that_were_drawn_in_vain_leave_nothing_to_do(engine: Engine) -> None:
    await busy(engine)
    await engine.admin.execute("select nextval('flow_seq') from generate_series(1, 5)")

    async def is_done() -> bool:
        await roll_up(engine)
        survey = await maintenance.survey(engine.core.database)
        return survey.next_flow == survey.flow_floor

    await until(is_done, timeout=60)


async def test_the_maintenance_loop_folds_within_seconds_and_not_before_the_floors_have_learnt(
    engine: Engine,
) -> None:
    loop = Maintenance(engine.core)
    await engine.submit(5)
    await loop.run_once()
    assert await engine.admin.fetchval("select count(*) from flow") == 1

    async def folded() -> bool:
        await loop.run_once()
        return bool(await engine.admin.fetchval("select count(*) = 0 from flow"))

    await until(folded, timeout=60)
    assert (await ask(engine)).pending == 5


async def test_seconds_are_forgotten_after_a_quarter_of_an_hour(engine: Engine) -> None:
    await engine.admin.execute(
        "insert into queue_seconds (queue_id, second, tenant_id)"
        " select queue_id, extract(epoch from now())::bigint - ago, tenant_id from queues,"
        " unnest(array[10, 880, 920, 5000]) as ago"
    )
    assert await maintenance.forget_seconds(engine.core.database) == 2
    assert await maintenance.forget_seconds(engine.core.database) == 0
    assert await engine.admin.fetchval("select count(*) from queue_seconds") == 2


async def test_the_overview_shows_every_queue_page_by_page(engine: Engine) -> None:
    await engine.stranger("theirs")
    await engine.core.directory.ensure(engine.ctx.tenant_id, ["a", "b"])
    await engine.submit(queue_name="b")
    first = await health.of_all(engine.core, engine.ctx, limit=2)
    assert [queue.queue_name for queue in first.queues] == ["a", "b"]
    assert first.score == first.queues[1].score == 40 and first.queues[1].reasons[0].code == "no_workers"
    second = await health.of_all(engine.core, engine.ctx, limit=2, cursor=first.next_cursor)
    assert [queue.queue_name for queue in second.queues] == ["default"] and second.next_cursor is None


TEN_MILLION = """
with here as (select queue_id, tenant_id from queues where name = 'default'),
extents as (
  insert into ready (queue_id, priority, stream, tenant_id, attempt, lo, hi)
  select queue_id, 5, 1, tenant_id, 1, i * 1000, i * 1000 + 999 from here, generate_series(1000, 10999) as i),
totals as (
  insert into queue_totals (tenant_id, queue_id, ready, submitted)
  select tenant_id, queue_id, 10000000, 10000000 from here),
seconds as (
  insert into queue_seconds (queue_id, second, tenant_id, submitted, started, succeeded, waits)
  select queue_id, extract(epoch from now())::bigint - ago, tenant_id, 600, 600, 590, array[40, 300, 41, 200, 42, 100]
  from here, generate_series(1, 899) as ago),
recent as (
  insert into flow (tenant_id, queue_id, priority, ready, leased, waits, at)
  select tenant_id, queue_id, 5, 0, 0, array[40, 1], now() - interval '1 ms' * i
  from here, generate_series(1, 1800) as i)
select 1
"""


async def test_health_at_ten_million_jobs_reads_a_few_pages(engine: Engine) -> None:
    """With a quarter of an hour under full load behind it, and three seconds of it not rolled up yet."""
    await engine.admin.execute(TEN_MILLION)
    assert (await ask(engine)).pending == 10_000_000
    queue_id = await engine.admin.fetchval("select queue_id from queues where name = 'default'")
    async with engine.core.database.tenant(engine.ctx.tenant_id) as connection:
        await buffers(connection, HEALTH, engine.ctx.tenant_id, [queue_id])
        pages = await buffers(connection, HEALTH, engine.ctx.tenant_id, [queue_id])
    assert pages < 250, f"{pages} pages"
