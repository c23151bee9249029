"""A lease in this worker's hands, and the outcomes of its jobs that are not reported yet."""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random
from typing import TypeAlias, assert_never

from taskforge.domain.leases import Cancelled, Expired, Failed, Lease, Outcome, Released, Snoozed, Succeeded
from taskforge.domain.retry import next_delay
from taskforge.worker.conclusions import Broke, Conclusion, GivenBack, Paused, Returned, Stopped
from taskforge.worker.handlers import Handler

Item: TypeAlias = "tuple[Held, int, int, str, bytes | None]"
"""A job in the local stock: its lease, its place in it, job id, job type, payload. A tuple because `zip` makes
thousands of them without running Python code."""


class Held:
    """`outcomes` is filled by the slots and emptied by the completer. `claimed_ns` is the moment of the claim on this
    process's monotonic clock, which all times of its jobs are reported against."""

    __slots__ = ("claimed_ns", "is_timed", "lease", "outcomes")

    def __init__(self, lease: Lease, claimed_ns: int) -> None:
        self.lease = lease
        self.claimed_ns = claimed_ns
        self.is_timed = lease.starts is not None or lease.ends is not None
        self.outcomes: list[Outcome] = []

    def timeout(self, index: int, handler: Handler | None) -> float:
        """The job's own, else its handler's, else its queue's."""
        if (timeouts := self.lease.timeouts) is not None and (timeout := timeouts[index]) is not None:
            return timeout
        if handler is not None and handler.timeout is not None:
            return handler.timeout
        return self.lease.queue_timeout

    def ends_at(self, index: int) -> datetime | None:
        """The job's deadline over all attempts."""
        return None if self.lease.ends is None else self.lease.ends[index]

    def too_late(self, index: int, now_ns: int) -> Outcome | None:
        """What to report for a job of a timed lease that may not start at this moment any more."""
        lease, job_id = self.lease, self.lease.ids[index]
        noticed_us = (now_ns - self.claimed_ns) // 1_000
        bound = None if lease.starts is None else lease.starts[index]
        if bound is not None and self._left(bound, now_ns) <= 0:
            return Expired(job_id, noticed_us, f"expired: it was to start before {_shown(bound)}")
        bound = self.ends_at(index)
        if bound is None or self._left(bound, now_ns) > 0:
            return None
        reason = f"its deadline {_shown(bound)} has passed"
        if lease.attempt == 1:
            return Expired(job_id, noticed_us, reason)
        return Failed(job_id, noticed_us, noticed_us, "DeadlinePassed", reason, "", None, reason)

    def cut(self, index: int, timeout: float, now_ns: int) -> float:
        """The timeout of a job of a timed lease: it does not reach beyond the deadline."""
        bound = self.ends_at(index)
        return timeout if bound is None else min(timeout, self._left(bound, now_ns))

    def _left(self, bound: datetime, now_ns: int) -> float:
        """Seconds until `bound`, rather too few than too many: the claim was answered later than it was asked."""
        elapsed = (now_ns - self.lease.asked_ns) / 1e9
        return (bound - self.lease.claimed_at).total_seconds() - elapsed

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
                no_time = None
                if retry_in is not None and (no_time := self._no_time_for(index, retry_in, finished_us)):
                    retry_in = None
                return Failed(
                    job_id, started_us, finished_us, error_class, message, traceback, retry_in, no_time
                )
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

    def _no_time_for(self, index: int, retry_in: float, finished_us: int) -> str | None:
        """Why another attempt in so many seconds would come too late, if it would."""
        bound = self.ends_at(index)
        if bound is None or self._left(bound, self.claimed_ns + finished_us * 1_000) > retry_in:
            return None
        return f"no attempt is left before its deadline {_shown(bound)}"

    def _max_attempts(self, index: int, handler: Handler | None) -> int:
        """The job's own. Without one the queue's, which a handler may lower but, as the database does not know of it,
        not raise."""
        if (limits := self.lease.max_attempts) is not None and (limit := limits[index]) is not None:
            return limit
        limit = self.lease.queue_max_attempts
        return limit if handler is None or handler.max_attempts is None else min(limit, handler.max_attempts)


def _shown(instant: datetime) -> str:
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
