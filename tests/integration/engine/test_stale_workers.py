"""Whoever lost a lease is told so and changes nothing (E2, E4)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from taskforge.domain.leases import Outcome
from taskforge.errors import WorkerLost
from taskforge.services import leases
from tests.support.engine import (
    Engine,
    failed,
    released,
    report,
    retrying,
    snoozed,
    stopped,
    succeeded,
)


async def test_a_worker_whose_lease_expired_cannot_complete_the_job_its_successor_is_running(
    engine: Engine,
) -> None:
    [job_id] = await engine.submit()
    old, new = await engine.register(), await engine.register()
    [first] = await engine.claim(old)
    await engine.expire(old)
    await engine.reap()
    [second] = await engine.claim(new)

    assert await engine.finish(old, report(first, succeeded)) == [(first.fence, job_id)]
    assert await engine.state(job_id) == "processing"
    assert await engine.finish(new, report(second, failed)) == []
    view = await engine.view(job_id)
    assert (view.state.value, view.attempt) == ("failed", 2)


async def test_the_successors_fence_in_the_hand_of_the_old_worker_is_refused(engine: Engine) -> None:
    [job_id] = await engine.submit()
    old, new = await engine.register(), await engine.register()
    [lease] = await engine.claim(new)

    assert await engine.finish(old, report(lease, succeeded)) == [(lease.fence, job_id)]
    assert await engine.state(job_id) == "processing"


async def test_a_workers_own_earlier_fence_is_refused_although_it_holds_the_job_again(engine: Engine) -> None:
    [job_id] = await engine.submit()
    worker = await engine.register()
    [earlier] = await engine.claim(worker)
    await engine.finish(worker, report(earlier, released))
    [later] = await engine.claim(worker)

    assert await engine.finish(worker, report(earlier, succeeded)) == [(earlier.fence, job_id)]
    assert await engine.state(job_id) == "processing"
    assert await engine.finish(worker, report(later, succeeded)) == []


@pytest.mark.parametrize("outcome", [succeeded, failed, retrying, snoozed, released, stopped])
async def test_no_kind_of_late_report_changes_anything(
    engine: Engine, outcome: Callable[[int], Outcome]
) -> None:
    [job_id] = await engine.submit()
    old = await engine.register()
    [lease] = await engine.claim(old)
    await engine.expire(old)
    await engine.reap()

    assert await engine.finish(old, report(lease, outcome)) == [(lease.fence, job_id)]
    assert await engine.places([job_id]) == {job_id: ["ready"]}
    assert [a.outcome for a in (await engine.view(job_id)).attempts] == ["lost"]
    recorded = await engine.admin.fetch("select fence, job_id, worker_id from stale_reports")
    assert [tuple(row) for row in recorded] == [(lease.fence, job_id, old[0])]


async def test_a_success_that_comes_after_the_job_was_given_up_as_lost_is_stale(engine: Engine) -> None:
    [job_id] = await engine.submit(max_attempts=1)
    worker = await engine.register()
    [lease] = await engine.claim(worker)
    await engine.expire(worker)
    await engine.reap()
    assert await engine.state(job_id) == "failed"

    assert await engine.finish(worker, report(lease, succeeded)) == [(lease.fence, job_id)]
    assert await engine.state(job_id) == "failed"


async def test_finish_that_holds_the_lease_wins_over_the_reaper(engine: Engine) -> None:
    [job_id] = await engine.submit()
    worker = await engine.register()
    [lease] = await engine.claim(worker)
    await engine.expire(worker)
    async with engine.gate("outcomes"):
        finishing = asyncio.create_task(engine.finish(worker, report(lease, succeeded)))
        await engine.blocked(1)
        reaping = asyncio.create_task(engine.reap())
        await engine.blocked(2)

    assert await finishing == []
    assert await reaping == {worker[0]: 0}
    assert await engine.places([job_id]) == {job_id: ["ended"]}
    assert await engine.state(job_id) == "succeeded"


async def test_a_reaper_that_holds_the_lease_wins_over_finish(engine: Engine) -> None:
    [job_id] = await engine.submit()
    worker = await engine.register()
    [lease] = await engine.claim(worker)
    await engine.expire(worker)
    async with engine.gate("attempts"):
        reaping = asyncio.create_task(engine.reap())
        await engine.blocked(1)
        finishing = asyncio.create_task(engine.finish(worker, report(lease, succeeded)))
        await engine.blocked(2)

    assert await reaping == {worker[0]: 1}
    assert await finishing == [(lease.fence, job_id)]
    assert await engine.places([job_id]) == {job_id: ["ready"]}


async def test_the_reaper_takes_only_what_a_finish_in_flight_has_left(engine: Engine) -> None:
    ids = await engine.submit(10)
    worker = await engine.register()
    [lease] = await engine.claim(worker, 10)
    await engine.expire(worker)
    async with engine.gate("outcomes"):
        finishing = asyncio.create_task(engine.finish(worker, report(lease, succeeded, ids[2:5])))
        await engine.blocked(1)
        reaping = asyncio.create_task(engine.reap())
        await engine.blocked(2)

    assert await finishing == []
    assert await reaping == {worker[0]: 7}
    await engine.assert_one_place(ids)


async def test_a_heartbeat_under_way_keeps_the_reaper_off(engine: Engine) -> None:
    await engine.submit()
    worker = await engine.register()
    [lease] = await engine.claim(worker)
    await engine.expire(worker)
    renew = f"update workers set expires_at = now() + interval '10 s' where worker_id = {worker[0]}"
    async with engine.holding(renew), asyncio.timeout(3):
        assert await engine.reap() == {}
    assert await engine.reap() == {}
    assert await engine.finish(worker, report(lease, succeeded)) == []


async def test_a_worker_is_alive_again_by_a_heartbeat_that_comes_before_the_reaper(engine: Engine) -> None:
    worker = await engine.register()
    await engine.expire(worker)
    assert (await leases.heartbeat(engine.core, worker[0])).alive
    assert await engine.reap() == {}


async def test_a_reaped_worker_hears_it_from_heartbeat_and_claim(engine: Engine) -> None:
    worker = await engine.register()
    await engine.expire(worker)
    await engine.reap()
    assert not (await leases.heartbeat(engine.core, worker[0])).alive
    with pytest.raises(WorkerLost):
        await engine.claim(worker)


async def test_two_reapers_share_the_dead_and_each_job_comes_back_once(engine: Engine, other: Engine) -> None:
    ids = await engine.submit(20)
    workers = [await engine.register() for _ in range(4)]
    for worker in workers:
        await engine.claim(worker, 5)
        await engine.expire(worker)
    async with engine.gate("attempts"):
        first = asyncio.create_task(engine.reap())
        await engine.blocked(1)
        second = asyncio.create_task(other.reap())
    buried = {**(await first), **(await second)}

    assert sum(buried.values()) == 20
    await engine.assert_one_place(ids)


async def test_the_lease_of_a_claim_that_commits_after_its_worker_was_buried_is_swept_up(
    engine: Engine,
) -> None:
    [job_id] = await engine.submit()
    worker = await engine.register()
    async with engine.gate("leases"):
        claiming = asyncio.create_task(engine.claim(worker))
        await engine.blocked(1)
        # The claim has seen the worker alive and its lease is not there yet.
        await engine.admin.execute("update workers set state = 3 where worker_id = $1", worker[0])
    [lease] = await claiming

    assert sum((await engine.reap()).values()) == 1
    assert await engine.places([job_id]) == {job_id: ["ready"]}
    assert await engine.finish(worker, report(lease, succeeded)) == [(lease.fence, job_id)]


async def test_a_buried_worker_is_charged_only_for_the_jobs_that_ran(engine: Engine) -> None:
    ran, waited = await engine.submit(2, max_attempts=1)
    worker = await engine.register()
    await engine.claim(worker, 2)

    assert await leases.bury(engine.core, worker[0], [ran]) == 1
    assert await engine.state(ran) == "failed"
    assert await engine.state(waited) == "pending"
    assert (await engine.view(waited)).attempt == 0


@pytest.mark.parametrize("outcome", [succeeded, failed, retrying, snoozed, released, stopped])
async def test_a_report_sent_twice_is_a_success_and_written_once(
    engine: Engine, outcome: Callable[[int], Outcome]
) -> None:
    ids = await engine.submit(3)
    worker = await engine.register()
    [lease] = await engine.claim(worker, 3)
    assert await engine.finish(worker, report(lease, outcome)) == []
    before = [await engine.view(i) for i in ids]

    assert await engine.finish(worker, report(lease, outcome)) == []
    assert [await engine.view(i) for i in ids] == before
    await engine.assert_one_place(ids)


async def test_a_report_sent_twice_at_once_is_written_once(engine: Engine) -> None:
    ids = await engine.submit(5)
    worker = await engine.register()
    [lease] = await engine.claim(worker, 5)
    async with engine.gate("outcomes"):
        first = asyncio.create_task(engine.finish(worker, report(lease, succeeded)))
        await engine.blocked(1)
        second = asyncio.create_task(engine.finish(worker, report(lease, succeeded)))
        await engine.blocked(2)

    assert await first == await second == []
    await engine.assert_one_place(ids)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (earlier, later)
        for earlier in (succeeded, retrying, failed, snoozed, released, stopped)
        for later in (succeeded, retrying, snoozed)
        if later is not earlier and (earlier, later) != (failed, retrying)
    ],
)
async def test_another_outcome_under_a_fence_that_has_spoken_is_stale(
    engine: Engine, earlier: Callable[[int], Outcome], later: Callable[[int], Outcome]
) -> None:
    [job_id] = await engine.submit()
    worker = await engine.register()
    [lease] = await engine.claim(worker)
    await engine.finish(worker, report(lease, earlier))
    before = await engine.view(job_id)

    assert await engine.finish(worker, report(lease, later)) == [(lease.fence, job_id)]
    assert await engine.view(job_id) == before


async def test_a_report_of_jobs_the_lease_never_covered_is_stale_and_its_neighbours_stand(
    engine: Engine,
) -> None:
    mine, others = await engine.submit(2)
    worker = await engine.register()
    [lease] = await engine.claim(worker, 1)

    assert await engine.finish(worker, report(lease, succeeded, [mine, others])) == [(lease.fence, others)]
    assert await engine.state(mine) == "succeeded"
    assert await engine.state(others) == "pending"


async def test_a_half_repeated_report_writes_the_other_half(engine: Engine) -> None:
    ids = await engine.submit(4)
    worker = await engine.register()
    [lease] = await engine.claim(worker, 4)
    await engine.finish(worker, report(lease, succeeded, ids[:2]))

    assert await engine.finish(worker, report(lease, succeeded)) == []
    assert [await engine.state(i) for i in ids] == ["succeeded"] * 4
