"""Limits: what is counted, and by whom it is held. See functions/limits.sql."""

from __future__ import annotations

from uuid import UUID

import asyncpg

from taskforge.domain.limits import KeyPolicy, KeyView, TenantView
from taskforge.postgres.pool import Connection, Database
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


async def weigh_tenant(database: Database, tenant_id: UUID, weight: float) -> None:
    await database.call(_LIMITS["weigh_tenant"], tenant_id, weight)


async def set_key(
    connection: Connection, tenant_id: UUID, queue_id: int, *, key: str, policy: KeyPolicy
) -> KeyView:
    """The key as it is then; it exists afterwards."""
    await connection.execute(
        _LIMITS["set_key"], tenant_id, queue_id, key, policy.weight, policy.max_concurrency
    )
    row = await connection.fetchrow(_LIMITS["key"], tenant_id, queue_id, key)
    assert row is not None
    return _key(row)


async def get_key(connection: Connection, tenant_id: UUID, queue_id: int, *, key: str) -> KeyView | None:
    row = await connection.fetchrow(_LIMITS["key"], tenant_id, queue_id, key)
    return None if row is None else _key(row)


async def list_keys(
    connection: Connection, tenant_id: UUID, queue_id: int, *, after: str, limit: int
) -> list[KeyView]:
    return [_key(row) for row in await connection.fetch(_LIMITS["keys"], tenant_id, queue_id, after, limit)]


async def limit_tenant(connection: Connection, tenant_id: UUID, most: int | None) -> None:
    await connection.execute(_LIMITS["limit_tenant"], tenant_id, most)


async def get_tenant(connection: Connection, tenant_id: UUID) -> TenantView | None:
    row = await connection.fetchrow(_LIMITS["tenant"], tenant_id)
    if row is None:
        return None
    return TenantView(
        str(row["tenant_id"]), row["name"], _short(row["weight"]), row["max_concurrency"], row["in_use"]
    )


def _key(row: asyncpg.Record) -> KeyView:
    return KeyView(
        key=row["key"],
        weight=_short(row["weight"]),
        max_concurrency=row["max_concurrency"],
        processing=row["in_use"],
        waiting=row["waiting"],
        has_more=row["has_more"],
        opens_at=row["opens_at"],
    )


def _short(weight: float) -> float:
    """Single precision, as it is stored, without the digits that only double precision shows."""
    return float(f"{weight:.6g}")
