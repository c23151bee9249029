"""Ending jobs that have waited too long, and forgetting unique keys. Any process may do it at any time."""

from __future__ import annotations

from taskforge.postgres.pool import Database
from taskforge.postgres.sql import queries

_EXPIRY = queries("expiry")


async def expire_due(database: Database, *, limit: int) -> tuple[int, list[int]]:
    """End jobs whose own time has passed: how many were looked at, and the queues that have something new by it."""
    [row] = await database.call(_EXPIRY["expire_due"], limit)
    return row["looked"], row["queues"] or []


async def expire_queues(database: Database, *, extents: int) -> tuple[int, list[int]]:
    """End jobs that have waited longer than their queue says: how many, and the queues with something new by it."""
    [row] = await database.call(_EXPIRY["expire_queues"], extents)
    return row["ended"], row["queues"] or []


async def sweep_uniques(database: Database, *, limit: int) -> int:
    """Look at unique keys whose time has come; how many."""
    [row] = await database.call(_EXPIRY["sweep_uniques"], limit)
    looked: int = row[0]
    return looked
