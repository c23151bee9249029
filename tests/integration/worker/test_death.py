"""A worker process that is killed, as its successor and the database see it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from taskforge import TaskForge
from taskforge.domain.jobs import JobState
from taskforge.runtime.maintenance import Maintenance
from taskforge.worker.worker import Worker

SCRIPT = """
import asyncio, os, sys
from taskforge import TaskForge
from taskforge.app import open_core
from taskforge.worker.worker import Worker

forge = TaskForge()

@forge.job
async def job(n: int) -> None:
    print("started", n, flush=True)
    if n >= 3:
        await asyncio.Event().wait()

async def main() -> None:
    async with open_core(os.environ["DATABASE_URL"], worker_ttl=5.0) as core:
        worker = Worker(core, forge.handlers(), queues=["default"], concurrency=2, prefetch=100, shutdown_timeout=0.1)
        sys.exit(await worker.run())

asyncio.run(main())
"""


@pytest.fixture
async def process(database_url: str, tmp_path: Path):
    script = tmp_path / "work.py"
    script.write_text(SCRIPT)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "DATABASE_URL": database_url, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    yield process
    if process.returncode is None:
        process.kill()
    await process.wait()


async def started(process: asyncio.subprocess.Process, n: int) -> None:
    async with asyncio.timeout(20):
        while line := await process.stdout.readline():
            if line == f"started {n}\n".encode():
                return
    pytest.fail("the worker ended")


@pytest.fixture
async def handles(forge: TaskForge, process):
    @forge.job
    async def job(n: int) -> None: ...

    return await job.submit_many([(n,) for n in range(1, 9)])


async def test_a_killed_worker_s_jobs_go_back_at_once_and_only_those_that_ran_are_charged(
    forge: TaskForge, handles, process, core, eventually
) -> None:
    await started(process, 4)

    async def two_have_ended() -> bool:
        return all([(await handle.refresh()).state.is_final for handle in handles[:2]])

    await eventually(two_have_ended)
    process.kill()
    await process.wait()

    async def nothing_is_held() -> bool:
        return all([(await handle.refresh()).state is not JobState.PROCESSING for handle in handles])

    # Far less than the time to live: the heartbeat process hands the jobs back itself.
    await eventually(nothing_is_held, timeout=3.0)
    async with Worker(core, forge.handlers(), queues=["default"]):
        for handle in handles:
            await handle.result(timeout=10)
    attempts = [(await handle.refresh()).attempt for handle in handles]
    assert attempts == [1, 1, 2, 2, 1, 1, 1, 1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_drain_cut_short_exits_with_the_signal_and_charges_nobody(handles, process, number) -> None:
    await started(process, 4)
    process.send_signal(number)
    async with asyncio.timeout(15):
        assert await process.wait() == 128 + number
    views = [await handle.refresh() for handle in handles]
    assert [view.state for view in views[2:]] == [JobState.PENDING] * 6


async def test_a_stopped_worker_loses_its_jobs_and_learns_of_it(
    forge: TaskForge, handles, process, core, eventually
) -> None:
    await started(process, 4)
    process.send_signal(signal.SIGSTOP)
    maintenance = Maintenance(core)

    async def nothing_is_held() -> bool:
        await maintenance.run_once()
        return all([(await handle.refresh()).state is not JobState.PROCESSING for handle in handles[2:4]])

    await eventually(nothing_is_held, timeout=30.0)
    process.send_signal(signal.SIGCONT)
    # It registers anew, and starts the same jobs again with their next attempt.
    await started(process, 3)
