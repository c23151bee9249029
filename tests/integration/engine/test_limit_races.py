"""Limits (E8) where two transactions meet: a first limit, a change, keys of several queues, the last slot."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from taskforge.domain.leases import Lease
from taskforge.domain.queues import QueueChange, QueueDraft, RateLimit
from taskforge.domain.terms import JobTerms
from taskforge.postgres import limits
from taskforge.services import leases, queues
from tests.support.engine import Engine, Worker, report, succeeded
from tests.support.mutations import rewrite
from tests.support.waiting import until


async def make(engine: Engine, name: str, **settings: Any) -> str:
    await queues.create(engine.core, engine.ctx, QueueDraft(name=name, **settings))
    return name


async def claim(engine: Engine, worker: Worker, want: int = 1_000, startable: int = 1_000) -> list[Lease]:
    return await leases.claim(engine.core, worker[0], worker[1], want=want, startable=startable)


def count(found: list[Lease]) -> int:
    return sum(len(lease.ids) for lease in found)


async def in_use(engine: Engine, key: str = "") -> int:
    used: int = await engine.admin.fetchval("select in_use from limits where key = $1", key)
    return used


SET_FIRST = """update queues set settings = settings || '{"max_concurrency": 6}' where name = 'default'"""


async def test_a_claim_that_began_while_a_first_limit_was_not_committed_is_counted(engine: Engine) -> None:
    """Its xid is younger than the limit's, yet it cannot have seen the limit."""
    await engine.submit(10)
    worker, late = await engine.register(), await engine.register()
    async with engine.gate("leases"):
        async with engine.holding(SET_FIRST):
            unaware = asyncio.create_task(claim(engine, worker, 5))
            await engine.blocked()
        found: list[Lease] = []
        for _ in range(
            3
        ):  # the limit is in force; whoever asks gets nothing, or waits at the gate and is counted
            aware = asyncio.create_task(claim(engine, late))
            done, _ = await asyncio.wait({aware}, timeout=2)
            if not done:
                break
            found += aware.result()
    found += await aware
    running = count(await unaware) + count(found)
    assert running <= 6
    found = await until(lambda: claim(engine, late))  # type: ignore[assignment]
    assert running + count(found) == 6
    assert await limits.count_drift(engine.core.database) == 0


async def test_a_claim_that_waited_for_the_row_goes_by_the_limit_of_now(engine: Engine) -> None:
    queue = await make(engine, "q", max_concurrency=8)
    await engine.submit(20, queue_name=queue)
    worker = await engine.register(queue)
    async with engine.holding(
        """update queues set settings = settings || '{"max_concurrency": 2}' where name = 'q'"""
    ):
        claiming = asyncio.create_task(claim(engine, worker))
        await engine.blocked()
    assert count(await claiming) == 2


async def test_a_claim_that_looked_before_a_first_limit_and_goes_on_after_it_takes_nothing(
    engine: Engine,
) -> None:
    await engine.submit(10)
    worker, late = await engine.register(), await engine.register()
    here = "    -- The lanes in which jobs wait."
    stop = f"    if p_worker = {worker[0]} then perform pg_advisory_xact_lock_shared(42); end if;\n"
    await rewrite(engine.admin, "claim", here, stop + here)
    async with engine.holding("select pg_advisory_xact_lock(42)"):
        unaware = asyncio.create_task(claim(engine, worker, 5))
        await engine.blocked()
        await queues.update(engine.core, engine.ctx, "default", QueueChange(max_concurrency=6))
        found = await until(lambda: claim(engine, late))
        assert isinstance(found, list)
        assert count(found) == 6
    assert await unaware == []
    assert await limits.count_drift(engine.core.database) == 0


async def test_a_claim_waits_for_the_finish_that_is_giving_the_last_slot_back(engine: Engine) -> None:
    queue = await make(engine, "q", max_concurrency=1)
    await engine.submit(2, queue_name=queue)
    worker, other = await engine.register(queue), await engine.register(queue)
    [lease] = await claim(engine, worker)
    async with engine.gate("outcomes"):
        finishing = asyncio.create_task(engine.finish(worker, report(lease, succeeded)))
        await engine.blocked()
        assert await claim(engine, other) == []  # not ended yet, so its slot is not free
    assert await finishing == []
    assert count(await claim(engine, other)) == 1


async def test_a_finish_waits_for_the_claim_that_found_no_slot(engine: Engine) -> None:
    queue = await make(engine, "q", max_concurrency=2)
    await engine.submit(3, queue_name=queue)
    worker, other = await engine.register(queue), await engine.register(queue)
    [lease] = await claim(engine, worker, 1)
    async with engine.gate("leases"):
        claiming = asyncio.create_task(claim(engine, other))
        await engine.blocked()
        finishing = asyncio.create_task(engine.finish(worker, report(lease, succeeded)))
        await engine.blocked(2)
    assert count(await claiming) == 1
    assert await finishing == []
    assert await in_use(engine) == 1
    assert count(await claim(engine, worker)) == 1


@pytest.mark.parametrize("first", ["finish", "reaper"])
async def test_of_a_finish_and_the_reaper_one_gives_the_slot_back(engine: Engine, first: str) -> None:
    queue = await make(engine, "q", max_concurrency=1, key_max_concurrency=1)
    terms = JobTerms(concurrency_key="k")
    await engine.submit(2, queue_name=queue, terms=terms, max_attempts=9)
    worker = await engine.register(queue)
    [lease] = await claim(engine, worker)
    await engine.expire(worker)

    async def finish() -> object:
        return await engine.finish(worker, report(lease, succeeded))

    one, two = (finish, engine.reap) if first == "finish" else (engine.reap, finish)
    async with engine.gate("flow"):
        tasks = [asyncio.create_task(one())]
        await engine.blocked(1)
        tasks.append(asyncio.create_task(two()))
        await engine.blocked(2)
    await asyncio.gather(*tasks)
    assert (await in_use(engine), await in_use(engine, "k")) == (0, 0)
    assert count(await claim(engine, await engine.register(queue))) == 1
    assert await limits.count_drift(engine.core.database) == 0


ENQUEUE = """select enqueue('{tenant}', '[{{"queue_name": "q", "job_type": "noop", "payload": {{}},
  "options": {{"terms": {{"concurrency_key": "{key}"}}}}}}]')"""


async def test_a_transaction_that_has_enqueued_a_keyed_job_and_stays_open_holds_up_nobody(
    engine: Engine,
) -> None:
    queue = await make(engine, "q", key_max_concurrency=1)
    terms = JobTerms(concurrency_key="old")
    await engine.submit(2, queue_name=queue, terms=terms)
    worker = await engine.register(queue)
    tenant = engine.ctx.tenant_id
    [lease] = await claim(engine, worker)
    async with engine.holding(ENQUEUE.format(tenant=tenant, key="old")) as holder:
        await holder.execute(ENQUEUE.format(tenant=tenant, key="new"))
        async with asyncio.timeout(3):
            await engine.finish(worker, report(lease, succeeded))
            await engine.submit(1, queue_name=queue, terms=JobTerms(concurrency_key="new"))
            held = await claim(engine, worker)
    assert count(held) == 2
    await engine.promote()
    assert await claim(engine, worker) == []  # both keys are at their limit
    for _ in range(2):
        await engine.finish(worker, *(report(lease, succeeded) for lease in held))
        held = await claim(engine, worker)
    assert await engine.admin.fetchval("select count(*) from outcomes") + count(held) == 5
    assert await limits.count_drift(engine.core.database) == 0


async def test_a_claim_locks_keys_of_all_its_queues_in_the_order_of_their_ids(engine: Engine) -> None:
    second = await make(engine, "second", priority=1)
    first = await make(engine, "first", priority=9)
    for queue in (second, first):
        await engine.submit(4, queue_name=queue, terms=JobTerms(concurrency_key="k"))
    low, high = await engine.admin.fetchrow("select min(limit_id), max(limit_id) from limits where key = 'k'")
    worker = await engine.register(first, second)
    async with engine.holding("select from limits where limit_id = $1 for update", low) as holder:
        claiming = asyncio.create_task(claim(engine, worker, 8))
        await engine.blocked()
        # Whoever holds the lower one may still take the higher one.
        await holder.execute("set local lock_timeout = '2s'")
        await holder.execute("select from limits where limit_id = $1 for update", high)
    assert count(await claiming) == 8


async def test_an_aged_lane_gets_half_of_claims_for_one_job_and_no_more(engine: Engine) -> None:
    queue = await make(engine, "q", ageing_seconds=60.0)
    await engine.submit(100, queue_name=queue, priority=0)
    await engine.admin.execute("update ready set ready_at = now() - interval '61 s' where priority = 0")
    await engine.submit(100, queue_name=queue, priority=9)
    worker = await engine.register(queue)
    served: Counter[int] = Counter()
    for _ in range(60):
        for lease in await claim(engine, worker, 1):
            served[lease.priority] += len(lease.ids)
    assert served[0] >= 15 and served[9] >= 15, served


async def test_an_aged_lane_gets_half_of_the_only_slot_of_a_queue(engine: Engine) -> None:
    queue = await make(engine, "q", ageing_seconds=60.0, max_concurrency=1)
    await engine.submit(100, queue_name=queue, priority=0)
    await engine.admin.execute("update ready set ready_at = now() - interval '61 s' where priority = 0")
    await engine.submit(100, queue_name=queue, priority=9)
    worker = await engine.register(queue)
    served: Counter[int] = Counter()
    for _ in range(60):
        for lease in await claim(engine, worker, 10):
            served[lease.priority] += len(lease.ids)
            await engine.finish(worker, report(lease, succeeded))
    assert served[0] >= 15 and served[9] >= 15, served


async def test_keyed_and_plain_jobs_share_claims_for_one_job(engine: Engine) -> None:
    queue = await make(engine, "q")
    await engine.submit(100, queue_name=queue, terms=JobTerms(concurrency_key="k"))
    await engine.submit(100, queue_name=queue)
    worker = await engine.register(queue)
    served: Counter[bool] = Counter()
    for _ in range(60):
        for lease in await claim(engine, worker, 1):
            served[lease.options is None] += len(lease.ids)
    assert served[True] >= 15 and served[False] >= 15, served


async def test_within_a_key_what_has_waited_longest_gets_half(engine: Engine) -> None:
    queue = await make(engine, "q", ageing_seconds=60.0)
    terms = JobTerms(concurrency_key="k")
    await engine.submit(50, queue_name=queue, priority=0, terms=terms)
    await engine.admin.execute("update ready set ready_at = now() - interval '61 s' where priority = 0")
    await engine.submit(50, queue_name=queue, priority=9, terms=terms)
    worker = await engine.register(queue)
    served: Counter[int] = Counter()
    for lease in await claim(engine, worker, 20):
        served[lease.priority] += len(lease.ids)
    assert served[0] == served[9] == 10, served


async def test_lifting_a_rate_of_keys_lets_them_go_on_at_once(engine: Engine) -> None:
    queue = await make(engine, "q", key_rate_limits=(RateLimit(1, 86_400),))
    await engine.submit(3, queue_name=queue, terms=JobTerms(concurrency_key="k"))
    worker = await engine.register(queue)
    assert count(await claim(engine, worker)) == 1
    assert await claim(engine, worker) == []
    await queues.update(engine.core, engine.ctx, queue, QueueChange(key_rate_limits=()))
    assert count(await claim(engine, worker)) == 2


async def test_a_slot_given_back_under_a_tenants_limit_wakes_the_tenants_queues(engine: Engine) -> None:
    await engine.submit(2)
    await engine.admin.execute("select limit_tenant($1, 1)", engine.ctx.tenant_id)
    worker = await engine.register()
    [lease] = await until(lambda: claim(engine, worker))  # type: ignore[misc]
    told: list[frozenset[int]] = []
    engine.core.wakeups.subscribe(told.append)
    await engine.finish(worker, report(lease, succeeded))
    assert set(worker[1]) <= set().union(*told)
    assert 0 not in set().union(*told)


async def test_a_changed_limit_wakes_the_workers_of_its_queue(engine: Engine) -> None:
    queue = await make(engine, "q", max_concurrency=1)
    told: list[frozenset[int]] = []
    engine.core.wakeups.subscribe(told.append)
    changed = await queues.update(engine.core, engine.ctx, queue, QueueChange(max_concurrency=2))
    assert {changed.queue_id} in told
