"""How far a job is: seen while it runs and afterwards, wherever its handler runs; a stale word changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from taskforge import TaskForge, current_job
from taskforge.domain.jobs import JobDraft, JobView
from taskforge.domain.leases import Progress, RegisterWorker
from taskforge.domain.tenants import Context
from taskforge.services import jobs, leases
from taskforge.services.core import Core
from tests.integration.worker.progress_jobs import in_a_process

Eventually = Callable[..., Awaitable[Any]]


async def _leased(core: Core) -> tuple[int, int, int]:
    """A worker, a fence and the job it holds."""
    [verdict] = await jobs.submit(core, Context(), [JobDraft("default", "noop", b"{}")])
    worker = await leases.register(core, Context(), RegisterWorker("w", ("default",)))
    [lease] = await leases.claim(core, worker.worker_id, worker.queue_ids, want=1)
    assert verdict.job_id is not None
    return worker.worker_id, lease.fence, verdict.job_id


async def _view(core: Core, job_id: int) -> JobView:
    return await jobs.get(core, Context(), job_id)


async def test_progress_is_seen_while_the_job_runs(
    core: Core, forge: TaskForge, working: Any, eventually: Any
) -> None:
    go_on = asyncio.Event()

    @forge.job
    async def copy() -> None:
        current_job().progress(0.25, "a quarter")
        await go_on.wait()
        current_job().progress(1.0)

    async with working(name="copier"):
        handle = await copy.submit()

        async def is_seen() -> bool:
            progress = (await _view(core, int(handle.id))).progress
            return progress is not None and (progress.fraction, progress.message) == (0.25, "a quarter")

        await eventually(is_seen)
        go_on.set()
        await handle.result(timeout=10)
    view = await _view(core, int(handle.id))
    assert view.progress is not None and view.progress.fraction == 1.0
    assert view.worker == "copier"


async def test_progress_of_a_thread_is_kept(core: Core, forge: TaskForge, working: Any) -> None:
    @forge.job
    def crunch() -> None:
        for step in range(100):
            current_job().progress((step + 1) / 100, "\x00odd\ud800")

    async with working():
        handle = await crunch.submit()
        await handle.result(timeout=10)
    progress = (await _view(core, int(handle.id))).progress
    assert progress is not None
    assert (progress.fraction, progress.message) == (1.0, "\\x00odd\\ud800")


async def test_progress_of_a_process_is_kept(core: Core, forge: TaskForge, working: Any) -> None:
    job = forge.job(mode="process")(in_a_process)
    async with working():
        handle = await job.submit(steps=4)
        await handle.result(timeout=20)
    progress = (await _view(core, int(handle.id))).progress
    assert progress is not None
    assert (progress.fraction, progress.message) == (1.0, "step 4")


async def test_a_job_that_says_nothing_has_no_progress(core: Core, forge: TaskForge, working: Any) -> None:
    @forge.job
    async def silent() -> None: ...

    async with working():
        handle = await silent.submit()
        await handle.result(timeout=10)
    assert (await _view(core, int(handle.id))).progress is None


async def test_a_worker_that_lost_its_lease_cannot_report_progress(core: Core) -> None:
    worker_id, fence, job_id = await _leased(core)
    assert await leases.report_progress(core, worker_id, [Progress(fence, job_id, 0.5, "half")]) == set()
    await leases.bury(core, worker_id, [])
    assert await leases.report_progress(core, worker_id, [Progress(fence, job_id, 0.9, "late")]) == {job_id}
    progress = (await _view(core, job_id)).progress
    assert progress is not None and progress.message == "half"


async def test_nobody_reports_progress_on_anothers_job(core: Core) -> None:
    _, fence, job_id = await _leased(core)
    stranger = await leases.register(core, Context(), RegisterWorker("s", ("default",)))
    said = [Progress(fence, job_id, 0.5, "mine")]
    assert await leases.report_progress(core, stranger.worker_id, said) == {job_id}
    assert (await _view(core, job_id)).progress is None


async def test_progress_waits_for_a_reaper_and_is_refused(
    core: Core, database_url: str, eventually: Any
) -> None:
    worker_id, fence, job_id = await _leased(core)
    reaper = await asyncpg.connect(database_url)
    watcher = await asyncpg.connect(database_url)
    try:
        transaction = reaper.transaction()
        await transaction.start()
        await reaper.fetchval("select taskforge.bury($1, '{}')", worker_id)
        reporting = asyncio.create_task(
            leases.report_progress(core, worker_id, [Progress(fence, job_id, 0.5, "late")])
        )

        async def is_blocked() -> bool:
            return bool(
                await watcher.fetchval(
                    "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
                    " and datname = current_database()"
                )
            )

        await eventually(is_blocked)
        await transaction.commit()
        assert await reporting == {job_id}
    finally:
        await reaper.close()
        await watcher.close()
    assert (await _view(core, job_id)).progress is None


async def test_a_reaper_waits_for_progress_which_is_kept(
    core: Core, database_url: str, eventually: Any
) -> None:
    worker_id, fence, job_id = await _leased(core)
    reporter = await asyncpg.connect(database_url)
    try:
        async with reporter.transaction():
            refused = await reporter.fetch(
                "select taskforge.report_progress($1, $2, $3, $4, $5)",
                *(worker_id, [fence], [job_id], [0.5], ["half"]),
            )
            reaping = asyncio.create_task(leases.bury(core, worker_id, []))

            async def is_blocked() -> bool:
                return bool(
                    await reporter.fetchval(
                        "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
                        " and datname = current_database()"
                    )
                )

            await eventually(is_blocked)
        assert await reaping == 1
    finally:
        await reporter.close()
    assert refused == []
    progress = (await _view(core, job_id)).progress
    assert progress is not None and progress.message == "half"


@pytest.mark.parametrize(
    "fraction, kept", [(-1.0, 0.0), (2.0, 1.0), (float("nan"), 0.0), (float("inf"), 1.0)]
)
async def test_odd_fractions_are_brought_into_bounds(
    core: Core, forge: TaskForge, working: Any, fraction: float, kept: float
) -> None:
    @forge.job
    async def odd() -> None:
        current_job().progress(fraction, "m" * 5_000)

    async with working():
        handle = await odd.submit()
        await handle.result(timeout=10)
    progress = (await _view(core, int(handle.id))).progress
    assert progress is not None and progress.fraction == kept
    assert progress.message == "m" * 500
