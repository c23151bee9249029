"""What is too late does not start, and nothing runs or comes back past its deadline."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest

from taskforge import TaskForge
from taskforge.domain.jobs import JobDraft
from taskforge.domain.leases import Expired, Failed, Succeeded
from taskforge.domain.terms import JobTerms
from taskforge.job_type import inherit
from taskforge.worker.answers import Retry
from taskforge.worker.context import current_job

CLAIMED = datetime(2030, 1, 1, 12, tzinfo=UTC)


def late_by(seconds: float) -> datetime:
    return CLAIMED - timedelta(seconds=seconds)


def timed(lease, *, starts=None, ends=None, payloads=(b"{}",), asked=0.0, **changes):
    """A lease claimed just now (`asked` seconds ago) at CLAIMED by the database's clock."""
    return lease(
        "job",
        payloads,
        claimed_at=CLAIMED,
        asked_ns=time.monotonic_ns() - int(asked * 1e9),
        starts=starts,
        ends=ends,
        **changes,
    )


async def test_an_expired_job_is_not_started_while_its_neighbours_are(rig, lease) -> None:
    started: list[int] = []

    async def job(n: int) -> None:
        started.append(n)

    starts = [None, late_by(1), late_by(-60), late_by(0)]
    async with rig(job, concurrency=1) as r:
        held = timed(lease, starts=starts, payloads=[b'{"n":%d}' % n for n in range(4)])
        outcomes = await r.run(held)
    assert [type(outcome) for outcome in outcomes] == [Succeeded, Expired, Succeeded, Expired]
    assert started == [0, 2]
    assert outcomes[1].reason == "expired: it was to start before 2030-01-01T11:59:59.000000Z"


async def test_the_time_a_job_waits_in_the_workers_stock_counts(rig, lease) -> None:
    async def job() -> None: ...

    async with rig(job) as r:
        [outcome] = await r.run(timed(lease, starts=[late_by(-5)], asked=5.1))
    assert isinstance(outcome, Expired)


async def test_past_its_deadline_a_first_attempt_is_cancelled_and_a_later_one_a_dead_letter(
    rig, lease
) -> None:
    async def job() -> None: ...

    async with rig(job) as r:
        [first] = await r.run(timed(lease, ends=[late_by(1)]))
        [later] = await r.run(timed(lease, ends=[late_by(1)], attempt=2, first_id=9, fence=8))
    assert isinstance(first, Expired) and "deadline" in first.reason
    assert isinstance(later, Failed) and later.error_class == "DeadlinePassed"
    assert later.retry_in is None and later.reason is not None


async def test_an_attempt_is_stopped_at_the_deadline_and_not_repeated(rig, lease) -> None:
    seen: list[float] = []

    async def job() -> None:
        seen.append(current_job().remaining)
        await asyncio.Event().wait()

    async with rig(job) as r:
        [outcome] = await r.run(timed(lease, ends=[late_by(-0.3)]))
    assert 0 < seen[0] <= 0.3
    assert isinstance(outcome, Failed) and outcome.error_class == "JobTimeout"
    assert outcome.retry_in is None
    assert outcome.reason == "no attempt is left before its deadline 2030-01-01T12:00:00.300000Z"


@pytest.mark.parametrize(("after", "comes_back"), [(5.0, True), (120.0, False)])
async def test_a_retry_that_would_come_too_late_is_none(rig, lease, after: float, comes_back: bool) -> None:
    async def job() -> None:
        raise Retry(after=after)

    async with rig(job) as r:
        [outcome] = await r.run(timed(lease, ends=[late_by(-60)]))
    assert isinstance(outcome, Failed)
    assert (outcome.retry_in, outcome.reason is None) == ((after, True) if comes_back else (None, False))


async def test_a_thousand_expired_jobs_do_not_keep_others_from_running(rig, lease) -> None:
    async def job() -> None: ...

    async with rig(job, concurrency=2, bound=100) as r:
        count = 1_000
        outcomes = await r.run(timed(lease, starts=[late_by(1)] * count, payloads=[b"{}"] * count))
        [fine] = await r.run(lease("job", first_id=5_000, fence=9))
    assert {type(outcome) for outcome in outcomes} == {Expired}
    assert isinstance(fine, Succeeded)


async def test_jobs_submitted_from_a_handler_name_their_parent_and_inherit_its_deadline(rig, lease) -> None:
    own = datetime(2031, 1, 1, tzinfo=UTC)
    drafts: list[JobDraft] = []

    async def job() -> None:
        for terms in (None, JobTerms(deadline_at=own), JobTerms(deadline_in_seconds=5.0)):
            drafts.append(inherit(JobDraft("default", "child", b"{}", terms=terms)))

    async with rig(job) as r:
        await r.run(timed(lease, ends=[late_by(-60)], first_id=77))
    terms = [draft.terms for draft in drafts]
    assert {t.parent_id for t in terms} == {"77"}
    assert [t.deadline_at for t in terms] == [late_by(-60), own, None]
    outside = JobDraft("default", "child", b"{}")
    assert inherit(outside) is outside


async def test_what_a_handler_submits_reaches_the_client_with_its_parent(rig, lease) -> None:
    from taskforge.testing import capture

    forge = TaskForge()

    @forge.job
    async def child() -> None: ...

    with capture(forge) as recorder:

        async def job() -> None:
            await child.submit()

        async with rig(job) as r:
            await r.run(lease("job", first_id=5))
    [submission] = recorder.submissions
    assert submission.draft.terms is not None and submission.draft.terms.parent_id == "5"
