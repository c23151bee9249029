"""Limits: what is counted, and by whom it is held. See functions/limits.sql."""

from __future__ import annotations

from taskforge.postgres.pool import Database
from taskforge.postgres.sql import queries

_LIMITS = queries("limits")


async def open_windows(database: Database) -> list[int]:
    """Let go of the rate windows that have opened; the queues in which jobs may start again."""
    [row] = await database.call(_LIMITS["open_windows"])
    return list(row[0])


async def count_drift(database: Database) -> int:
    """How many rows count something else than their leases say. Must be 0."""
    [row] = await database.call(_LIMITS["count_drift"])
    drift: int = row[0]
    return drift
