"""Keys that decide whether a submitted job becomes one: idempotency keys and unique keys.

Both are taken in sorted order, idempotency keys first.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

from msgspec import Struct

from taskforge.domain.terms import Unique
from taskforge.errors import Unavailable
from taskforge.postgres.pool import Connection
from taskforge.postgres.sql import queries

_SUBMIT = queries("submit")
_SCOPES: Final = {"queued": 1, "unfinished": 2, "period": 3}


class KeyedDraft(Struct):
    """An idempotency key on offer for a job, and what became of it."""

    tenant_id: UUID
    key: str
    body_hash: bytes
    job_id: int
    owner: int | None = None
    is_new: bool = False
    is_mismatch: bool = False


class UniqueOffer(Struct, eq=False):
    """A job that wants a unique key, and what became of it: `taken`, `replaced`, `held`, `kept_by_links` or `busy`.

    In all but the first case `holder` is the other job.
    """

    tenant_id: UUID
    job_type: str
    unique: Unique
    job_id: int = 0
    verdict: str = ""
    holder: int | None = None


class Repointed(Struct, frozen=True):
    """An idempotency key whose own job was not stored, and the job that it stands for instead, if any."""

    tenant_id: UUID
    key: str
    job_id: int | None


async def take_keys(connection: Connection, offers: Sequence[KeyedDraft], *, keep: timedelta) -> None:
    """Settle who owns each idempotency key; fills in `owner`, `is_new`, `is_mismatch`."""
    ordered = sorted(offers, key=lambda offer: (offer.tenant_id, offer.key))
    rows = await connection.fetch(
        _SUBMIT["take_keys"],
        [offer.tenant_id for offer in ordered],
        [offer.key for offer in ordered],
        [offer.job_id for offer in ordered],
        [offer.body_hash for offer in ordered],
        keep,
    )
    for row in rows:
        offer = ordered[row["ordinal"] - 1]
        if row["job_id"] is None:
            raise Unavailable(
                "database.busy", "an idempotency key expired at this very moment", retry_after=1
            )
        offer.owner = row["job_id"]
        offer.is_new = row["is_new"]
        offer.is_mismatch = row["body_hash"] != offer.body_hash


async def take_uniques(connection: Connection, offers: Sequence[UniqueOffer]) -> None:
    """Settle who holds each unique key; fills in `verdict` and `holder`. Jobs that are replaced have ended."""
    ordered = sorted(offers, key=lambda offer: (offer.tenant_id, offer.job_type, offer.unique.key))
    rows = await connection.fetch(
        _SUBMIT["take_uniques"],
        [offer.tenant_id for offer in ordered],
        [offer.job_type for offer in ordered],
        [offer.unique.key for offer in ordered],
        [offer.job_id for offer in ordered],
        [_SCOPES[offer.unique.scope] for offer in ordered],
        [offer.unique.period_seconds for offer in ordered],
        [2 if offer.unique.on_conflict == "replace" else 1 for offer in ordered],
    )
    for row in rows:
        offer = ordered[row["ordinal"] - 1]
        offer.verdict = row["verdict"]
        offer.holder = row["holder"]


async def repoint_keys(connection: Connection, keys: Sequence[Repointed]) -> None:
    """Idempotency keys taken in this transaction follow what became of their jobs."""
    await connection.execute(
        _SUBMIT["repoint_keys"],
        [key.tenant_id for key in keys],
        [key.key for key in keys],
        [key.job_id for key in keys],
    )
