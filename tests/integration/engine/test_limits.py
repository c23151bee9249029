"""Limits inside the claim (E8): never exceeded, nobody held up by what is full, every slot given back once."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from taskforge.domain.leases import Lease
from taskforge.domain.queues import QueueChange, QueueDraft, RateLimit
from taskforge.domain.terms import JobTerms
from taskforge.postgres import limits
from taskforge.services import dead_letters, jobs, leases, queues
from tests.support.engine import Engine, Worker, failed, released, report, retrying, snoozed, succeeded
from tests.support.waiting import until


async def make(engine: Engine, name: str = "limited", **settings: Any) -> str:
    await queues.create(engine.core, engine.ctx, QueueDraft(name=name, **settings))
    return name


def taken(found: list[Lease]) -> list[int]:
    return sorted(job_id for lease in found for job_id in lease.ids)


async def claim(engine: Engine, worker: Worker, want: int = 1_000, startable: int = 1_000) -> list[Lease]:
    return await leases.claim(engine.core, worker[0], worker[1], want=want, startable=startable)


async def finish_all(engine: Engine, worker: Worker, found: list[Lease], outcome: Any = succeeded) -> None:
    await engine.finish(worker, *(report(lease, outcome) for lease in found))


async def adopted(engine: Engine, worker: Worker) -> list[Lease]:
    """A claim after a first limit: nothing is taken while any transaction of before still runs on the server."""
    found = await until(lambda: claim(engine, worker), timeout=60)
    assert isinstance(found, list)
    return found


async def assert_no_drift(engine: Engine) -> None:
    assert await limits.count_drift(engine.core.database) == 0


def keyed(key: str) -> JobTerms:
    return JobTerms(concurrency_key=key)


def key_of(lease: Lease) -> str:
    assert lease.options is not None and lease.options[0] is not None and lease.options[0].terms is not None
    return lease.options[0].terms.concurrency_key or ""


async def test_no_more_of_a_queue_run_than_its_limit_and_a_finished_one_makes_room(engine: Engine) -> None:
    queue = await make(engine, max_concurrency=3)
    await engine.submit(10, queue_name=queue)
    one, other = await engine.register(queue), await engine.register(queue)
    first = await claim(engine, one, 2)
    second = await claim(engine, other)
    assert (len(taken(first)), len(taken(second))) == (2, 1)
    assert await claim(engine, other) == []
    await finish_all(engine, one, first)
    assert len(taken(await claim(engine, other))) == 2
    await assert_no_drift(engine)


async def test_two_claims_at_once_do_not_share_the_last_slot(engine: Engine) -> None:
    queue = await make(engine, max_concurrency=1)
    await engine.submit(4, queue_name=queue)
    one, other = await engine.register(queue), await engine.register(queue)
    async with engine.holding("select from limits where key = '' for update"):
        both = [asyncio.create_task(claim(engine, worker)) for worker in (one, other)]
        await engine.blocked(2)
    found = [len(taken(lease)) for lease in await asyncio.gather(*both)]
    assert sorted(found) == [0, 1]
    await assert_no_drift(engine)


@pytest.mark.parametrize("outcome", [succeeded, retrying, snoozed])
async def test_every_way_out_of_a_lease_gives_its_slot_back_once(engine: Engine, outcome: Any) -> None:
    queue = await make(engine, max_concurrency=2)
    await engine.submit(2, queue_name=queue)
    worker = await engine.register(queue)
    found = await claim(engine, worker)
    await finish_all(engine, worker, found, outcome)
    await finish_all(engine, worker, found, outcome)
    assert await engine.admin.fetchval("select in_use from limits where key = ''") == 0
    await assert_no_drift(engine)


async def test_a_lost_worker_gives_its_slots_back_and_its_late_report_does_not_do_so_again(
    engine: Engine,
) -> None:
    queue = await make(engine, max_concurrency=2)
    await engine.submit(2, queue_name=queue, max_attempts=5)
    worker = await engine.register(queue)
    found = await claim(engine, worker)
    await engine.expire(worker)
    await engine.reap()
    await finish_all(engine, worker, found)
    assert await engine.admin.fetchval("select in_use from limits where key = ''") == 0
    assert len(taken(await claim(engine, await engine.register(queue)))) == 2
    await assert_no_drift(engine)


async def test_a_worker_takes_no_more_of_a_limited_queue_than_it_can_start(engine: Engine) -> None:
    queue = await make(engine, max_concurrency=100)
    await engine.submit(50, queue_name=queue)
    await engine.submit(50)
    worker = await engine.register(queue, "default")
    found = await claim(engine, worker, want=80, startable=5)
    by_queue = Counter(lease.queue_name for lease in found for _ in lease.ids)
    assert by_queue == {queue: 5, "default": 50}


async def test_a_full_queue_holds_up_no_other(engine: Engine) -> None:
    queue = await make(engine, max_concurrency=1, priority=100)
    await engine.submit(5, queue_name=queue)
    plain = await engine.submit(5)
    worker = await engine.register(queue, "default")
    assert len(taken(await claim(engine, worker, 1))) == 1
    assert taken(await claim(engine, worker)) == plain


async def test_lowering_raising_and_lifting_a_limit_counts_at_the_next_claim(engine: Engine) -> None:
    queue = await make(engine, max_concurrency=4)
    await engine.submit(20, queue_name=queue)
    worker = await engine.register(queue)
    first = await claim(engine, worker)
    assert len(taken(first)) == 4
    await queues.update(engine.core, engine.ctx, queue, QueueChange(max_concurrency=2))
    assert await claim(engine, worker) == []
    await queues.update(engine.core, engine.ctx, queue, QueueChange(max_concurrency=6))
    assert len(taken(await claim(engine, worker))) == 2
    await queues.update(engine.core, engine.ctx, queue, QueueChange(max_concurrency=None))
    assert len(taken(await claim(engine, worker))) == 14
    await assert_no_drift(engine)


async def test_a_first_limit_counts_what_runs_already(engine: Engine) -> None:
    await engine.submit(10)
    worker = await engine.register()
    running = await claim(engine, worker, 5)
    await queues.update(engine.core, engine.ctx, "default", QueueChange(max_concurrency=6))
    assert len(taken(await adopted(engine, worker))) == 1
    await finish_all(engine, worker, running)
    assert len(taken(await claim(engine, worker))) == 4
    await assert_no_drift(engine)


async def test_a_first_limit_waits_for_claims_that_do_not_know_of_it(engine: Engine) -> None:
    await engine.submit(10)
    worker = await engine.register()
    async with engine.gate("leases"):
        unaware = asyncio.create_task(claim(engine, worker, 5))
        await engine.blocked()
        await queues.update(engine.core, engine.ctx, "default", QueueChange(max_concurrency=6))
        aware = asyncio.create_task(claim(engine, await engine.register()))
        await asyncio.wait({aware}, timeout=5)
        assert aware.done(), "it makes leases while others may be making them uncounted"
        assert await aware == []
    assert len(taken(await unaware)) == 5
    assert len(taken(await adopted(engine, worker))) == 1
    await assert_no_drift(engine)


async def test_a_tenant_runs_no_more_than_its_own_limit_over_all_queues(engine: Engine) -> None:
    await make(engine, "a")
    await make(engine, "b", max_concurrency=2)
    await engine.submit(10, queue_name="a")
    await engine.submit(10, queue_name="b")
    await engine.admin.execute("select limit_tenant($1, 5)", engine.ctx.tenant_id)
    worker = await engine.register("a", "b")
    found = await adopted(engine, worker)
    by_queue = Counter(lease.queue_name for lease in found for _ in lease.ids)
    assert sum(by_queue.values()) == 5 and by_queue["b"] <= 2
    await finish_all(engine, worker, found)
    assert len(taken(await claim(engine, worker))) == 5
    await assert_no_drift(engine)


async def test_a_rate_limit_lets_no_more_start_in_any_window_and_opens_again(engine: Engine) -> None:
    queue = await make(engine, rate_limits=(RateLimit(3, 0.5), RateLimit(5, 60)))
    await engine.submit(10, queue_name=queue)
    worker = await engine.register(queue)
    assert len(taken(await claim(engine, worker))) == 3
    assert await claim(engine, worker) == []
    opens = await engine.admin.fetchval("select opens_at - now() from limits where key = ''")
    assert 0.3 < opens.total_seconds() < 0.6

    async def more() -> list[Lease]:
        return await claim(engine, worker)

    found = await until(more)
    assert isinstance(found, list)
    assert len(taken(found)) == 2  # the minute's five
    assert await claim(engine, worker) == []


async def test_a_key_at_its_limit_does_not_hold_up_other_keys(engine: Engine) -> None:
    queue = await make(engine, key_max_concurrency=1)
    a = await engine.submit(50, queue_name=queue, terms=keyed("a"))
    b = await engine.submit(2, queue_name=queue, terms=keyed("b"))
    plain = await engine.submit(2, queue_name=queue)
    worker = await engine.register(queue)
    first = await claim(engine, worker)
    assert taken(first) == sorted([a[0], b[0], *plain])
    assert await claim(engine, worker) == []
    await finish_all(engine, worker, [lease for lease in first if a[0] in lease.ids])
    assert taken(await claim(engine, worker)) == [a[1]]
    await assert_no_drift(engine)


async def test_key_rates_hold_for_each_key(engine: Engine) -> None:
    queue = await make(engine, key_rate_limits=(RateLimit(2, 60),))
    await engine.submit(5, queue_name=queue, terms=keyed("a"))
    await engine.submit(5, queue_name=queue, terms=keyed("b"))
    worker = await engine.register(queue)
    assert len(taken(await claim(engine, worker))) == 4
    assert await claim(engine, worker) == []


WAYS_OUT = {"retry": retrying, "snooze": snoozed, "release": released, "redrive": failed, "again": failed}


@pytest.mark.parametrize("way", [*WAYS_OUT, "lost", "schedule"])
async def test_a_job_keeps_its_key_on_every_way_back(engine: Engine, way: str) -> None:
    queue = await make(engine, key_max_concurrency=1)
    delay = {"delay_seconds": 60.0} if way == "schedule" else {}
    [first] = await engine.submit(1, queue_name=queue, terms=keyed("k"), **delay)
    worker = await engine.register(queue)
    if way != "schedule":
        found = await claim(engine, worker)
        if way == "lost":
            await engine.expire(worker)
            await engine.reap()
            worker = await engine.register(queue)
        else:
            await finish_all(engine, worker, found, WAYS_OUT[way])
    if way in ("retry", "snooze", "schedule"):
        await engine.make_due([first])
        await engine.promote()
    elif way == "redrive":
        await dead_letters.redrive(engine.core, engine.ctx, queue, None)
    elif way == "again":
        await jobs.retry(engine.core, engine.ctx, first)
    [second] = await engine.submit(1, queue_name=queue, terms=keyed("k"), priority=9)
    found = await claim(engine, worker)
    assert taken(found) == [second]  # one at a time, the urgent one first
    assert await claim(engine, worker) == []
    await finish_all(engine, worker, found)
    assert taken(await claim(engine, worker)) == [first]
    await assert_no_drift(engine)


async def test_keys_take_turns_however_long_the_line_of_one_is(engine: Engine) -> None:
    queue = await make(engine)
    await engine.submit(2_000, queue_name=queue, terms=keyed("flood"))
    for name in ("x", "y", "z"):
        await engine.submit(20, queue_name=queue, terms=keyed(name))
    worker = await engine.register(queue)
    served: Counter[str] = Counter()
    for _ in range(20):
        for lease in await claim(engine, worker, 4):
            served[key_of(lease)] += len(lease.ids)
    assert served == {"flood": 20, "x": 20, "y": 20, "z": 20}


async def test_a_key_of_twice_the_weight_gets_twice_as_much(engine: Engine) -> None:
    queue = await make(engine)
    for name in ("heavy", "light"):
        await engine.submit(500, queue_name=queue, terms=keyed(name))
    await engine.admin.execute("update limits set weight = 2 where key = 'heavy'")
    worker = await engine.register(queue)
    served: Counter[str] = Counter()
    for want in (1, 2, 3, 5, 7, 30, 1, 1, 40, 9) * 3:
        for lease in await claim(engine, worker, want):
            served[key_of(lease)] += len(lease.ids)
    assert abs(served["heavy"] - 2 * served["light"]) <= 10, served


async def test_cancelling_and_moving_keep_a_keyed_queue_whole(engine: Engine) -> None:
    queue = await make(engine, key_max_concurrency=2)
    ids = await engine.submit(5, queue_name=queue, terms=keyed("k"))
    assert (await engine.cancel(ids[2])).state == "cancelled"
    await engine.assert_one_place(ids)
    worker = await engine.register(queue)
    seen = []
    for _ in range(2):
        found = await claim(engine, worker)
        seen += taken(found)
        await finish_all(engine, worker, found)
    assert sorted(seen) == [ids[0], ids[1], ids[3], ids[4]]
    await assert_no_drift(engine)


async def test_what_has_waited_longest_gets_half_of_every_claim(engine: Engine) -> None:
    queue = await make(engine, ageing_seconds=60.0)
    old = await engine.submit(10, queue_name=queue, priority=0)
    await engine.admin.execute("update ready set ready_at = now() - interval '61 s' where priority = 0")
    await engine.submit(100, queue_name=queue, priority=9)
    worker = await engine.register(queue)
    assert [job_id for job_id in taken(await claim(engine, worker, 10)) if job_id in old] == old[:5]
    assert taken(await claim(engine, worker, 2))[0] == old[5]


async def test_without_ageing_the_urgent_go_first(engine: Engine) -> None:
    queue = await make(engine, ageing_seconds=None)
    old = await engine.submit(1, queue_name=queue, priority=0)
    await engine.admin.execute("update ready set ready_at = now() - interval '1 d' where priority = 0")
    await engine.submit(10, queue_name=queue, priority=9)
    worker = await engine.register(queue)
    assert old[0] not in taken(await claim(engine, worker, 10))
