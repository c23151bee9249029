from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from taskforge.domain.jobs import JobOptions
from taskforge.domain.leases import Cancelled, Failed, Snoozed, Succeeded
from taskforge.domain.retry import RetryKind, RetryPolicy
from taskforge.worker.answers import Answer, Cancel, Discard, Retry, Snooze


async def run_one(rig, lease, fn, *, report=True, **changes):
    async with rig(fn) as r:
        [outcome] = await r.run(lease(fn.__name__, **changes))
        return outcome


async def test_a_returned_value_is_stored_as_json(rig, lease) -> None:
    async def job() -> dict[str, int]:
        return {"sent": 3}

    outcome = await run_one(rig, lease, job)
    assert isinstance(outcome, Succeeded)
    assert outcome.result == b'{"sent":3}'
    assert 0 <= outcome.started_us <= outcome.finished_us


async def test_none_is_no_result(rig, lease) -> None:
    async def job() -> None: ...

    assert (await run_one(rig, lease, job)).result is None


async def test_an_exception_fails_the_attempt_with_the_policys_delay(rig, lease) -> None:
    async def job() -> None:
        raise ValueError("no such mailbox")

    outcome = await run_one(rig, lease, job)
    assert isinstance(outcome, Failed)
    assert (outcome.error_class, outcome.message) == ("ValueError", "no such mailbox")
    assert 1.6 <= outcome.retry_in <= 2.0
    assert 'raise ValueError("no such mailbox")' in outcome.traceback
    assert "taskforge/worker/slots.py" not in outcome.traceback


async def test_the_last_attempt_is_a_dead_letter(rig, lease) -> None:
    async def job() -> None:
        raise ValueError

    assert (await run_one(rig, lease, job, attempt=5)).retry_in is None
    assert (await run_one(rig, lease, job, attempt=5, max_attempts=[6])).retry_in is not None
    assert (await run_one(rig, lease, job, attempt=2, max_attempts=[2])).retry_in is None


async def test_a_job_s_own_policy_comes_before_its_queue_s(rig, lease) -> None:
    async def job() -> None:
        raise ValueError

    own = JobOptions(retry=RetryPolicy(RetryKind.FIXED, 42.0, jitter=0.0))
    assert (await run_one(rig, lease, job, options=[own])).retry_in == 42.0


async def test_a_handler_may_lower_but_not_raise_its_queue_s_attempts(rig, lease) -> None:
    async def job() -> None:
        raise ValueError

    async with rig(job, max_attempts=1) as r:
        assert (await r.run(lease("job")))[0].retry_in is None
    async with rig(job, max_attempts=50) as r:
        assert (await r.run(lease("job", attempt=5)))[0].retry_in is None


ANSWERS = [
    (Retry(after=7), Failed, {"error_class": "Retry", "retry_in": 7.0}),
    (Retry("busy", after=timedelta(minutes=1)), Failed, {"message": "busy", "retry_in": 60.0}),
    (Snooze(30), Snoozed, {"delay": 30.0}),
    (Snooze(timedelta(hours=1)), Snoozed, {"delay": 3600.0}),
    (Cancel("obsolete"), Cancelled, {"reason": "obsolete"}),
    (Discard("malformed"), Failed, {"error_class": "Discard", "message": "malformed", "retry_in": None}),
]


@pytest.mark.parametrize("how", ["raise", "return"])
@pytest.mark.parametrize(("answer", "kind", "fields"), ANSWERS)
async def test_answers_may_be_raised_or_returned(rig, lease, answer: Answer, kind, fields, how: str) -> None:
    async def job() -> Answer:
        if how == "raise":
            raise answer
        return answer

    outcome = await run_one(rig, lease, job)
    assert isinstance(outcome, kind)
    assert {name: getattr(outcome, name) for name in fields} == fields


async def test_retry_without_a_delay_follows_the_policy(rig, lease) -> None:
    async def job() -> None:
        raise Retry()

    assert 1.6 <= (await run_one(rig, lease, job)).retry_in <= 2.0


async def test_retry_after_the_last_attempt_is_a_dead_letter(rig, lease) -> None:
    async def job() -> None:
        raise Retry(after=1)

    assert (await run_one(rig, lease, job, attempt=5)).retry_in is None


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), 1e300])
async def test_absurd_delays_are_bounded(rig, lease, delay: float) -> None:
    async def job() -> None:
        raise Snooze(delay)

    assert 0 <= (await run_one(rig, lease, job)).delay <= 10 * 365 * 86_400


async def test_a_result_that_is_not_json_is_not_tried_again(rig, lease) -> None:
    async def job() -> object:
        return object()

    outcome = await run_one(rig, lease, job)
    assert (outcome.error_class, outcome.retry_in) == ("result.invalid", None)


async def test_a_huge_result_is_refused_by_size(rig, lease) -> None:
    async def job() -> str:
        return "x" * 2_000_000

    assert (await run_one(rig, lease, job)).error_class == "result.invalid"


@pytest.mark.parametrize(
    "payload",
    [b'{"n": "five"}', b"{}", b'{"n": 1, "m": 2}', b"[1]", b"null", b'{"n": 1', b'{"n": "\\ud800"}'],
)
async def test_a_payload_that_does_not_fit_is_not_tried_again(rig, lease, payload: bytes) -> None:
    async def job(n: int) -> None:
        raise AssertionError("must not run")

    outcome = await run_one(rig, lease, job, payloads=[payload])
    assert (outcome.error_class, outcome.retry_in) == ("payload.invalid", None)


async def test_a_job_type_without_handler_fails_and_comes_back(rig, lease) -> None:
    async def job() -> None: ...

    async with rig(job) as r:
        [outcome] = await r.run(lease("somebody_elses"))
    assert outcome.error_class == "job_type.unknown"
    assert outcome.retry_in is not None


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()]
)
async def test_not_even_an_exit_takes_the_worker_along(rig, lease, error: BaseException) -> None:
    async def job(fail: bool) -> None:
        if fail:
            raise error

    async with rig(job, concurrency=1) as r:
        broken, fine = await r.run(lease("job", [b'{"fail":true}', b'{"fail":false}']))
    assert (type(broken), broken.error_class) == (Failed, type(error).__name__)
    assert isinstance(fine, Succeeded)


async def test_messages_are_bounded_and_storable(rig, lease) -> None:
    async def job() -> None:
        raise ValueError("\x00\ud800" + "x" * 1_000_000)

    outcome = await run_one(rig, lease, job)
    assert outcome.message.startswith("\\x00\\ud800xxx")
    assert len(outcome.message) < 2_200
    assert len(outcome.traceback) < 20_000
    outcome.message.encode()
    outcome.traceback.encode()


async def test_an_exception_that_cannot_be_printed_still_ends_the_attempt(rig, lease) -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    async def job() -> None:
        raise Odd

    assert (await run_one(rig, lease, job)).error_class == "Odd"


async def test_a_large_payload_is_fetched_when_the_job_starts(rig, lease) -> None:
    async def job(n: int) -> int:
        return n

    async with rig(job) as r:
        r.source.large[1] = b'{"n": 5}'
        found, missing = await r.run(lease("job", [None, None]))
    assert found.result == b"5"
    assert missing.error_class == "payload.missing"
