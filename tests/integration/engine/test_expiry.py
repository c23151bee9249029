"""Jobs that are too late to start end, whether anybody claims them or not, and deadlines hold over all attempts."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from taskforge.domain.jobs import JobDraft
from taskforge.domain.leases import Expired, Failed
from taskforge.domain.terms import Dependency, JobTerms
from taskforge.postgres import expiry
from taskforge.services import jobs, queues
from tests.support.engine import Engine, report, retrying, succeeded
from tests.support.waiting import until


async def submit(engine: Engine, count: int = 1, *, delay: float | None = None, **terms: Any) -> list[int]:
    draft = JobDraft("default", "noop", b"{}", delay_seconds=delay, terms=JobTerms(**terms))
    verdicts = await jobs.submit(engine.core, engine.ctx, [draft] * count)
    return [verdict.job_id for verdict in verdicts if verdict.job_id is not None]


async def make_late(engine: Engine) -> None:
    """As if the jobs had been submitted a day ago."""
    await engine.admin.execute("update jobs set submitted_at = submitted_at - interval '1 day'")
    await engine.admin.execute(
        "update expiries set due_at = due_at - interval '1 day', bound = bound - interval '1 day'"
    )


async def expire(engine: Engine) -> int:
    looked, _ = await expiry.expire_due(engine.core.database, limit=100)
    return looked


async def sums(engine: Engine) -> tuple[int, ...]:
    row = await engine.admin.fetchrow(
        "select sum(ready) as ready, sum(scheduled) as scheduled, sum(retrying) as retrying, sum(blocked) as blocked,"
        " sum(leased) as leased, sum(failed) as failed, sum(cancelled) as cancelled from flow"
    )
    return tuple(row.values())


@pytest.mark.parametrize("delay", [None, 3_600.0])
async def test_a_job_that_nobody_starts_in_time_ends_cancelled_and_says_why(
    engine: Engine, delay: float | None
) -> None:
    [before, *ids, after] = [
        *await engine.submit(),
        *await submit(engine, 3, delay=delay, expires_in_seconds=60.0),
        *await engine.submit(),
    ]
    assert await expire(engine) == 0
    await make_late(engine)
    assert await expire(engine) == 3
    for job_id in ids:
        view = await engine.view(job_id)
        assert view.state.value == "cancelled" and view.attempt == 0
        assert view.reason is not None and view.reason.startswith("expired: it was to start before 20")
    assert {await engine.state(before), await engine.state(after)} == {"pending"}
    await engine.assert_one_place([before, *ids, after])
    assert await sums(engine) == (2, 0, 0, 0, 0, 0, 3)
    assert await engine.admin.fetchval("select count(*) from expiries") == 0


async def test_what_has_spent_an_attempt_does_not_expire(engine: Engine) -> None:
    [job_id] = await submit(engine, expires_in_seconds=60.0)
    worker = await engine.register()
    [lease] = await engine.claim(worker)
    assert lease.starts is not None and lease.starts[0] is not None
    await engine.finish(worker, report(lease, retrying))
    await make_late(engine)
    assert await expire(engine) == 1
    assert await engine.state(job_id) == "retrying"
    await engine.make_due([job_id])
    await engine.promote()
    [lease] = await engine.claim(worker)
    assert lease.starts is None


async def test_a_deadline_ends_a_job_that_waits_for_its_retry_as_a_dead_letter(engine: Engine) -> None:
    [job_id] = await submit(engine, deadline_in_seconds=60.0)
    worker = await engine.register()
    [lease] = await engine.claim(worker)
    await engine.finish(worker, report(lease, retrying))
    await make_late(engine)
    assert await expire(engine) == 1
    view = await engine.view(job_id)
    assert view.state.value == "failed" and view.attempt == 1
    assert view.reason is not None and "deadline" in view.reason
    assert view.error is not None and view.error.error_class == "ValueError"
    assert await sums(engine) == (0, 0, 0, 0, 0, 1, 0)


async def test_a_running_job_is_looked_at_again_after_its_deadline(engine: Engine) -> None:
    [job_id] = await submit(engine, deadline_in_seconds=60.0)
    worker = await engine.register()
    [lease] = await engine.claim(worker)
    assert lease.ends is not None and lease.ends[0] is not None
    await make_late(engine)
    assert await expire(engine) == 1
    assert await engine.state(job_id) == "processing"
    await engine.expire(worker)
    await engine.reap()
    await engine.admin.execute("update expiries set due_at = now()")
    assert await expire(engine) == 1
    assert await engine.state(job_id) == "failed", "its attempt was spent when its worker was lost"


async def test_a_claim_says_how_late_a_job_may_start_by_the_databases_clock(engine: Engine) -> None:
    [plain] = await engine.submit()
    at = datetime.now(UTC) + timedelta(hours=1)
    [timed] = await submit(engine, expires_at=at, deadline_in_seconds=7_200.0)
    worker = await engine.register()
    leases = await engine.claim(worker, 2)
    bounds = {
        job_id: (lease.starts and lease.starts[i], lease.ends and lease.ends[i])
        for lease in leases
        for i, job_id in enumerate(lease.ids)
    }
    view = await engine.view(timed)
    assert bounds[plain] == (None, None)
    assert bounds[timed] == (at, view.submitted_at + timedelta(hours=2))
    assert (view.expires_at, view.deadline_at) == bounds[timed]


async def test_plain_jobs_carry_no_times(engine: Engine) -> None:
    await engine.submit(3, tags=("a",))
    worker = await engine.register()
    [lease] = await engine.claim(worker, 3)
    assert lease.starts is None and lease.ends is None


async def test_a_queues_expiry_reaches_jobs_that_were_submitted_before_it_was_set(engine: Engine) -> None:
    ids = await engine.submit(5)
    own = await submit(engine, expires_in_seconds=1_000_000.0)
    await make_late(engine)
    fresh = await engine.submit(2)
    await queues.update(
        engine.core, engine.ctx, "default", queues.rules.QueueChange(expires_in_seconds=3_600.0)
    )
    ended, _ = await expiry.expire_queues(engine.core.database, extents=10)
    assert ended == 5
    assert {await engine.state(i) for i in ids} == {"cancelled"}
    assert {await engine.state(i) for i in own + fresh} == {"pending"}
    await engine.assert_one_place([*ids, *own, *fresh])
    assert await sums(engine) == (3, 0, 0, 0, 0, 0, 5)
    worker = await engine.register()
    taken = [
        (i, lease.starts and lease.starts[n])
        for lease in await engine.claim(worker, 9)
        for n, i in enumerate(lease.ids)
    ]
    assert sorted(i for i, _ in taken) == sorted(own + fresh)
    assert all(bound is not None for _, bound in taken)


async def test_one_part_of_an_extent_expires(engine: Engine) -> None:
    ids = await engine.submit(10)
    await engine.admin.execute(
        "update jobs set submitted_at = submitted_at - interval '1 day' where id = any ($1)",
        [ids[0], ids[4], ids[9]],
    )
    await queues.update(engine.core, engine.ctx, "default", queues.rules.QueueChange(expires_in_seconds=60.0))
    assert (await expiry.expire_queues(engine.core.database, extents=10))[0] == 3
    await engine.assert_one_place(ids)
    assert {i for i in ids if await engine.state(i) == "cancelled"} == {ids[0], ids[4], ids[9]}


async def test_what_a_worker_says_came_too_late_ends_without_an_attempt(engine: Engine) -> None:
    ids = await submit(engine, 2, expires_in_seconds=60.0)
    worker = await engine.register()
    [lease] = await engine.claim(worker, 2)
    said = report(lease, lambda i: Expired(i, 5, "expired: x"), ids[:1])
    assert await engine.finish(worker, said) == []
    assert await engine.finish(worker, said) == [], "the same report again is a success"
    view = await engine.view(ids[0])
    assert (view.state.value, view.reason, view.attempt, view.attempts) == ("cancelled", "expired: x", 0, ())
    assert view.started_at is None and view.finished_at is not None
    assert await engine.finish(worker, report(lease, succeeded, ids[:1])) == [(lease.fence, ids[0])]
    mixed = [Failed(ids[1], 1, 2, "ValueError", "no", "t", None, "no attempt is left")]
    await engine.finish(worker, report(lease, lambda _: mixed[0], ids[1:]))
    view = await engine.view(ids[1])
    assert (view.state.value, view.reason) == ("failed", "no attempt is left")
    assert await sums(engine) == (0, 0, 0, 0, 0, 1, 1)


async def test_children_of_an_expired_parent_follow_it(engine: Engine) -> None:
    [parent] = await submit(engine, expires_in_seconds=60.0)
    [child] = await submit(engine, depends_on=(Dependency(str(parent)),))
    await make_late(engine)
    await expire(engine)
    assert await engine.state(child) == "cancelled"


async def test_an_expiry_passes_by_a_job_that_a_claim_is_taking(engine: Engine) -> None:
    [job_id] = await submit(engine, expires_in_seconds=60.0)
    worker = await engine.register()
    await make_late(engine)
    async with engine.gate("leases"):
        claiming = asyncio.create_task(engine.claim(worker))
        await engine.blocked(1)
        assert await expire(engine) == 1
    [lease] = await claiming
    assert lease.ids == [job_id] and await engine.state(job_id) == "processing"
    assert await engine.admin.fetchval("select count(*) from expiries") == 1, "it is looked at again"


async def test_a_claim_passes_by_a_job_that_is_expiring(engine: Engine) -> None:
    [job_id] = await submit(engine, expires_in_seconds=60.0)
    worker = await engine.register()
    await make_late(engine)
    async with engine.gate("outcomes"):
        expiring = asyncio.create_task(expire(engine))
        await engine.blocked(1)
        assert await engine.claim(worker) == []
    assert await expiring == 1
    assert await engine.state(job_id) == "cancelled"


async def test_two_that_expire_jobs_at_once_end_each_once(engine: Engine) -> None:
    ids = await submit(engine, 50, expires_in_seconds=60.0)
    await make_late(engine)
    looked = await asyncio.gather(expire(engine), expire(engine))
    assert sum(looked) >= 50

    async def have_all_ended() -> bool:
        await make_late(engine)  # what the other had locked is looked at again a second later
        await expire(engine)
        return bool(await engine.admin.fetchval("select count(*) from outcomes") == 50)

    await until(have_all_ended)
    assert await engine.admin.fetchval("select count(*) from outcomes") == 50
    await engine.assert_one_place(ids)
    assert (await sums(engine))[0] == 0


async def test_a_cancelled_job_leaves_nothing_to_expire(engine: Engine) -> None:
    [job_id] = await submit(engine, expires_in_seconds=60.0)
    await engine.cancel(job_id)
    await make_late(engine)
    assert await expire(engine) == 1
    view = await engine.view(job_id)
    assert (view.state.value, view.reason) == ("cancelled", None)
    assert await engine.admin.fetchval("select count(*) from expiries") == 0


async def test_agenda_names_what_is_due(engine: Engine) -> None:
    duties = "select duty from agenda() where due_in <= 0"
    assert await engine.admin.fetch(duties) == []
    await submit(engine, expires_in_seconds=60.0)
    await make_late(engine)
    assert [row["duty"] for row in await engine.admin.fetch(duties)] == ["expiry"]


async def test_a_job_of_a_transaction_expires_too(engine: Engine) -> None:
    draft = (
        '[{"queue_name": "default", "job_type": "noop", "options": {"terms": {"expires_in_seconds": 60, '
        '"deadline_in_seconds": 90}}}]'
    )
    job_id = await engine.admin.fetchval("select * from enqueue($1, $2::jsonb)", engine.ctx.tenant_id, draft)
    assert await engine.admin.fetchval("select count(*) from expiries where job_id = $1", job_id) == 2
    await make_late(engine)
    await expire(engine)
    assert await engine.state(job_id) == "cancelled"
