from __future__ import annotations

import pytest

from taskforge import Cancel, Discard, Snooze, TaskForge, current_job, fixed
from taskforge.testing import FakeClock, capture, inline


@pytest.fixture
def calls() -> list[object]:
    return []


async def test_inline_runs_the_job_within_its_submit(forge: TaskForge, calls) -> None:
    @forge.job
    async def child(n: int) -> None:
        calls.append(n)

    @forge.job
    async def parent(n: int) -> int:
        await child.submit(n + 1)
        calls.append(current_job().job_id)
        return n

    with inline(forge) as submitted:
        handle = await parent.submit(1)
        assert await handle.result() == 1
    assert calls == [2, "1"]
    submitted.assert_submitted(child, n=2, times=1)


async def test_inline_lets_the_handler_s_error_out(forge: TaskForge) -> None:
    @forge.job
    async def job() -> None:
        raise KeyError("missing")

    with inline(forge), pytest.raises(KeyError, match="missing"):
        await job.submit()


async def test_captured_jobs_run_only_when_drained(forge: TaskForge, calls) -> None:
    @forge.job
    async def job(n: int) -> None:
        calls.append(n)

    with capture(forge) as submitted:
        await job.submit(1)
        await job.options(priority=9).submit(2)
        assert calls == []
        assert await submitted.drain() == 2
    assert sorted(calls) == [1, 2]
    assert [s.state for s in submitted] == ["succeeded", "succeeded"]


async def test_assertions_say_what_was_there_instead(forge: TaskForge) -> None:
    @forge.job
    async def send(to: str, tags: list[str]) -> None: ...

    with capture(forge) as submitted:
        with pytest.raises(AssertionError, match="nothing"):
            submitted.assert_submitted(send)
        await send.submit("ann", ["a"])
        submitted.assert_submitted(send, tags=["a"])
        submitted.assert_submitted("send", to="ann", times=1)
        submitted.assert_not_submitted(send, to="bob")
        with pytest.raises(AssertionError, match=r'to=\'bob\'.*but was 0 times[\s\S]*"to":"ann"'):
            submitted.assert_submitted(send, to="bob")
        with pytest.raises(AssertionError, match="should not have been submitted"):
            submitted.assert_not_submitted(send)


async def test_drain_retries_until_attempts_are_spent_and_raises_the_cause(forge: TaskForge, calls) -> None:
    @forge.job(max_attempts=3)
    async def job() -> None:
        calls.append(current_job().attempt)
        raise ValueError("still broken")

    with capture(forge) as submitted:
        await job.submit()
        with pytest.raises(ValueError, match="still broken"):
            await submitted.drain()
        [submission] = submitted
        assert [a.error_class for a in submission.view().attempts] == ["ValueError"] * 3
    assert calls == [1, 2, 3]


async def test_the_history_of_a_run_job_ends_with_the_attempt_that_succeeded(forge: TaskForge) -> None:
    @forge.job(max_attempts=2)
    async def job() -> None:
        if current_job().attempt == 1:
            raise ValueError("not yet")

    with capture(forge) as submitted:
        await job.submit()
        await submitted.drain()
        [submission] = submitted
        history = [(a.attempt, a.outcome, a.error_class) for a in submission.view().attempts]
    assert history == [(1, "failed", "ValueError"), (2, "succeeded", None)]


async def test_a_fake_clock_decides_what_is_due(forge: TaskForge, calls) -> None:
    clock = FakeClock()

    @forge.job(max_attempts=2, retry=fixed(30))
    async def job() -> None:
        calls.append((current_job().attempt, clock.monotonic()))
        if len(calls) == 1:
            raise ValueError

    with capture(forge, clock=clock) as submitted:
        await job.options(delay=60).submit()
        assert await submitted.drain() == 0
        clock.advance(60)
        assert await submitted.drain() == 1
        assert await submitted.drain() == 0
        clock.advance(30)
        assert await submitted.drain() == 1
    assert calls == [(1, 60.0), (2, 90.0)]


async def test_answers_have_their_meaning(forge: TaskForge) -> None:
    clock = FakeClock()

    @forge.job
    async def job(answer: str) -> object:
        if answer == "snooze" and clock.monotonic() == 0:
            raise Snooze(10)
        if answer == "cancel":
            return Cancel("enough")
        if answer == "discard":
            raise Discard("bad")
        return current_job().attempt

    with capture(forge, clock=clock) as submitted:
        await job.submit_many([("snooze",), ("cancel",), ("discard",)])
        await submitted.drain(raise_errors=False)
        assert [s.state for s in submitted] == ["scheduled", "cancelled", "failed"]
        clock.advance(10)
        await submitted.drain()
        assert submitted.of(job)[0].result == b"1"


async def test_a_payload_of_the_wrong_type_fails_as_in_a_worker(forge: TaskForge) -> None:
    @forge.job
    async def job(n: int) -> None: ...

    with capture(forge) as submitted:
        await job.submit("five")  # type: ignore[arg-type]
        await submitted.drain(raise_errors=False)
        assert submitted.of("job")[0].view().error.error_class == "payload.invalid"


def test_drain_has_a_sync_twin(forge: TaskForge, calls) -> None:
    @forge.job
    def job() -> None:
        calls.append(1)

    with capture(forge) as submitted:
        job.delay()
        assert submitted.drain_sync() == 1
    forge.close_sync()
    assert calls == [1]


async def test_after_the_block_the_forge_is_as_before(forge: TaskForge) -> None:
    with capture(forge) as outer, inline(forge) as inner:
        assert await forge.client() is inner
    with capture(forge) as outer:
        assert await forge.client() is outer
