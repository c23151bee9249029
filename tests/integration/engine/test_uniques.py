"""Unique keys: at most one job per key, whatever submits, ends, claims and retries at the same moment."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from taskforge.domain.jobs import JobDraft, Verdict
from taskforge.domain.terms import JobTerms, Unique
from taskforge.errors import Conflict, TaskForgeError
from taskforge.services import dead_letters, jobs
from tests.support.engine import Engine, failed, report, retrying, succeeded, together


def wanting(
    key: str = "k", *, job_type: str = "noop", payload: bytes = b"{}", unique: Any = None, **fields: Any
) -> JobDraft:
    terms = JobTerms(unique=unique or Unique(key, **fields))
    return JobDraft("default", job_type, payload, terms=terms)


async def submit(engine: Engine, draft: JobDraft) -> Verdict:
    [verdict] = await jobs.submit(engine.core, engine.ctx, [draft])
    if verdict.error is not None:
        raise verdict.error
    return verdict


async def submit_id(engine: Engine, draft: JobDraft) -> int:
    verdict = await submit(engine, draft)
    assert verdict.created and verdict.job_id is not None
    return verdict.job_id


async def refused(engine: Engine, draft: JobDraft) -> str | None:
    """The id of the job that is in the way."""
    with pytest.raises(Conflict) as caught:
        await submit(engine, draft)
    assert caught.value.code == "job.not_unique"
    return caught.value.job_id


async def end(engine: Engine, outcome: Any = succeeded) -> None:
    worker = await engine.register()
    for lease in await engine.claim(worker, 10):
        await engine.finish(worker, report(lease, outcome))


async def holder(engine: Engine) -> int | None:
    found: int | None = await engine.admin.fetchval("select job_id from uniques where key = 'k'")
    return found


async def test_a_second_job_is_refused_and_told_of_the_first_until_that_has_ended(engine: Engine) -> None:
    first = await submit_id(engine, wanting())
    assert await refused(engine, wanting()) == str(first)
    worker = await engine.register()
    [lease] = await engine.claim(worker)
    assert await refused(engine, wanting()) == str(first)
    await engine.finish(worker, report(lease, retrying))
    assert await refused(engine, wanting()) == str(first), "it comes back"
    await engine.cancel(first)
    second = await submit_id(engine, wanting())
    await end(engine)
    third = await submit_id(engine, wanting())
    assert len({first, second, third}) == 3


async def test_keys_are_apart_by_tenant_job_type_and_key_but_not_by_queue(engine: Engine) -> None:
    first = await submit_id(engine, wanting())
    await submit_id(engine, wanting("other"))
    await submit_id(engine, wanting(job_type="another"))
    stranger = await engine.stranger("default")
    await submit_id(stranger, wanting())
    await engine.core.directory.ensure(engine.ctx.tenant_id, ["mail"])
    elsewhere = JobDraft("mail", "noop", b"{}", terms=JobTerms(unique=Unique("k")))
    assert await refused(engine, elsewhere) == str(first)


async def test_keep_answers_with_the_job_that_is_there(engine: Engine) -> None:
    first = await submit_id(engine, wanting())
    kept = await submit(engine, wanting(on_conflict="keep", payload=b'{"n": 2}'))
    assert (kept.job_id, kept.created, kept.kept) == (first, False, True)
    assert await engine.admin.fetchval("select count(*) from jobs") == 1
    assert await holder(engine) == first


async def test_replace_ends_the_job_that_waits_and_says_why(engine: Engine) -> None:
    [other, first] = [*await engine.submit(), await submit_id(engine, wanting())]
    made = await submit(engine, wanting(on_conflict="replace", payload=b'{"n": 2}'))
    assert made.created and made.replaced == first
    view = await engine.view(first)
    assert (view.state.value, view.reason) == ("cancelled", f"replaced by job {made.job_id}")
    assert await holder(engine) == made.job_id
    worker = await engine.register()
    assert sorted(i for lease in await engine.claim(worker, 10) for i in lease.ids) == [other, made.job_id]


@pytest.mark.parametrize("fields", [{"delay_seconds": 60.0}, {}])
async def test_replace_finds_the_job_wherever_it_waits(engine: Engine, fields: dict[str, Any]) -> None:
    draft = JobDraft("default", "noop", b"{}", terms=JobTerms(unique=Unique("k")), **fields)
    first = await submit_id(engine, draft)
    if not fields:
        worker = await engine.register()
        [lease] = await engine.claim(worker)
        await engine.finish(worker, report(lease, retrying))
    made = await submit(engine, wanting(on_conflict="replace"))
    assert made.replaced == first
    await engine.assert_one_place([first, made.job_id or 0])
    health = await engine.admin.fetchrow(
        "select sum(ready) as ready, sum(scheduled) as scheduled, sum(retrying) as retrying,"
        " sum(leased) as leased, sum(cancelled) as cancelled from flow"
    )
    assert tuple(health.values()) == (1, 0, 0, 0, 1)


async def test_replace_leaves_a_running_job_alone(engine: Engine) -> None:
    first = await submit_id(engine, wanting())
    worker = await engine.register()
    await engine.claim(worker)
    assert await refused(engine, wanting(on_conflict="replace")) == str(first)
    assert await engine.state(first) == "processing"


async def test_replace_leaves_a_job_alone_that_others_wait_for(engine: Engine) -> None:
    from taskforge.domain.terms import Dependency

    first = await submit_id(engine, wanting())
    child = JobTerms(depends_on=(Dependency(str(first)),))
    await engine.submit(1, terms=child)
    with pytest.raises(Conflict, match="part of a batch or workflow"):
        await submit(engine, wanting(on_conflict="replace"))
    assert await engine.state(first) == "pending"


async def test_a_key_held_while_queued_is_free_once_a_worker_has_the_job(engine: Engine) -> None:
    first = await submit_id(engine, wanting(scope="queued"))
    assert await refused(engine, wanting(scope="queued")) == str(first)
    worker = await engine.register()
    [lease] = await engine.claim(worker)
    second = await submit_id(engine, wanting(scope="queued"))
    await engine.finish(worker, report(lease, retrying))
    assert await refused(engine, wanting(scope="queued")) == str(second)


async def test_a_key_held_for_a_period_outlives_its_job(engine: Engine) -> None:
    first = await submit_id(engine, wanting(scope="period", period_seconds=60.0))
    await end(engine)
    assert await refused(engine, wanting()) == str(first)
    assert await refused(engine, wanting(on_conflict="replace")) == str(first), "there is nothing to replace"
    await engine.admin.execute("update uniques set expires_at = now() - interval '1 s'")
    assert await submit_id(engine, wanting()) != first


async def test_fifty_at_once_make_one_job(engine: Engine) -> None:
    answers = await together(*(submit(engine, wanting()) for _ in range(50)))
    made = [answer for answer in answers if isinstance(answer, Verdict)]
    assert len(made) == 1
    assert {e.job_id for e in answers if isinstance(e, TaskForgeError)} == {str(made[0].job_id)}
    assert await engine.admin.fetchval("select count(*) from jobs") == 1


async def test_replacements_at_once_leave_the_last_of_them(engine: Engine) -> None:
    answers = await together(*(submit(engine, wanting(on_conflict="replace")) for _ in range(20)))
    ids = [answer.job_id for answer in answers]
    states = [await engine.state(job_id) for job_id in ids]
    assert states.count("pending") == 1 and states.count("cancelled") == 19
    assert await holder(engine) == ids[states.index("pending")]
    await engine.assert_one_place(ids)


async def test_two_processes_take_turns_at_a_key(engine: Engine) -> None:
    async with engine.holding(
        "insert into uniques (tenant_id, job_type, key, job_id, scope, look_at) values ($1, 'noop', 'k', 7, 2, now())",
        engine.ctx.tenant_id,
    ):
        submitting = asyncio.create_task(submit_id(engine, wanting()))
        await engine.blocked(1)
    job_id = await submitting
    assert await holder(engine) == job_id, "job 7 does not exist, so it holds nothing"


async def test_a_submit_that_comes_before_the_end_is_committed_is_refused(engine: Engine) -> None:
    first = await submit_id(engine, wanting())
    worker = await engine.register()
    [lease] = await engine.claim(worker)
    async with engine.gate("outcomes"):
        finishing = asyncio.create_task(engine.finish(worker, report(lease, succeeded)))
        await engine.blocked(1)
        assert await refused(engine, wanting()) == str(first)
    await finishing
    await submit_id(engine, wanting())


async def test_an_end_does_not_wait_for_a_submit_that_looks_at_its_key(engine: Engine) -> None:
    await submit_id(engine, wanting())
    worker = await engine.register()
    [lease] = await engine.claim(worker)
    async with engine.holding("select from uniques where key = 'k' for update"):
        submitting = asyncio.create_task(submit(engine, wanting(on_conflict="keep")))
        await engine.blocked(1)
        await asyncio.wait_for(engine.finish(worker, report(lease, succeeded)), 5)
    assert (await submitting).created, "the job had ended when the key was looked at"


async def test_a_replacement_loses_to_the_claim_that_has_the_job_already(engine: Engine) -> None:
    first = await submit_id(engine, wanting())
    worker = await engine.register()
    async with engine.gate("leases"):
        claiming = asyncio.create_task(engine.claim(worker))
        await engine.blocked(1)
        with pytest.raises(TaskForgeError) as caught:
            await submit(engine, wanting(on_conflict="replace"))
        assert caught.value.code == "job.busy"
    [lease] = await claiming
    assert lease.ids == [first]
    assert await refused(engine, wanting(on_conflict="replace")) == str(first)


async def test_a_claim_passes_by_a_job_that_is_being_replaced(engine: Engine) -> None:
    first = await submit_id(engine, wanting())
    worker = await engine.register()
    async with engine.gate("outcomes"):
        replacing = asyncio.create_task(submit(engine, wanting(on_conflict="replace")))
        await engine.blocked(1)
        assert await engine.claim(worker, 5) == []
    made = await replacing
    assert made.replaced == first
    assert [lease.ids for lease in await engine.claim(worker, 5)] == [[made.job_id]]


async def test_a_dead_letter_comes_back_with_its_key_or_not_at_all(engine: Engine) -> None:
    first = await submit_id(engine, wanting())
    await end(engine, failed)
    second = await submit_id(engine, wanting())
    with pytest.raises(Conflict) as caught:
        await jobs.retry(engine.core, engine.ctx, first)
    assert (caught.value.code, caught.value.job_id) == ("job.not_unique", str(second))
    assert await engine.state(first) == "failed"
    await end(engine)
    await jobs.retry(engine.core, engine.ctx, first)
    assert await refused(engine, wanting()) == str(first)


async def test_a_retry_waits_for_a_submit_with_the_key_and_gives_way(engine: Engine) -> None:
    first = await submit_id(engine, wanting())
    await end(engine, failed)
    async with engine.gate("jobs"):
        submitting = asyncio.create_task(submit_id(engine, wanting()))
        await engine.blocked(1)
        retrying_it = asyncio.create_task(jobs.retry(engine.core, engine.ctx, first))
        await engine.blocked(2)
    second = await submitting
    with pytest.raises(Conflict) as caught:
        await retrying_it
    assert caught.value.job_id == str(second)


async def test_a_submit_waits_for_a_retry_that_takes_its_key_back(engine: Engine) -> None:
    first = await submit_id(engine, wanting())
    await end(engine, failed)
    async with engine.gate("redrives"):
        retrying_it = asyncio.create_task(jobs.retry(engine.core, engine.ctx, first))
        await engine.blocked(1)
        submitting = asyncio.create_task(submit(engine, wanting()))
        await engine.blocked(2)
    await retrying_it
    with pytest.raises(Conflict) as caught:
        await submitting
    assert caught.value.job_id == str(first)


async def test_of_dead_letters_with_one_key_a_redrive_brings_back_the_first(engine: Engine) -> None:
    ids = []
    for _ in range(3):
        ids.append(await submit_id(engine, wanting()))
        await end(engine, failed)
    [plain] = await engine.submit()
    await end(engine, failed)
    await dead_letters.redrive(engine.core, engine.ctx, "default")
    states = {job_id: await engine.state(job_id) for job_id in [*ids, plain]}
    assert sorted(states.values()) == ["failed", "failed", "pending", "pending"]
    assert states[plain] == "pending"


async def test_verdicts_of_a_batch_are_each_items_own(engine: Engine) -> None:
    first = await submit_id(engine, wanting())
    drafts = [wanting(), wanting("new"), wanting("new", on_conflict="keep"), wanting(on_conflict="keep")]
    rejected, made, same, kept = await jobs.submit(engine.core, engine.ctx, drafts, atomic=False)
    assert rejected.error is not None and rejected.error.job_id == str(first)
    assert made.created and same.job_id == made.job_id and not same.created
    assert (kept.job_id, kept.created) == (first, False)


async def test_an_all_or_nothing_batch_fails_whole(engine: Engine) -> None:
    first = await submit_id(engine, wanting())
    with pytest.raises(Conflict) as caught:
        await jobs.submit(engine.core, engine.ctx, [wanting("new"), wanting()])
    assert caught.value.job_id == str(first)
    assert await engine.admin.fetchval("select count(*) from jobs") == 1
    await submit_id(engine, wanting("new"))


async def test_an_idempotency_key_follows_what_the_unique_key_decided(engine: Engine) -> None:
    first = await submit_id(engine, wanting())

    def keyed(key: str, on_conflict: str) -> JobDraft:
        terms = JobTerms(unique=Unique("k", on_conflict=on_conflict))  # type: ignore[arg-type]
        return JobDraft("default", "noop", b"{}", idempotency_key=key, terms=terms)

    for _ in range(2):
        kept = await submit(engine, keyed("a", "keep"))
        assert (kept.job_id, kept.created) == (first, False)
    assert await refused(engine, keyed("b", "reject")) == str(first)
    await end(engine)
    assert (await submit(engine, keyed("a", "keep"))).job_id == first, "the same answer again"
    assert (await submit(engine, keyed("b", "reject"))).created, "what was refused left no key behind"


async def test_batches_that_want_the_same_keys_in_opposite_order_never_deadlock(engine: Engine) -> None:
    names = [f"k{n}" for n in range(40)]
    for _ in range(5):
        batches = [[wanting(name, on_conflict="replace") for name in order] for order in (names, names[::-1])]
        answers = await together(
            *(jobs.submit(engine.core, engine.ctx, batch, atomic=False) for batch in batches)
        )
        for verdicts in answers:
            assert all(verdict.error is None for verdict in verdicts), verdicts
    waiting = await engine.admin.fetchval("select sum(hi - lo + 1) from ready")
    assert waiting == len(names)


async def test_keys_that_nobody_holds_are_swept_away(engine: Engine) -> None:
    await submit_id(engine, wanting("held"))
    await submit_id(engine, wanting("period", scope="period", period_seconds=60.0))
    await submit_id(engine, wanting("over"))
    await engine.admin.execute("update uniques set look_at = now() - interval '1 s' where key <> 'period'")
    await engine.admin.execute(
        "insert into outcomes (id, tenant_id, queue_id, state, attempt, finished_at)"
        " select u.job_id, u.tenant_id, 1, 1, 1, now() from uniques u where key = 'over'"
    )
    assert await engine.admin.fetchval("select sweep_uniques(100)") == 2
    assert await engine.admin.fetchval("select array_agg(key order by key) from uniques") == [
        "held",
        "period",
    ]
    assert await engine.admin.fetchval("select sweep_uniques(100)") == 0, "not looked at again at once"
