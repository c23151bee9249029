"""A lease in this worker's hands, and the outcomes of its jobs that are not reported yet."""

from __future__ import annotations

from random import Random
from typing import TypeAlias, assert_never

from taskforge.domain.leases import Cancelled, Failed, Lease, Outcome, Released, Snoozed, Succeeded
from taskforge.domain.retry import next_delay
from taskforge.worker.conclusions import Broke, Conclusion, GivenBack, Paused, Returned, Stopped
from taskforge.worker.handlers import Handler

Item: TypeAlias = "tuple[Held, int, int, str, bytes | None]"
"""A job in the local stock: its lease, its place in it, job id, job type, payload. A tuple because `zip` makes
thousands of them without running Python code."""


class Held:
    """`outcomes` is filled by the slots and emptied by the completer. `claimed_ns` is the moment of the claim on this
    process's monotonic clock, which all times of its jobs are reported against."""

    __slots__ = ("claimed_ns", "lease", "outcomes")

    def __init__(self, lease: Lease, claimed_ns: int) -> None:
        self.lease = lease
        self.claimed_ns = claimed_ns
        self.outcomes: list[Outcome] = []

    def timeout(self, index: int, handler: Handler | None) -> float:
        """The job's own, else its handler's, else its queue's."""
        if (timeouts := self.lease.timeouts) is not None and (timeout := timeouts[index]) is not None:
            return timeout
        if handler is not None and handler.timeout is not None:
            return handler.timeout
        return self.lease.queue_timeout

    def outcome(
        self,
        conclusion: Conclusion,
        *,
        index: int,
        handler: Handler | None,
        started_us: int,
        finished_us: int,
        rng: Random,
    ) -> Outcome:
        """What to report for a job whose run ended like this."""
        job_id = self.lease.ids[index]
        match conclusion:
            case Returned(result):
                return Succeeded(job_id, started_us, finished_us, result)
            case Paused(delay):
                return Snoozed(job_id, started_us, finished_us, delay)
            case Stopped(reason):
                return Cancelled(job_id, started_us, finished_us, reason)
            case GivenBack():
                return Released(job_id)
            case Broke(error_class, message, traceback):
                retry_in = self._retry_in(conclusion, index, handler, rng)
                return Failed(job_id, started_us, finished_us, error_class, message, traceback, retry_in)
            case _:
                assert_never(conclusion)

    def _retry_in(self, broke: Broke, index: int, handler: Handler | None, rng: Random) -> float | None:
        lease = self.lease
        if not broke.retryable or lease.attempt >= self._max_attempts(index, handler):
            return None
        if broke.after is not None:
            return broke.after
        options = lease.options[index] if lease.options is not None else None
        policy = (options and options.retry) or (handler and handler.retry) or lease.queue_retry
        return next_delay(policy, lease.attempt, rng)

    def _max_attempts(self, index: int, handler: Handler | None) -> int:
        """The job's own. Without one the queue's, which a handler may lower but, as the database does not know of it,
        not raise."""
        if (limits := self.lease.max_attempts) is not None and (limit := limits[index]) is not None:
            return limit
        limit = self.lease.queue_max_attempts
        return limit if handler is None or handler.max_attempts is None else min(limit, handler.max_attempts)
