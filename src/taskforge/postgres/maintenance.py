"""The statements of the maintenance loop. Any process may run any of them at any time; row locks settle races."""

from __future__ import annotations

from datetime import datetime, timedelta

from msgspec import Struct

from taskforge.postgres.pool import Database
from taskforge.postgres.sql import queries

_MAINTENANCE = queries("maintenance")


class Survey(Struct, frozen=True):
    """What there is to do. `next_due_in` is seconds until the first parked job is due, None when none is parked."""

    next_due_in: float | None
    next_ready: int
    next_flow: int
    next_id: int
    next_enqueue: int
    expired: int
    flow_floor: int
    duties: dict[str, float]
    """In how many seconds each other duty that has something to do is due."""


class Look(Struct, frozen=True):
    """The first look of the floor rule: the next sequence values, the time, and then an xid of its own."""

    next_ready: int
    next_flow: int
    due_us: int
    xid: int


class Promoted(Struct, frozen=True):
    """How many, in which queues, and how far in the line of what is due that has come."""

    count: int
    queue_ids: tuple[int, ...]
    upto: Place | None


Place = tuple[datetime, int]
"""A place in the line of parked jobs: when one is due, and its id."""


async def survey(database: Database) -> Survey:
    [row] = await database.call(_MAINTENANCE["survey"])
    due = row["next_due_in"]
    return Survey(
        None if due is None else float(due),
        row["next_ready"],
        row["next_flow"],
        row["next_id"],
        row["next_enqueue"],
        row["expired"],
        row["flow_floor"],
        dict(zip(row["duties"], row["duties_due_in"], strict=True)),
    )


async def promote(database: Database, *, limit: int, after: Place | None = None) -> Promoted:
    """Up to `limit` due jobs, oldest first, became claimable; only such that stand behind `after`, if it is given."""
    at, job_id = (None, 0) if after is None else after
    [row] = await database.call(_MAINTENANCE["promote"], limit, at, job_id)
    upto = None if row["last_at"] is None else (row["last_at"], row["last_id"])
    return Promoted(row["promoted"], tuple(row["queues"] or ()), upto)


async def reap(database: Database, *, ttl: timedelta, limit: int) -> dict[int, int]:
    """Workers found dead, with the number of jobs that came back from each."""
    return {
        row["worker_id"]: row["returned"] for row in await database.call(_MAINTENANCE["reap"], ttl, limit)
    }


async def look(database: Database) -> Look:
    [row] = await database.call(_MAINTENANCE["look"])
    return Look(row["next_ready"], row["next_flow"], row["due_us"], row["xid"])


async def raise_floors(database: Database, first: Look, *, since: int) -> bool:
    """Second look, at the lanes that changed since flow id `since`.

    False while a transaction that was open at the first look goes on; then ask again later with the same look.
    """
    [row] = await database.call(
        _MAINTENANCE["raise_floors"], first.next_ready, since, first.due_us, first.xid
    )
    return bool(row[0])


async def roll_up(database: Database, first: Look, *, age: timedelta, upto: int | None = None) -> int:
    """How many count deltas were folded into totals and seconds; of those below flow id `upto`, when it is given."""
    below = first.next_flow if upto is None else min(upto, first.next_flow)
    [row] = await database.call(_MAINTENANCE["roll_up"], below, first.xid, age)
    return int(row[0])


async def forget_seconds(database: Database) -> int:
    """How many rows of seconds that nobody asks for any more were dropped."""
    [row] = await database.call(_MAINTENANCE["forget_seconds"])
    return int(row[0])


async def count_orphans(database: Database) -> int:
    """How many blocked jobs wait for no parent. Must be 0."""
    [row] = await database.call(_MAINTENANCE["count_orphans"])
    orphans: int = row[0]
    return orphans


async def count_below_floors(database: Database) -> int:
    """Extents that a claim would never see. The floor rule promises 0."""
    [row] = await database.call(_MAINTENANCE["count_below_floors"])
    return int(row[0])


async def ensure_partitions(database: Database, *, ahead: int) -> int:
    [row] = await database.call(_MAINTENANCE["ensure_partitions"], ahead)
    return int(row[0])


async def prune(database: Database, *, keep: timedelta) -> int | None:
    """The number of the partition that was dropped, if one was old enough."""
    [row] = await database.call(_MAINTENANCE["prune"], keep)
    number: int | None = row[0]
    return number


async def sweep(database: Database, *, keep: timedelta, limit: int) -> int:
    [row] = await database.call(_MAINTENANCE["sweep"], keep, limit)
    return int(row[0])


async def stock_blocks(database: Database, *, ahead: int) -> int:
    """Blocks of ids for taskforge.enqueue(), so that it need not burn one per call."""
    [row] = await database.call(_MAINTENANCE["stock_blocks"], ahead)
    return int(row[0])
