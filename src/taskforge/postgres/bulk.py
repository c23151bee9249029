"""Bulk operations: which jobs come next, doing it to them, and how far the operation is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Struct

from taskforge.domain.bulk import (
    BulkArguments,
    BulkFilter,
    BulkOperation,
    BulkState,
    BulkVerb,
    Canary,
    FailedItem,
)
from taskforge.domain.jobs import JobState
from taskforge.postgres.pool import Connection, Database
from taskforge.postgres.sql import queries

_BULK = queries("bulk")

STATES: Final = {
    1: BulkState.RUNNING,
    2: BulkState.CANARY,
    3: BulkState.WATCHING,
    4: BulkState.COMPLETED,
    5: BulkState.STOPPED,
}
_CODES: Final = {state: code for code, state in STATES.items()}
_PLACES: Final = {
    JobState.PENDING: "ready",
    JobState.PROCESSING: "leased",
    JobState.SCHEDULED: "parked",
    JobState.RETRYING: "parked",
    JobState.BLOCKED: "parked",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "spans",
}
_KINDS: Final = {JobState.SCHEDULED: 1, JobState.RETRYING: 2, JobState.BLOCKED: 3}


class How(Struct, frozen=True, omit_defaults=True):
    """What an operation was told beside its filter, as it is stored."""

    arguments: BulkArguments = BulkArguments()
    rate_per_second: float | None = None
    canary: Canary | None = None


class Held(Struct, frozen=True):
    """An operation under its lock, with what only its runner needs to know."""

    operation: BulkOperation
    upto: int
    cursor: int
    canary_ids: list[int]
    is_watch_over: bool


class Verdict(Struct, frozen=True):
    """What became of one job; `ready_in` is the queue whose workers have something new."""

    job_id: int
    verdict: str
    ready_in: int | None


async def candidates(
    connection: Connection,
    tenant_id: UUID,
    *,
    states: Sequence[JobState],
    queue_id: int | None,
    after: int,
    upto: int,
    failed_until: datetime,
    limit: int,
) -> list[int]:
    """Ids that may match, ascending; fewer than `limit` are the last. Each of them is in one of the states, save that
    jobs of any state come where cancelled ones are asked for."""
    rows = await connection.fetch(
        _BULK["candidates"],
        tenant_id,
        after,
        upto,
        queue_id,
        limit,
        list({_PLACES[state] for state in states}),
        [_KINDS[state] for state in states if state in _KINDS],
        failed_until,
    )
    return [row["id"] for row in rows]


async def last_id(connection: Connection, tenant_id: UUID) -> int:
    found: int = await connection.fetchval(_BULK["last_id"], tenant_id)
    return found


async def now(connection: Connection) -> datetime:
    """The time of this transaction, by the database's clock."""
    found: datetime = await connection.fetchval(_BULK["now"])
    return found


async def apply(
    connection: Connection,
    tenant_id: UUID,
    operation: BulkOperation,
    ids: Sequence[int],
    *,
    queue_id: int | None,
) -> list[Verdict]:
    arguments = operation.arguments
    rows = await connection.fetch(
        _BULK["apply"],
        tenant_id,
        int(operation.id),
        operation.created_by,
        operation.verb,
        ids,
        queue_id,
        arguments.priority,
        arguments.run_at,
        arguments.delay_seconds,
    )
    return [Verdict(*row) for row in rows]


async def create(
    connection: Connection,
    tenant_id: UUID,
    verb: BulkVerb,
    wanted: BulkFilter,
    how: How,
    *,
    actor: str,
    created_at: datetime,
    upto: int,
    total: int,
    is_total_exact: bool,
) -> BulkOperation:
    state = BulkState.RUNNING if how.canary is None else BulkState.CANARY
    row = await connection.fetchrow(
        _BULK["create"],
        tenant_id,
        verb,
        msgspec.json.encode(wanted).decode(),
        msgspec.json.encode(how).decode(),
        _CODES[state],
        actor,
        created_at,
        upto,
        total,
        is_total_exact,
    )
    assert row is not None
    return _operation(row)


async def lock(connection: Connection, tenant_id: UUID, operation_id: int) -> Held | None:
    """The operation, locked for this transaction; None when it has nothing to do or is in other hands."""
    row = await connection.fetchrow(_BULK["lock"], tenant_id, operation_id)
    if row is None:
        return None
    over: datetime | None = row["watch_until"]
    is_over = over is not None and over <= await now(connection)
    return Held(_operation(row), row["upto"], row["cursor"], row["canary_ids"], is_over)


async def advance(
    connection: Connection,
    tenant_id: UUID,
    operation_id: int,
    *,
    cursor: int,
    state: BulkState,
    done: int = 0,
    failed: int = 0,
    failures: Sequence[FailedItem] = (),
    reason: str | None = None,
    pause: float = 0.0,
    canary_ids: Sequence[int] = (),
    watch_seconds: float | None = None,
) -> None:
    await connection.execute(
        _BULK["advance"],
        tenant_id, operation_id, cursor, done, failed, msgspec.json.encode(failures).decode(), _CODES[state],
        reason, pause, canary_ids, watch_seconds,
    )  # fmt: skip


async def canary_counts(connection: Connection, tenant_id: UUID, ids: Sequence[int]) -> tuple[int, int]:
    """How many of the jobs have ended, and how many of these have succeeded."""
    row = await connection.fetchrow(_BULK["canary"], tenant_id, ids)
    assert row is not None
    return row["ended"], row["succeeded"]


async def stop(
    connection: Connection, tenant_id: UUID, operation_id: int, *, reason: str, actor: str
) -> BulkOperation | None:
    """The operation, stopped; None when there is none that goes on. Waits for the piece under way."""
    row = await connection.fetchrow(_BULK["stop"], tenant_id, operation_id, reason, actor)
    return None if row is None else _operation(row)


async def get(connection: Connection, tenant_id: UUID, operation_id: int) -> BulkOperation | None:
    row = await connection.fetchrow(_BULK["get"], tenant_id, operation_id)
    return None if row is None else _operation(row)


async def list_operations(
    connection: Connection, tenant_id: UUID, *, below: int, limit: int
) -> list[BulkOperation]:
    """Newest first."""
    return [_operation(row) for row in await connection.fetch(_BULK["list"], tenant_id, below, limit)]


async def due(database: Database, *, limit: int) -> list[tuple[UUID, int]]:
    """Operations of all tenants that have something to do now, as (tenant, id)."""
    return [(row["tenant_id"], row["operation_id"]) for row in await database.call(_BULK["due"], limit)]


class Limited(Struct, frozen=True):
    """A queue whose dead letters that failed before a time are to go."""

    tenant_id: UUID
    queue_id: int
    failed_before: datetime


async def limited_dead_letters(database: Database) -> list[Limited]:
    return [Limited(*row) for row in await database.call(_BULK["limited"])]


async def set_duty_time(database: Database, duty: str, wait: timedelta) -> None:
    await database.call(_BULK["set_duty_time"], duty, wait)


def _operation(row: asyncpg.Record) -> BulkOperation:
    how = msgspec.json.decode(row["arguments"], type=How)
    return BulkOperation(
        id=str(row["operation_id"]),
        verb=row["verb"],
        filter=msgspec.json.decode(row["filter"], type=BulkFilter),
        arguments=how.arguments,
        rate_per_second=how.rate_per_second,
        canary=how.canary,
        state=STATES[row["state"]],
        reason=row["reason"],
        created_by=row["created_by"],
        created_at=row["created_at"],
        stopped_by=row["stopped_by"],
        finished_at=row["finished_at"],
        total=row["total"],
        is_total_exact=row["is_total_exact"],
        done=row["done"],
        failed=row["failed"],
        failures=msgspec.json.decode(row["failures"], type=tuple[FailedItem, ...]),
        canary_job_ids=tuple(str(job_id) for job_id in row["canary_ids"]),
    )
