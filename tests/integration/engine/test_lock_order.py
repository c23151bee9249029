"""Locks are taken in one order: workers, leases by fence, cancellations; keys sorted. Nobody can deadlock."""

from __future__ import annotations

import asyncio
import random

from taskforge.domain.bulk import BulkArguments, BulkFilter, BulkRequest, BulkVerb
from taskforge.domain.control import JobChange
from taskforge.domain.schedules import Overlap, ScheduleChange, ScheduleDraft
from taskforge.errors import TaskForgeError
from taskforge.postgres import workers
from taskforge.runtime.bulk_runner import BulkRunner
from taskforge.services import bulk, control, dead_letters, jobs, schedules, slots
from tests.support.engine import Engine, failed, released, report, retrying, succeeded


async def test_two_finishes_that_name_leases_in_opposite_order_do_not_deadlock(engine: Engine) -> None:
    await engine.submit(8)
    worker = await engine.register()
    [one], [two] = await engine.claim(worker, 4), await engine.claim(worker, 4)
    assert one.fence < two.fence
    async with engine.holding(f"select from leases where fence = {one.fence} for update"):
        forwards = asyncio.create_task(
            engine.finish(worker, report(one, succeeded, one.ids[:2]), report(two, succeeded, two.ids[:2]))
        )
        await engine.blocked(1)
        backwards = asyncio.create_task(
            engine.finish(worker, report(two, succeeded, two.ids[2:]), report(one, succeeded, one.ids[2:]))
        )
        await engine.blocked(2)

    assert await forwards == await backwards == []
    await engine.assert_one_place(one.ids + two.ids)


async def test_a_storm_of_every_verb_at_once_never_deadlocks_and_keeps_each_job_in_one_place(
    engine: Engine, other: Engine
) -> None:
    rng = random.Random(7)
    await engine.core.directory.ensure(engine.ctx.tenant_id, QUEUES)
    ids: list[int] = []
    unexpected: list[BaseException] = []

    async def one_of(e: Engine) -> None:
        worker = await e.register(*QUEUES)
        for _ in range(25):
            match rng.randrange(9):
                case 0 | 1:
                    ids.extend(await e.submit(rng.randrange(1, 30), priority=rng.choice((1, 5, 9))))
                case 2 | 3:
                    for lease in await e.claim(worker, rng.randrange(1, 40)):
                        outcome = rng.choice((succeeded, failed, retrying, released))
                        half = lease.ids[: rng.randrange(1, len(lease.ids) + 1)]
                        await e.finish(worker, report(lease, outcome, half))
                case 4 if ids:
                    await attempt(e.cancel(rng.choice(ids)))
                    await attempt(jobs.retry(e.core, e.ctx, rng.choice(ids)))
                case 5 if ids:
                    wanted = rng.choice(
                        ({"queue_name": rng.choice(QUEUES)}, {"priority": 9}, {"delay_seconds": 0.0})
                    )
                    await attempt(control.change(e.core, e.ctx, rng.choice(ids), JobChange(**wanted)))
                case 6:
                    verb, arguments = rng.choice(BULK)
                    request = BulkRequest(verb, BulkFilter(queue_name=rng.choice(QUEUES)), arguments)
                    await attempt(bulk.start(e.core, e.ctx, request))
                    await BulkRunner(e.core, piece=rng.randrange(1, 60)).run_once()
                case 7:
                    policy = rng.choice(list(Overlap))
                    drafted = ScheduleDraft(
                        name=f"s{rng.randrange(6)}", expression="* * * * * *", job_type="noop", overlap=policy
                    )
                    await attempt(schedules.create(e.core, e.ctx, drafted))
                    await attempt(
                        schedules.update(e.core, e.ctx, drafted.name, ScheduleChange(overlap=policy))
                    )
                    await attempt(schedules.run(e.core, e.ctx, drafted.name))
                    await attempt(slots.decide_due(e.core))
                    await attempt(slots.fire_waiting(e.core))
                case _:
                    await attempt(dead_letters.redrive(e.core, e.ctx, rng.choice(QUEUES)))
                    await e.promote()
        await workers.bury(e.core.database, worker[0], None)
        await e.reap()

    async def attempt(verb: object) -> None:
        try:
            await verb  # type: ignore[misc]
        except TaskForgeError as error:
            if error.code not in _EXPECTED:
                unexpected.append(error)

    async with asyncio.timeout(60):
        await asyncio.gather(*(one_of(e) for e in (engine, other) for _ in range(3)))
    assert unexpected == []
    assert await engine.admin.fetchval(
        "select deadlocks from pg_stat_database where datname = current_database()"
    ) in (0, None)
    await engine.assert_one_place(ids)
    assert await engine.admin.fetchval("select sum(hi - lo + 1) from ready") == await engine.admin.fetchval(
        "select coalesce((select sum(ready) from flow), 0) + coalesce((select sum(ready) from queue_totals), 0)"
    )


_EXPECTED = {
    "job.already_ended",
    "job.already_succeeded",
    "job.active",
    "job.running",
    "schedule.exists",
    "schedule.not_found",
}
QUEUES = ("default", "other")
BULK: tuple[tuple[BulkVerb, BulkArguments], ...] = (
    ("cancel", BulkArguments()),
    ("redrive", BulkArguments()),
    ("move", BulkArguments(queue_name="other")),
    ("change_priority", BulkArguments(priority=7)),
    ("reschedule", BulkArguments(delay_seconds=0.0)),
)
