"""Registrations and heartbeats."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from taskforge.domain.leases import Beat, RegisterWorker
from taskforge.postgres.pool import Database
from taskforge.postgres.sql import queries

_LEASES = queries("leases")


async def register(
    database: Database,
    tenant_id: UUID,
    worker: RegisterWorker,
    *,
    queue_ids: Sequence[int],
    ttl: timedelta,
    is_server: bool = False,
) -> int:
    """A new registration, alive for `ttl`; returns its worker id."""
    [row] = await database.call(
        _LEASES["register"],
        tenant_id,
        worker.name,
        is_server,
        queue_ids,
        worker.job_types,
        worker.concurrency,
        worker.version,
        worker.host,
        worker.pid,
        ttl,
        worker.is_shared,
    )
    worker_id: int = row[0]
    return worker_id


async def shared_queues(database: Database, names: Sequence[str]) -> tuple[int, ...]:
    """The queues of these names in every tenant."""
    [row] = await database.call(_LEASES["shared_queues"], names)
    return tuple(row[0])


async def serve_shared(database: Database, worker_id: int, names: Sequence[str]) -> tuple[int, ...]:
    """As `shared_queues`, and the registration serves them from now on."""
    [row] = await database.call(_LEASES["serve_shared"], worker_id, names)
    return tuple(row[0])


async def heartbeat(database: Database, worker_id: int, *, ttl: timedelta) -> Beat:
    """Renew the registration; `alive` False means that it is gone, with its leases."""
    rows = await database.call(_LEASES["heartbeat"], worker_id, ttl)
    if not rows:
        return Beat(alive=False)
    return Beat(True, tuple(rows[0]["cancel"] or ()), rows[0]["drain"], rows[0]["maintain"])


async def deregister(database: Database, worker_id: int) -> int:
    """The worker leaves in order; returns how many jobs it still held, which were given back uncharged."""
    [row] = await database.call(_LEASES["deregister"], worker_id)
    returned: int = row[0]
    return returned


async def bury(database: Database, worker_id: int, running: Sequence[int] | None) -> int:
    """Declare the worker dead and hand back its leases; `running` are the jobs that spent an attempt, None all."""
    [row] = await database.call(_LEASES["bury"], worker_id, running)
    returned: int = row[0]
    return returned


async def disown(database: Database, worker_id: int, *, above: int, known: Sequence[int]) -> int:
    """Hand back, uncharged, the worker's leases with a fence above `above` that are not among `known`."""
    [row] = await database.call(_LEASES["disown"], worker_id, above, known)
    returned: int = row[0]
    return returned
