"""Partitions come before they are needed and go when everything in them is old; what still lives moves house."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import asyncpg

from taskforge.domain.jobs import JobFilter, JobState
from taskforge.domain.leases import Progress
from taskforge.errors import Unavailable
from taskforge.postgres import maintenance
from taskforge.services import dead_letters, jobs, leases
from tests.support.engine import Engine, failed, report, succeeded

SPAN = 4_000_000
KEEP = timedelta(days=7)


async def _seal_first_partition(engine: Engine) -> None:
    """As if four million ids had been used, eight days ago."""
    await engine.admin.execute("select setval('taskforge.job_ids', $1)", 2 * SPAN)
    await maintenance.ensure_partitions(engine.core.database, ahead=1)
    await engine.admin.execute(
        "update taskforge.partitions set sealed_at = now() - interval '8 days' where number = 0"
    )


async def _tables(engine: Engine) -> set[Any]:
    rows = await engine.admin.fetch("select relname from pg_class where relname ~ '^jobs_[0-9]+$'")
    return {row["relname"] for row in rows}


async def test_partitions_are_made_ahead_of_the_ids_in_use(engine: Engine) -> None:
    await engine.admin.execute("select setval('taskforge.job_ids', $1)", 5 * SPAN)
    await maintenance.ensure_partitions(engine.core.database, ahead=2)
    assert {"jobs_4", "jobs_5", "jobs_6"} <= await _tables(engine)
    assert await maintenance.ensure_partitions(engine.core.database, ahead=2) == 0


async def test_a_batch_across_two_partitions_is_whole(engine: Engine) -> None:
    await engine.admin.execute("select setval('taskforge.job_ids', $1)", SPAN - 1_000)
    ids = await engine.submit(2_500)
    assert min(ids) <= SPAN < max(ids)
    page = await jobs.list_jobs(engine.core, engine.ctx, JobFilter(), limit=3_000)
    assert sorted(int(view.id) for view in page.data) == sorted(ids)


async def test_prune_drops_what_ended_and_keeps_what_lives(engine: Engine) -> None:
    worker = await engine.register()
    done, dead = await engine.submit(1), await engine.submit(1, priority=9)
    for lease in await engine.claim(worker, 2):
        await engine.finish(worker, report(lease, succeeded if lease.ids == done else failed))
    scheduled = await engine.submit(1, delay_seconds=3_600)
    leased = await engine.submit(1)
    await engine.claim(worker, 1)
    waiting = await engine.submit(1)
    await _seal_first_partition(engine)

    assert await maintenance.prune(engine.core.database, keep=KEEP) == 0

    assert "jobs_0" not in await _tables(engine)
    page = await jobs.list_jobs(engine.core, engine.ctx, JobFilter(), limit=100)
    states = {int(view.id): view.state for view in page.data}
    assert states == {
        dead[0]: JobState.FAILED,
        scheduled[0]: JobState.SCHEDULED,
        leased[0]: JobState.PROCESSING,
        waiting[0]: JobState.PENDING,
    }
    assert await dead_letters.redrive(engine.core, engine.ctx, "default") == 1
    taken = [job_id for lease in await engine.claim(worker, 10) for job_id in lease.ids]
    assert sorted(taken) == sorted(dead + waiting)


async def test_progress_moves_house_with_its_job_and_goes_with_its_partition(engine: Engine) -> None:
    worker = await engine.register()
    ids = await engine.submit(2)
    [lease] = await engine.claim(worker, 2)
    said = [Progress(lease.fence, job_id, 0.5, "half") for job_id in ids]
    assert await leases.report_progress(engine.core, worker[0], said) == set()
    await engine.finish(worker, report(lease, succeeded, ids[:1]))
    await _seal_first_partition(engine)

    assert await maintenance.prune(engine.core.database, keep=KEEP) == 0

    assert [row["job_id"] for row in await engine.admin.fetch("select job_id from progress")] == ids[1:]
    again = [Progress(lease.fence, ids[1], 0.75, "more")]
    assert await leases.report_progress(engine.core, worker[0], again) == set()
    view = await engine.view(ids[1])
    assert view.progress is not None and view.progress.message == "more"


async def test_every_partition_of_progress_leaves_room_to_update_in_place(engine: Engine) -> None:
    await engine.admin.execute("select setval('taskforge.job_ids', $1)", 2 * SPAN)
    await maintenance.ensure_partitions(engine.core.database, ahead=1)
    rows = await engine.admin.fetch(
        "select c.reloptions from pg_inherits i join pg_class c on c.oid = i.inhrelid"
        " where i.inhparent = 'progress'::regclass"
    )
    assert len(rows) >= 3
    assert all(row["reloptions"] == ["fillfactor=70"] for row in rows)


async def test_prune_leaves_a_partition_that_is_not_old_enough(engine: Engine) -> None:
    await engine.submit(1)
    await _seal_first_partition(engine)
    assert await maintenance.prune(engine.core.database, keep=timedelta(days=9)) is None
    assert "jobs_0" in await _tables(engine)


async def test_prune_waits_for_nobody(engine: Engine, database_url: str) -> None:
    """A reader that holds the partition makes it give up at once, and change nothing."""
    await engine.submit(1)
    await _seal_first_partition(engine)
    reader = await asyncpg.connect(database_url)
    try:
        await reader.execute("begin isolation level repeatable read")
        await reader.fetchval("select count(*) from taskforge.jobs")
        try:
            await maintenance.prune(engine.core.database, keep=KEEP)
        except Unavailable as error:
            assert error.code == "database.busy"
        else:
            raise AssertionError("prune took a lock that a reader held")
    finally:
        await reader.close()
    assert await maintenance.prune(engine.core.database, keep=KEEP) == 0
