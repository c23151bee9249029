"""Claim: extents become leases. See functions/claim.sql for what it promises."""

from __future__ import annotations

import time
from collections.abc import Sequence

import asyncpg
import msgspec

from taskforge.domain.jobs import JobOptions
from taskforge.domain.leases import Lease
from taskforge.domain.retry import RetryPolicy
from taskforge.postgres.copy import microseconds
from taskforge.postgres.pool import Database
from taskforge.postgres.sql import queries

_LEASES = queries("leases")
_decode_options = msgspec.json.Decoder(JobOptions).decode
_decode_retry = msgspec.json.Decoder(RetryPolicy).decode


async def claim(
    database: Database, worker_id: int, queue_ids: Sequence[int], *, want: int, startable: int
) -> list[Lease]:
    """Lease up to `want` ready jobs of these queues, of limited ones up to `startable`. One round trip; committed when
    it returns."""
    asked_ns = time.monotonic_ns()
    rows = await database.call(_LEASES["claim"], worker_id, queue_ids, want, startable)
    return [_lease(row, asked_ns) for row in rows]


async def large_payloads(
    database: Database, worker_id: int, fence: int, ids: Sequence[int]
) -> dict[int, bytes]:
    """Payloads that did not travel with the claim, of those jobs the lease still covers."""
    rows = await database.call(_LEASES["large_payloads"], worker_id, fence, ids)
    return {row["id"]: row["payload"] for row in rows}


def _lease(row: asyncpg.Record, asked_ns: int) -> Lease:
    options = row["options"]
    return Lease(
        fence=row["fence"],
        tenant_id=row["tenant_id"],
        queue_id=row["queue_id"],
        queue_name=row["queue_name"],
        priority=row["priority"],
        attempt=row["attempt"],
        ids=row["ids"],
        job_types=row["job_types"],
        payloads=row["payloads"],
        max_attempts=row["max_attempts"],
        timeouts=row["timeouts"],
        options=None if options is None else [None if o is None else _decode_options(o) for o in options],
        claimed_at=row["claimed_at"],
        claimed_us=microseconds(row["claimed_at"]),
        queue_max_attempts=row["queue_max_attempts"],
        queue_timeout=row["queue_timeout"],
        queue_retry=_decode_retry(row["queue_retry"]),
        is_limited=row["is_limited"],
        starts=row["starts"],
        ends=row["ends"],
        asked_ns=asked_ns,
    )
