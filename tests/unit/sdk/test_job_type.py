from __future__ import annotations

import asyncio
import inspect
from datetime import UTC, datetime, timedelta

import pytest

from taskforge import JobCancelled, JobFailed, Retry, TaskForge, exponential
from taskforge.errors import ConfigurationError, Conflict, NotFound
from taskforge.testing import capture
from taskforge.worker.handlers import Mode


async def test_a_declared_function_is_still_itself(forge: TaskForge) -> None:
    @forge.job(queue="math")
    async def add(a: int, b: int = 1) -> int:
        """Add."""
        return a + b

    @forge.job
    def double(a: int) -> int:
        return 2 * a

    assert await add(1, b=2) == 3
    assert double(4) == 8
    assert (add.__name__, add.__doc__) == ("add", "Add.")
    assert list(inspect.signature(add).parameters) == ["a", "b"]


def test_a_declaration_says_what_its_jobs_are_like(forge: TaskForge) -> None:
    policy = exponential(1, longest=10)

    @forge.job(
        name="mail.send",
        queue="email",
        priority=9,
        max_attempts=3,
        timeout=timedelta(minutes=1),
        retry=policy,
    )
    async def send() -> None: ...

    handler = forge.handlers()["mail.send"]
    assert (handler.mode, handler.timeout, handler.max_attempts, handler.retry) == (
        Mode.ASYNC,
        60.0,
        3,
        policy,
    )
    assert forge.queues == ("email",)
    draft = send.options().draft
    assert (draft.queue_name, draft.priority, draft.timeout_seconds) == ("email", 9, 60.0)


@pytest.mark.parametrize(
    "options",
    [
        {"queue": "No Spaces"},
        {"priority": 10},
        {"max_attempts": 0},
        {"timeout": 0},
        {"name": "not a name"},
        {"mode": "thread"},
    ],
)
def test_a_declaration_that_cannot_work_fails_at_once(forge: TaskForge, options) -> None:
    with pytest.raises(ConfigurationError):

        @forge.job(**options)
        async def job() -> None: ...


def test_two_functions_cannot_share_a_name(forge: TaskForge) -> None:
    @forge.job(name="same")
    def one() -> None: ...

    with pytest.raises(ConfigurationError, match="give one of them another name"):

        @forge.job(name="same")
        def two() -> None: ...


async def test_submit_takes_what_the_function_takes(forge: TaskForge) -> None:
    @forge.job
    async def send(to: str, *, subject: str = "none") -> None: ...

    with capture(forge) as submitted:
        await send.submit("ann", subject="hello")
        await send.submit(to="bob")
        with pytest.raises(TypeError, match=r"send\(\) missing a required argument: 'to'"):
            await send.submit(subject="hello")
        with pytest.raises(TypeError, match=r"send\(\) got an unexpected keyword argument 'cc'"):
            await send.submit(to="ann", cc="bob")
    assert [s.arguments for s in submitted] == [{"to": "ann", "subject": "hello"}, {"to": "bob"}]


async def test_many_are_submitted_together(forge: TaskForge) -> None:
    @forge.job
    async def send(to: str) -> None: ...

    with capture(forge) as submitted:
        handles = await send.submit_many([{"to": "ann"}, ("bob",)])
        assert len(await send.submit_many([])) == 0
    assert [handle.id for handle in handles] == [s.id for s in submitted]
    with capture(forge) as submitted, pytest.raises(TypeError):
        await send.submit_many([{"to": "ann"}, {"cc": "bob"}])
    assert len(submitted) == 0


async def test_options_change_one_submit(forge: TaskForge) -> None:
    @forge.job(priority=1)
    async def send(to: str) -> None: ...

    due = datetime(2040, 1, 1, tzinfo=UTC)
    with capture(forge) as submitted:
        urgent = send.options(priority=9, tags=["vip"], idempotency_key="k1", queue="other")
        first = await urgent.submit("ann")
        again = await urgent.submit("ann")
        await send.options(delay=timedelta(minutes=2)).submit("bob")
        await send.options(run_at=due).submit("cid")
        await send.submit("dan")
        with pytest.raises(ValueError, match="one by one"):
            await urgent.submit_many([("a",), ("b",)])
    assert first.id == again.id
    drafts = [s.draft for s in submitted]
    assert [(d.priority, d.queue_name, d.tags) for d in drafts[:1]] == [(9, "other", ("vip",))]
    assert (drafts[1].delay_seconds, drafts[2].run_at, drafts[3].priority) == (120.0, due, 1)


def test_delay_submits_without_an_event_loop(forge: TaskForge) -> None:
    @forge.job
    async def add(a: int, b: int) -> int:
        return a + b

    with capture(forge) as submitted:
        handle = add.delay(1, 2)
        submitted.assert_submitted(add, a=1, b=2)
        assert forge.sync(handle.result(timeout=1)) == 3
    forge.close_sync()


async def test_the_sync_twin_works_beside_a_running_loop(forge: TaskForge) -> None:
    @forge.job
    def job() -> int:
        return 1

    with capture(forge):
        handle = await asyncio.to_thread(job.delay)
        assert await handle.result() == 1
    await asyncio.to_thread(forge.close_sync)


def test_the_sync_twin_refuses_to_wait_for_itself(forge: TaskForge) -> None:
    async def inner() -> None:
        async def nothing() -> None: ...

        forge.sync(nothing())

    with pytest.raises(RuntimeError, match="await the async twin"):
        forge.sync(inner())
    forge.close_sync()


async def test_a_result_comes_back_as_its_declared_type(forge: TaskForge) -> None:
    @forge.job
    async def when(fail: bool) -> datetime | Retry:
        return Retry() if fail else datetime(2030, 1, 2, tzinfo=UTC)

    @forge.job
    async def anything() -> object:
        return {"a": [1]}

    with capture(forge):
        assert await (await when.submit(False)).result() == datetime(2030, 1, 2, tzinfo=UTC)
        assert await (await anything.submit()).result() == {"a": [1]}


async def test_a_handle_tells_how_its_job_ended(forge: TaskForge) -> None:
    @forge.job(max_attempts=1)
    async def fail() -> None:
        raise ValueError("no such mailbox")

    @forge.job
    async def fine() -> None: ...

    with capture(forge):
        handle = await fail.submit()
        with pytest.raises(JobFailed, match="ValueError: no such mailbox") as caught:
            await handle.result()
        assert caught.value.job.id == handle.id
        with pytest.raises(Conflict):
            await handle.cancel()
        other = await fine.submit()
        assert (await other.cancel()).state == "cancelled"
        assert (await other.refresh()).state == "cancelled"
        with pytest.raises(JobCancelled):
            await other.result()
        with pytest.raises(NotFound):
            await forge.handle("99").refresh()


async def test_waiting_for_a_result_ends_at_the_timeout(forge: TaskForge) -> None:
    from taskforge.testing import FakeClock

    @forge.job
    async def later() -> None: ...

    with capture(forge, clock=FakeClock()):
        handle = await later.options(delay=60).submit()
        with pytest.raises(TimeoutError, match="is scheduled after 0 s"):
            await handle.result(timeout=0)
