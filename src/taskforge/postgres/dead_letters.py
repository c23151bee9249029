"""Dead letters of a queue, many at once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from taskforge.domain.dead_letters import DeadLetterGroup, DeadLetterGroups
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
    failed_before: datetime | None = None,
) -> list[int]:
    """The dead letters that were deleted for good; with `failed_before` only older ones are."""
    found: list[int] = await connection.fetchval(
        _DEAD_LETTERS["purge"], tenant_id, queue_id, ids, actor, limit, failed_before
    )
    return found


async def groups(
    connection: Connection, tenant_id: UUID, queue_id: int, *, look_at: int, limit: int
) -> DeadLetterGroups:
    """Groups of the newest `look_at` dead letters, largest first. A second or so for 100,000."""
    rows = await connection.fetch(_DEAD_LETTERS["groups"], tenant_id, queue_id, look_at, limit)
    looked_at = rows[0]["looked_at"] if rows else 0
    found = [
        DeadLetterGroup(
            fingerprint=row["fingerprint"],
            count=row["count"],
            error_class=row["error_class"],
            message=row["message"],
            first_failed_at=row["first_at"],
            last_failed_at=row["last_at"],
            job_types=tuple(row["job_types"]),
            sample_job_ids=tuple(str(job_id) for job_id in row["samples"]),
        )
        for row in rows
    ]
    return DeadLetterGroups(found, looked_at, looked_at < look_at)
