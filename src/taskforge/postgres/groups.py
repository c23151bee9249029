"""Groups of jobs: who joins them, and what there is to see of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Struct

from taskforge.domain.batches import BatchDraft, BatchState, BatchView, Fired, Piece, restored, stored
from taskforge.domain.jobs import JobDraft
from taskforge.errors import Conflict, FieldError, Invalid, TaskForgeError
from taskforge.postgres.pool import Connection, Database
from taskforge.postgres.sql import queries

_GROUPS = queries("groups")
_WIDEST = 1_000
_MEMBER, _HOOK = 2, 4
_LARGEST = 2**63 - 1
_decode_fired = msgspec.json.Decoder(dict[str, Fired]).decode

Parts = Sequence[tuple[JobDraft, Sequence[bytes]]]


class Entry(Struct, frozen=True):
    """Somebody is about to join a batch; with a piece, in its turn."""

    tenant_id: UUID
    batch_id: int
    piece: Piece | None = None


class Hanging(Struct):
    """A row of followups in the making."""

    tenant_id: UUID
    kind: int
    target: int
    lo: int
    hi: int


def batch_of(draft: JobDraft) -> int | None:
    terms = draft.terms
    return None if terms is None or terms.batch_id is None else int(terms.batch_id)


async def enter(connection: Connection, entries: Sequence[Entry]) -> None:
    """Lock the batches, by id; the first lock of the transaction, so that nobody who holds another waits for one.

    Raises Invalid `batch.not_found`, Conflict `batch.sealed`, or Conflict `batch.out_of_order` when a piece is not the
    next one: then its batch has received it already, or lacks some before it.
    """
    rows = await connection.fetch(
        _GROUPS["enter"],
        [entry.tenant_id for entry in entries],
        [min(entry.batch_id, _LARGEST) for entry in entries],
        [None if entry.piece is None else entry.piece.before for entry in entries],
    )
    for row in rows:
        entry = entries[row["ordinal"] - 1]
        if row["answer"] != "ok":
            raise refusal(entry.batch_id, row["answer"], row["received"])


async def join(connection: Connection, entries: Sequence[Entry], hanging: Sequence[Hanging]) -> None:
    """Count the new members, and settle the items of the pieces. The batches are locked."""
    counts = {entry.batch_id: 0 for entry in entries}
    received = {entry.batch_id: entry.piece.after for entry in entries if entry.piece is not None}
    for row in hanging:
        if row.kind == _MEMBER:
            counts[row.target] += row.hi - row.lo + 1
    await connection.execute(
        _GROUPS["join"], list(counts), list(counts.values()), [received.get(group) for group in counts]
    )


def hangs_on(tenant_id: UUID, first: int, parts: Parts) -> Iterator[Hanging]:
    """What hangs on the end of these jobs, numbered from `first`: their batch, and whoever wants to be told."""
    open_rows: dict[tuple[int, int], Hanging] = {}
    lo = first
    for draft, payloads in parts:
        hi = lo + len(payloads) - 1
        terms = draft.terms
        if terms is not None:
            if terms.batch_id is not None:
                yield from _extend(open_rows, tenant_id, (_MEMBER, int(terms.batch_id)), lo, hi)
            if terms.webhook is not None:
                yield from _extend(open_rows, tenant_id, (_HOOK, 0), lo, hi)
        lo = hi + 1
    yield from open_rows.values()


def _extend(
    rows: dict[tuple[int, int], Hanging], tenant_id: UUID, key: tuple[int, int], lo: int, hi: int
) -> Iterator[Hanging]:
    """Join lo..hi to the open row of its key; rows that are complete come out."""
    row = rows.get(key)
    if row is not None and row.hi + 1 == lo:
        lo = row.lo
    elif row is not None:
        yield row
    while hi - lo >= _WIDEST:
        yield Hanging(tenant_id, *key, lo, lo + _WIDEST - 1)
        lo += _WIDEST
    rows[key] = Hanging(tenant_id, *key, lo, hi)


async def hang(connection: Connection, rows: Sequence[Hanging]) -> None:
    await connection.execute(
        _GROUPS["hang"],
        [row.lo for row in rows],
        [row.hi for row in rows],
        [row.kind for row in rows],
        [row.target for row in rows],
        [row.tenant_id for row in rows],
    )


async def standing(connection: Connection, tenant_id: UUID, batch_ids: Sequence[int]) -> dict[int, bool]:
    """Those of the batches that exist, and whether they are sealed."""
    known = [batch_id for batch_id in batch_ids if batch_id <= _LARGEST]
    rows = await connection.fetch(_GROUPS["standing"], tenant_id, known)
    return {row["id"]: row["is_sealed"] for row in rows}


def refusal(batch_id: int, answer: str, received: int | None = None) -> TaskForgeError:
    """Why nobody may join: `not_found`, `sealed` or `received`."""
    if answer == "not_found":
        detail = f"batch {batch_id} does not exist; make one with POST /api/v1/batches"
        field = FieldError("/batch_id", "batch.not_found", f"no batch {batch_id}")
        return Invalid("batch.not_found", detail, fields=(field,))
    if answer == "sealed":
        return Conflict("batch.sealed", f"batch {batch_id} is sealed; no job can join it any more")
    return Conflict(
        "batch.out_of_order",
        f"batch {batch_id} has received {received or 0} items; go on with item {(received or 0) + 1}",
    )


async def create(connection: Connection, tenant_id: UUID, draft: BatchDraft) -> BatchView:
    """Raises Invalid for callbacks that cannot be kept as JSON."""
    try:
        row = await connection.fetchrow(
            _GROUPS["create"], tenant_id, draft.name, draft.tags, stored(draft.callbacks).decode()
        )
    except asyncpg.DataError:
        detail = "a callback's payload holds a number or a text that PostgreSQL cannot store"
        field = FieldError("/callbacks", "out_of_range", detail)
        raise Invalid("batch.invalid", detail, fields=(field,)) from None
    assert row is not None
    return _view(row)


async def get(connection: Connection, tenant_id: UUID, batch_id: int) -> BatchView | None:
    row = await connection.fetchrow(_GROUPS["get"], tenant_id, batch_id)
    return None if row is None else _view(row)


async def list_batches(
    connection: Connection, tenant_id: UUID, *, state: BatchState | None, below: int, limit: int
) -> list[BatchView]:
    """Newest first."""
    rows = await connection.fetch(
        _GROUPS["list"], tenant_id, below, None if state is None else state.value, limit
    )
    return [_view(row) for row in rows]


async def seal(connection: Connection, tenant_id: UUID, batch_id: int) -> bool:
    """False when there is no such batch, or it was sealed before."""
    return bool(await connection.fetchval(_GROUPS["seal"], tenant_id, batch_id))


async def ask_to_cancel(connection: Connection, tenant_id: UUID, batch_id: int, actor: str) -> str:
    """`asked`, `ended` or `not_found`."""
    answer: str = await connection.fetchval(_GROUPS["ask_to_cancel"], tenant_id, batch_id, actor)
    return answer


async def cancel_members(database: Database, batch_id: int | None) -> tuple[bool, int]:
    """Cancel one more run of members of a batch that is to be cancelled, or of any: whether there was any, and how many
    running jobs were asked to stop."""
    [row] = await database.call(_GROUPS["cancel_members"], batch_id)
    return row["did"], row["told"]


async def ranges(
    connection: Connection, tenant_id: UUID, batch_id: int, *, above: int, limit: int
) -> list[tuple[int, int]]:
    """Runs of members' ids, ascending, that reach above an id."""
    rows = await connection.fetch(_GROUPS["ranges"], tenant_id, batch_id, above, limit)
    return [(row["lo"], row["hi"]) for row in rows]


def _view(row: asyncpg.Record) -> BatchView:
    total = row["total"]
    ended = row["succeeded"] + row["failed"] + row["cancelled"]
    return BatchView(
        str(row["id"]),
        row["name"],
        BatchState(row["state"]),
        total,
        row["succeeded"],
        row["failed"],
        row["cancelled"],
        total - ended,
        round(ended / total, 4) if total else float(row["ended_at"] is not None),
        row["received"],
        tuple(row["tags"]),
        row["created_at"],
        row["sealed_at"],
        row["ended_at"],
        row["cancel_requested_at"],
        restored(row["callbacks"]),
        _decode_fired(row["fired"]),
    )
