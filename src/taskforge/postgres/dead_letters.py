"""Dead letters of a queue, many at once."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from taskforge.postgres.pool import Connection
from taskforge.postgres.sql import queries

_DEAD_LETTERS = queries("dead_letters")


async def redrive(
    connection: Connection,
    tenant_id: UUID,
    queue_id: int,
    ids: Sequence[int] | None,
    actor: str,
    *,
    limit: int,
) -> list[int]:
    """The dead letters that became ready again, oldest first."""
    found: list[int] = await connection.fetchval(
        _DEAD_LETTERS["redrive"], tenant_id, queue_id, ids, actor, limit
    )
    return found


async def purge(
    connection: Connection,
    tenant_id: UUID,
    queue_id: int,
    ids: Sequence[int] | None,
    actor: str,
    *,
    limit: int,
) -> list[int]:
    """The dead letters that were deleted for good."""
    found: list[int] = await connection.fetchval(
        _DEAD_LETTERS["purge"], tenant_id, queue_id, ids, actor, limit
    )
    return found
