"""Batches: make, fill, seal, look at, cancel."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from taskforge.domain import batches as rules
from taskforge.domain.batches import BatchDraft, BatchState, BatchView, Piece
from taskforge.domain.jobs import JobDraft, JobFilter, JobState, JobView, Verdict
from taskforge.domain.tenants import Context
from taskforge.domain.terms import NO_TERMS
from taskforge.errors import Conflict, FieldError, Invalid, NotFound
from taskforge.postgres import groups
from taskforge.postgres import jobs as job_rows
from taskforge.services import jobs
from taskforge.services.core import Core
from taskforge.services.pages import Page

MAX_ID = 2**63 - 1
STEPS_AT_ONCE = 20
_RUNS_PER_LOOK = 100
_IDS_PER_LOOK = 1_000
_IDS_PER_PAGE = 20_000


async def create(core: Core, ctx: Context, draft: BatchDraft) -> BatchView:
    """An open batch. The queues that its callbacks name must exist. Raises Invalid."""
    rules.check_batch(draft, now=core.clock.now(), max_payload_bytes=core.max_payload_bytes)
    named = rules.callback_queues(draft.callbacks)
    known = await core.directory.known(ctx.tenant_id, list(set(named.values())))
    if wrong := [(pointer, name) for pointer, name in named.items() if name not in known]:
        raise Invalid(
            "queue.not_found",
            f'queue "{wrong[0][1]}" does not exist; create it first with POST /api/v1/queues',
            fields=tuple(FieldError(p, "queue.not_found", f'no queue "{name}"') for p, name in wrong),
        )
    async with core.database.tenant(ctx.tenant_id) as connection:
        return await groups.create(connection, ctx.tenant_id, draft)


async def get(core: Core, ctx: Context, batch_id: int) -> BatchView:
    """Raises NotFound; another tenant's batch does not exist."""
    async with core.database.tenant(ctx.tenant_id) as connection:
        found = await groups.get(connection, ctx.tenant_id, batch_id) if 0 < batch_id <= MAX_ID else None
    if found is None:
        raise not_found(batch_id)
    return found


async def list_batches(
    core: Core, ctx: Context, *, state: BatchState | None, limit: int, cursor: str | None = None
) -> Page[BatchView]:
    """Newest first."""
    below = MAX_ID if cursor is None else _position(cursor)
    async with core.database.tenant(ctx.tenant_id) as connection:
        found = await groups.list_batches(
            connection, ctx.tenant_id, state=state, below=below, limit=limit + 1
        )
    more = len(found) > limit
    return Page(found[:limit], found[limit - 1].id if more else None)


async def add(
    core: Core,
    ctx: Context,
    batch_id: int,
    drafts: Sequence[JobDraft],
    *,
    piece: Piece | None = None,
    atomic: bool = False,
) -> list[Verdict]:
    """Make these jobs members; each has its own fate and a verdict, or (atomic) all have the same one.

    With a piece its items are settled in the same transaction: sent again, it is refused with Conflict
    `batch.out_of_order` and changes nothing. Raises Conflict `batch.sealed`, Invalid `batch.not_found`.
    """
    members = [_member(draft, batch_id) for draft in drafts]
    return await jobs.submit(core, ctx, members, atomic=atomic, piece=piece)


async def seal(core: Core, ctx: Context, batch_id: int) -> BatchView:
    """No job joins any more; a batch whose members have all ended, or that has none, ends now. Twice is as once."""
    async with core.database.tenant(ctx.tenant_id) as connection:
        await groups.seal(connection, ctx.tenant_id, batch_id)
    return await get(core, ctx, batch_id)


async def cancel(core: Core, ctx: Context, batch_id: int) -> BatchView:
    """Seal it and cancel its members: the first ones before this returns, the rest by the elected process.

    Raises NotFound, or Conflict `batch.already_ended`.
    """
    async with core.database.tenant(ctx.tenant_id) as connection:
        answer = (
            await groups.ask_to_cancel(connection, ctx.tenant_id, batch_id, ctx.actor)
            if 0 < batch_id <= MAX_ID
            else "not_found"
        )
    if answer == "not_found":
        raise not_found(batch_id)
    if answer == "ended":
        raise Conflict("batch.already_ended", f"batch {batch_id} has ended already and cannot be cancelled")
    await cancel_members(core, batch_id, steps=STEPS_AT_ONCE)
    core.wakeups.jobs_parked()
    return await get(core, ctx, batch_id)


async def cancel_members(core: Core, batch_id: int | None, *, steps: int) -> int:
    """Go on cancelling what is to be cancelled, in bounded steps; how many were needed. May be interrupted."""
    told = done = 0
    while done < steps:
        did, asked = await groups.cancel_members(core.database, batch_id)
        told += asked
        if not did:
            break
        done += 1
    if told:
        core.wakeups.cancel_asked()
    return done


async def list_members(
    core: Core, ctx: Context, batch_id: int, *, state: JobState | None, limit: int, cursor: str | None = None
) -> Page[JobView]:
    """By id. A page looks at 20,000 ids at most, so a rare state may need several, some of them empty."""
    await get(core, ctx, batch_id)
    above = 0 if cursor is None else _position(cursor)
    found: list[int] = []
    looked = 0
    is_end = False
    async with core.database.tenant(ctx.tenant_id) as connection:
        while len(found) < limit and looked < _IDS_PER_PAGE and not is_end:
            runs = await groups.ranges(connection, ctx.tenant_id, batch_id, above=above, limit=_RUNS_PER_LOOK)
            ids = [i for lo, hi in runs for i in range(max(lo, above + 1), hi + 1)][:_IDS_PER_LOOK]
            if not ids:
                is_end = True
                break
            matches = await job_rows.match(
                connection, ctx.tenant_id, JobFilter(state=state), queue_id=None, ids=ids
            )
            looked += len(ids)
            above = ids[-1]
            found += matches
            if len(found) > limit:
                del found[limit:]
                above = found[-1]
        views = await job_rows.views(connection, ctx.tenant_id, found)
    if state is not None:
        views = [view for view in views if view.state is state]
    return Page(views, None if is_end else str(above))


def _position(cursor: str) -> int:
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 20):
        raise Invalid("cursor.invalid", "the cursor is not one of ours; start again without it")
    return min(int(cursor), MAX_ID)


def not_found(batch_id: object) -> NotFound:
    return NotFound("batch.not_found", f'batch "{batch_id}" does not exist')


def _member(draft: JobDraft, batch_id: int) -> JobDraft:
    terms = draft.terms or NO_TERMS
    if terms.batch_id is not None and terms.batch_id != str(batch_id):
        raise Conflict("batch.two_batches", f"a job of batch {batch_id} names batch {terms.batch_id}")
    return structs.replace(draft, terms=structs.replace(terms, batch_id=str(batch_id)))
