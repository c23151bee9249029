"""Claims never wait for each other and never hand a job out twice (E3)."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from taskforge.services import dead_letters
from tests.support.engine import Engine, together
from tests.support.engine import dead_letters as make_dead_letters


async def test_a_claim_skips_the_extent_another_one_is_cutting(engine: Engine, other: Engine) -> None:
    ids = await engine.submit(10)
    one, two = await engine.register(), await other.register()
    async with engine.gate("leases"):
        first = asyncio.create_task(engine.claim(one, 4))
        await engine.blocked(1)
        async with asyncio.timeout(3):
            assert await other.claim(two, 4) == []

    assert [lease.ids for lease in await first] == [ids[:4]]
    assert [lease.ids for lease in await other.claim(two, 10)] == [ids[4:]]


async def test_what_is_left_of_a_cut_extent_stays_in_its_place_of_the_line(engine: Engine) -> None:
    first, second = await engine.submit(10), await engine.submit(10)
    worker = await engine.register()
    taken = [[i for lease in await engine.claim(worker, 7) for i in lease.ids] for _ in range(3)]
    assert taken == [first[:7], first[7:] + second[:4], second[4:]]


async def test_a_claim_that_rolls_back_leaves_everything_claimable(engine: Engine) -> None:
    ids = await engine.submit(10)
    worker = await engine.register()
    async with engine.gate("leases"):
        doomed = asyncio.create_task(engine.claim(worker, 4))
        await engine.blocked(1)
        await engine.admin.execute(
            "select pg_cancel_backend(pid) from pg_stat_activity"
            " where datname = current_database() and wait_event_type = 'Lock'"
        )
        [outcome] = await together(doomed)
        assert isinstance(outcome, Exception)

    assert [lease.ids for lease in await engine.claim(worker, 10)] == [ids]


async def test_a_claim_that_cannot_remove_what_it_took_is_aborted(engine: Engine) -> None:
    ids = await engine.submit(5)
    worker = await engine.register()
    await engine.admin.execute(
        "create function keep() returns trigger language plpgsql as $$ begin return null; end $$;"
        "create trigger keep before delete on ready for each row execute function keep()"
    )
    with pytest.raises(asyncpg.RaiseError, match="claim deleted 0 extents of 1"):
        await engine.claim(worker, 5)
    assert await engine.places(ids) == {i: ["ready"] for i in ids}


async def test_a_claim_that_cannot_read_every_job_it_took_is_aborted(engine: Engine) -> None:
    ids = await engine.submit(5)
    worker = await engine.register()
    await engine.admin.execute("delete from jobs where id = $1", ids[2])
    with pytest.raises(asyncpg.RaiseError, match="only 4 jobs were read"):
        await engine.claim(worker, 5)
    assert await engine.places(ids) == {i: ["ready"] for i in ids}


async def test_many_claims_at_once_take_each_job_once(engine: Engine, other: Engine) -> None:
    ids = [i for _ in range(20) for i in await engine.submit(50)]
    workers = [(e, await e.register()) for e in (engine, other) for _ in range(4)]
    taken: list[int] = []

    async def drain(e: Engine, worker: tuple[int, tuple[int, ...]]) -> None:
        while len(taken) < len(ids):
            taken.extend(i for lease in await e.claim(worker, 17) for i in lease.ids)

    async with asyncio.timeout(30):
        await asyncio.gather(*(drain(e, worker) for e, worker in workers))
    assert sorted(taken) == ids
    await engine.assert_one_place(ids)


async def test_two_redrives_at_once_bring_each_dead_letter_back_once(engine: Engine, other: Engine) -> None:
    ids = await make_dead_letters(engine, 3)
    async with engine.holding(f"select from outcomes where id = {ids[1]} for update"):
        first = asyncio.create_task(dead_letters.redrive(engine.core, engine.ctx, "default"))
        await engine.blocked(1)
        second = asyncio.create_task(dead_letters.redrive(other.core, other.ctx, "default"))
        await engine.blocked(2)

    assert await first + await second == 3
    assert await engine.places(ids) == {i: ["ready"] for i in ids}


async def test_a_purge_and_a_redrive_at_once_settle_each_dead_letter_once(
    engine: Engine, other: Engine
) -> None:
    ids = await make_dead_letters(engine, 3)
    async with engine.holding(f"select from outcomes where id = {ids[1]} for update"):
        redriving = asyncio.create_task(dead_letters.redrive(engine.core, engine.ctx, "default"))
        await engine.blocked(1)
        purging = asyncio.create_task(dead_letters.purge(other.core, other.ctx, "default"))
        await engine.blocked(2)

    assert await redriving + await purging == 3
    left = await engine.admin.fetchval("select count(*) from jobs")
    assert left == await redriving
    assert await engine.admin.fetchval("select count(*) from ready") == left
