"""Schedules and their ticks: rows in, values out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Raw, Struct, structs

from taskforge.domain.schedules import Plan, Schedule, ScheduleDraft, Source, Tick, Verdict
from taskforge.postgres.pool import Connection, Database
from taskforge.postgres.sql import queries

_SCHEDULES = queries("schedules")
_SOURCES = {Source.API: 1, Source.CODE: 2}
_SOURCE_OF = {number: source for source, number in _SOURCES.items()}
_VERDICTS = (Verdict.FIRED, Verdict.SKIPPED, Verdict.QUEUED)
_NO_PAYLOAD = Raw(b"null")
_KNOWN = frozenset(ScheduleDraft.__struct_fields__) - {"payload"}


class Due(Struct, frozen=True):
    """A schedule with something to decide, and what the database's clock said when it was read."""

    schedule: Schedule
    now: datetime


class Planned(Struct, frozen=True):
    """A plan, with an id for the job of each slot that is to fire, and when the next slot is due."""

    schedule: Schedule
    plan: Plan
    job_ids: Sequence[int]
    due_at: datetime | None


class Decided(Struct, frozen=True):
    """What became of a slot that was to fire. `queue_id` is None when its queue is gone."""

    schedule_id: int
    slot: datetime
    verdict: Verdict
    reason: str | None
    job_id: int | None
    queue_id: int | None


async def due(database: Database, *, limit: int) -> list[Due]:
    """Schedules that are due, those longest due first."""
    return [Due(_schedule(row), row["now"]) for row in await database.call(_SCHEDULES["due"], limit)]


async def freed(database: Database, *, limit: int) -> list[Schedule]:
    """Schedules with a waiting slot whose job before has ended."""
    return [_schedule(row) for row in await database.call(_SCHEDULES["freed"], limit)]


async def decide(connection: Connection, planned: Sequence[Planned]) -> list[Decided]:
    """Write the plans down, each unless it is out of date; what fires has to be stored in the same transaction."""
    return _decided(await connection.fetch(_SCHEDULES["decide"], _text([_plan(one) for one in planned])))


async def fire_waiting(
    connection: Connection, schedules: Sequence[Schedule], ids: Sequence[int]
) -> list[Decided]:
    """The waiting slots fire, each unless somebody else was faster."""
    rows = await connection.fetch(
        _SCHEDULES["fire_waiting"],
        [schedule.schedule_id for schedule in schedules],
        [schedule.version for schedule in schedules],
        [schedule.waiting_slot for schedule in schedules],
        ids,
    )
    return _decided(rows)


async def fire_now(connection: Connection, schedule: Schedule, job_id: int) -> Decided | None:
    """A job of the schedule beside its slots; None when the schedule was changed meanwhile."""
    rows = await connection.fetch(
        _SCHEDULES["fire_now"], schedule.tenant_id, schedule.schedule_id, schedule.version, job_id
    )
    return _decided(rows)[0] if rows else None


async def now(connection: Connection) -> datetime:
    """The database's clock, which is the one that counts."""
    instant: datetime = await connection.fetchval(_SCHEDULES["now"])
    return instant


async def count_for_creation(connection: Connection, tenant_id: UUID) -> int:
    """How many schedules the tenant has; nobody makes another one until the transaction ends."""
    await connection.execute(_SCHEDULES["lock_tenant"], str(tenant_id))
    count: int = await connection.fetchval(_SCHEDULES["count"], tenant_id)
    return count


async def get_schedule(
    connection: Connection, tenant_id: UUID, name: str, *, locked: bool = False
) -> Schedule | None:
    """Locked, its slots wait until the transaction ends."""
    row = await connection.fetchrow(_SCHEDULES["get_locked" if locked else "get"], tenant_id, name)
    return None if row is None else _schedule(row)


async def get_declared(
    connection: Connection, tenant_id: UUID, name: str
) -> tuple[Schedule, bytes | None] | None:
    """Locked, with the fingerprint of the last declaration."""
    row = await connection.fetchrow(_SCHEDULES["get_locked"], tenant_id, name)
    return None if row is None else (_schedule(row), row["declared"])


async def list_schedules(
    connection: Connection, tenant_id: UUID, *, after: str, limit: int
) -> list[Schedule]:
    return [_schedule(row) for row in await connection.fetch(_SCHEDULES["list"], tenant_id, after, limit)]


async def create_schedule(
    connection: Connection,
    tenant_id: UUID,
    draft: ScheduleDraft,
    *,
    source: Source,
    declared: bytes | None = None,
) -> Schedule:
    """It has no next slot yet. Raises Conflict `schedule.exists`."""
    return await _one(
        connection,
        "create",
        tenant_id,
        draft.name,
        _definition(draft),
        bytes(draft.payload),
        draft.queue_name,
        draft.paused,
        _SOURCES[source],
        declared,
    )


async def define(
    connection: Connection,
    schedule: Schedule,
    draft: ScheduleDraft,
    *,
    by_hand: bool,
    declared: bytes | None = None,
) -> Schedule:
    return await _one(
        connection,
        "define",
        schedule.tenant_id,
        schedule.schedule_id,
        _definition(draft),
        bytes(draft.payload),
        draft.queue_name,
        by_hand,
        declared,
    )


async def set_paused(connection: Connection, schedule: Schedule, paused: bool) -> Schedule:
    return await _one(connection, "set_paused", schedule.tenant_id, schedule.schedule_id, paused)


async def aim(
    connection: Connection, schedule: Schedule, slot: datetime | None, due_at: datetime | None
) -> Schedule:
    """The schedule's next slot is this one."""
    return await _one(connection, "aim", schedule.tenant_id, schedule.schedule_id, slot, due_at)


async def drop_slot(connection: Connection, schedule: Schedule, *, reason: str) -> None:
    """Its next slot, which was due already, is skipped."""
    await connection.execute(
        _SCHEDULES["drop_slot"], schedule.tenant_id, schedule.schedule_id, schedule.next_slot, reason
    )


async def drop_waiting(connection: Connection, schedule: Schedule, *, reason: str) -> None:
    await connection.execute(_SCHEDULES["drop_waiting"], schedule.tenant_id, schedule.schedule_id, reason)


async def delete_schedule(connection: Connection, tenant_id: UUID, name: str) -> bool:
    """With its ticks; its jobs stay."""
    schedule_id = await connection.fetchval(_SCHEDULES["delete"], tenant_id, name)
    if schedule_id is None:
        return False
    await connection.execute(_SCHEDULES["delete_ticks"], tenant_id, schedule_id)
    return True


async def list_ticks(
    connection: Connection, schedule: Schedule, *, before: datetime, limit: int
) -> list[Tick]:
    """Newest first."""
    rows = await connection.fetch(
        _SCHEDULES["ticks"], schedule.tenant_id, schedule.schedule_id, before, limit
    )
    return [
        Tick(
            row["slot"],
            _VERDICTS[row["verdict"] - 1],
            row["reason"],
            None if row["job_id"] is None else str(row["job_id"]),
            row["through"],
            row["slots"],
            row["decided_at"],
        )
        for row in rows
    ]


async def _one(connection: Connection, query: str, *arguments: object) -> Schedule:
    row = await connection.fetchrow(_SCHEDULES[query], *arguments)
    assert row is not None
    return _schedule(row)


def _definition(draft: ScheduleDraft) -> str:
    # The payload has a column of its own: jsonb would not keep it byte for byte.
    return _text(structs.replace(draft, payload=_NO_PAYLOAD))


def _plan(planned: Planned) -> dict[str, object]:
    schedule, plan = planned.schedule, planned.plan
    return {
        "schedule": schedule.schedule_id,
        "version": schedule.version,
        "slot": schedule.next_slot,
        "last_job": schedule.last_job_id,
        "skip": plan.skipped,
        "late": plan.is_late,
        "fires": [
            {"slot": slot, "job": job_id} for slot, job_id in zip(plan.fires, planned.job_ids, strict=True)
        ],
        "next_slot": plan.next_slot,
        "due_at": planned.due_at,
    }


def _decided(rows: Sequence[asyncpg.Record]) -> list[Decided]:
    return [
        Decided(
            row["schedule_id"],
            row["slot"],
            _VERDICTS[row["verdict"] - 1],
            row["reason"],
            row["job_id"],
            row["queue_id"],
        )
        for row in rows
    ]


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _schedule(row: asyncpg.Record) -> Schedule:
    # A newer version may have written fields that this one does not know; its schedules go on all the same.
    stored = msgspec.json.decode(row["definition"], type=dict[str, Any])
    draft = msgspec.convert({name: stored[name] for name in _KNOWN & stored.keys()}, ScheduleDraft)
    return Schedule(
        schedule_id=row["schedule_id"],
        tenant_id=row["tenant_id"],
        definition=structs.replace(draft, payload=Raw(row["payload"]), paused=row["paused"]),
        version=row["version"],
        source=_SOURCE_OF[row["source"]],
        edited=row["edited"],
        next_slot=row["next_slot"],
        due_at=row["due_at"],
        waiting_slot=row["waiting_slot"],
        last_slot=row["last_slot"],
        last_job_id=row["last_job_id"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
