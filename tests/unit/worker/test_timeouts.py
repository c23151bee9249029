from __future__ import annotations

import asyncio
import threading

from taskforge.domain.leases import Failed, Succeeded


async def test_an_overdue_handler_is_cancelled_and_the_attempt_fails(rig, lease) -> None:
    cleaned = asyncio.Event()

    async def job() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    async with rig(job) as r:
        [outcome] = await r.run(lease("job", timeout=0.01))
    assert isinstance(outcome, Failed)
    assert (outcome.error_class, outcome.message) == ("JobTimeout", "ran longer than its 0.01 s")
    assert outcome.retry_in is not None
    assert cleaned.is_set()


async def test_the_job_s_timeout_beats_the_handler_s_and_that_the_queue_s(rig, lease) -> None:
    async def job() -> None:
        await asyncio.Event().wait()

    async with rig(job, timeout=0.02) as r:
        own, handlers = await r.run(lease("job", [b"{}"] * 2, timeout=60.0, timeouts=[0.01, None]))
    assert own.message == "ran longer than its 0.01 s"
    assert handlers.message == "ran longer than its 0.02 s"


async def test_a_slot_works_on_after_a_timeout(rig, lease) -> None:
    async def job(wait: bool) -> None:
        if wait:
            await asyncio.Event().wait()
        async with asyncio.timeout(5):
            await asyncio.sleep(0)

    async with rig(job, concurrency=1) as r:
        late, fine = await r.run(lease("job", [b'{"wait":true}', b'{"wait":false}'], timeout=0.01))
    assert isinstance(late, Failed)
    assert isinstance(fine, Succeeded)


async def test_returning_after_the_deadline_is_still_a_timeout(rig, lease) -> None:
    async def job() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
        return "too late"

    async with rig(job) as r:
        [outcome] = await r.run(lease("job", timeout=0.01))
    assert outcome.error_class == "JobTimeout"


async def test_a_handler_that_ignores_its_cancellation_loses_its_slot(rig, lease) -> None:
    release, ended = asyncio.Event(), asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                pass
        ended.set()

    async def job() -> None: ...

    async with rig(stubborn, job, concurrency=1, grace=0.01) as r:
        ignored, fine = await r.run(lease("stubborn", timeout=0.01), lease("job", first_id=2))
        assert ignored.error_class == "JobTimeout"
        assert isinstance(fine, Succeeded)
        release.set()
        await ended.wait()
        # What it comes up with in the end is dropped: the source would refuse a second report.
        await r.run(lease("job", first_id=3))


async def test_an_overdue_thread_is_abandoned_and_replaced(rig, lease) -> None:
    release = threading.Event()

    def job(wait: bool) -> str:
        if wait:
            release.wait(10)
        return threading.current_thread().name

    async with rig(job, concurrency=1) as r:
        late, fine = await r.run(lease("job", [b'{"wait":true}', b'{"wait":false}'], timeout=0.01))
        assert late.error_class == "JobTimeout"
        assert isinstance(fine, Succeeded)
        release.set()


async def test_waiting_for_a_payload_counts_against_the_job_s_time(rig, lease) -> None:
    async def job() -> None: ...

    async with rig(job) as r:

        async def never(*_: object) -> dict[int, bytes]:
            await asyncio.Event().wait()
            return {}

        r.source.fetch_payloads = never
        [outcome] = await r.run(lease("job", [None], timeout=0.01))
    assert outcome.error_class == "JobTimeout"
