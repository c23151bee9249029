"""Claims whose answer nobody heard: the jobs must not stay with a worker that does not know of them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from taskforge import TaskForge
from taskforge.domain.jobs import JobState
from taskforge.worker.worker import Worker


async def test_jobs_of_a_claim_whose_answer_was_lost_run_although_their_worker_lives(
    database_url: str, core, proxy, eventually
) -> None:
    forge = TaskForge(database_url=database_url)

    @forge.job
    async def job(marker: str) -> None: ...

    async with AsyncExitStack() as stack:
        stack.push_async_callback(forge.close)
        handles = await job.submit_many([("find-me",)] * 3)
        proxy.lose_answer(b"find-me")
        await stack.enter_async_context(Worker(core, forge.handlers(), queues=["default"]))
        async with asyncio.timeout(10):
            for handle in handles:
                await handle.result()
        assert proxy.cuts == 1
        views = [await handle.refresh() for handle in handles]
        assert [(view.state, view.attempt) for view in views] == [(JobState.SUCCEEDED, 1)] * 3
