"""Where a worker gets its jobs from: the worker protocol, whatever carries it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Protocol

from taskforge.domain.leases import FinishResult, Lease, LeaseReport, Progress, RegisterWorker, Registration
from taskforge.domain.tenants import Context
from taskforge.services import leases
from taskforge.services.core import Core

LOOK_SECONDS = 2.0
"""How soon a worker that serves every tenant finds queues that were made after it started."""


class Source(Protocol):
    """All but `register` and `deregister` raise WorkerLost once the registration is gone, and Unavailable when the
    database cannot be reached; the same call may then be made again."""

    async def register(self) -> Registration: ...

    async def claim(self, worker_id: int, *, want: int, startable: int) -> list[Lease]:
        """Up to `want` jobs of the registered queues, of limited ones up to `startable`; [] when there are none."""

    async def disown(self, worker_id: int, *, above: int, known: Sequence[int]) -> int:
        """Give back the leases with a fence above `above` that are not `known`; how many jobs that were."""

    async def fetch_payloads(self, worker_id: int, lease: Lease, ids: Sequence[int]) -> dict[int, bytes]:
        """The payloads that were too large to travel with the claim."""

    async def finish(self, worker_id: int, reports: Sequence[LeaseReport]) -> FinishResult:
        """Store how jobs ended. Sending the same report twice is a success."""

    async def report_progress(self, worker_id: int, said: Sequence[Progress]) -> set[int]:
        """Store how far jobs are; the ids of those that were no longer this worker's."""

    async def deregister(self, worker_id: int) -> None: ...


class Standing:
    """The worker's current registration. Whoever hears that it is gone sets `lost`."""

    def __init__(self) -> None:
        self.worker_id = 0
        self.lost = asyncio.Event()


class DirectSource:
    """The protocol spoken to the services in this process, on the worker's own database connections."""

    def __init__(self, core: Core, ctx: Context, worker: RegisterWorker) -> None:
        self._core = core
        self._ctx = ctx
        self._worker = worker
        self.queue_ids: tuple[int, ...] = ()
        self._looked_at = 0.0

    async def register(self) -> Registration:
        registration = await leases.register(self._core, self._ctx, self._worker)
        self.queue_ids = registration.queue_ids
        self._looked_at = time.monotonic()
        return registration

    async def claim(self, worker_id: int, *, want: int, startable: int) -> list[Lease]:
        if self._worker.is_shared and time.monotonic() - self._looked_at > LOOK_SECONDS:
            self.queue_ids = await leases.serve(self._core, worker_id, self._worker.queues)
            self._looked_at = time.monotonic()
        return await leases.claim(self._core, worker_id, self.queue_ids, want=want, startable=startable)

    async def disown(self, worker_id: int, *, above: int, known: Sequence[int]) -> int:
        return await leases.disown(self._core, worker_id, above=above, known=known)

    async def fetch_payloads(self, worker_id: int, lease: Lease, ids: Sequence[int]) -> dict[int, bytes]:
        return await leases.fetch_payloads(self._core, worker_id, lease.fence, ids)

    async def finish(self, worker_id: int, reports: Sequence[LeaseReport]) -> FinishResult:
        return await leases.finish(self._core, worker_id, reports)

    async def report_progress(self, worker_id: int, said: Sequence[Progress]) -> set[int]:
        return await leases.report_progress(self._core, worker_id, said)

    async def deregister(self, worker_id: int) -> None:
        await leases.deregister(self._core, worker_id)
