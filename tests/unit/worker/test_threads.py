from __future__ import annotations

import asyncio
import threading
from contextvars import copy_context

import pytest

from taskforge.domain.leases import Failed
from taskforge.worker.context import current_job
from taskforge.worker.threads import Threads


async def test_plain_functions_run_outside_the_event_loop_s_thread(rig, lease) -> None:
    def job(n: int) -> list[object]:
        return [n, threading.current_thread() is threading.main_thread(), current_job().job_id]

    async with rig(job) as r:
        [outcome] = await r.run(lease("job", [b'{"n":4}']))
    assert outcome.result == b'[4,false,"1"]'


async def test_threads_are_reused() -> None:
    threads = Threads()
    names = {await threads.run(lambda: threading.current_thread().ident, copy_context()) for _ in range(5)}
    assert len(names) == 1
    threads.close()


async def test_errors_come_out_of_the_thread() -> None:
    threads = Threads()

    def call() -> None:
        raise ValueError("in the thread")

    with pytest.raises(ValueError, match="in the thread"):
        await threads.run(call, copy_context())
    threads.close()


async def test_an_abandoned_thread_is_counted_and_ends_by_itself() -> None:
    threads, release, ended = Threads(), threading.Event(), threading.Event()

    def call() -> None:
        release.wait(10)
        ended.set()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await threads.run(call, copy_context())
    assert threads.abandoned == 1
    release.set()
    assert await asyncio.to_thread(ended.wait, 5)
    threads.close()


async def test_an_exit_in_a_thread_ends_the_attempt_only(rig, lease) -> None:
    def job() -> None:
        raise SystemExit(1)

    async with rig(job) as r:
        [outcome] = await r.run(lease("job"))
    assert isinstance(outcome, Failed)
    assert outcome.error_class == "SystemExit"
