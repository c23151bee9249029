"""Queues: rows in, Queue values out."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import asyncpg
import msgspec
from msgspec import UNSET

from taskforge.domain.queues import (
    DEFAULT_SETTINGS,
    Queue,
    QueueChange,
    QueueDraft,
    QueueHealth,
    QueueSettings,
)
from taskforge.domain.retry import RetryPolicy
from taskforge.postgres.pool import Connection
from taskforge.postgres.sql import queries

_QUEUES = queries("queues")
_decode_retry = msgspec.json.Decoder(RetryPolicy).decode
_decode_settings = msgspec.json.Decoder(QueueSettings).decode


async def queue_ids(connection: Connection, tenant_id: UUID, names: Sequence[str]) -> dict[str, int]:
    """Ids of those names that exist."""
    return {row["name"]: row["queue_id"] for row in await connection.fetch(_QUEUES["ids"], tenant_id, names)}


async def ensure_queues(connection: Connection, tenant_id: UUID, names: Sequence[str]) -> dict[str, int]:
    """Ids of all names; those that did not exist do now, with the defaults."""
    await connection.execute(_QUEUES["ensure"], tenant_id, names)
    return await queue_ids(connection, tenant_id, names)


async def get_queue(connection: Connection, tenant_id: UUID, name: str) -> Queue | None:
    row = await connection.fetchrow(_QUEUES["get"], tenant_id, name)
    return None if row is None else _queue(row)


async def list_queues(connection: Connection, tenant_id: UUID, *, after: str, limit: int) -> list[Queue]:
    return [_queue(row) for row in await connection.fetch(_QUEUES["list"], tenant_id, after, limit)]


async def create_queue(connection: Connection, tenant_id: UUID, draft: QueueDraft) -> Queue:
    """Raises Conflict `queue.exists` when the name is taken."""
    row = await connection.fetchrow(
        _QUEUES["create"],
        tenant_id,
        draft.name,
        draft.priority,
        draft.max_attempts,
        draft.timeout_seconds,
        _text(draft.retry),
        _text(draft.settings),
    )
    assert row is not None
    return _queue(row)


async def update_queue(
    connection: Connection, tenant_id: UUID, name: str, change: QueueChange
) -> Queue | None:
    row = await connection.fetchrow(
        _QUEUES["update"],
        tenant_id,
        name,
        None if change.priority is UNSET else change.priority,
        None if change.max_attempts is UNSET else change.max_attempts,
        None if change.timeout_seconds is UNSET else change.timeout_seconds,
        None if change.retry is UNSET else _text(change.retry),
        _text(change.settings),
    )
    return None if row is None else _queue(row)


async def set_paused(connection: Connection, tenant_id: UUID, name: str, paused: bool) -> Queue | None:
    row = await connection.fetchrow(_QUEUES["set_paused"], tenant_id, name, paused)
    return None if row is None else _queue(row)


async def set_deleted(connection: Connection, tenant_id: UUID, queue_id: int) -> bool:
    """Marks the queue deleted; False when it was deleted already."""
    return bool(await connection.fetchval(_QUEUES["set_deleted"], tenant_id, queue_id))


async def draw_xid(connection: Connection) -> int:
    xid: int = await connection.fetchval(_QUEUES["draw_xid"])
    return xid


async def undelete(connection: Connection, tenant_id: UUID, queue_id: int) -> None:
    await connection.execute(_QUEUES["undelete"], tenant_id, queue_id)


async def is_older_work_done(connection: Connection, xid: int) -> bool:
    return bool(await connection.fetchval(_QUEUES["is_older_work_done"], xid))


async def holds_jobs(connection: Connection, tenant_id: UUID, queue_id: int) -> bool:
    return bool(await connection.fetchval(_QUEUES["holds_jobs"], tenant_id, queue_id))


async def health(connection: Connection, queue: Queue) -> QueueHealth:
    """Cost: the counts not yet rolled up, about the last minute's; it does not grow with the backlog."""
    row = await connection.fetchrow(_QUEUES["health"], queue.tenant_id, queue.queue_id)
    assert row is not None
    return QueueHealth(
        queue_name=queue.name,
        paused=queue.paused,
        pending=int(row["pending"]),
        scheduled=int(row["scheduled"]),
        retrying=int(row["retrying"]),
        blocked=int(row["blocked"]),
        processing=int(row["processing"]),
        dead_letters=int(row["dead_letters"]),
        oldest_wait_seconds=row["oldest_wait"],
        submitted_per_second=round(row["submitted_minute"] / 60, 3),
        finished_per_second=round(row["finished_minute"] / 60, 3),
        failed_per_second=round(row["failed_minute"] / 60, 3),
        workers=row["workers"],
    )


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _queue(row: asyncpg.Record) -> Queue:
    return Queue(
        queue_id=row["queue_id"],
        tenant_id=row["tenant_id"],
        name=row["name"],
        priority=row["priority"],
        paused=row["paused"],
        max_attempts=row["max_attempts"],
        timeout_seconds=row["timeout_seconds"],
        retry=_decode_retry(row["retry"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        settings=DEFAULT_SETTINGS if row["settings"] == "{}" else _decode_settings(row["settings"]),
    )
