"""The floor rule (E6): a floor never passes a row that can still appear, and each part of the rule is needed."""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import pytest

from taskforge.postgres import maintenance
from taskforge.postgres.maintenance import Look
from taskforge.services import dead_letters, jobs, leases
from tests.support.engine import AnyConnection, Engine, failed, released, report, retrying, snoozed
from tests.support.mutations import rewrite

SECONDS = 15.0 if os.environ.get("TASKFORGE_CHAOS") == "long" else 4.0
DRAW_XID = "select pg_current_xact_id()"
INSERT = (
    "insert into ready (queue_id, priority, stream, tenant_id, attempt, lo, hi)"
    " select queue_id, 5, 1, tenant_id, 1, $1, $1 from queues where name = 'default'"
)
INSERT_AS = (
    "insert into ready (queue_id, priority, stream, seq, tenant_id, attempt, lo, hi)"
    " select queue_id, 5, 1, $2, tenant_id, 1, $1, $1 from queues where name = 'default'"
)

Scenario = Callable[[Engine, bool], Awaitable[int]]


@pytest.fixture
async def lane(engine: Engine) -> Engine:
    """An engine whose floors rise at every chance, with one lane in use."""
    text = await engine.admin.fetchval("select pg_get_functiondef('raise_floors'::regproc)")
    eager = re.sub(r"_floor \+ \d+", "_floor", text)
    assert eager != text
    await engine.admin.execute(eager)
    [job_id] = await engine.submit()
    await engine.cancel(job_id)
    return engine


@asynccontextmanager
async def session(engine: Engine) -> AsyncIterator[AnyConnection]:
    connection = await asyncpg.connect(engine.core.database.dsn, server_settings={"search_path": "taskforge"})
    try:
        yield connection
    finally:
        await connection.close()


async def second_look(engine: Engine, first: Look) -> bool:
    """Whether the floors could be raised. Transactions of other databases of the cluster may delay it shortly."""
    for _ in range(20):
        if await maintenance.raise_floors(engine.core.database, first, since=0):
            return True
        await asyncio.sleep(0.005)
    return False


async def lost(engine: Engine, first: Look) -> int:
    """Rows that no claim would ever see, once the floors have been raised."""
    await second_look(engine, first)
    count = await maintenance.count_below_floors(engine.core.database)
    await engine.admin.execute("delete from ready")
    return count


async def row_committed_between_the_looks(engine: Engine, draws_xid: bool) -> int:
    async with session(engine) as slow:
        transaction = slow.transaction()
        await transaction.start()
        await slow.execute(DRAW_XID)
        await slow.execute(INSERT, 1)
        await engine.admin.execute(INSERT, 2)
        first = await maintenance.look(engine.core.database)
        await transaction.commit()
        return await lost(engine, first)


async def seq_drawn_long_before_its_row(engine: Engine, draws_xid: bool) -> int:
    # A sequence logs every 32nd value, which would give the transaction an xid of its own.
    await engine.admin.execute("select nextval('ready_seq')")
    async with session(engine) as slow:
        transaction = slow.transaction()
        await transaction.start()
        if draws_xid:
            await slow.execute(DRAW_XID)
        seq = await slow.fetchval("select nextval('ready_seq')")
        first = await maintenance.look(engine.core.database)
        await second_look(engine, first)
        await slow.execute(INSERT_AS, 1, seq)
        await transaction.commit()
        return await lost(engine, first)


async def inserter_younger_than_another_one(engine: Engine, draws_xid: bool) -> int:
    async with session(engine) as older, session(engine) as slow:
        before, transaction = older.transaction(), slow.transaction()
        await before.start()
        await transaction.start()
        await older.execute(DRAW_XID)
        await slow.execute(DRAW_XID)
        await slow.execute(INSERT, 1)
        first = await maintenance.look(engine.core.database)
        await before.commit()
        await second_look(engine, first)
        await transaction.commit()
        return await lost(engine, first)


async def read_lowest_at_first_look(engine: Engine) -> None:
    await engine.admin.execute(
        "create table early (queue_id integer, priority smallint, stream smallint, seq bigint);"
        "grant all on early to taskforge_dispatch"
    )
    remember = "begin delete from early; insert into early select queue_id, priority, stream, seq from ready;"
    await rewrite(engine.admin, "look", "begin", remember)
    await rewrite(engine.admin, "lowest_live", "from ready", "from early")


async def use_xmax_of_the_snapshot(engine: Engine) -> None:
    await rewrite(
        engine.admin,
        "look",
        "pg_current_xact_id()::text",
        "pg_snapshot_xmax(pg_current_snapshot())::text",
    )


async def draw_no_xid(engine: Engine) -> None:
    """The inserter of the scenario leaves it out."""


PARTS = [
    pytest.param(row_committed_between_the_looks, read_lowest_at_first_look, id="lowest-read-at-second-look"),
    pytest.param(seq_drawn_long_before_its_row, draw_no_xid, id="xid-before-seq"),
    pytest.param(inserter_younger_than_another_one, use_xmax_of_the_snapshot, id="xid-of-its-own"),
]


@pytest.mark.parametrize(("scenario", "variant"), PARTS)
async def test_the_rule_as_written_loses_nothing(
    lane: Engine, scenario: Scenario, variant: Callable[[Engine], Awaitable[None]]
) -> None:
    assert [await scenario(lane, True) for _ in range(5)] == [0] * 5


@pytest.mark.parametrize(("scenario", "variant"), PARTS)
async def test_without_this_part_of_the_rule_rows_are_lost(
    lane: Engine, scenario: Scenario, variant: Callable[[Engine], Awaitable[None]]
) -> None:
    await variant(lane)
    # Whatever else the cluster commits at that moment may hide the fault, hence several tries.
    for _ in range(40):
        if await scenario(lane, variant is not draw_no_xid):
            return
    pytest.fail("the variant lost nothing, so the part proves nothing")


async def test_no_row_is_lost_while_inserters_stall_and_roll_back_and_floors_rise(lane: Engine) -> None:
    rng = random.Random(11)
    numbers = iter(range(1, 10**9))
    committed: set[int] = set()
    claimed: list[int] = []
    deadline = time.monotonic() + SECONDS
    raised = 0

    async def insert() -> None:
        async with session(lane) as connection:
            while time.monotonic() < deadline:
                transaction = connection.transaction()
                await transaction.start()
                await connection.execute(DRAW_XID)
                mine = [next(numbers) for _ in range(rng.randrange(1, 4))]
                for number in mine:
                    await connection.execute(INSERT, number)
                    await asyncio.sleep(rng.random() * 0.01)
                if rng.random() < 0.2:
                    await transaction.rollback()
                else:
                    await transaction.commit()
                    committed.update(mine)

    async def claim(connection: AnyConnection) -> int:
        transaction = connection.transaction()
        await transaction.start()
        row = await connection.fetchrow(
            "select t.* from lanes l join queues q using (queue_id), take_extents("
            "l.queue_id, l.priority, 1::smallint, l.fresh_floor, $1) t"
            " where q.name = 'default' and l.priority = 5",
            rng.randrange(1, 6),
        )
        if rng.random() < 0.2 and time.monotonic() < deadline:
            await transaction.rollback()
        else:
            await transaction.commit()
            claimed.extend(row["los"] or ())
        return int(row["taken"])

    async def claim_on() -> None:
        async with session(lane) as connection:
            while time.monotonic() < deadline:
                await claim(connection)

    async def raise_on() -> None:
        nonlocal raised
        while time.monotonic() < deadline:
            first = await maintenance.look(lane.core.database)
            raised += await second_look(lane, first)

    async with asyncio.timeout(SECONDS + 30):
        await asyncio.gather(*(insert() for _ in range(8)), *(claim_on() for _ in range(4)), raise_on())
        below = await maintenance.count_below_floors(lane.core.database)
        async with session(lane) as connection:
            while await claim(connection):
                pass

    assert below == 0
    assert sorted(claimed) == sorted(committed)
    assert raised > 10
    assert await lane.admin.fetchval("select max(fresh_floor) from lanes") > 100


async def test_every_verb_holds_an_xid_before_it_draws_a_seq(engine: Engine) -> None:
    await engine.admin.execute(
        """
        create function insist() returns trigger language plpgsql as $$
        begin
          if pg_current_xact_id_if_assigned() is null then
            raise exception 'a value of % was drawn without an xid', tg_table_name;
          end if;
          return new;
        end $$;
        create trigger insist before insert on ready for each row execute function insist();
        create trigger insist before insert on flow for each row execute function insist();
        """
    )
    worker = await engine.register()
    ids = await engine.submit(9) + await engine.submit(2, delay_seconds=3_600)
    await engine.make_due(ids[9:10])
    assert await engine.promote() == 1
    await jobs.retry(engine.core, engine.ctx, ids[10])
    await engine.cancel(ids[1])
    await jobs.retry(engine.core, engine.ctx, ids[1])
    outcomes = [released, retrying, failed, snoozed]
    for lease in await engine.claim(worker, 6):
        for i, job_id in enumerate(lease.ids):
            await engine.finish(worker, report(lease, outcomes[i % 4], [job_id]))
    await dead_letters.redrive(engine.core, engine.ctx, "default")
    await engine.claim(worker, 3)
    await leases.bury(engine.core, worker[0], [])
    dying = await engine.register()
    assert await engine.claim(dying, 3)
    await engine.expire(dying)
    await engine.reap()
    await engine.admin.fetch(
        "select enqueue($1, $2)",
        engine.ctx.tenant_id,
        '[{"queue_name": "default", "job_type": "noop", "payload": {}}]',
    )
    await engine.assert_one_place(ids)
