"""A submitted job in the hands of whoever submitted it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

import msgspec

from taskforge.domain.jobs import JobState, JobView
from taskforge.errors import TaskForgeError

if TYPE_CHECKING:
    from taskforge.forge import TaskForge

R = TypeVar("R")

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

    def _read(self, view: JobView) -> R:
        if view.state is JobState.FAILED:
            raise JobFailed(view)
        if view.state is JobState.CANCELLED:
            raise JobCancelled(view)
        if view.result is None:
            return cast(R, None)
        return cast(R, msgspec.json.decode(view.result, type=self._result_type))
