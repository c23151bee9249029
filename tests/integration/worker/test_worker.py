from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest

from taskforge import JobCancelled, JobFailed, Retry, Snooze, TaskForge, current_job, fixed
from taskforge.clients import DirectClient
from taskforge.domain.jobs import JobState
from taskforge.domain.tenants import Context
from taskforge.errors import Unavailable
from taskforge.runtime.maintenance import Maintenance
from taskforge.services import leases
from taskforge.services.core import Core
from taskforge.settings import load
from taskforge.worker.worker import Worker


async def test_submitted_jobs_run_and_their_results_come_back(forge: TaskForge, working) -> None:
    @forge.job(queue="math")
    async def add(a: int, b: int) -> int:
        return a + b

    @forge.job(queue="text")
    def shout(text: str) -> str:
        return text.upper()

    async with working():
        total, loud = await add.submit(1, b=2), await shout.submit("hi")
        assert await total.result(timeout=10) == 3
        assert await loud.result(timeout=10) == "HI"
        handles = await add.submit_many([(n, n) for n in range(3_000)])
        assert await handles[-1].result(timeout=20) == 5_998
        view = await total.refresh()
    assert (view.state, view.attempt, view.queue_name) == (JobState.SUCCEEDED, 1, "math")
    assert view.submitted_at <= view.started_at <= view.finished_at


async def test_a_registration_whose_answer_was_lost_is_asked_for_again(
    core: Core, forge: TaskForge, monkeypatch: pytest.MonkeyPatch
) -> None:
    @forge.job()
    async def answer() -> int:
        return 42

    register = leases.register
    lost = []

    async def loses_its_first_answer(*args: Any) -> Any:
        made = await register(*args)
        if not lost:
            lost.append(made.worker_id)
            raise Unavailable("database.commit_unknown", "the connection was lost while committing")
        return made

    monkeypatch.setattr(leases, "register", loses_its_first_answer)
    async with Worker(core, forge.handlers(), queues=forge.queues) as worker:
        assert lost and worker.worker_id not in lost
        assert await (await answer.submit()).result(timeout=10) == 42


async def test_a_failing_job_is_retried_and_ends_as_a_dead_letter(forge: TaskForge, working) -> None:
    @forge.job(max_attempts=2, retry=fixed(0))
    async def fail() -> None:
        raise ValueError("no such mailbox")

    async with working() as worker:
        handle = await fail.submit()
        view = await ended_after_promotion(worker, handle)
        with pytest.raises(JobFailed, match="ValueError: no such mailbox"):
            await handle.result(timeout=10)
    assert [(a.attempt, a.error_class) for a in view.attempts] == [(1, "ValueError"), (2, "ValueError")]
    assert "no such mailbox" in view.error.traceback


async def ended_after_promotion(worker, handle):
    """Promote until the job has ended: no server runs in these tests."""
    maintenance = Maintenance(worker._core)
    async with asyncio.timeout(15):
        while not (view := await handle.refresh()).state.is_final:
            await maintenance.run_once()
    return view


async def test_answers_reach_the_database(forge: TaskForge, working) -> None:
    seen = []

    @forge.job(max_attempts=2)
    async def job() -> None:
        seen.append(current_job().attempt)
        if len(seen) == 1:
            raise Snooze(0)
        if len(seen) == 2:
            raise Retry(after=0)

    async with working() as worker:
        view = await ended_after_promotion(worker, await job.submit())
    assert view.state is JobState.SUCCEEDED
    assert seen == [1, 1, 2]


async def test_a_running_job_is_cancelled_at_once(forge: TaskForge, working, core: Core) -> None:
    started, stopped = asyncio.Event(), asyncio.Event()

    @forge.job
    async def job() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with working():
        handle = await job.submit()
        await started.wait()
        view = await handle.cancel()
        assert view.cancel_requested
        async with asyncio.timeout(5):
            await stopped.wait()
        with pytest.raises(JobCancelled):
            await handle.result(timeout=5)


async def test_a_large_payload_arrives_whole(forge: TaskForge, working) -> None:
    @forge.job
    async def measure(text: str) -> int:
        return len(text)

    async with working():
        handle = await measure.submit("ü" * 100_000)
        assert await handle.result(timeout=10) == 100_000


async def test_a_stopping_worker_gives_back_what_it_did_not_start(forge: TaskForge, working) -> None:
    started, gate = asyncio.Event(), asyncio.Event()
    seen = []

    @forge.job
    async def job() -> None:
        seen.append(current_job().attempt)
        started.set()
        await gate.wait()

    handles = await job.submit_many([{}] * 5)
    async with working(concurrency=1) as worker:
        await started.wait()
        stopping = asyncio.create_task(worker.stop())
        await asyncio.sleep(0)
        gate.set()
        assert await stopping is True
    states = [(await handle.refresh()).state for handle in handles]
    assert states.count(JobState.SUCCEEDED) == 1
    assert states.count(JobState.PENDING) == 4
    async with working():
        for handle in handles:
            await handle.result(timeout=10)
    assert seen == [1] * 5


async def test_an_interrupted_job_runs_again_with_the_same_attempt(forge: TaskForge, working) -> None:
    started = asyncio.Event()
    attempts = []

    @forge.job(max_attempts=1)
    async def job() -> None:
        attempts.append(current_job().attempt)
        if len(attempts) == 1:
            started.set()
            await asyncio.Event().wait()

    handle = await job.submit()
    async with working(shutdown_timeout=0.05) as worker:
        await started.wait()
        assert await worker.stop() is False
    async with working():
        await handle.result(timeout=10)
    assert attempts == [1, 1]


async def test_a_second_signal_cuts_the_drain_short(forge: TaskForge, working, core: Core) -> None:
    started = asyncio.Event()

    @forge.job
    async def job() -> None:
        started.set()
        await asyncio.Event().wait()

    handle = await job.submit()
    worker = Worker(core, forge.handlers(), queues=forge.queues, shutdown_timeout=600.0)
    running = asyncio.create_task(worker.run(signals=False))
    await started.wait()
    worker.shutdown.notice(signal.SIGTERM)
    worker.shutdown.notice(signal.SIGTERM)
    async with asyncio.timeout(10):
        assert await running == 128 + signal.SIGTERM
    assert (await handle.refresh()).state is JobState.PENDING


async def test_a_clean_drain_exits_with_zero(forge: TaskForge, core: Core) -> None:
    @forge.job
    async def job() -> None: ...

    worker = Worker(core, forge.handlers(), queues=forge.queues)
    running = asyncio.create_task(worker.run(signals=False))
    await (await job.submit()).result(timeout=10)
    worker.shutdown.notice(signal.SIGINT)
    assert await running == 0


async def test_the_history_names_every_attempt_with_its_worker_and_times_also_the_one_that_succeeded(
    forge: TaskForge, working
) -> None:
    @forge.job(max_attempts=3, retry=fixed(0))
    async def second_time_lucky() -> str:
        if current_job().attempt == 1:
            raise ValueError("not yet")
        return "done"

    async with working(name="historian") as worker:
        handle = await second_time_lucky.submit()
        view = await ended_after_promotion(worker, handle)
    assert [(a.attempt, a.outcome, a.worker, a.error_class) for a in view.attempts] == [
        (1, "failed", "historian", "ValueError"),
        (2, "succeeded", "historian", None),
    ]
    first, second = view.attempts
    assert first.finished_at <= second.started_at <= second.finished_at == view.finished_at
    assert view.error is None


async def test_a_blocked_event_loop_does_not_stop_the_heartbeat(
    forge: TaskForge, working, core: Core
) -> None:
    @forge.job
    async def block() -> str:
        time.sleep(3.0)  # noqa: ASYNC251 - this is the fault: longer than the time to live
        return "done"

    async with working():
        handle = await block.submit()
        assert await handle.result(timeout=20) == "done"
        assert [a.outcome for a in (await handle.refresh()).attempts] == ["succeeded"]


async def test_a_heartbeat_process_that_dies_is_replaced(forge: TaskForge, working, eventually) -> None:
    @forge.job
    async def job() -> None: ...

    async with working() as worker:
        await eventually(lambda: worker.heartbeat.pid)
        first = worker.heartbeat.pid
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: worker.heartbeat.pid != first)
        await (await job.submit()).result(timeout=10)


async def test_a_worker_that_was_given_up_starts_over_under_a_new_registration(
    forge: TaskForge, working, core: Core, eventually
) -> None:
    started, aborted = asyncio.Event(), asyncio.Event()
    runs = []

    @forge.job
    async def job() -> int:
        runs.append(current_job().attempt)
        if len(runs) == 1:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                aborted.set()
        return len(runs)

    async with working() as worker:
        first = worker.worker_id
        handle = await job.submit()
        await started.wait()
        await leases.bury(core, first, [int(handle.id)])
        worker.heartbeat.beat()
        async with asyncio.timeout(10):
            await aborted.wait()
        await eventually(lambda: worker.worker_id != first)
        assert await handle.result(timeout=15) == 2
    assert runs == [1, 2]
    lost, done = (await handle.refresh()).attempts
    assert (lost.outcome, lost.error_class) == ("lost", "WorkerLost")
    assert (done.attempt, done.outcome) == (2, "succeeded")


async def test_threads_and_processes_work_from_a_queue(forge: TaskForge, working) -> None:
    @forge.job
    def where() -> bool:
        return threading.current_thread() is threading.main_thread()

    async with working():
        assert await (await where.submit()).result(timeout=10) is False


async def test_submits_wake_a_worker_in_the_same_process(forge: TaskForge, working, core: Core) -> None:
    @forge.job
    async def job() -> None: ...

    client = DirectClient(core, Context(), load(), AsyncExitStack())
    async with working():
        with forge.use(client):
            waits = []
            for _ in range(20):
                before = time.perf_counter()
                await (await job.submit()).result(timeout=5)
                waits.append(time.perf_counter() - before)
    assert sorted(waits)[10] < 0.1
