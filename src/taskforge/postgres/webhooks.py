"""The outbox of webhooks, and the secrets that sign them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg
from msgspec import Struct

from taskforge.domain.webhooks import (
    DELIVERY_STATES,
    MAX_ACTIVE_SECRETS,
    DeliveryState,
    DeliveryView,
    SecretView,
    secret_text,
)
from taskforge.postgres.pool import Connection, Database
from taskforge.postgres.sql import queries

_WEBHOOKS = queries("webhooks")


class Delivery(Struct, frozen=True):
    """What is to be sent now. `keys` are the tenant's active ones, the newest first; `since` is when its patience
    began."""

    delivery_id: int
    tenant_id: UUID
    url: str
    event: str
    created_at: datetime
    since: datetime
    data: bytes
    result: bytes | None
    attempt: int
    keys: tuple[bytes, ...]


async def claim(
    database: Database,
    *,
    limit: int,
    per_tenant: int,
    under_way: Mapping[UUID, int],
    lease: timedelta,
    patience: timedelta,
) -> list[Delivery]:
    """Deliveries that are due, for the caller alone until `lease` is over."""
    rows = await database.call(
        _WEBHOOKS["claim"], limit, per_tenant, list(under_way), list(under_way.values()), lease, patience
    )
    return [
        Delivery(
            row["id"],
            row["tenant_id"],
            row["url"],
            row["event"],
            row["created_at"],
            row["since"],
            row["data"].encode(),
            row["result"],
            row["attempts"],
            tuple(row["keys"]),
        )
        for row in rows
    ]


async def settle(
    database: Database,
    delivery: Delivery,
    *,
    is_delivered: bool,
    status: int | None,
    error: str | None,
    retry_in: float | None,
    blames: bool,
) -> bool:
    """Write what became of an attempt; False when another attempt has begun since, and nothing was written."""
    [row] = await database.call(
        _WEBHOOKS["settle"],
        delivery.delivery_id,
        delivery.attempt,
        is_delivered,
        status,
        error,
        retry_in,
        blames,
    )
    return bool(row[0])


async def list_deliveries(
    connection: Connection, tenant_id: UUID, *, state: DeliveryState | None, below: int, limit: int
) -> list[DeliveryView]:
    """Newest first."""
    number = None if state is None else DELIVERY_STATES.index(state) + 1
    return [
        _delivery(row) for row in await connection.fetch(_WEBHOOKS["list"], tenant_id, below, number, limit)
    ]


async def get_delivery(connection: Connection, tenant_id: UUID, delivery_id: int) -> DeliveryView | None:
    row = await connection.fetchrow(_WEBHOOKS["get"], tenant_id, delivery_id)
    return None if row is None else _delivery(row)


async def redeliver(connection: Connection, tenant_id: UUID, delivery_id: int) -> DeliveryView | None:
    row = await connection.fetchrow(_WEBHOOKS["redeliver"], tenant_id, delivery_id)
    return None if row is None else _delivery(row)


async def secrets(connection: Connection, tenant_id: UUID) -> list[SecretView]:
    """Newest first, retired ones too."""
    return [_secret(row) for row in await connection.fetch(_WEBHOOKS["secrets"], tenant_id)]


async def add_secret(connection: Connection, tenant_id: UUID, key: bytes, actor: str) -> SecretView | None:
    """None, and nothing is changed, when as many as there may be are active."""
    await connection.execute(_WEBHOOKS["lock_secrets"], tenant_id)
    active = [secret for secret in await secrets(connection, tenant_id) if secret.retired_at is None]
    if len(active) >= MAX_ACTIVE_SECRETS:
        return None
    row = await connection.fetchrow(_WEBHOOKS["add_secret"], tenant_id, secret_text(key)[-4:], actor)
    assert row is not None
    await connection.execute(_WEBHOOKS["add_key"], row["id"], tenant_id, key)
    await connection.execute(_WEBHOOKS["hurry"], tenant_id)
    return _secret(row)


async def retire_secret(connection: Connection, tenant_id: UUID, secret_id: int) -> SecretView | None:
    row = await connection.fetchrow(_WEBHOOKS["retire_secret"], tenant_id, secret_id)
    return None if row is None else _secret(row)


def _delivery(row: asyncpg.Record) -> DeliveryView:
    state = DELIVERY_STATES[row["state"] - 1]
    is_waiting = state is DeliveryState.WAITING
    return DeliveryView(
        str(row["id"]),
        row["event"],
        row["url"],
        state,
        str(row["subject"]),
        row["attempts"],
        row["created_at"],
        row["due_at"] if is_waiting else None,
        row["last_attempt_at"],
        None if is_waiting else row["finished_at"],
        row["last_status"],
        row["last_error"],
    )


def _secret(row: asyncpg.Record) -> SecretView:
    return SecretView(str(row["id"]), row["hint"], row["created_at"], row["created_by"], row["retired_at"])
