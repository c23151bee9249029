from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from taskforge.errors import Unavailable, WorkerLost
from taskforge.worker import producer as module
from taskforge.worker.producer import Producer


@asynccontextmanager
async def producing(rig, *functions, concurrency=4, most=100, start=True):
    async with rig(*functions, concurrency=concurrency) as r:
        producer = Producer(r.source, r.standing, r.slots, r.completer, concurrency=concurrency, most=most)
        await asyncio.sleep(0)  # the slots find nothing and become idle
        task = asyncio.create_task(producer.run()) if start else None
        yield r, producer
        producer.stop()
        if task is not None:
            await asyncio.wait_for(task, 5)


async def quick() -> None: ...


async def test_the_first_claim_asks_for_the_slots_and_as_much_again(rig) -> None:
    async with producing(rig, quick) as (r, _):
        await r.source.until(lambda: r.source.wanted)
        assert r.source.wanted[0] == 8


async def test_a_hint_ends_the_wait_of_an_idle_worker(rig, lease, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_POLL", 60.0)
    async with producing(rig, quick) as (r, producer):
        await r.source.until(lambda: r.source.wanted)
        await asyncio.sleep(0)
        r.source.ready.append([lease("quick")])
        producer.poke()
        await r.source.until(lambda: 1 in r.source.outcomes)


async def test_without_hints_polling_finds_the_work(rig, lease) -> None:
    async with producing(rig, quick) as (r, _):
        await r.source.until(lambda: len(r.source.wanted) >= 2)
        r.source.ready.append([lease("quick")])
        await r.source.until(lambda: 1 in r.source.outcomes)


async def test_polling_slows_down_while_nothing_comes(rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rests = []

    async with producing(rig, quick, start=False) as (r, producer):

        async def rest(seconds: float) -> bool:
            rests.append(seconds)
            if len(rests) == 12:
                producer.stop()
            return False

        monkeypatch.setattr(producer, "_rest", rest)
        await producer.run()
        assert rests[:4] == [module.FIRST_POLL * n for n in (1, 2, 4, 8)]
        assert rests[-1] == 2.0
        assert len(r.source.wanted) == 12


async def test_slow_handlers_leave_jobs_to_other_workers(rig, lease) -> None:
    gate = asyncio.Event()

    async def slow() -> None:
        await gate.wait()

    async with producing(rig, slow, start=False) as (r, producer):
        r.slots.put([lease("slow", [b"{}"] * 4)])
        await asyncio.sleep(0)
        producer._measured_at -= 10.0
        assert r.slots.running == 4
        # Nothing ended in ten seconds: the stock halves with every look, down to none.
        for _ in range(5):
            producer._measured_at -= 10.0
            producer.want()
        assert producer.prefetch == 0
        assert producer.want() == 0
        gate.set()


async def test_the_stock_grows_to_a_tenth_of_a_second_of_work_and_no_further(rig, lease) -> None:
    async with producing(rig, quick, start=False, most=500) as (r, producer):
        producer._measured_at -= 1.0
        r.completer.added += 2_000
        producer.want()
        assert producer.prefetch == pytest.approx(200, abs=5)
        producer._measured_at -= 1.0
        r.completer.added += 1_000_000
        assert producer.want() == 500 + 4


async def test_a_stock_that_is_three_quarters_full_is_left_alone(rig, lease) -> None:
    gate = asyncio.Event()

    async def slow() -> None:
        await gate.wait()

    async with producing(rig, slow, start=False, most=10) as (r, producer):
        r.slots.put([lease("slow", [b"{}"] * 4)])
        await asyncio.sleep(0)
        producer._set_prefetch(10)
        r.slots.put([lease("slow", [b"{}"] * 8, first_id=10)])
        assert producer.want() == 0
        r.slots.stock.popleft()
        assert producer.want() == 3
        r.slots.stock.clear()
        gate.set()


async def test_a_lost_database_is_asked_again(rig, lease, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.0)
    failures = [Unavailable("database.unavailable", "gone"), OSError("reset")]
    async with producing(rig, quick, start=False) as (r, producer):
        claim = r.source.claim

        async def failing(worker_id: int, *, want: int, startable: int):
            if failures:
                raise failures.pop(0)
            return await claim(worker_id, want=want, startable=startable)

        r.source.claim = failing
        r.source.ready.append([lease("quick")])
        task = asyncio.create_task(producer.run())
        await r.source.until(lambda: 1 in r.source.outcomes)
        producer.stop()
        await task


async def test_a_lost_registration_stops_claims_until_there_is_another(rig) -> None:
    async with producing(rig, quick, start=False) as (r, producer):
        claims = 0

        async def gone(worker_id: int, *, want: int, startable: int):
            nonlocal claims
            claims += 1
            raise WorkerLost("worker.gone", "gone")

        r.source.claim = gone
        task = asyncio.create_task(producer.run())
        await asyncio.wait_for(r.standing.lost.wait(), 5)
        for _ in range(10):
            await asyncio.sleep(0)
        assert claims == 1
        producer.stop()
        await task


async def test_jobs_claimed_under_an_old_registration_are_not_run(rig, lease) -> None:
    async with producing(rig, quick, start=False) as (r, producer):

        async def claim(worker_id: int, *, want: int, startable: int):
            r.standing.worker_id += 1
            return [lease("quick")]

        r.source.claim = claim
        assert await producer.run_once(5) == 0
        assert not r.slots.stock


async def test_of_limited_queues_only_what_starts_at_once_is_asked_for(rig, lease) -> None:
    gate = asyncio.Event()

    async def slow() -> None:
        await gate.wait()

    async with producing(rig, slow, start=False) as (r, producer):
        assert producer.startable() == 4
        r.slots.put([lease("slow", [b"{}"] * 3)])
        await asyncio.sleep(0)
        assert producer.startable() == 1
        r.slots.put([lease("slow", [b"{}"] * 3, first_id=10)])
        await asyncio.sleep(0)
        assert producer.startable() == 0  # all are busy and nothing ends soon
        gate.set()


async def test_a_stock_that_feeds_the_slots_does_not_shut_limited_queues_out(rig, lease) -> None:
    gate = asyncio.Event()

    async def slow() -> None:
        await gate.wait()

    async with producing(rig, slow, start=False, most=1_000) as (r, producer):
        r.slots.put([lease("slow", [b"{}"] * 100)])
        await asyncio.sleep(0)
        for ended, startable in ((20, 1), (5_000, 50), (5, 0)):
            producer._measured_at -= 1.0
            r.completer.added += ended
            producer.want()
            assert producer.startable() == pytest.approx(startable, abs=1)
        r.slots.stock.clear()
        gate.set()
