"""Where a worker gets its jobs from: the worker protocol, whatever carries it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from taskforge.domain.leases import FinishResult, Lease, LeaseReport, Registration


class Source(Protocol):
    """All but `register` and `deregister` raise WorkerLost once the registration is gone, and Unavailable when the
    database cannot be reached; the same call may then be made again."""

    async def register(self) -> Registration: ...

    async def claim(self, worker_id: int, want: int) -> list[Lease]:
        """Up to `want` jobs of the registered queues; [] when there are none."""

    async def fetch_payloads(self, lease: Lease, ids: Sequence[int]) -> dict[int, bytes]:
        """The payloads that were too large to travel with the claim."""

    async def finish(self, worker_id: int, reports: Sequence[LeaseReport]) -> FinishResult:
        """Store how jobs ended. Sending the same report twice is a success."""

    async def deregister(self, worker_id: int) -> None: ...
