"""The reporter: the newest word of each job, in order, whatever the database does; and the words of a process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
import structlog

from taskforge.domain.leases import Progress, Succeeded
from taskforge.errors import Unavailable, WorkerLost
from taskforge.worker import child, progress
from taskforge.worker.child import Word, Words
from taskforge.worker.completer import Completer
from taskforge.worker.conclusions import Returned
from taskforge.worker.context import JobContext
from taskforge.worker.held import Held
from taskforge.worker.journal import Journal
from taskforge.worker.progress import ProgressReporter
from taskforge.worker.source import Standing


class Desk:
    """Takes progress while its gate is open; `failures` are raised, one per call."""

    def __init__(self) -> None:
        self.calls: list[list[tuple[int, float]]] = []
        self.failures: list[BaseException] = []
        self.refused: set[int] = set()
        self.gate = asyncio.Event()
        self.gate.set()

    async def report_progress(self, worker_id: int, said: Sequence[Progress]) -> set[int]:
        self.calls.append([(word.job_id, word.fraction) for word in said])
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        return self.refused


def make_context(reporter: ProgressReporter | Words, job_id: int = 1) -> JobContext:
    return JobContext(
        job_id=str(job_id),
        job_type="job",
        queue_name="default",
        attempt=1,
        fence=7,
        deadline=0.0,
        on_progress=reporter.note,
    )


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture
async def desk() -> Desk:
    return Desk()


@pytest.fixture
async def standing() -> Standing:
    return Standing()


@pytest.fixture
async def reporter(desk, standing):
    made = ProgressReporter(desk, standing)
    yield made


@pytest.fixture
async def running(reporter, monkeypatch):
    """The reporter's loop, without its pauses."""
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    task = asyncio.create_task(reporter.run())
    yield task
    task.cancel()


async def test_only_the_newest_word_of_each_job_is_reported(reporter, desk, running) -> None:
    one, two = make_context(reporter), make_context(reporter, 2)
    for step in range(100):
        one.progress(step / 100)
    two.progress(0.5)
    await turns()
    assert desk.calls == [[(1, 0.99), (2, 0.5)]]
    assert reporter.is_idle


async def test_a_worker_whose_jobs_say_nothing_reports_nothing(reporter, desk, running) -> None:
    await turns()
    assert desk.calls == []


async def test_words_are_reported_at_most_once_per_interval(reporter, desk) -> None:
    task = asyncio.create_task(reporter.run())
    context = make_context(reporter)
    context.progress(0.1)
    await turns()
    context.progress(0.2)
    await turns()
    task.cancel()
    assert desk.calls == [[(1, 0.1)]]
    assert not reporter.is_idle


async def test_what_cannot_be_stored_is_kept_until_a_newer_word_replaces_it(reporter, desk, running) -> None:
    desk.failures = [Unavailable("database.unavailable", "away")]
    desk.gate.clear()
    one, two = make_context(reporter), make_context(reporter, 2)
    one.progress(0.1)
    two.progress(0.2)
    await turns()
    one.progress(0.3)
    desk.gate.set()
    await turns()
    assert desk.calls == [[(1, 0.1), (2, 0.2)], [(1, 0.3), (2, 0.2)]]


async def test_refused_words_are_counted_logged_and_dropped(reporter, desk, running) -> None:
    desk.refused = {1}
    with structlog.testing.capture_logs() as logs:
        make_context(reporter).progress(0.5)
        await turns()
    assert (reporter.stale, reporter.is_idle, len(desk.calls)) == (1, True, 1)
    assert [(line["event"], line["count"]) for line in logs] == [("worker.stale_progress", 1)]


async def test_a_lost_registration_is_told(reporter, desk, standing, running) -> None:
    desk.failures = [WorkerLost("worker.gone", "gone")]
    make_context(reporter).progress(0.5)
    await turns()
    assert standing.lost.is_set()
    assert reporter.stale == 1


async def test_a_word_that_breaks_the_source_breaks_no_loop(reporter, desk, running) -> None:
    desk.failures = [RuntimeError("odd")]
    with structlog.testing.capture_logs() as logs:
        make_context(reporter).progress(0.5)
        await turns()
    assert [line["event"] for line in logs] == ["worker.progress_refused"]
    make_context(reporter).progress(0.6)
    await turns()
    assert desk.calls[-1] == [(1, 0.6)]


async def test_last_words_wait_for_an_older_word_on_its_way_and_leave_other_jobs_alone(
    reporter, desk
) -> None:
    task = asyncio.create_task(reporter.run())
    desk.gate.clear()
    one, two = make_context(reporter), make_context(reporter, 2)
    one.progress(0.1)
    await turns()
    one.progress(1.0)
    two.progress(0.5)
    last = asyncio.create_task(reporter.last_words([1]))
    await turns()
    assert desk.calls == [[(1, 0.1)]]
    assert not last.done()
    desk.gate.set()
    await last
    task.cancel()
    assert desk.calls == [[(1, 0.1)], [(1, 1.0)]]
    assert not reporter.is_idle


async def test_a_job_s_last_word_is_reported_before_its_end(reporter, desk, source, standing, lease) -> None:
    journal = Journal(1)
    completer = Completer(source, standing, journal, bound=4, progress=reporter)
    task = asyncio.create_task(completer.run())
    try:
        desk.gate.clear()
        make_context(reporter).progress(1.0)
        completer.add(Held(lease("job", [b"{}"]), 0), Succeeded(1, 0, 1))
        await turns()
        assert desk.calls == [[(1, 1.0)]]
        assert source.outcomes == {}
        desk.gate.set()
        await completer.drained()
        assert list(source.outcomes) == [1]
    finally:
        task.cancel()
        journal.close()


def test_a_process_sends_its_newest_word_before_the_conclusion_and_none_after(monkeypatch) -> None:
    monkeypatch.setattr(child, "PAUSE_BETWEEN_WORDS", 60.0)
    sent: list[object] = []
    words = Words(sent.append)
    context = make_context(words)
    for step in range(1, 1_001):
        context.progress(step / 1_000)
    words.conclude(Returned())
    context.progress(0.0)
    assert sent[-2:] == [Word(1.0, ""), Returned()]
    assert len(sent) <= 3
