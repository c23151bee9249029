"""Changes by hand against everything else that moves a job, in both orders: one wins, the other is told (L7, E3)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec import Raw

from taskforge.domain.control import JobChange
from taskforge.domain.jobs import JobView
from taskforge.errors import Conflict
from taskforge.services import control, dead_letters, jobs
from tests.support.engine import Engine, released, report, retrying, together
from tests.support.engine import dead_letters as make_dead_letters

FAR = 3_600.0


@pytest.fixture
async def engine(engine: Engine) -> Engine:
    await engine.core.directory.ensure(engine.ctx.tenant_id, ["other"])
    return engine


async def change(engine: Engine, job_id: int, **wanted: Any) -> JobView:
    return await control.change(engine.core, engine.ctx, job_id, JobChange(**wanted))


WANTED: dict[str, dict[str, Any]] = {
    "move": {"queue_name": "other"},
    "priority": {"priority": 9},
    "reschedule": {"delay_seconds": FAR},
    "patch": {"payload_patch": Raw(b'{"n":2}')},
}


async def assert_whole(engine: Engine, ids: list[int]) -> None:
    """Every job is in one place, its row and its place name the same queue and priority, and the counts are true."""
    await engine.assert_one_place(ids)
    assert (
        await engine.admin.fetch(
            """
            select j.id from jobs j join (
              select i as id, queue_id, priority from ready cross join generate_series(lo, hi) as i
              union all select id, queue_id, priority from parked
              union all select i, queue_id, priority from leases cross join unnest(ranges) as r
                cross join generate_series(lower(r), upper(r) - 1) as i
            ) as p using (id) where (j.queue_id, j.priority) <> (p.queue_id, p.priority)
            union all select j.id from jobs j join outcomes o using (id) where j.queue_id <> o.queue_id
            """
        )
        == []
    )
    for name, truth in COUNTED.items():
        wrong = await engine.admin.fetch(
            f"""
            select queue_id from (
              select queue_id, coalesce(sum({name}), 0) as said from flow group by queue_id) as f
            full join ({truth}) as t using (queue_id)
            where coalesce(said, 0) <> coalesce(n, 0)
            """
        )
        assert wrong == [], name


COUNTED = {
    "ready": "select queue_id, sum(hi - lo + 1) as n from ready group by queue_id",
    "scheduled": "select queue_id, count(*) as n from parked where kind = 1 group by queue_id",
    "retrying": "select queue_id, count(*) as n from parked where kind = 2 group by queue_id",
    "leased": "select queue_id, sum(upper(r) - lower(r)) as n from leases, unnest(ranges) as r group by queue_id",
    "failed": "select queue_id, count(*) as n from outcomes where state = 2 group by queue_id",
    "cancelled": "select queue_id, count(*) as n from outcomes where state = 3 group by queue_id",
}


@pytest.mark.parametrize("verb", WANTED)
async def test_a_claim_that_holds_the_extent_wins_and_the_change_is_told_that_it_runs(
    engine: Engine, verb: str
) -> None:
    ids = await engine.submit(3)
    worker = await engine.register("default", "other")
    async with engine.gate("leases"):
        claiming = asyncio.create_task(engine.claim(worker, 3))
        await engine.blocked(1)
        changing = asyncio.create_task(change(engine, ids[1], **WANTED[verb]))
        await engine.blocked(2)

    [lease] = await claiming
    assert lease.ids == ids
    with pytest.raises(Conflict) as refused:
        await changing
    assert refused.value.code == "job.running"
    await assert_whole(engine, ids)


@pytest.mark.parametrize("verb", WANTED)
async def test_a_change_that_holds_the_extent_wins_and_the_claim_passes_by(engine: Engine, verb: str) -> None:
    ids = await engine.submit(3)
    worker = await engine.register("default")
    async with engine.gate("job_changes"):
        changing = asyncio.create_task(change(engine, ids[1], **WANTED[verb]))
        await engine.blocked(1)
        assert await engine.claim(worker, 3) == []

    await changing
    taken = {i: lease for lease in await engine.claim(worker, 3) for i in lease.ids}
    assert (ids[1] in taken) == (verb in ("priority", "patch"))
    if verb == "patch":
        at = taken[ids[1]].ids.index(ids[1])
        assert taken[ids[1]].payloads[at] == b'{"n":2}'
    if verb == "priority":
        assert taken[ids[1]].priority == 9
    await assert_whole(engine, ids)


@pytest.mark.parametrize("verb", [*WANTED, "at once"])
async def test_a_change_meets_a_promotion_of_the_same_job(engine: Engine, verb: str) -> None:
    wanted = WANTED.get(verb, {"delay_seconds": 0.0})
    [job_id] = await engine.submit(delay_seconds=FAR)
    await engine.make_due([job_id])
    async with engine.gate("ready"):
        promoting = asyncio.create_task(engine.promote())
        await engine.blocked(1)
        changing = asyncio.create_task(change(engine, job_id, **wanted))
        await engine.blocked(2)

    assert await promoting == 1
    assert (await changing).state == ("scheduled" if verb == "reschedule" else "pending")
    await assert_whole(engine, [job_id])


@pytest.mark.parametrize("verb", [*WANTED, "at once"])
async def test_a_promotion_passes_by_a_job_that_is_being_changed(engine: Engine, verb: str) -> None:
    wanted = WANTED.get(verb, {"delay_seconds": 0.0})
    job_id, neighbour = await engine.submit(2, delay_seconds=FAR)
    await engine.make_due([job_id, neighbour])
    async with engine.gate("job_changes"):
        changing = asyncio.create_task(change(engine, job_id, **wanted))
        await engine.blocked(1)
        assert await engine.promote() == 1

    await changing
    expected = {"reschedule": 0, "at once": 0}.get(verb, 1)
    assert await engine.promote() == expected
    assert await engine.state(job_id) == ("scheduled" if verb == "reschedule" else "pending")
    await assert_whole(engine, [job_id, neighbour])


@pytest.mark.parametrize("verb", WANTED)
@pytest.mark.parametrize("delay", [None, FAR])
async def test_a_change_that_comes_first_is_kept_by_a_cancelled_job(
    engine: Engine, other: Engine, verb: str, delay: float | None
) -> None:
    ids = await engine.submit(3, delay_seconds=delay)
    async with engine.gate("job_changes"):
        changing = asyncio.create_task(change(engine, ids[1], **WANTED[verb]))
        await engine.blocked(1)
        cancelling = asyncio.create_task(other.cancel(ids[1]))
        await engine.blocked(2)

    await changing
    view = await cancelling
    assert view.state == "cancelled"
    assert view.queue_name == ("other" if verb == "move" else "default")
    await assert_whole(engine, ids)


@pytest.mark.parametrize("verb", WANTED)
async def test_a_cancel_that_comes_first_leaves_a_change_what_an_ended_job_allows(
    engine: Engine, other: Engine, verb: str
) -> None:
    ids = await engine.submit(3)
    async with engine.gate("outcomes"):
        cancelling = asyncio.create_task(other.cancel(ids[1]))
        await engine.blocked(1)
        changing = asyncio.create_task(change(engine, ids[1], **WANTED[verb]))
        await engine.blocked(2)

    assert (await cancelling).state == "cancelled"
    [answer] = await together(changing)
    if verb == "reschedule":
        assert isinstance(answer, Conflict) and answer.code == "job.already_ended"
    else:
        assert answer.state == "cancelled"
    await assert_whole(engine, ids)


async def test_a_move_and_a_retry_of_one_dead_letter_agree_on_its_queue_in_both_orders(
    engine: Engine, other: Engine
) -> None:
    first, second = await make_dead_letters(engine, 2)

    def move(job_id: int) -> Awaitable[JobView]:
        return change(engine, job_id, queue_name="other", priority=1)

    def retry(job_id: int) -> Awaitable[JobView]:
        return jobs.retry(other.core, other.ctx, job_id)

    orders: list[tuple[int, Callable[[int], Awaitable[JobView]], Callable[[int], Awaitable[JobView]]]] = [
        (first, move, retry),
        (second, retry, move),
    ]
    for job_id, ahead, behind in orders:
        async with engine.gate("jobs" if ahead is move else "redrives"):
            one = asyncio.ensure_future(ahead(job_id))
            await engine.blocked(1)
            two = asyncio.ensure_future(behind(job_id))
            await engine.blocked(2)
        await one
        await two
        view = await engine.view(job_id)
        assert (view.state, view.queue_name, view.priority) == ("pending", "other", 1)
    await assert_whole(engine, [first, second])


async def test_a_move_and_a_redrive_of_the_queue_agree_in_both_orders(engine: Engine, other: Engine) -> None:
    ids = await make_dead_letters(engine, 3)
    async with engine.gate("jobs"):
        moving = asyncio.create_task(change(engine, ids[1], queue_name="other"))
        await engine.blocked(1)
        redriving = asyncio.create_task(dead_letters.redrive(other.core, other.ctx, "default"))
        await engine.blocked(2)
    await moving
    assert await redriving == 2
    assert await engine.state(ids[1]) == "failed"
    await assert_whole(engine, ids)

    async with engine.gate("ready"):
        redriving = asyncio.create_task(dead_letters.redrive(other.core, other.ctx, "other"))
        await engine.blocked(1)
        moving = asyncio.create_task(change(engine, ids[1], queue_name="default"))
        await engine.blocked(2)
    assert await redriving == 1
    assert (await moving).queue_name == "default"
    assert await engine.state(ids[1]) == "pending"
    await assert_whole(engine, ids)


async def test_a_change_waits_for_a_job_that_is_just_given_back(engine: Engine) -> None:
    for outcome, state in ((released, "pending"), (retrying, "retrying")):
        [job_id] = await engine.submit()
        worker = await engine.register()
        [lease] = await engine.claim(worker)
        async with engine.gate("flow"):
            finishing = asyncio.create_task(engine.finish(worker, report(lease, outcome)))
            await engine.blocked(1)
            changing = asyncio.create_task(change(engine, job_id, queue_name="other"))
            await engine.blocked(2)
        assert await finishing == []
        view = await changing
        assert (view.state, view.queue_name) == (state, "other")
        await assert_whole(engine, [job_id])


async def test_two_patches_at_once_are_both_applied(engine: Engine, other: Engine) -> None:
    [job_id] = await engine.submit(payload=b'{"n":1}')
    async with engine.gate("job_changes"):
        first = asyncio.create_task(change(engine, job_id, payload_patch=Raw(b'{"a":1}')))
        await engine.blocked(1)
        second = asyncio.create_task(change(other, job_id, payload_patch=Raw(b'{"b":2}')))
        await engine.blocked(2)
    await first
    await second
    assert bytes((await engine.view(job_id)).payload) == b'{"n":1,"a":1,"b":2}'


async def test_two_moves_at_once_leave_the_job_in_one_queue(engine: Engine, other: Engine) -> None:
    await engine.core.directory.ensure(engine.ctx.tenant_id, ["third"])
    ids = await engine.submit(3)
    async with engine.gate("job_changes"):
        first = asyncio.create_task(change(engine, ids[1], queue_name="other"))
        await engine.blocked(1)
        second = asyncio.create_task(change(other, ids[1], queue_name="third"))
        await engine.blocked(2)
    await first
    assert (await second).queue_name == "third"
    assert await engine.admin.fetchval("select count(*) from moved_jobs") == 1
    await assert_whole(engine, ids)
