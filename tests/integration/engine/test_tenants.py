"""Two tenants through every verb: what is another's does not exist, in the very words of what does not exist (E10)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from taskforge.domain.jobs import JobFilter, JobState
from taskforge.domain.queues import QueueChange, QueueDraft
from taskforge.errors import NotFound
from taskforge.services import dead_letters, health, jobs, leases, queues
from tests.support.engine import Engine, report, succeeded
from tests.support.engine import dead_letters as make_dead_letters

MISSING = 999_999_999

JOB_VERBS: dict[str, Callable[[Engine, int], Awaitable[object]]] = {
    "get": lambda e, i: jobs.get(e.core, e.ctx, i),
    "wait": lambda e, i: jobs.wait(e.core, e.ctx, i, timeout=0.01),
    "cancel": lambda e, i: jobs.cancel(e.core, e.ctx, i),
    "retry": lambda e, i: jobs.retry(e.core, e.ctx, i),
}
QUEUE_VERBS: dict[str, Callable[[Engine, str], Awaitable[object]]] = {
    "get": lambda e, n: queues.get(e.core, e.ctx, n),
    "update": lambda e, n: queues.update(e.core, e.ctx, n, QueueChange(priority=3)),
    "pause": lambda e, n: queues.pause(e.core, e.ctx, n),
    "resume": lambda e, n: queues.resume(e.core, e.ctx, n),
    "health": lambda e, n: health.of_queue(e.core, e.ctx, n),
    "delete": lambda e, n: queues.delete(e.core, e.ctx, n),
    "dead letters": lambda e, n: dead_letters.list_dead_letters(e.core, e.ctx, n, limit=10),
    "redrive": lambda e, n: dead_letters.redrive(e.core, e.ctx, n),
    "purge": lambda e, n: dead_letters.purge(e.core, e.ctx, n),
    "list jobs": lambda e, n: jobs.list_jobs(e.core, e.ctx, JobFilter(queue_name=n), limit=10),
}


async def refusal(verb: Awaitable[object]) -> tuple[str, str]:
    with pytest.raises(NotFound) as refused:
        await verb
    return refused.value.code, refused.value.detail


@pytest.mark.parametrize("verb", JOB_VERBS)
@pytest.mark.parametrize("state", ["pending", "scheduled", "processing", "failed", "cancelled"])
async def test_a_job_of_another_tenant_does_not_exist(engine: Engine, verb: str, state: str) -> None:
    stranger = await engine.stranger()
    if state == "failed":
        [job_id] = await make_dead_letters(engine, 1)
    else:
        [job_id] = await engine.submit(delay_seconds=60 if state == "scheduled" else None)
    if state == "processing":
        await engine.claim(await engine.register())
    elif state == "cancelled":
        await engine.cancel(job_id)
    before = await engine.view(job_id)

    code, detail = await refusal(JOB_VERBS[verb](stranger, job_id))
    assert (code, detail.replace(str(job_id), str(MISSING))) == await refusal(
        JOB_VERBS[verb](stranger, MISSING)
    )
    assert await engine.view(job_id) == before
    assert before.state.value == state


@pytest.mark.parametrize("verb", QUEUE_VERBS)
async def test_a_queue_of_another_tenant_does_not_exist(engine: Engine, verb: str) -> None:
    stranger = await engine.stranger()
    await queues.create(engine.core, engine.ctx, QueueDraft(name="mine"))
    before = await queues.get(engine.core, engine.ctx, "mine")

    code, detail = await refusal(QUEUE_VERBS[verb](stranger, "mine"))
    assert (code, detail.replace("mine", "none")) == await refusal(QUEUE_VERBS[verb](stranger, "none"))
    assert await queues.get(engine.core, engine.ctx, "mine") == before


async def test_listings_show_each_tenant_its_own(engine: Engine) -> None:
    stranger = await engine.stranger("default", "theirs")
    mine = await engine.submit(3) + await engine.submit(2, delay_seconds=60)
    theirs = await stranger.submit(2)
    everything = [
        JobFilter(),
        *(JobFilter(state=state) for state in JobState),
        JobFilter(queue_name="default"),
    ]
    for e, own in ((engine, mine), (stranger, theirs)):
        for job_filter in everything:
            page = await jobs.list_jobs(e.core, e.ctx, job_filter, limit=100)
            assert {int(view.id) for view in page.data} <= set(own)
        page = await jobs.list_jobs(e.core, e.ctx, JobFilter(), limit=100)
        assert {int(view.id) for view in page.data} == set(own)
    names = [queue.name for queue in (await queues.list_queues(engine.core, engine.ctx, limit=100)).data]
    assert names == ["default"]


async def test_queues_of_one_name_are_apart(engine: Engine) -> None:
    stranger = await engine.stranger("default")
    [mine], [theirs] = await engine.submit(), await stranger.submit()
    await queues.pause(stranger.core, stranger.ctx, "default")

    worker = await engine.register()
    assert [lease.ids for lease in await engine.claim(worker, 10)] == [[mine]]
    assert await stranger.claim(await stranger.register(), 10) == []
    assert (await health.of_queue(engine.core, engine.ctx, "default")).pending == 0
    assert (await health.of_queue(stranger.core, stranger.ctx, "default")).pending == 1
    assert await stranger.state(theirs) == "pending"


async def test_dead_letters_named_by_a_stranger_stay_dead(engine: Engine) -> None:
    stranger = await engine.stranger("default")
    ids = await make_dead_letters(engine, 2)
    assert await dead_letters.redrive(stranger.core, stranger.ctx, "default", ids) == 0
    assert await dead_letters.purge(stranger.core, stranger.ctx, "default", ids) == 0
    assert [await engine.state(i) for i in ids] == ["failed", "failed"]


async def test_a_worker_is_handed_jobs_of_its_own_tenant_only(engine: Engine) -> None:
    stranger = await engine.stranger("default")
    await engine.submit()
    worker = await stranger.register()
    _, foreign_queues = await engine.register()
    assert await stranger.claim((worker[0], foreign_queues), 10) == []


async def test_a_worker_cannot_report_on_or_read_the_jobs_of_another_one(engine: Engine) -> None:
    stranger = await engine.stranger("default")
    [job_id] = await engine.submit(payload=b'"' + b"x" * 9_000 + b'"')
    [lease] = await engine.claim(await engine.register())
    theirs = await stranger.register()

    assert await stranger.finish(theirs, report(lease, succeeded)) == [(lease.fence, job_id)]
    assert await leases.fetch_payloads(stranger.core, theirs[0], lease.fence, [job_id]) == {}
    assert await engine.state(job_id) == "processing"
