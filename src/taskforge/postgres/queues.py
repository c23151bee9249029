"""Queues: rows in, Queue values out."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import asyncpg
import msgspec
from msgspec import UNSET, Raw

from taskforge.domain.health import Figures
from taskforge.domain.queues import (
    DEFAULT_SETTINGS,
    Queue,
    QueueChange,
    QueueDraft,
    QueueSettings,
    QueueVersion,
)
from taskforge.domain.retry import RetryPolicy
from taskforge.postgres.pool import Connection
from taskforge.postgres.sql import queries

_QUEUES = queries("queues")
_decode_retry = msgspec.json.Decoder(RetryPolicy).decode
_decode_document = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_settings = msgspec.json.Decoder(QueueSettings).decode


async def queue_ids(connection: Connection, tenant_id: UUID, names: Sequence[str]) -> dict[str, int]:
    """Ids of those names that exist."""
    return {row["name"]: row["queue_id"] for row in await connection.fetch(_QUEUES["ids"], tenant_id, names)}


async def ensure_queues(connection: Connection, tenant_id: UUID, names: Sequence[str]) -> dict[str, int]:
    """Ids of all names; those that did not exist do now, with the defaults."""
    await _sign(connection, "code", comment="declared by a worker or a client")
    await connection.execute(_QUEUES["ensure"], tenant_id, names)
    return await queue_ids(connection, tenant_id, names)


async def get_queue(connection: Connection, tenant_id: UUID, name: str) -> Queue | None:
    row = await connection.fetchrow(_QUEUES["get"], tenant_id, name)
    return None if row is None else _queue(row)


async def list_queues(connection: Connection, tenant_id: UUID, *, after: str, limit: int) -> list[Queue]:
    return [_queue(row) for row in await connection.fetch(_QUEUES["list"], tenant_id, after, limit)]


async def create_queue(connection: Connection, tenant_id: UUID, draft: QueueDraft, *, actor: str) -> Queue:
    """Raises Conflict `queue.exists` when the name is taken."""
    await _sign(connection, actor)
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
    connection: Connection, tenant_id: UUID, name: str, change: QueueChange, *, actor: str, verb: str
) -> Queue | None:
    """None: there is no such queue, or it no longer has the version that the change is for."""
    await _sign(connection, actor, verb=verb, comment=change.comment)
    row = await connection.fetchrow(
        _QUEUES["update"],
        tenant_id,
        name,
        None if change.priority is UNSET else change.priority,
        None if change.max_attempts is UNSET else change.max_attempts,
        None if change.timeout_seconds is UNSET else change.timeout_seconds,
        None if change.retry is UNSET else _text(change.retry),
        _text(change.settings),
        change.resets,
        change.if_version,
    )
    return None if row is None else _queue(row)


async def set_paused(
    connection: Connection, tenant_id: UUID, name: str, paused: bool, *, actor: str, reason: str | None = None
) -> Queue | None:
    await _sign(connection, actor, comment=reason)
    row = await connection.fetchrow(_QUEUES["set_paused"], tenant_id, name, paused, actor, reason)
    return None if row is None else _queue(row)


async def list_versions(
    connection: Connection, tenant_id: UUID, queue_id: int, *, before: int | None, limit: int
) -> list[QueueVersion]:
    """Newest first, those before version `before`."""
    rows = await connection.fetch(_QUEUES["versions"], tenant_id, queue_id, before, limit)
    return [
        QueueVersion(
            row["version"],
            row["changed_at"],
            row["changed_by"],
            row["action"],
            row["comment"],
            None if row["before"] is None else _decode_document(row["before"]),
            _decode_document(row["after"]),
        )
        for row in rows
    ]


async def set_deleted(connection: Connection, tenant_id: UUID, queue_id: int, *, actor: str) -> bool:
    """Marks the queue deleted; False when it was deleted already."""
    await _sign(connection, actor)
    return bool(await connection.fetchval(_QUEUES["set_deleted"], tenant_id, queue_id))


async def draw_xid(connection: Connection) -> int:
    xid: int = await connection.fetchval(_QUEUES["draw_xid"])
    return xid


async def undelete(connection: Connection, tenant_id: UUID, queue_id: int, *, actor: str) -> None:
    await _sign(connection, actor)
    await connection.execute(_QUEUES["undelete"], tenant_id, queue_id)


async def is_older_work_done(connection: Connection, xid: int) -> bool:
    return bool(await connection.fetchval(_QUEUES["is_older_work_done"], xid))


async def holds_jobs(connection: Connection, tenant_id: UUID, queue_id: int) -> bool:
    return bool(await connection.fetchval(_QUEUES["holds_jobs"], tenant_id, queue_id))


async def figures(connection: Connection, tenant_id: UUID, queue_ids: Sequence[int]) -> dict[int, Figures]:
    """Of each queue, all in one snapshot.

    Cost: the counts of some seconds that are not rolled up yet, and sixty narrow rows a queue; not the backlog.
    """
    rows = await connection.fetch(_QUEUES["health"], tenant_id, queue_ids)
    return {row["queue_id"]: _figures(row) for row in rows}


def _figures(row: asyncpg.Record) -> Figures:
    return Figures(
        pending=row["pending"],
        scheduled=row["scheduled"],
        retrying=row["retrying"],
        blocked=row["blocked"],
        processing=row["processing"],
        dead_letters=row["dead_letters"],
        oldest_wait_seconds=row["oldest_wait"],
        submitted_minute=row["submitted_minute"],
        finished_minute=row["finished_minute"],
        started_minute=row["started_minute"],
        restarted_minute=row["restarted_minute"],
        failed_minute=row["failed_minute"],
        failed_attempts_minute=row["failed_attempts_minute"],
        attempts_minute=row["attempts_minute"],
        submitted_moment=row["submitted_moment"],
        finished_moment=row["finished_moment"],
        waits=row["waits"],
        workers=row["workers"],
        slots=row["slots"],
    )


async def _sign(connection: Connection, actor: str, *, verb: str = "", comment: str | None = None) -> None:
    """What the version says of a change made in this transaction."""
    await connection.execute(_QUEUES["sign"], actor, verb, comment or "")


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
        version=row["version"],
        paused_by=row["paused_by"],
        paused_at=row["paused_at"],
        pause_reason=row["pause_reason"],
    )
