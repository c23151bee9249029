"""A submitted job in the hands of whoever submitted it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

import msgspec
from msgspec import UNSET, Struct

from taskforge.api import path_of
from taskforge.domain.control import ChangeView
from taskforge.domain.jobs import JobState, JobView
from taskforge.errors import TaskForgeError
from taskforge.worker.answers import seconds

if TYPE_CHECKING:
    from taskforge.forge import TaskForge

R = TypeVar("R")


class _Changes(Struct):
    data: list[ChangeView]


_LONGEST_WAIT = 30.0


class JobFailed(TaskForgeError):
    """The job ended as failed; `job` is how it ended."""

    def __init__(self, job: JobView) -> None:
        error = job.error
        said = f"{error.error_class}: {error.message}" if error is not None else "no reason was recorded"
        super().__init__("job.failed", f"job {job.id} ({job.job_type}) failed: {said}")
        self.job = job


class JobCancelled(TaskForgeError):
    """The job was cancelled; `job` is how it ended."""

    def __init__(self, job: JobView) -> None:
        super().__init__("job.cancelled", f"job {job.id} ({job.job_type}) was cancelled")
        self.job = job


class JobHandles(Sequence["JobHandle[R]"]):
    """The handles of jobs that were submitted together, in their order; each is made when it is asked for."""

    def __init__(self, make: Callable[[str], JobHandle[R]], ids: Sequence[int] | Sequence[str]) -> None:
        self._make = make
        self._ids = ids

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, index: int) -> JobHandle[R]: ...
    @overload
    def __getitem__(self, index: slice) -> JobHandles[R]: ...
    def __getitem__(self, index: int | slice) -> JobHandle[R] | JobHandles[R]:
        if isinstance(index, slice):
            return JobHandles(self._make, self._ids[index])
        return self._make(str(self._ids[index]))

    def __repr__(self) -> str:
        return f"JobHandles({len(self)} jobs)"


class JobHandle(Generic[R]):
    """Names a job. It holds no connection, so it may be used from any event loop of its process."""

    def __init__(self, forge: TaskForge, job_id: str, result_type: Any) -> None:
        self._forge = forge
        self._result_type = result_type
        self.id = job_id

    def __repr__(self) -> str:
        return f"JobHandle({self.id!r})"

    async def result(self, timeout: float | None = None) -> R:
        """What the handler returned, read as its declared type, once the job has ended.

        Raises JobFailed, JobCancelled, or TimeoutError after `timeout` seconds (None: wait as long as it takes).
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _LONGEST_WAIT if deadline is None else deadline - time.monotonic()
            client = await self._forge.client()
            view = await client.wait(self.id, timeout=max(0.0, min(left, _LONGEST_WAIT)))
            if view.state.is_final:
                return self._read(view)
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"job {self.id} is {view.state} after {timeout:g} s")

    async def refresh(self) -> JobView:
        """The job as it is now."""
        return await (await self._forge.client()).get(self.id)

    async def cancel(self) -> JobView:
        """Cancelled, or asked to stop when it runs. Raises Conflict when it has ended already."""
        return await (await self._forge.client()).cancel(self.id)

    async def retry(self) -> JobView:
        """A failed or cancelled job gets new attempts; one that waits for its time runs now. Raises Conflict."""
        return await self._control("POST", "retry")

    async def reschedule(
        self, *, run_at: datetime | None = None, delay: float | timedelta | None = None
    ) -> JobView:
        """Run a waiting job no sooner than then; a past time, or a delay of 0, means now. Raises Conflict."""
        if (run_at is None) == (delay is None):
            raise TypeError("give either run_at or delay")
        wait: dict[str, Any] = {"run_at": run_at} if delay is None else {"delay_seconds": seconds(delay)}
        return await self._control("PATCH", body=wait)

    async def change(
        self,
        *,
        priority: int | None = None,
        queue: str | None = None,
        payload: Any = UNSET,
        patch: Mapping[str, Any] | None = None,
    ) -> JobView:
        """Change a job that waits, or a dead letter: all of it, or nothing. `patch` is a JSON merge patch (RFC 7396).

        Raises Conflict `job.running` while it runs.
        """
        given = {"priority": priority, "queue_name": queue, "payload_patch": patch}
        body = {name: value for name, value in given.items() if value is not None}
        if payload is not UNSET:
            body["payload"] = payload
        return await self._control("PATCH", body=body)

    async def changes(self) -> list[ChangeView]:
        """Who changed what of the job after its submission, oldest first."""
        api = await self._forge.api()
        return (await api.call("GET", path_of("jobs", self.id, "changes"), reads=_Changes)).data

    async def _control(self, method: str, *verb: str, body: Any = None) -> JobView:
        api = await self._forge.api()
        return await api.call(method, path_of("jobs", self.id, *verb), body, reads=JobView)

    def _read(self, view: JobView) -> R:
        if view.state is JobState.FAILED:
            raise JobFailed(view)
        if view.state is JobState.CANCELLED:
            raise JobCancelled(view)
        if view.result is None:
            return cast(R, None)
        return cast(R, msgspec.json.decode(view.result, type=self._result_type))
