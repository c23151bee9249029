"""Children start only after their parents (E7): released once, in the transaction that ends the last parent."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any
from uuid import UUID

import pytest

from taskforge.domain.jobs import JobDraft
from taskforge.domain.terms import Dependency, JobTerms, OnFailure
from taskforge.errors import Invalid
from taskforge.postgres import maintenance
from taskforge.services import jobs
from tests.support.engine import Engine, Worker, failed, released, report, succeeded


async def child_of(engine: Engine, *parents: int, on_failure: OnFailure = "cancel", **fields: Any) -> int:
    terms = JobTerms(depends_on=tuple(Dependency(str(parent), on_failure) for parent in parents))
    [job_id] = await engine.submit(1, terms=terms, **fields)
    return job_id


async def end(engine: Engine, worker: Worker, job_id: int, outcome: Any = succeeded) -> None:
    """Claim whatever is ready, end this one, give the rest back."""
    for lease in await engine.claim(worker, 100):
        ids = [other for other in lease.ids if other != job_id]
        if job_id in lease.ids:
            await engine.finish(worker, report(lease, outcome, [job_id]))
        if ids:
            await engine.finish(worker, report(lease, released, ids))


async def orphans(engine: Engine) -> int:
    return await maintenance.count_orphans(engine.core.database)


async def test_a_child_waits_for_all_its_parents(engine: Engine) -> None:
    a, b = await engine.submit(2)
    child = await child_of(engine, a, b)
    worker = await engine.register()
    assert await engine.state(child) == "blocked"
    await end(engine, worker, a)
    assert await engine.state(child) == "blocked"
    await end(engine, worker, b)
    assert await engine.state(child) == "pending"
    await end(engine, worker, child)
    assert await engine.state(child) == "succeeded"
    assert await orphans(engine) == 0


async def test_a_child_of_parents_that_have_ended_does_not_wait(engine: Engine) -> None:
    [a] = await engine.submit(1)
    worker = await engine.register()
    await end(engine, worker, a)
    terms = JobTerms(depends_on=(Dependency(str(a)),))
    [verdict] = await jobs.submit(engine.core, engine.ctx, [JobDraft("default", "noop", b"{}", terms=terms)])
    assert verdict.state == "pending" and verdict.job_id is not None
    assert await engine.state(verdict.job_id) == "pending"


@pytest.mark.parametrize(
    ("on_failure", "after_failure", "after_success"),
    [
        ("cancel", "cancelled", "pending"),
        ("block", "blocked", "pending"),
        ("run", "pending", "pending"),
        ("only", "pending", "cancelled"),
    ],
)
@pytest.mark.parametrize("is_late", [False, True])
async def test_each_edge_says_what_the_parents_end_means(
    engine: Engine, on_failure: OnFailure, after_failure: str, after_success: str, is_late: bool
) -> None:
    worker = await engine.register()
    for outcome, expected in ((failed, after_failure), (succeeded, after_success)):
        [parent] = await engine.submit(1)
        if is_late:
            await end(engine, worker, parent, outcome)
        child = await child_of(engine, parent, on_failure=on_failure)
        if not is_late:
            await end(engine, worker, parent, outcome)
        assert await engine.state(child) == expected
        if expected == "cancelled":
            assert str(parent) in ((await engine.view(child)).reason or "")
        await engine.assert_one_place([parent, child])


async def test_a_failure_cancels_all_descendants_at_once(engine: Engine) -> None:
    [root] = await engine.submit(1)
    line = [root]
    for _ in range(30):
        line.append(await child_of(engine, line[-1]))
    worker = await engine.register()
    await end(engine, worker, root, failed)
    assert {await engine.state(job_id) for job_id in line[1:]} == {"cancelled"}
    assert await orphans(engine) == 0


async def test_a_cancelled_parent_cancels_its_children(engine: Engine) -> None:
    [root] = await engine.submit(1)
    child = await child_of(engine, root)
    await engine.cancel(root)
    assert await engine.state(child) == "cancelled"


async def test_a_blocked_child_goes_on_when_its_parent_is_retried_and_succeeds(engine: Engine) -> None:
    [parent] = await engine.submit(1)
    child = await child_of(engine, parent, on_failure="block")
    worker = await engine.register()
    await end(engine, worker, parent, failed)
    assert await engine.state(child) == "blocked"
    await jobs.retry(engine.core, engine.ctx, parent)
    assert await engine.state(child) == "blocked"
    await end(engine, worker, parent)
    assert await engine.state(child) == "pending"


async def test_a_childs_own_time_counts_once_its_parents_let_it(engine: Engine) -> None:
    [parent] = await engine.submit(1)
    child = await child_of(engine, parent, delay_seconds=3_600.0)
    worker = await engine.register()
    await end(engine, worker, parent)
    view = await engine.view(child)
    assert view.state == "scheduled" and view.run_at is not None
    await engine.make_due([child])
    await engine.promote()
    assert await engine.state(child) == "pending"


async def test_a_child_with_a_key_waits_in_its_keys_line(engine: Engine) -> None:
    [parent] = await engine.submit(1)
    terms = JobTerms(depends_on=(Dependency(str(parent)),), concurrency_key="k")
    [child] = await engine.submit(1, terms=terms)
    worker = await engine.register()
    await end(engine, worker, parent)
    assert await engine.admin.fetchval("select count(*) from ready where key_id is not null") == 1
    await end(engine, worker, child)
    assert await engine.state(child) == "succeeded"


async def test_a_lost_parent_that_is_dead_cancels_its_child(engine: Engine) -> None:
    [parent] = await engine.submit(1, max_attempts=1)
    child = await child_of(engine, parent)
    worker = await engine.register()
    await engine.claim(worker, 1)
    await engine.expire(worker)
    await engine.reap()
    assert (await engine.state(parent), await engine.state(child)) == ("failed", "cancelled")


async def test_nobody_depends_on_what_does_not_exist_or_is_anothers(engine: Engine) -> None:
    stranger = await engine.stranger("default")
    [theirs] = await stranger.submit(1)
    errors = []
    for parent in (theirs, 4_711_000):
        with pytest.raises(Invalid) as caught:
            await child_of(engine, parent)
        errors.append(caught.value)
        assert caught.value.code == "job.parent_not_found"
        assert caught.value.fields[0].pointer == "/depends_on/0/job_id"
    assert errors[0].detail.replace(str(theirs), "4711000") == errors[1].detail


async def test_in_a_batch_only_the_child_without_a_parent_is_refused(engine: Engine) -> None:
    good = JobDraft("default", "noop", b"{}")
    bad = JobDraft("default", "noop", b"{}", terms=JobTerms(depends_on=(Dependency("4711000"),)))
    verdicts = await jobs.submit(engine.core, engine.ctx, [good, bad, good], atomic=False)
    assert [verdict.error is None for verdict in verdicts] == [True, False, True]


# -- races


async def test_the_last_two_parents_that_end_at_once_release_the_child_once(engine: Engine) -> None:
    a, b = await engine.submit(2, priority=1), await engine.submit(1, priority=2)
    child = await child_of(engine, a[0], b[0])
    one, other = await engine.register(), await engine.register()
    first, second = await engine.claim(one, 1), await engine.claim(other, 1)
    async with engine.holding("select from parked where id = $1 for update", child):
        both = [
            asyncio.create_task(engine.finish(one, report(first[0], succeeded))),
            asyncio.create_task(engine.finish(other, report(second[0], succeeded))),
        ]
        await engine.blocked(2)
    await asyncio.gather(*both)
    assert await engine.state(child) == "pending"
    await engine.assert_one_place([child])
    assert await engine.admin.fetchval("select sum(blocked) from flow") == 0


async def test_a_child_that_comes_while_its_parent_ends_sees_the_end(engine: Engine) -> None:
    [parent] = await engine.submit(1)
    worker = await engine.register()
    [lease] = await engine.claim(worker, 1)
    async with engine.gate("outcomes"):
        finishing = asyncio.create_task(engine.finish(worker, report(lease, succeeded)))
        await engine.blocked()
        coming = asyncio.create_task(child_of(engine, parent))
        await engine.blocked(2)  # it waits for the lease
    await finishing
    assert await engine.state(await coming) == "pending"
    assert await orphans(engine) == 0


async def test_an_end_that_comes_while_a_child_does_sees_the_child(engine: Engine) -> None:
    [parent] = await engine.submit(1)
    worker = await engine.register()
    [lease] = await engine.claim(worker, 1)
    async with engine.gate("followups"):
        pass
    async with engine.holding("lock table flow in exclusive mode"):
        finishing: asyncio.Task[Any] | None = None
        coming = asyncio.create_task(child_of(engine, parent))
        await engine.blocked()
        finishing = asyncio.create_task(engine.finish(worker, report(lease, succeeded)))
        await engine.blocked(2)
    assert finishing is not None
    await finishing
    assert await engine.state(await coming) == "pending"
    assert await orphans(engine) == 0


@pytest.mark.parametrize("place", ["pending", "scheduled", "processing"])
async def test_a_parent_cannot_end_between_a_childs_look_and_its_commit(engine: Engine, place: str) -> None:
    delay = {"delay_seconds": 60.0} if place == "scheduled" else {}
    [parent] = await engine.submit(1, **delay)
    worker = await engine.register()
    if place == "processing":
        await engine.claim(worker, 1)
    tenant: UUID = engine.ctx.tenant_id
    [child] = await engine.submit(1, delay_seconds=3_600.0)
    await engine.admin.execute("update parked set kind = 3, run_at = 'infinity' where id = $1", child)
    async with engine.holding(
        "select await_parents(array[$1::uuid], array[$2::bigint], array[$3::bigint], array[1::smallint])",
        tenant,
        child,
        parent,
    ):
        cancelling = asyncio.create_task(engine.cancel(parent))
        await engine.blocked()
    await cancelling
    if place == "processing":
        await engine.expire(worker)
        await engine.reap()
    assert await engine.state(parent) == "cancelled"
    assert await engine.state(child) == "cancelled"


async def test_ten_thousand_children_and_one_grandchild_run_once_each(engine: Engine) -> None:
    [root] = await engine.submit(1)
    terms = JobTerms(depends_on=(Dependency(str(root)),))
    draft = JobDraft("default", "noop", b"{}", terms=terms)
    children = [v.job_id for v in await jobs.submit(engine.core, engine.ctx, [draft] * 10_000)]
    assert all(children)
    last = await child_of(engine, *[job_id for job_id in children if job_id is not None])
    worker, other = await engine.register(), await engine.register()
    await end(engine, worker, root)
    done: list[int] = []

    async def work(mine: Worker) -> None:
        while leases := await engine.claim(mine, 500):
            for lease in leases:
                done.extend(lease.ids)
                await engine.finish(mine, report(lease, succeeded))

    await asyncio.gather(work(worker), work(other))
    await work(worker)
    assert len(done) == len(set(done)) == 10_001
    assert await engine.state(last) == "succeeded"
    assert await orphans(engine) == 0


@pytest.mark.parametrize("seed", range(4))
async def test_random_graphs_with_failures_and_lost_workers_leave_no_orphan(
    engine: Engine, seed: int
) -> None:
    rng = Random(seed)
    ids = await engine.submit(5)
    for _ in range(60):
        parents = rng.sample(ids, min(len(ids), rng.randint(1, 4)))
        policy: OnFailure = rng.choice(("cancel", "run", "only", "block"))
        ids.append(await child_of(engine, *parents, on_failure=policy, max_attempts=2))
    worker = await engine.register()
    started: dict[tuple[int, int], int] = {}
    for _ in range(400):
        found = await engine.claim(worker, rng.randint(1, 5))
        for lease in found:
            for job_id in lease.ids:
                key = (job_id, lease.attempt)
                started[key] = started.get(key, 0) + 1
        await engine.assert_one_place(ids)
        if found and rng.random() < 0.2:
            await engine.expire(worker)
            await engine.reap()
            worker = await engine.register()
            continue
        for lease in found:
            await engine.finish(worker, report(lease, rng.choice((succeeded, succeeded, failed))))
        assert await orphans(engine) == 0
        if not found:
            blockers = await engine.admin.fetch("select distinct parent_id from edges where state = 2")
            retried = [row["parent_id"] for row in blockers]
            for parent in retried:
                await jobs.retry(engine.core, engine.ctx, parent)
                started = {
                    key: n for key, n in started.items() if key[0] != parent
                }  # its attempts begin anew
            if not retried:
                break
    states = {await engine.state(job_id) for job_id in ids}
    assert states <= {"succeeded", "failed", "cancelled"}
    assert max(started.values()) == 1
