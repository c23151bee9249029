"""Many jobs at once from the SDK: `forge.bulk.cancel(queue_name="mail", state="pending")`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from taskforge.api import path_of
from taskforge.domain.bulk import BulkOperation, BulkPreview, BulkVerb, Canary
from taskforge.domain.dead_letters import DeadLetterGroups
from taskforge.worker.answers import seconds

if TYPE_CHECKING:
    from taskforge.forge import TaskForge

_SLOWEST_SECONDS = 1.0


class Conditions(TypedDict, total=False):
    """Which jobs: those that fit all that is given. The last four are for dead letters."""

    queue_name: str
    state: str
    job_type: str
    tag: str
    job_ids: Sequence[str]
    submitted_after: datetime
    submitted_before: datetime
    fingerprint: str
    error_text: str
    failed_after: datetime
    failed_before: datetime


class Bulk:
    """Each verb begins an operation that a server or worker works off in the background. At least one condition is
    needed; jobs submitted after it began are left alone. `rate` is in jobs per second."""

    def __init__(self, forge: TaskForge) -> None:
        self._forge = forge

    async def preview(self, verb: BulkVerb, **wanted: Unpack[Conditions]) -> BulkPreview:
        """How many jobs the verb would be done to, and some of them. Nothing is done."""
        # These cannot be asked without an argument, which has no say in the count.
        arguments = {"move": {"queue_name": "default"}, "change_priority": {"priority": 5}}.get(verb)
        arguments = {"delay_seconds": 0} if verb == "reschedule" else arguments or {}
        api = await self._forge.api()
        body = {"verb": verb, "filter": wanted, "arguments": arguments, "preview": True}
        return await api.call("POST", path_of("bulk"), body, reads=BulkPreview)

    async def cancel(self, *, rate: float | None = None, **wanted: Unpack[Conditions]) -> BulkHandle:
        """Cancel jobs that wait, ask those that run to stop."""
        return await self._start("cancel", wanted, rate_per_second=rate)

    async def retry(
        self, *, rate: float | None = None, canary: Canary | None = None, **wanted: Unpack[Conditions]
    ) -> BulkHandle:
        """New attempts for failed jobs; with a state also for cancelled ones, and at once for those that wait."""
        return await self._start("retry", wanted, rate_per_second=rate, canary=canary)

    async def redrive(
        self, *, rate: float | None = None, canary: Canary | None = None, **wanted: Unpack[Conditions]
    ) -> BulkHandle:
        """New attempts for dead letters; with a canary first for a few, and for the rest when these succeed."""
        return await self._start("redrive", wanted, rate_per_second=rate, canary=canary)

    async def purge(self, *, rate: float | None = None, **wanted: Unpack[Conditions]) -> BulkHandle:
        """Delete dead letters for good."""
        return await self._start("purge", wanted, rate_per_second=rate)

    async def move(self, to: str, *, rate: float | None = None, **wanted: Unpack[Conditions]) -> BulkHandle:
        """Move jobs that wait to another queue."""
        return await self._start("move", wanted, rate_per_second=rate, arguments={"queue_name": to})

    async def change_priority(
        self, priority: int, *, rate: float | None = None, **wanted: Unpack[Conditions]
    ) -> BulkHandle:
        return await self._start(
            "change_priority", wanted, rate_per_second=rate, arguments={"priority": priority}
        )

    async def reschedule(
        self,
        *,
        run_at: datetime | None = None,
        delay: float | timedelta | None = None,
        rate: float | None = None,
        **wanted: Unpack[Conditions],
    ) -> BulkHandle:
        """Run waiting jobs no sooner than then; a past time, or a delay of 0, means now."""
        when = {"run_at": run_at, "delay_seconds": None if delay is None else seconds(delay)}
        return await self._start("reschedule", wanted, rate_per_second=rate, arguments=when)

    async def dead_letter_groups(self, queue_name: str, *, limit: int = 50) -> DeadLetterGroups:
        """The dead letters of a queue by what went wrong, the largest groups first."""
        api = await self._forge.api()
        path = path_of("queues", queue_name, "dead-letters", "groups", query={"limit": limit})
        return await api.call("GET", path, reads=DeadLetterGroups)

    def handle(self, operation_id: str) -> BulkHandle:
        """A handle on any operation of this tenant."""
        return BulkHandle(self._forge, operation_id)

    async def _start(self, verb: BulkVerb, wanted: Conditions, **fields: Any) -> BulkHandle:
        given = {name: value for name, value in fields.items() if value is not None}
        api = await self._forge.api()
        body = {"verb": verb, "filter": wanted, **given}
        begun = await api.call("POST", path_of("bulk"), body, reads=BulkOperation)
        return BulkHandle(self._forge, begun.id)


class BulkHandle:
    """Names a bulk operation."""

    def __init__(self, forge: TaskForge, operation_id: str) -> None:
        self._forge = forge
        self.id = operation_id

    def __repr__(self) -> str:
        return f"BulkHandle({self.id!r})"

    async def refresh(self) -> BulkOperation:
        """The operation as it is now."""
        api = await self._forge.api()
        return await api.call("GET", path_of("bulk", self.id), reads=BulkOperation)

    async def wait(self, timeout: float | None = None) -> BulkOperation:
        """The operation once it is completed or stopped. Raises TimeoutError after `timeout` seconds; it goes on."""
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = 0.05
        while True:
            operation = await self.refresh()
            if operation.state.is_final:
                return operation
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"bulk operation {self.id} is {operation.state} after {timeout:g} s")
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _SLOWEST_SECONDS)

    async def stop(self) -> BulkOperation:
        """No further job is touched once this returns; what was done stays done. Raises Conflict when it has ended."""
        api = await self._forge.api()
        return await api.call("POST", path_of("bulk", self.id, "stop"), reads=BulkOperation)
