"""Cancel is linearizable: once it has answered `cancelled`, no handler starts (E2, E3)."""

from __future__ import annotations

import asyncio

import pytest

from taskforge.errors import Conflict
from taskforge.services import jobs, leases
from tests.support.engine import Engine, report, retrying, succeeded, together


async def test_a_claim_that_holds_the_extent_wins_and_the_cancel_becomes_a_request(engine: Engine) -> None:
    ids = await engine.submit(3)
    worker = await engine.register()
    async with engine.gate("leases"):
        claiming = asyncio.create_task(engine.claim(worker, 3))
        await engine.blocked(1)
        cancelling = asyncio.create_task(engine.cancel(ids[1]))
        await engine.blocked(2)

    [lease] = await claiming
    assert lease.ids == ids
    view = await cancelling
    assert (view.state.value, view.cancel_requested) == ("processing", True)
    assert (await leases.heartbeat(engine.core, worker[0])).cancel == (ids[1],)


async def test_a_cancel_that_holds_the_extent_wins_and_the_claim_never_hands_the_job_out(
    engine: Engine,
) -> None:
    ids = await engine.submit(3)
    worker = await engine.register()
    async with engine.gate("outcomes"):
        cancelling = asyncio.create_task(engine.cancel(ids[1]))
        await engine.blocked(1)
        assert await engine.claim(worker, 3) == []

    assert (await cancelling).state.value == "cancelled"
    assert sorted(i for lease in await engine.claim(worker, 3) for i in lease.ids) == [ids[0], ids[2]]
    await engine.assert_one_place(ids)


async def test_a_cancel_meets_an_extent_that_a_claim_is_cutting(engine: Engine) -> None:
    ids = await engine.submit(10)
    worker = await engine.register()
    async with engine.gate("leases"):
        claiming = asyncio.create_task(engine.claim(worker, 4))
        await engine.blocked(1)
        in_lease = asyncio.create_task(engine.cancel(ids[3]))
        behind_cut = asyncio.create_task(engine.cancel(ids[4]))
        await engine.blocked(3)

    assert [lease.ids for lease in await claiming] == [ids[:4]]
    assert (await in_lease).state.value == "processing"
    assert (await behind_cut).state.value == "cancelled"
    await engine.assert_one_place(ids)


async def test_a_finish_that_holds_the_lease_wins_over_cancel(engine: Engine) -> None:
    [job_id] = await engine.submit()
    worker = await engine.register()
    [lease] = await engine.claim(worker)
    async with engine.gate("outcomes"):
        finishing = asyncio.create_task(engine.finish(worker, report(lease, succeeded)))
        await engine.blocked(1)
        cancelling = asyncio.create_task(engine.cancel(job_id))
        await engine.blocked(2)

    assert await finishing == []
    with pytest.raises(Conflict, match="ended"):
        await cancelling
    assert await engine.admin.fetchval("select count(*) from cancellations") == 0


async def test_a_cancel_that_holds_the_lease_is_seen_by_the_finish_that_waits(engine: Engine) -> None:
    [job_id] = await engine.submit()
    worker = await engine.register()
    [lease] = await engine.claim(worker)
    async with engine.gate("cancellations"):
        cancelling = asyncio.create_task(engine.cancel(job_id))
        await engine.blocked(1)
        finishing = asyncio.create_task(engine.finish(worker, report(lease, retrying)))
        await engine.blocked(2)

    await cancelling
    assert await finishing == []
    assert await engine.state(job_id) == "cancelled"
    assert await engine.admin.fetchval("select count(*) from cancellations") == 0


async def test_a_cancel_meets_a_retry_being_parked(engine: Engine) -> None:
    [job_id] = await engine.submit()
    worker = await engine.register()
    [lease] = await engine.claim(worker)
    async with engine.gate("parked"):
        finishing = asyncio.create_task(engine.finish(worker, report(lease, retrying)))
        await engine.blocked(1)
        cancelling = asyncio.create_task(engine.cancel(job_id))
        await engine.blocked(2)

    assert await finishing == []
    assert (await cancelling).state.value == "cancelled"
    await engine.assert_one_place([job_id])


async def test_of_two_cancels_of_one_job_one_is_told_it_has_ended(engine: Engine, other: Engine) -> None:
    ids = await engine.submit(3)
    async with engine.gate("outcomes"):
        first = asyncio.create_task(engine.cancel(ids[1]))
        await engine.blocked(1)
        second = asyncio.create_task(other.cancel(ids[1]))
        await engine.blocked(2)

    assert (await first).state.value == "cancelled"
    with pytest.raises(Conflict, match="ended"):
        await second
    await engine.assert_one_place(ids)


async def test_two_cancels_in_one_extent_both_succeed_and_spare_the_rest(
    engine: Engine, other: Engine
) -> None:
    ids = await engine.submit(5)
    async with engine.gate("outcomes"):
        first = asyncio.create_task(engine.cancel(ids[1]))
        await engine.blocked(1)
        second = asyncio.create_task(other.cancel(ids[3]))
        await engine.blocked(2)

    assert (await first).state.value == (await second).state.value == "cancelled"
    assert [await engine.state(i) for i in ids] == ["pending", "cancelled"] * 2 + ["pending"]
    await engine.assert_one_place(ids)


async def test_a_cancel_meets_a_promotion_of_the_same_job(engine: Engine) -> None:
    [job_id] = await engine.submit(delay_seconds=3_600)
    await engine.make_due([job_id])
    async with engine.gate("ready"):
        promoting = asyncio.create_task(engine.promote())
        await engine.blocked(1)
        cancelling = asyncio.create_task(engine.cancel(job_id))
        await engine.blocked(2)

    assert await promoting == 1
    assert (await cancelling).state.value == "cancelled"
    await engine.assert_one_place([job_id])


async def test_a_promotion_passes_by_a_job_that_is_being_cancelled(engine: Engine) -> None:
    job_id, neighbour = await engine.submit(2, delay_seconds=3_600)
    await engine.make_due([job_id, neighbour])
    async with engine.gate("outcomes"):
        cancelling = asyncio.create_task(engine.cancel(job_id))
        await engine.blocked(1)
        assert await engine.promote() == 1

    assert (await cancelling).state.value == "cancelled"
    assert await engine.state(neighbour) == "pending"


async def test_two_retries_of_one_dead_letter_bring_it_back_once(engine: Engine, other: Engine) -> None:
    [job_id] = await engine.submit()
    worker = await engine.register()
    [lease] = await engine.claim(worker)
    await engine.cancel(job_id)
    await engine.finish(worker, report(lease, retrying))
    async with engine.gate("redrives"):
        first = asyncio.create_task(jobs.retry(engine.core, engine.ctx, job_id))
        await engine.blocked(1)
        second = asyncio.create_task(jobs.retry(other.core, other.ctx, job_id))
        await engine.blocked(2)

    outcomes = await together(first, second)
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 1
    assert await engine.places([job_id]) == {job_id: ["ready"]}
