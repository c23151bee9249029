"""The composition root: builds what a process needs from its settings. The only module that may import everything."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from taskforge.clock import Clock, SystemClock
from taskforge.domain.egress import STRICT, EgressPolicy
from taskforge.postgres.pool import Database
from taskforge.services.core import Core
from taskforge.services.wakeups import Wakeups

_FOR_JOBS = 6


@asynccontextmanager
async def open_core(
    dsn: str,
    *,
    direct_dsn: str | None = None,
    clock: Clock | None = None,
    worker_ttl: float = 10.0,
    max_payload_bytes: int = 1_048_576,
    max_schedules: int = 10_000,
    pool_size: int = 10,
    listens: bool = False,
    egress: EgressPolicy = STRICT,
) -> AsyncIterator[Core]:
    """A core on a migrated database; closed, with everything accepted answered, on exit.

    `pool_size` is the most connections it opens, LISTEN not counted: two that store, four that hand out and report
    jobs, and the rest for reads and changes. `direct_dsn` reaches the database without a pooler, for LISTEN; by
    default it is `dsn`. `egress` says where webhooks may go.
    """
    database = Database(dsn, app=max(1, pool_size - _FOR_JOBS))
    wakeups = Wakeups(database, direct_dsn=direct_dsn or dsn)
    core = Core(
        database,
        wakeups,
        clock=clock or SystemClock(),
        worker_ttl=timedelta(seconds=worker_ttl),
        max_payload_bytes=max_payload_bytes,
        egress=egress,
        max_schedules=max_schedules,
    )
    if listens:
        wakeups.start_listening()
    try:
        yield core
    finally:
        await core.close()
