"""What every service needs, built once per process by app.py."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from msgspec import Struct

from taskforge.clock import Clock
from taskforge.domain.egress import STRICT, EgressPolicy
from taskforge.errors import FieldError, Invalid
from taskforge.postgres import queues
from taskforge.postgres.pool import Database
from taskforge.services.endings import Endings
from taskforge.services.submitter import Submitter
from taskforge.services.wakeups import Wakeups

_LIMITS_SECONDS = 1.0


class Core:
    """The process's database, group commit, wake-ups and directory of queues. Owner of none of the loops."""

    def __init__(
        self,
        database: Database,
        wakeups: Wakeups,
        *,
        clock: Clock,
        worker_ttl: timedelta,
        max_payload_bytes: int,
        egress: EgressPolicy = STRICT,
        max_schedules: int = 10_000,
    ) -> None:
        self.database = database
        self.wakeups = wakeups
        self.clock = clock
        self.worker_ttl = worker_ttl
        self.max_payload_bytes = max_payload_bytes
        self.egress = egress
        self.max_schedules = max_schedules
        self.submitter = Submitter(database, on_ready=wakeups.jobs_ready, on_parked=wakeups.jobs_parked)
        self.directory = QueueDirectory(database)
        self.endings = Endings(database)

    async def close(self) -> None:
        await self.submitter.close()
        await self.endings.close()
        await self.wakeups.close()
        await self.database.close()


class QueueLimits(Struct, frozen=True):
    max_attempts: int
    timeout_seconds: float


class QueueDirectory:
    """Queue ids by name. A deleted queue is noticed when a submit to it is refused; then its entry is dropped."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ids: dict[tuple[UUID, str], int] = {}
        self._limits: dict[tuple[UUID, str], tuple[float, QueueLimits]] = {}

    async def known(self, tenant_id: UUID, names: Sequence[str]) -> dict[str, int]:
        """Ids of those names that exist."""
        found = {name: self._ids[tenant_id, name] for name in names if (tenant_id, name) in self._ids}
        if len(found) < len(names):
            missing = [name for name in names if name not in found]
            async with self._database.tenant(tenant_id) as connection:
                fetched = await queues.queue_ids(connection, tenant_id, missing)
            self._ids.update({(tenant_id, name): queue_id for name, queue_id in fetched.items()})
            found |= fetched
        return found

    async def find(self, tenant_id: UUID, names: Sequence[str]) -> dict[str, int]:
        """Ids of all names; raises Invalid `queue.not_found` naming those that do not exist."""
        found = await self.known(tenant_id, names)
        if unknown := [name for name in names if name not in found]:
            raise Invalid(
                "queue.not_found",
                f'queue "{unknown[0]}" does not exist; create it first with POST /api/v1/queues',
                fields=tuple(
                    FieldError("/queue_name", "queue.not_found", f'no queue "{n}"') for n in unknown
                ),
            )
        return found

    async def ensure(self, tenant_id: UUID, names: Sequence[str]) -> dict[str, int]:
        """Ids of all names; those that did not exist do now."""
        known = {name: self._ids[tenant_id, name] for name in names if (tenant_id, name) in self._ids}
        if len(known) == len(names):
            return known
        async with self._database.tenant(tenant_id) as connection:
            fetched = await queues.ensure_queues(connection, tenant_id, names)
        self._ids.update({(tenant_id, name): queue_id for name, queue_id in fetched.items()})
        return fetched

    async def limits(self, tenant_id: UUID, name: str) -> QueueLimits | None:
        """What the queue says of jobs that say nothing themselves, at most a second old; None for no such queue."""
        known = self._limits.get((tenant_id, name))
        now = time.monotonic()
        if known is not None and now - known[0] < _LIMITS_SECONDS:
            return known[1]
        async with self._database.tenant(tenant_id) as connection:
            queue = await queues.get_queue(connection, tenant_id, name)
        if queue is None:
            return None
        limits = QueueLimits(queue.max_attempts, queue.timeout_seconds)
        self._limits[tenant_id, name] = (now, limits)
        return limits

    def forget(self, tenant_id: UUID, names: Sequence[str]) -> None:
        for name in names:
            self._ids.pop((tenant_id, name), None)
            self._limits.pop((tenant_id, name), None)
