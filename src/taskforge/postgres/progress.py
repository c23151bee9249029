"""How far running jobs are."""

from __future__ import annotations

from collections.abc import Sequence

from taskforge.domain.leases import Progress
from taskforge.postgres.pool import Database
from taskforge.postgres.sql import queries

_LEASES = queries("leases")


async def report_progress(database: Database, worker_id: int, said: Sequence[Progress]) -> set[int]:
    """Store the newest word on each job, one per job; returns the jobs whose lease no longer stands."""
    rows = await database.call(
        _LEASES["report_progress"],
        worker_id,
        [word.fence for word in said],
        [word.job_id for word in said],
        [word.fraction for word in said],
        [word.message for word in said],
    )
    return {row[0] for row in rows}
