"""Group commit: many callers share a commit, and none of them pays for another's fault or absence."""

from __future__ import annotations

import asyncio

import pytest
from msgspec import structs

from taskforge.domain.jobs import JobDraft, JobGroup
from taskforge.errors import Invalid, Unavailable
from taskforge.services import jobs
from taskforge.services import submitter as submitting
from tests.support.engine import Engine, together
from tests.support.waiting import until

PLAIN = JobDraft("default", "noop", b"{}")


async def transactions(engine: Engine) -> int:
    """How many transactions have stored jobs."""
    count: int = await engine.admin.fetchval("select count(distinct xmin::text) from jobs")
    return count


async def test_a_hundred_callers_at_once_share_a_few_commits(engine: Engine) -> None:
    await engine.submit()
    ids = await asyncio.gather(*(engine.submit() for _ in range(100)))
    assert len({job_id for [job_id] in ids}) == 100
    assert await transactions(engine) <= 5


async def test_callers_that_wait_during_a_flush_are_its_successor(engine: Engine) -> None:
    async with engine.gate("spans"):
        first = asyncio.create_task(engine.submit())
        await engine.blocked(1)
        waiting = [asyncio.create_task(engine.submit()) for _ in range(50)]
        await until(lambda: len(engine.core.submitter._waiting) == 50)
    await asyncio.gather(first, *waiting)
    assert await transactions(engine) == 2
    assert await engine.admin.fetchval("select count(*) from ready") == 2


async def test_one_caller_at_a_time_is_flushed_at_once(engine: Engine) -> None:
    for _ in range(3):
        await engine.submit()
    assert await transactions(engine) == 3


async def test_a_neighbour_whose_queue_is_gone_does_not_take_the_others_along(engine: Engine) -> None:
    gone = {"default": 999_999}
    ids = await engine.core.directory.find(engine.ctx.tenant_id, ["default"])
    group = JobGroup(PLAIN, [b"{}"])
    submitter = engine.core.submitter

    async def submit(queue_ids: dict[str, int]) -> object:
        return await submitter.submit(engine.ctx.tenant_id, [group], queue_ids, is_atomic=True)

    async with engine.gate("spans"):
        holder = asyncio.create_task(submit(ids))
        await engine.blocked(1)
        tasks = [asyncio.create_task(submit(gone if n == 3 else ids)) for n in range(8)]
        await until(lambda: len(submitter._waiting) == 8)
    outcomes = await together(holder, *tasks)
    assert [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Exception)] == [4]
    assert await engine.admin.fetchval("select count(*) from jobs") == 8


async def test_a_neighbour_that_no_check_foresaw_does_not_take_the_others_along(engine: Engine) -> None:
    ids = await engine.core.directory.find(engine.ctx.tenant_id, ["default"])
    submitter = engine.core.submitter

    async def submit(draft: JobDraft) -> object:
        group = JobGroup(draft, [b"{}"])
        return await submitter.submit(engine.ctx.tenant_id, [group], ids, is_atomic=True)

    async with engine.gate("spans"):
        holder = asyncio.create_task(submit(PLAIN))
        await engine.blocked(1)
        bad = structs.replace(PLAIN, priority=77)
        tasks = [asyncio.create_task(submit(draft)) for draft in (PLAIN, bad, PLAIN)]
        await until(lambda: len(submitter._waiting) == 3)
    outcomes = await together(holder, *tasks)
    assert [isinstance(outcome, Exception) for outcome in outcomes] == [False, False, True, False]
    assert await engine.admin.fetchval("select count(*) from jobs") == 3


async def test_a_caller_that_goes_away_takes_neither_its_job_nor_its_neighbours_along(engine: Engine) -> None:
    async with engine.gate("spans"):
        leaving = asyncio.create_task(engine.submit())
        staying = asyncio.create_task(engine.submit())
        await engine.blocked(1)
        leaving.cancel()
        [outcome] = await together(leaving)
        assert isinstance(outcome, asyncio.CancelledError)
    [job_id] = await staying
    assert await engine.state(job_id) == "pending"
    await until(lambda: engine.core.submitter._flushing is None)
    assert await engine.admin.fetchval("select count(*) from jobs") == 2


async def test_all_or_nothing_stores_nothing_when_one_draft_is_wrong(engine: Engine) -> None:
    drafts = [PLAIN, structs.replace(PLAIN, priority=77), structs.replace(PLAIN, queue_name="typo")]
    with pytest.raises(Invalid) as refused:
        await jobs.submit(engine.core, engine.ctx, drafts)
    assert [field.pointer for field in refused.value.fields] == ["/1/priority", "/2/queue_name"]
    assert await engine.admin.fetchval("select count(*) from jobs") == 0


async def test_each_for_itself_stores_what_is_right_and_says_what_is_wrong(engine: Engine) -> None:
    drafts = [PLAIN, structs.replace(PLAIN, priority=77), structs.replace(PLAIN, queue_name="typo"), PLAIN]
    verdicts = await jobs.submit(engine.core, engine.ctx, drafts, atomic=False)
    assert [verdict.error is None for verdict in verdicts] == [True, False, False, True]
    stored = [row["id"] for row in await engine.admin.fetch("select id from jobs order by id")]
    assert stored == [verdicts[0].job_id, verdicts[3].job_id]


async def test_verdicts_come_in_the_order_of_the_drafts_whatever_their_lanes(engine: Engine) -> None:
    drafts = [
        structs.replace(
            PLAIN,
            job_type=f"t{n}",
            priority=n % 10,
            delay_seconds=60.0 if n % 3 == 0 else None,
            idempotency_key=f"k{n}" if n % 4 == 0 else None,
        )
        for n in range(60)
    ]
    verdicts = await jobs.submit(engine.core, engine.ctx, drafts)
    rows = await engine.admin.fetch("select id, job_type from jobs")
    types = {row["id"]: row["job_type"] for row in rows}
    assert [types[verdict.job_id] for verdict in verdicts] == [draft.job_type for draft in drafts]
    assert [verdict.state for verdict in verdicts] == [
        "pending" if draft.delay_seconds is None else "scheduled" for draft in drafts
    ]
    await engine.assert_one_place(list(types))


async def test_closing_answers_everything_that_was_accepted(engine: Engine) -> None:
    async with engine.gate("spans"):
        tasks = [asyncio.create_task(engine.submit()) for _ in range(20)]
        await engine.blocked(1)
        closing = asyncio.create_task(engine.core.submitter.close())
    await closing
    assert all(task.done() for task in tasks) or len(await asyncio.gather(*tasks)) == 20
    assert await engine.admin.fetchval("select count(*) from jobs") == 20


async def test_more_than_can_wait_is_turned_away_at_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitting, "_JOBS_WAITING", 10)
    async with engine.gate("spans"):
        accepted = asyncio.create_task(engine.submit(9))
        await engine.blocked(1)
        with pytest.raises(Unavailable) as refused:
            await engine.submit(2)
        assert refused.value.code == "submit.overloaded" and refused.value.retry_after
    assert len(await accepted) == 9
    assert len(await engine.submit(2)) == 2


async def test_a_batch_of_ten_thousand_is_ten_extents_and_one_commit(engine: Engine) -> None:
    ids = await engine.submit(10_000)
    assert ids == list(range(ids[0], ids[0] + 10_000))
    assert await transactions(engine) == 1
    assert await engine.admin.fetchval("select count(*) from ready") == 10
