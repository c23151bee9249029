"""Submit, look at, cancel and retry jobs."""

from __future__ import annotations

from collections.abc import Sequence

from taskforge.domain import jobs as rules
from taskforge.domain.batches import Piece
from taskforge.domain.jobs import GroupAnswer, JobDraft, JobFilter, JobGroup, JobView, Verdict
from taskforge.domain.tenants import Context
from taskforge.errors import Conflict, FieldError, Invalid, NotFound, TaskForgeError, Unavailable
from taskforge.postgres import jobs
from taskforge.postgres.submit import parent_not_found
from taskforge.services import joining
from taskforge.services.core import Core
from taskforge.services.pages import Page

MAX_ID = 2**63 - 1
_SPANS_PER_LOOK = 100
_IDS_PER_LOOK = 1_000
_IDS_PER_PAGE = 20_000


async def submit(
    core: Core,
    ctx: Context,
    drafts: Sequence[JobDraft],
    *,
    atomic: bool = True,
    piece: Piece | None = None,
) -> list[Verdict]:
    """Store the jobs; one verdict per draft, in their order. Durable when this returns.

    With a piece of a stream into a batch, its items are settled in the same transaction, even when no job is good.

    atomic: any wrong draft raises Invalid with a pointer per fault, any reused idempotency key raises Conflict, and
    nothing is stored. Otherwise each draft has its own fate and wrong ones get a verdict with an error.
    """
    errors = _check(core, drafts)
    names = list({draft.queue_name for i, draft in enumerate(drafts) if i not in errors})
    queue_ids = await core.directory.known(ctx.tenant_id, names)
    if len(queue_ids) < len(names):
        for index, draft in enumerate(drafts):
            if index not in errors and draft.queue_name not in queue_ids:
                errors[index] = _unknown_queue(draft.queue_name, _pointer(drafts, index))
    if wrong := await joining.refusals(core, ctx, (d for i, d in enumerate(drafts) if i not in errors)):
        for index, draft in enumerate(drafts):
            if index not in errors and (error := wrong.get(joining.batch_of(draft) or 0)) is not None:
                errors[index] = _below_pointer(error, _pointer(drafts, index))
    await _check_parents(core, ctx, drafts, errors)
    if errors and atomic:
        raise _refusal(errors, len(drafts))
    good = [draft for i, draft in enumerate(drafts) if i not in errors] if errors else drafts
    verdicts: list[Verdict] = []
    if good or piece is not None:
        verdicts = _verdicts(
            await _store(core, ctx, rules.group(good), queue_ids, atomic=atomic, piece=piece)
        )
    if not errors:
        return verdicts
    stored = iter(verdicts)
    return [
        Verdict(None, None, False, errors[i]) if i in errors else next(stored) for i in range(len(drafts))
    ]


async def submit_groups(
    core: Core, ctx: Context, groups: Sequence[JobGroup], *, ensure_queues: bool = False
) -> list[GroupAnswer]:
    """As submit, all or nothing, for many jobs that differ only in their payload: a tenth of the cost per job.

    `ensure_queues` creates queues that do not exist, for callers that declare theirs in code.
    """
    now = core.clock.now()
    for group in groups:
        if len(group.payloads) > 1 and rules.names_one_job(group.draft):
            raise Invalid("job.invalid", "a key names one job, so jobs with keys are submitted one by one")
        longest = max(group.payloads, key=len, default=b"")
        rules.check_draft(
            rules.with_payload(group.draft, longest), now=now, max_payload_bytes=core.max_payload_bytes
        )
    for error in (await joining.refusals(core, ctx, (group.draft for group in groups))).values():
        raise error
    errors: dict[int, TaskForgeError] = {}
    await _check_parents(core, ctx, [group.draft for group in groups], errors)
    if errors:
        raise errors[min(errors)]
    names = list({group.draft.queue_name for group in groups})
    look_up = core.directory.ensure if ensure_queues else core.directory.find
    queue_ids = await look_up(ctx.tenant_id, names)
    return await _store(core, ctx, groups, queue_ids, atomic=True)


async def get(core: Core, ctx: Context, job_id: int) -> JobView:
    """Raises NotFound; another tenant's job does not exist."""
    async with core.database.tenant(ctx.tenant_id) as connection:
        found = await jobs.views(connection, ctx.tenant_id, [job_id]) if 0 < job_id <= MAX_ID else []
    if not found:
        raise NotFound("job.not_found", f'job "{job_id}" does not exist')
    return found[0]


async def wait(core: Core, ctx: Context, job_id: int, *, timeout: float) -> JobView:
    """The job once it has ended, or as it is after `timeout` seconds."""
    view = await get(core, ctx, job_id)
    if view.state.is_final:
        return view
    await core.endings.wait(ctx.tenant_id, job_id, timeout=timeout)
    return await get(core, ctx, job_id)


async def list_jobs(
    core: Core, ctx: Context, job_filter: JobFilter, *, limit: int, cursor: str | None = None
) -> Page[JobView]:
    """Newest first. A page looks at 20,000 ids at most, so a rare match may need several pages, some of them empty."""
    below = _below(cursor)
    found: list[int] = []
    looked = 0
    is_end = False
    async with core.database.tenant(ctx.tenant_id) as connection:
        queue_id = await _queue_id(core, ctx, job_filter.queue_name)
        while len(found) < limit and looked < _IDS_PER_PAGE and not is_end:
            spans = await jobs.spans(
                connection, ctx.tenant_id, job_filter, queue_id=queue_id, below=below, limit=_SPANS_PER_LOOK
            )
            candidates: list[int] = []
            for lo, hi in spans:
                room = _IDS_PER_LOOK - len(candidates)
                candidates += range(hi, max(lo, hi - room + 1) - 1, -1)
                if len(candidates) >= _IDS_PER_LOOK:
                    break
            if not candidates:
                is_end = True
                break
            matches = await jobs.match(
                connection, ctx.tenant_id, job_filter, queue_id=queue_id, ids=candidates
            )
            looked += len(candidates)
            below = candidates[-1]
            found += matches
            if len(found) > limit:
                del found[limit:]
                below = found[-1]
        views = await jobs.views(connection, ctx.tenant_id, found)
    if job_filter.state is not None:
        views = [view for view in views if view.state is job_filter.state]
    return Page(views, None if is_end else str(below))


async def cancel(core: Core, ctx: Context, job_id: int) -> JobView:
    """Cancelled for good, or, when it runs already, asked to stop (`cancel_requested`).

    Raises NotFound, or Conflict `job.already_ended`.
    """
    async with core.database.tenant(ctx.tenant_id) as connection:
        answer = (
            await jobs.cancel(connection, ctx.tenant_id, job_id, ctx.actor)
            if 0 < job_id <= MAX_ID
            else "not_found"
        )
    match answer:
        case "not_found":
            raise NotFound("job.not_found", f'job "{job_id}" does not exist')
        case "ended":
            raise Conflict("job.already_ended", f"job {job_id} has ended already and cannot be cancelled")
        case "busy":
            raise Unavailable("job.busy", f"job {job_id} is changing hands; try again", retry_after=1)
        case "requested":
            core.wakeups.cancel_asked()
    return await get(core, ctx, job_id)


async def retry(core: Core, ctx: Context, job_id: int) -> JobView:
    """A failed or cancelled job gets new attempts; a scheduled or retrying one runs now.

    Raises NotFound or Conflict.
    """
    async with core.database.tenant(ctx.tenant_id) as connection:
        answer = (
            await jobs.retry(connection, ctx.tenant_id, job_id, ctx.actor)
            if 0 < job_id <= MAX_ID
            else "not_found"
        )
    match answer:
        case "not_found":
            raise NotFound("job.not_found", f'job "{job_id}" does not exist')
        case "succeeded":
            raise Conflict(
                "job.already_succeeded", f"job {job_id} has succeeded; submit a new one to run it again"
            )
        case _ if answer.startswith("not_unique "):
            holder = answer.removeprefix("not_unique ")
            raise Conflict(
                "job.not_unique",
                f"job {holder} holds the unique key of job {job_id} now; wait for its end, or cancel it",
                job_id=holder,
            )
        case "active":
            raise Conflict("job.active", f"job {job_id} is waiting or running already")
        case "busy":
            raise Unavailable("job.busy", f"job {job_id} is changing hands; try again", retry_after=1)
    core.wakeups.everything()
    return await get(core, ctx, job_id)


def _check(core: Core, drafts: Sequence[JobDraft]) -> dict[int, TaskForgeError]:
    now = core.clock.now()
    errors: dict[int, TaskForgeError] = {}
    for index, draft in enumerate(drafts):
        try:
            rules.check_draft(
                draft, now=now, max_payload_bytes=core.max_payload_bytes, pointer=_pointer(drafts, index)
            )
        except Invalid as error:
            errors[index] = error
    return errors


async def _check_parents(
    core: Core, ctx: Context, drafts: Sequence[JobDraft], errors: dict[int, TaskForgeError]
) -> None:
    """A parent that does not exist is the item's own fault; one query for all, if any has parents."""
    parents = {
        int(parent.job_id)
        for index, draft in enumerate(drafts)
        if draft.terms is not None and index not in errors
        for parent in draft.terms.depends_on
    }
    if not parents:
        return
    async with core.database.tenant(ctx.tenant_id) as connection:
        known = await jobs.existing(
            connection, ctx.tenant_id, [job_id for job_id in parents if job_id <= MAX_ID]
        )
    for index, draft in enumerate(drafts):
        for place, parent in enumerate(draft.terms.depends_on if draft.terms is not None else ()):
            if index not in errors and int(parent.job_id) not in known:
                pointer = f"{_pointer(drafts, index)}/depends_on/{place}/job_id"
                errors[index] = parent_not_found(parent.job_id, pointer)


def _pointer(drafts: Sequence[JobDraft], index: int) -> str:
    return "" if len(drafts) == 1 else f"/{index}"


def _below_pointer(error: TaskForgeError, pointer: str) -> TaskForgeError:
    fields = tuple(FieldError(pointer + field.pointer, field.code, field.detail) for field in error.fields)
    return type(error)(error.code, error.detail, fields=fields, job_id=error.job_id)


def _unknown_queue(name: str, pointer: str) -> Invalid:
    return Invalid(
        "queue.not_found",
        f'queue "{name}" does not exist; create it first with POST /api/v1/queues',
        fields=(FieldError(f"{pointer}/queue_name", "queue.not_found", f'no queue "{name}"'),),
    )


def _refusal(errors: dict[int, TaskForgeError], total: int) -> TaskForgeError:
    first = errors[min(errors)]
    if total == 1:
        return first
    fields = tuple(field for index in sorted(errors) for field in errors[index].fields)[:1_000]
    return Invalid(
        "batch.invalid",
        f"{len(errors)} of {total} jobs are wrong; nothing was stored: {first.detail}",
        fields=fields,
    )


async def _store(
    core: Core,
    ctx: Context,
    groups: Sequence[JobGroup],
    queue_ids: dict[str, int],
    *,
    atomic: bool,
    piece: Piece | None = None,
) -> list[GroupAnswer]:
    try:
        return await core.submitter.submit(ctx.tenant_id, groups, queue_ids, is_atomic=atomic, piece=piece)
    except Conflict as error:
        if error.code == "queue.gone":
            core.directory.forget(ctx.tenant_id, list(queue_ids))
            queue_ids = await core.directory.find(ctx.tenant_id, list(queue_ids))
            return await core.submitter.submit(
                ctx.tenant_id, groups, queue_ids, is_atomic=atomic, piece=piece
            )
        raise


def _verdicts(answers: Sequence[GroupAnswer]) -> list[Verdict]:
    verdicts: list[Verdict] = []
    for answer in answers:
        if answer.error is not None:
            verdicts.append(Verdict(None, None, False, answer.error))
        else:
            verdicts += [
                Verdict(
                    job_id,
                    answer.state,
                    answer.created,
                    kept=answer.kept,
                    replaced=answer.replaced,
                    submitted_at=answer.submitted_at,
                )
                for job_id in answer.ids
            ]
    return verdicts


async def _queue_id(core: Core, ctx: Context, name: str | None) -> int | None:
    if name is None:
        return None
    try:
        return (await core.directory.find(ctx.tenant_id, [name]))[name]
    except Invalid as error:
        raise NotFound("queue.not_found", f'queue "{name}" does not exist') from error


def _below(cursor: str | None) -> int:
    if cursor is None:
        return MAX_ID
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 19 or int(cursor) > MAX_ID:
        raise Invalid("cursor.invalid", "the cursor is not one of ours; start again without it")
    return int(cursor)
