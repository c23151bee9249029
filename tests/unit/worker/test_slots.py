from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from uuid import uuid4

import pytest

from taskforge.domain.leases import Cancelled, Failed, Released, Succeeded
from taskforge.worker.context import current_job
from taskforge.worker.interrupts import Interrupt
from taskforge.worker.journal import started_jobs
from taskforge.worker.slots import TURN_NS

variable: ContextVar[str] = ContextVar("variable", default="clean")


async def test_jobs_of_a_slot_share_one_task(rig, lease) -> None:
    tasks = set()

    async def job() -> None:
        tasks.add(asyncio.current_task())

    async with rig(job, concurrency=1) as r:
        await r.run(lease("job", [b"{}"] * 100))
    assert len(tasks) == 1


async def test_no_more_run_at_once_than_there_are_slots(rig, lease) -> None:
    running = most = 0

    async def job() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    async with rig(job, concurrency=3) as r:
        await r.run(lease("job", [b"{}"] * 30))
    assert most == 3


async def test_a_leaked_context_variable_does_not_reach_the_next_job(rig, lease) -> None:
    seen = []

    async def job() -> None:
        seen.append((variable.get(), asyncio.current_task()))
        variable.set("dirty")

    async with rig(job, concurrency=1) as r:
        await r.run(lease("job", [b"{}"] * 3))
    assert [value for value, _ in seen] == ["clean"] * 3
    assert len({task for _, task in seen}) == 3


async def test_a_variable_that_was_reset_keeps_the_slot(rig, lease) -> None:
    tasks = set()

    async def job() -> None:
        tasks.add(asyncio.current_task())
        variable.reset(variable.set("for a moment"))

    async with rig(job, concurrency=1) as r:
        await r.run(lease("job", [b"{}"] * 3))
    assert len(tasks) == 1


async def test_the_handler_s_context_names_its_job(rig, lease) -> None:
    seen = []

    async def job() -> None:
        context = current_job()
        await asyncio.sleep(0)
        assert current_job() is context
        context.progress(0.5, "half")
        context.logger.info("seen")
        seen.append((context.job_id, context.attempt, context.fence, context.queue_name, context.fraction))
        assert 59 < context.remaining <= 60

    async with rig(job) as r:
        outcomes = await r.run(lease("job", [b"{}"] * 2, attempt=3))
    assert [type(o) for o in outcomes] == [Succeeded, Succeeded]
    assert sorted(seen) == [("1", 3, 7, "default", 0.5), ("2", 3, 7, "default", 0.5)]


async def test_outside_a_handler_there_is_no_job() -> None:
    with pytest.raises(LookupError, match="no job is running"):
        current_job()


async def test_timeouts_of_asyncio_work_inside_a_handler(rig, lease) -> None:
    async def job() -> str:
        try:
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()
        except TimeoutError:
            return "in time"
        return "never"

    async with rig(job) as r:
        assert [o.result for o in await r.run(lease("job", [b"{}"] * 2))] == [b'"in time"'] * 2


async def test_handlers_that_never_wait_leave_the_loop_its_turns(rig, lease) -> None:
    async def job() -> None: ...

    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(0)
            longest = max(longest, loop.time() - before)

    async with rig(job, concurrency=50, bound=30_000) as r:
        watching = asyncio.create_task(watch())
        await r.run(*[lease("job", [b"{}"] * 1_000, first_id=i * 1_000 + 1) for i in range(20)])
        watching.cancel()
    # 50 slots of a full turn each would be twenty times that.
    assert longest < 50 * TURN_NS / 1e9 / 2


async def test_a_cancelled_job_ends_cancelled_and_its_slot_goes_on(rig, lease) -> None:
    started = asyncio.Event()

    async def job(wait: bool) -> None:
        if wait:
            started.set()
            await asyncio.Event().wait()
        assert asyncio.current_task().cancelling() == 0

    async with rig(job, concurrency=1) as r:
        running = asyncio.create_task(r.run(lease("job", [b'{"wait":true}', b'{"wait":false}'])))
        await started.wait()
        r.slots.cancel([1])
        cancelled, next_one = await running
    assert isinstance(cancelled, Cancelled)
    assert isinstance(next_one, Succeeded)


async def test_a_cancelled_job_that_has_not_started_never_does(rig, lease) -> None:
    ran = []
    gate = asyncio.Event()

    async def job(n: int) -> None:
        ran.append(n)
        await gate.wait()

    async with rig(job, concurrency=1) as r:
        running = asyncio.create_task(r.run(lease("job", [b'{"n":%d}' % n for n in range(1, 4)])))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        r.slots.cancel([2])
        gate.set()
        first, second, third = await running
    assert (type(first), type(second), type(third)) == (Succeeded, Cancelled, Succeeded)
    assert ran == [1, 3]


async def test_a_cancelled_thread_is_told_and_may_check(rig, lease) -> None:
    started, told = threading.Event(), threading.Event()

    def job() -> None:
        context = current_job()
        started.set()
        assert told.wait(5)
        context.check()

    async with rig(job) as r:
        running = asyncio.create_task(r.run(lease("job")))
        await asyncio.to_thread(started.wait, 5)
        r.slots.cancel([1])
        told.set()
        [outcome] = await running
    assert isinstance(outcome, Cancelled)


async def test_drain_waits_for_what_runs_and_releases_the_rest(rig, lease) -> None:
    gate = asyncio.Event()

    async def job() -> None:
        await gate.wait()

    async with rig(job, concurrency=1) as r:
        running = asyncio.create_task(r.run(lease("job", [b"{}"] * 3)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert r.slots.halt() == 2
        draining = asyncio.create_task(r.slots.drain())
        await asyncio.sleep(0)
        assert not draining.done()
        gate.set()
        await draining
        outcomes = await running
    assert [type(o) for o in outcomes] == [Succeeded, Released, Released]


async def test_what_comes_after_the_halt_is_given_back_unseen(rig, lease) -> None:
    async def job() -> None:
        raise AssertionError("must not run")

    async with rig(job) as r:
        r.slots.halt()
        assert [type(o) for o in await r.run(lease("job", [b"{}"] * 2))] == [Released, Released]


async def test_an_interrupted_handler_gives_its_job_back(rig, lease) -> None:
    cleaned = []

    async def job() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    async with rig(job, concurrency=2) as r:
        running = asyncio.create_task(r.run(lease("job", [b"{}"] * 2)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert r.slots.interrupt_all(Interrupt.RELEASE) == 2
        assert [type(o) for o in await running] == [Released, Released]
    assert cleaned == [True, True]


async def test_work_that_was_finished_all_the_same_counts(rig, lease) -> None:
    async def job() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
        return "finished"

    async with rig(job) as r:
        running = asyncio.create_task(r.run(lease("job")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        r.slots.interrupt_all(Interrupt.RELEASE)
        [outcome] = await running
    assert outcome.result == b'"finished"'


async def test_results_of_a_lost_registration_are_dropped(rig, lease) -> None:
    ended = asyncio.Event()

    async def job() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def other() -> None: ...

    async with rig(job, other, concurrency=1) as r:
        r.slots.put([lease("job")])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        r.slots.interrupt_all(Interrupt.LOST)
        await ended.wait()
        [outcome] = await r.run(lease("other", first_id=2))
        assert isinstance(outcome, Succeeded)
        assert 1 not in r.source.outcomes


async def test_the_journal_knows_what_was_started(rig, lease) -> None:
    gate, started = asyncio.Event(), asyncio.Event()

    async def job(n: int) -> None:
        if n == 3:
            started.set()
            await gate.wait()

    async with rig(job, concurrency=1) as r:
        running = asyncio.create_task(r.run(lease("job", [b'{"n":%d}' % n for n in range(1, 6)])))
        await started.wait()
        assert started_jobs(r.journal.fd) == [1, 2, 3]
        gate.set()
        await running
        assert started_jobs(r.journal.fd) == [1, 2, 3, 4, 5]


async def test_one_failing_job_leaves_its_neighbours_alone(rig, lease) -> None:
    async def job(n: int) -> int:
        if n % 2:
            raise ValueError(n)
        return n

    async with rig(job) as r:
        outcomes = await r.run(lease("job", [b'{"n":%d}' % n for n in range(10)]))
    assert [isinstance(o, Failed) for o in outcomes] == [False, True] * 5


async def test_jobs_that_hold_a_limited_slot_start_before_the_stock(rig, lease) -> None:
    ran: list[str] = []

    async def note(name: str) -> None:
        ran.append(name)
        await asyncio.sleep(0)

    def named(*names: str, first_id: int, **changes):
        return lease("note", [b'{"name": "%b"}' % n.encode() for n in names], first_id=first_id, **changes)

    async with rig(note, concurrency=1) as r:
        await r.run(
            named("a", "b", first_id=1, fence=1), named("c", "d", first_id=10, fence=2, is_limited=True)
        )
    assert ran == ["c", "d", "a", "b"]


async def test_on_a_shared_worker_tenants_take_turns(rig, lease) -> None:
    ran: list[str] = []

    async def note(name: str) -> None:
        ran.append(name)
        await asyncio.sleep(0)

    async with rig(note, concurrency=1) as r:
        r.slots.is_shared = True
        flood = lease("note", [b'{"name": "a"}'] * 6, first_id=1, fence=1)
        other = lease("note", [b'{"name": "b"}'] * 2, first_id=10, fence=2, tenant_id=uuid4())
        await r.run(flood, other)
    assert ran == list("abab") + list("aaaa")
