"""A client that keeps what is submitted, and runs it when asked to."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from random import Random
from typing import Any

import msgspec

from taskforge.api import Api
from taskforge.clock import Clock, SystemClock
from taskforge.domain.jobs import AttemptView, JobDraft, JobState, JobView
from taskforge.domain.retry import DEFAULT_POLICY, next_delay
from taskforge.errors import ConfigurationError, Conflict, NotFound
from taskforge.forge import TaskForge
from taskforge.handles import JobFailed
from taskforge.job_type import JobType
from taskforge.worker.conclusions import (
    Broke,
    Conclusion,
    Paused,
    Returned,
    conclude_error,
    conclude_value,
    invalid_payload,
)
from taskforge.worker.context import JobContext, current

DEFAULT_ATTEMPTS = 5
DEFAULT_TIMEOUT = 300.0


class Submission:
    """One submitted job, and what has become of it."""

    def __init__(self, job_id: str, draft: JobDraft, payload: bytes, now: datetime) -> None:
        self.id = job_id
        self.draft = draft
        self.job_type = draft.job_type
        self.queue_name = draft.queue_name
        self.payload = payload
        self.submitted_at = now
        self.due_at = draft.run_at or now + timedelta(seconds=draft.delay_seconds or 0.0)
        self.state = JobState.SCHEDULED if self.due_at > now else JobState.PENDING
        self.attempt = 0
        self.result: bytes | None = None
        self.attempts: list[AttemptView] = []
        self.error: BaseException | None = None

    def __repr__(self) -> str:
        return f"{self.job_type}({self.payload.decode()}) [{self.state}]"

    @property
    def arguments(self) -> dict[str, Any]:
        """The payload, decoded."""
        decoded: dict[str, Any] = msgspec.json.decode(self.payload)
        return decoded

    def record(self, outcome: str, now: datetime, broke: Broke | None = None) -> None:
        """Add the attempt that has just ended to the history."""
        self.attempts.append(
            AttemptView(
                attempt=self.attempt,
                outcome=outcome,
                worker=None,
                started_at=now,
                finished_at=now,
                error_class=None if broke is None else broke.error_class,
                message=None if broke is None else broke.message,
                traceback=None if broke is None else broke.traceback,
            )
        )

    def view(self) -> JobView:
        draft = self.draft
        return JobView(
            id=self.id,
            queue_name=self.queue_name,
            job_type=self.job_type,
            state=self.state,
            priority=draft.priority,
            payload=msgspec.Raw(self.payload),
            attempt=self.attempt,
            max_attempts=draft.max_attempts or DEFAULT_ATTEMPTS,
            timeout_seconds=draft.timeout_seconds or DEFAULT_TIMEOUT,
            tags=draft.tags,
            submitted_at=self.submitted_at,
            run_at=self.due_at if self.state in (JobState.SCHEDULED, JobState.RETRYING) else None,
            result=None if self.result is None else msgspec.Raw(self.result),
            error=self.attempts[-1] if self.attempts and self.state is JobState.FAILED else None,
            attempts=tuple(self.attempts),
            idempotency_key=draft.idempotency_key,
        )


class Recorder:
    """What was submitted while it was in use. With `clock`, jobs wait for their time; without, they do not."""

    def __init__(self, forge: TaskForge, *, clock: Clock | None = None, runs_at_once: bool = False) -> None:
        self.submissions: list[Submission] = []
        self._forge = forge
        self._waits = clock is not None
        self._clock = clock or SystemClock()
        self._runs_at_once = runs_at_once
        self._rng = Random(0)

    @property
    def api(self) -> Api:
        raise ConfigurationError(
            "testing.no_api",
            "nothing is stored while submissions are recorded, so there is nothing to look at or change",
        )

    def __iter__(self) -> Iterator[Submission]:
        return iter(self.submissions)

    def __len__(self) -> int:
        return len(self.submissions)

    def of(self, job: JobType[..., Any, Any] | str) -> list[Submission]:
        """The submissions of one job type, oldest first."""
        name = job if isinstance(job, str) else job.name
        return [s for s in self.submissions if s.job_type == name]

    def assert_submitted(
        self, job: JobType[..., Any, Any] | str, /, *, times: int | None = None, **arguments: Any
    ) -> Submission:
        """Such a job was submitted with at least these arguments (exactly `times` times, if given); the last of them.

        Arguments are compared as JSON, which is what the handler will get.
        """
        expected = msgspec.json.decode(msgspec.json.encode(arguments))
        candidates = self.of(job)
        found = [s for s in candidates if _has(s, expected)]
        name = job if isinstance(job, str) else job.name
        wanted = f"{name}({', '.join(f'{k}={v!r}' for k, v in arguments.items())})"
        if not found or (times is not None and len(found) != times):
            wished = "at least once" if times is None else f"{times} times"
            seen = "\n  ".join(map(repr, candidates or self.submissions)) or "nothing"
            raise AssertionError(
                f"{wanted} should have been submitted {wished}, but was {len(found)} times. Submitted:\n  {seen}"
            )
        return found[-1]

    def assert_not_submitted(self, job: JobType[..., Any, Any] | str, /, **arguments: Any) -> None:
        """No such job was submitted."""
        expected = msgspec.json.decode(msgspec.json.encode(arguments))
        for submission in self.of(job):
            if _has(submission, expected):
                raise AssertionError(f"this should not have been submitted: {submission!r}")

    async def drain(self, *, raise_errors: bool = True) -> int:
        """Run what is due, retries and newly submitted jobs included, until nothing is; how many runs that were.

        With `raise_errors`, the first job that ends as failed raises what its handler raised.
        """
        runs = 0
        while (submission := self._next()) is not None:
            await self._run(submission)
            runs += 1
            if raise_errors and submission.state is JobState.FAILED:
                raise submission.error or JobFailed(submission.view())
        return runs

    def drain_sync(self, *, raise_errors: bool = True) -> int:
        """As `drain`, from code without an event loop."""
        return self._forge.sync(self.drain(raise_errors=raise_errors))

    async def submit(self, draft: JobDraft, payloads: Sequence[bytes]) -> list[str]:
        ids: list[str] = []
        for payload in payloads:
            earlier = self._keyed(draft)
            if earlier is not None:
                ids.append(earlier.id)
                continue
            submission = Submission(str(len(self.submissions) + 1), draft, payload, self._clock.now())
            self.submissions.append(submission)
            ids.append(submission.id)
            if self._runs_at_once:
                await self._run(submission)
                if submission.error is not None:
                    raise submission.error
        return ids

    async def get(self, job_id: str) -> JobView:
        return self._find(job_id).view()

    async def wait(self, job_id: str, *, timeout: float) -> JobView:
        """Runs the job if it has not ended: nobody else will."""
        submission = self._find(job_id)
        while not submission.state.is_final and self._is_due(submission):
            await self._run(submission)
        return submission.view()

    async def cancel(self, job_id: str) -> JobView:
        submission = self._find(job_id)
        if submission.state.is_final:
            raise Conflict("job.already_ended", f"job {job_id} has ended already and cannot be cancelled")
        submission.state = JobState.CANCELLED
        return submission.view()

    async def close(self) -> None:
        """Nothing is open."""

    def _find(self, job_id: str) -> Submission:
        for submission in self.submissions:
            if submission.id == job_id:
                return submission
        raise NotFound("job.not_found", f'job "{job_id}" does not exist')

    def _keyed(self, draft: JobDraft) -> Submission | None:
        key = draft.idempotency_key
        return next((s for s in self.submissions if key and s.draft.idempotency_key == key), None)

    def _is_due(self, submission: Submission) -> bool:
        return not self._waits or submission.due_at <= self._clock.now()

    def _next(self) -> Submission | None:
        open_ones = [s for s in self.submissions if not s.state.is_final and self._is_due(s)]
        return min(open_ones, key=lambda s: (s.due_at, -s.draft.priority, int(s.id)), default=None)

    async def _run(self, submission: Submission) -> None:
        submission.state = JobState.PROCESSING
        submission.attempt += 1
        submission.error = None
        conclusion = await self._attempt(submission)
        now = self._clock.now()
        match conclusion:
            case Returned(result):
                submission.state, submission.result = JobState.SUCCEEDED, result
                submission.record("succeeded", now)
            case Paused(delay):
                submission.attempt -= 1
                submission.state = JobState.SCHEDULED
                submission.due_at = now + timedelta(seconds=delay)
            case Broke():
                self._fail(submission, conclusion, now)
            case _:
                submission.state = JobState.CANCELLED

    def _fail(self, submission: Submission, broke: Broke, now: datetime) -> None:
        draft = submission.draft
        submission.record("failed", now, broke)
        if not broke.retryable or submission.attempt >= (draft.max_attempts or DEFAULT_ATTEMPTS):
            submission.state = JobState.FAILED
            return
        delay = broke.after
        if delay is None:
            delay = next_delay(draft.retry or DEFAULT_POLICY, submission.attempt, self._rng)
        submission.state = JobState.RETRYING
        submission.due_at = now + timedelta(seconds=delay)

    async def _attempt(self, submission: Submission) -> Conclusion:
        job = self._forge.jobs.get(submission.job_type)
        if job is None:
            return Broke("job_type.unknown", f'no job "{submission.job_type}" is declared', retryable=False)
        try:
            args, kwargs = job.binding.read(submission.payload)
        except Exception as error:
            submission.error = error
            return invalid_payload(error)
        context = JobContext(
            job_id=submission.id,
            job_type=submission.job_type,
            queue_name=submission.queue_name,
            attempt=submission.attempt,
            fence=submission.attempt,
            deadline=time.monotonic() + (submission.draft.timeout_seconds or DEFAULT_TIMEOUT),
        )
        token = current.set(lambda: context)
        try:
            value = job.fn(*args, **kwargs)
            return conclude_value(await value if inspect.isawaitable(value) else value)
        except Exception as error:
            conclusion = conclude_error(error)
            if isinstance(conclusion, Broke):
                submission.error = error
            return conclusion
        finally:
            current.reset(token)


def _has(submission: Submission, expected: dict[str, Any]) -> bool:
    arguments = submission.arguments
    return all(name in arguments and arguments[name] == value for name, value in expected.items())


@contextmanager
def capture(forge: TaskForge, *, clock: Clock | None = None) -> Iterator[Recorder]:
    """Keep what is submitted; nothing runs until `drain()` or until a result is awaited."""
    recorder = Recorder(forge, clock=clock)
    with forge.use(recorder):
        yield recorder


@contextmanager
def inline(forge: TaskForge) -> Iterator[Recorder]:
    """Run each job within its own submit, once; what the handler raises comes out of `submit`."""
    recorder = Recorder(forge, runs_at_once=True)
    with forge.use(recorder):
        yield recorder
