"""Submits that meet: the same key, keys in opposite order, a queue that goes away (E1)."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from taskforge.domain.jobs import JobDraft
from taskforge.domain.queues import QueueDraft
from taskforge.errors import Conflict, Invalid
from taskforge.services import jobs, queues
from tests.support.engine import Engine, open_engine, together


def keyed(key: str, payload: bytes = b"{}") -> JobDraft:
    return JobDraft("default", "noop", payload, idempotency_key=key)


async def test_one_key_submitted_50_times_at_once_by_5_processes_makes_one_job(
    engine: Engine, database_url: str
) -> None:
    async def submit(e: Engine) -> tuple[int | None, bool]:
        [verdict] = await jobs.submit(e.core, e.ctx, [keyed("once")])
        return verdict.job_id, verdict.created

    async with AsyncExitStack() as stack:
        engines = [engine] + [await stack.enter_async_context(open_engine(database_url)) for _ in range(4)]
        answers = await asyncio.gather(*(submit(e) for e in engines for _ in range(10)))

    assert len({job_id for job_id, _ in answers}) == 1
    assert Counter(created for _, created in answers) == {True: 1, False: 49}
    assert await engine.admin.fetchval("select count(*) from jobs") == 1
    assert await engine.admin.fetchval("select sum(hi - lo + 1) from ready") == 1


async def test_two_batches_with_the_same_keys_in_opposite_order_do_not_deadlock(
    engine: Engine, other: Engine
) -> None:
    drafts = [keyed(key) for key in "abmyz"]
    middle = (
        "insert into idempotency (tenant_id, key, job_id, body_hash, expires_at)"
        " values ($1, 'm', 1, '', now() + interval '1 h')"
    )
    async with engine.holding(middle, engine.ctx.tenant_id) as holder:
        forwards = asyncio.create_task(jobs.submit(engine.core, engine.ctx, drafts))
        await engine.blocked(1)
        backwards = asyncio.create_task(jobs.submit(other.core, other.ctx, drafts[::-1]))
        await engine.blocked(2)
        await holder.execute("delete from idempotency where key = 'm'")

    first, second = await forwards, await backwards
    assert [v.job_id for v in first] == [v.job_id for v in second][::-1]
    assert sorted(v.created for v in first + second) == [False] * 5 + [True] * 5


async def test_a_key_reused_for_another_content_is_refused_and_its_neighbours_are_kept(
    engine: Engine,
) -> None:
    await jobs.submit(engine.core, engine.ctx, [keyed("k", b'{"a": 1, "b": 2}')])
    drafts = [keyed("k", b'{"b":2,"a":1}'), keyed("k", b'{"a": 9}'), keyed("new")]
    same, reused, new = await jobs.submit(engine.core, engine.ctx, drafts, atomic=False)

    assert (same.created, same.error) == (False, None)
    assert isinstance(reused.error, Conflict) and reused.error.code == "idempotency_key_reused"
    assert new.created
    with pytest.raises(Conflict):
        await jobs.submit(engine.core, engine.ctx, [keyed("another"), keyed("k", b'{"a": 9}')])
    assert await engine.admin.fetchval("select count(*) from jobs") == 2


async def test_one_key_in_two_tenants_makes_two_jobs(engine: Engine) -> None:
    stranger = await engine.stranger("default")
    [mine] = await jobs.submit(engine.core, engine.ctx, [keyed("k")])
    [theirs] = await jobs.submit(stranger.core, stranger.ctx, [keyed("k")])
    assert mine.created and theirs.created and mine.job_id != theirs.job_id


async def test_an_expired_key_is_free_again(engine: Engine) -> None:
    [first] = await jobs.submit(engine.core, engine.ctx, [keyed("k")])
    await engine.admin.execute("update idempotency set expires_at = now() - interval '1 s'")
    [second] = await jobs.submit(engine.core, engine.ctx, [keyed("k", b'{"other": true}')])
    assert second.created and second.job_id != first.job_id


async def test_deleting_a_queue_waits_for_a_submit_in_flight_and_then_refuses(
    engine: Engine, other: Engine
) -> None:
    await queues.create(engine.core, engine.ctx, QueueDraft(name="short"))
    async with engine.gate("spans"):
        submitting = asyncio.create_task(other.submit(queue_name="short"))
        await engine.blocked(1)
        deleting = asyncio.create_task(queues.delete(engine.core, engine.ctx, "short"))
        await engine.core.database.call("select 1")

    [job_id] = await submitting
    with pytest.raises(Conflict, match="holds jobs"):
        await deleting
    worker = await engine.register("short")
    assert [lease.ids for lease in await engine.claim(worker)] == [[job_id]]


async def test_a_submit_that_begins_while_the_deletion_commits_is_not_lost(
    engine: Engine, other: Engine
) -> None:
    queue = await queues.create(engine.core, engine.ctx, QueueDraft(name="short"))
    async with engine.gate("spans"):
        row = f"select from queues where queue_id = {queue.queue_id} for update"
        async with engine.holding(row):
            # The deletion has its transaction id and waits for the row; the submit's id is younger.
            deleting = asyncio.create_task(queues.delete(engine.core, engine.ctx, "short"))
            await engine.blocked(1)
            submitting = asyncio.create_task(other.submit(queue_name="short"))
            await engine.blocked(2)
        await asyncio.wait([deleting], timeout=0.3)

    submitted, deleted = await together(submitting, deleting)
    if isinstance(submitted, Exception):
        assert isinstance(submitted, Invalid) and deleted is None
    else:
        assert isinstance(deleted, Conflict), "the queue was deleted around a job that had been accepted"
        assert await engine.state(submitted[0]) == "pending"


async def test_a_submit_to_a_queue_deleted_behind_its_back_is_refused_and_stores_nothing(
    engine: Engine, other: Engine
) -> None:
    await queues.create(engine.core, engine.ctx, QueueDraft(name="short"))
    other_worker = await other.register("short")
    [job_id] = await other.submit(queue_name="short")
    await other.cancel(job_id)
    await queues.delete(engine.core, engine.ctx, "short")

    with pytest.raises(Invalid) as refused:
        await other.submit(queue_name="short")
    assert refused.value.code == "queue.not_found"
    assert await engine.admin.fetchval("select count(*) from jobs") == 1
    assert await other.claim(other_worker) == []


async def test_a_queue_deleted_and_made_again_takes_submits_of_a_process_that_missed_it(
    engine: Engine, other: Engine
) -> None:
    await queues.create(engine.core, engine.ctx, QueueDraft(name="short"))
    [job_id] = await other.submit(queue_name="short")
    await other.cancel(job_id)
    await queues.delete(engine.core, engine.ctx, "short")
    await queues.create(engine.core, engine.ctx, QueueDraft(name="short"))

    [job_id] = await other.submit(queue_name="short")
    worker = await engine.register("short")
    assert [lease.ids for lease in await engine.claim(worker)] == [[job_id]]


async def test_a_job_of_a_deleted_queue_cannot_be_retried_into_the_void(engine: Engine) -> None:
    await queues.create(engine.core, engine.ctx, QueueDraft(name="short"))
    [job_id] = await engine.submit(queue_name="short")
    await engine.cancel(job_id)
    await queues.delete(engine.core, engine.ctx, "short")

    with pytest.raises(Conflict) as refused:
        await jobs.retry(engine.core, engine.ctx, job_id)
    assert refused.value.code == "queue.gone"
    assert await engine.state(job_id) == "cancelled"
