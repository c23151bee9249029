from __future__ import annotations

import asyncio

import pytest
import structlog

from taskforge.domain.leases import Failed, Released, Succeeded
from taskforge.errors import Unavailable, WorkerLost
from taskforge.worker import completer as module
from taskforge.worker.completer import Completer
from taskforge.worker.held import Held
from taskforge.worker.journal import Journal
from taskforge.worker.source import Standing


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.0)


@pytest.fixture
async def standing() -> Standing:
    return Standing()


@pytest.fixture
async def completer(source, standing):
    journal = Journal(1)
    made = Completer(source, standing, journal, bound=4)
    task = asyncio.create_task(made.run())
    yield made
    task.cancel()
    journal.close()


@pytest.fixture
def held(lease) -> Held:
    return Held(lease("job", [b"{}"] * 100), 0)


async def test_an_idle_completer_reports_at_once(completer, source, held) -> None:
    completer.add(held, Succeeded(1, 0, 1))
    await completer.drained()
    assert list(source.outcomes) == [1]


async def test_what_arrives_during_a_flush_becomes_the_next_batch(completer, source, held, lease) -> None:
    other = Held(lease("job", first_id=200, fence=8), 0)
    source.gate.clear()
    completer.add(held, Succeeded(1, 0, 1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    completer.add(held, Succeeded(2, 0, 1))
    completer.add(other, Succeeded(200, 0, 1))
    source.gate.set()
    await completer.drained()
    shapes = [[(r.lease.fence, len(r.outcomes)) for r in batch] for batch in source.batches]
    assert shapes == [[(7, 1)], [(7, 1), (8, 1)]]


async def test_a_full_completer_holds_its_callers_up_until_the_database_takes_something(
    completer, source, held
) -> None:
    source.gate.clear()
    for job_id in range(1, 5):
        completer.add(held, Succeeded(job_id, 0, 1))
    assert completer.full
    waiting = asyncio.create_task(completer.room())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    source.gate.set()
    await waiting
    assert not completer.full


async def test_slots_stop_while_the_completer_is_full(rig, lease) -> None:
    ran = 0

    async def job() -> None:
        nonlocal ran
        ran += 1

    async with rig(job, concurrency=2, bound=10) as r:
        r.source.gate.clear()
        r.slots.put([lease("job", [b"{}"] * 100)])
        for _ in range(50):
            await asyncio.sleep(0)
        # Each slot may end one more before it notices.
        assert 10 <= ran <= 12
        r.source.gate.set()
        await r.source.until(lambda: len(r.source.outcomes) == 100)


async def test_a_report_is_repeated_until_the_database_is_back(completer, source, held, quick) -> None:
    source.failures = [Unavailable("database.unavailable", "gone"), OSError("reset"), TimeoutError()]
    completer.add(held, Succeeded(1, 0, 1))
    await completer.drained()
    assert list(source.outcomes) == [1]
    assert len(source.batches) == 4
    assert len({tuple(id(r.outcomes) for r in batch) for batch in source.batches}) == 1


async def test_an_outcome_that_is_refused_fails_alone(completer, source, held) -> None:
    async def finish(worker_id, reports):
        outcomes = [o for r in reports for o in r.outcomes]
        if any(isinstance(o, Succeeded) and o.job_id == 3 for o in outcomes):
            raise ValueError("cannot be stored")
        source.outcomes |= {o.job_id: o for o in outcomes}
        return type("Result", (), {"stale": []})

    source.finish = finish
    for job_id in range(1, 5):
        completer.add(held, Succeeded(job_id, 0, 1))
    await completer.drained()
    assert [type(source.outcomes[n]) for n in range(1, 5)] == [Succeeded, Succeeded, Failed, Succeeded]
    assert (source.outcomes[3].error_class, source.outcomes[3].retry_in) == ("outcome.refused", None)


async def test_a_release_that_is_refused_does_not_go_round_for_ever(completer, source, held) -> None:
    source.failures = [ValueError("no")]
    completer.add(held, Released(1))
    await completer.drained()
    assert source.outcomes == {}


async def test_stale_answers_are_counted_and_logged(completer, source, held) -> None:
    source.stale = [(7, 1)]
    with structlog.testing.capture_logs() as logs:
        completer.add(held, Succeeded(1, 0, 1))
        await completer.drained()
    assert completer.stale == 1
    assert [(line["event"], line["first_job_id"]) for line in logs] == [("worker.stale_reports", "1")]


async def test_a_lost_registration_is_told_and_its_reports_are_stale(
    completer, source, standing, held
) -> None:
    source.failures = [WorkerLost("worker.gone", "gone")]
    completer.add(held, Succeeded(1, 0, 1))
    await completer.drained()
    assert standing.lost.is_set()
    assert completer.stale == 1


async def test_forget_drops_what_waits_and_makes_room(completer, source, held, lease) -> None:
    source.gate.clear()
    completer.add(held, Succeeded(1, 0, 1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for job_id in range(2, 6):
        completer.add(held, Succeeded(job_id, 0, 1))
    completer.forget()
    assert completer.waiting == 0
    source.gate.set()
    fresh = Held(lease("job", first_id=50), 0)
    completer.add(fresh, Succeeded(50, 0, 1))
    await completer.drained()
    assert completer.waiting == 0
    assert set(source.outcomes) == {1, 50}
