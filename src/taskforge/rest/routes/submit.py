"""The two submit routes, the hot ones: raw ASGI in, one service call, raw ASGI out."""

from __future__ import annotations

from contextlib import suppress

from litestar.types import Receive, Scope
from msgspec import Struct, structs

from taskforge.domain.jobs import JobDraft, Verdict
from taskforge.domain.tenants import Context
from taskforge.errors import FieldError, Invalid, TaskForgeError, Unavailable
from taskforge.rest.bodies import check_content_type, read_body
from taskforge.rest.parameters import read_idempotency_key, read_query
from taskforge.rest.replies import NDJSON, Reply, json_reply, ndjson_reply
from taskforge.rest.schemas import BatchAnswer, BatchItem, ItemError, JobAccepted
from taskforge.rest.state import RestState, enter
from taskforge.rest.strict_json import relocate
from taskforge.rest.submission import Batch, refuse_if_any
from taskforge.rest.tracing import header
from taskforge.services import jobs

_REPLAYED = (b"idempotency-replayed", b"true")
_KEPT = (b"unique-kept", b"true")


class BatchQuery(Struct, frozen=True):
    atomic: bool = True


async def submit(scope: Scope, receive: Receive) -> Reply:
    rest, ctx = enter(scope)
    rest.refuse_if_draining()
    check_content_type(scope)
    draft = rest.reader(scope).read_job(await read_body(scope, receive, limit=rest.max_body_bytes))
    draft = with_key(draft, read_idempotency_key(scope))
    [verdict] = await jobs.submit(rest.core, ctx, [draft])
    if verdict.error is not None:
        raise verdict.error
    assert verdict.job_id is not None
    location = (b"location", b"/api/v1/jobs/%d" % verdict.job_id)
    if not verdict.created:
        view = await jobs.get(rest.core, ctx, verdict.job_id)
        return json_reply(view, headers=(location, _KEPT if verdict.kept else _REPLAYED))
    rest.metrics.submitted(1)
    limits = None
    with suppress(Unavailable):  # the job is stored, whatever else cannot be read now
        limits = await rest.core.directory.limits(ctx.tenant_id, draft.queue_name)
    return json_reply(JobAccepted.of(draft, verdict, limits), 201, headers=(location,))


async def submit_batch(scope: Scope, receive: Receive) -> Reply:
    rest, ctx = enter(scope)
    rest.refuse_if_draining()
    is_atomic = read_query(scope, BatchQuery).atomic
    is_lines = check_content_type(scope, allow_ndjson=True)
    if header(scope, b"idempotency-key") is not None:
        raise Invalid("idempotency.not_for_batches", "give each job of a batch its own idempotency_key")
    body = await read_body(scope, receive, limit=rest.max_body_bytes)
    batch = rest.reader(scope).read_lines(body) if is_lines else rest.reader(scope).read_batch(body)
    store = _store_all if is_atomic else _store_each
    answer = await store(rest, ctx, batch)
    rest.metrics.submitted(answer.created)
    status = 207 if answer.failed else 201
    if NDJSON in (header(scope, b"accept") or b""):
        return ndjson_reply(answer.data, status)
    return json_reply(answer, status)


async def _store_all(rest: RestState, ctx: Context, batch: Batch) -> BatchAnswer:
    """Every job of the batch, or an error that points at all that is wrong."""
    drafts = refuse_if_any(batch)
    try:
        verdicts = await jobs.submit(rest.core, ctx, drafts)
    except Invalid as error:
        raise relocate(error, batch.place(0) if len(drafts) == 1 else batch.base) from None
    data = [_item(verdict) for verdict in verdicts]
    created = sum(verdict.created for verdict in verdicts)
    return BatchAnswer(data, created, len(data) - created)


async def _store_each(rest: RestState, ctx: Context, batch: Batch) -> BatchAnswer:
    """Each job that can be accepted, and a verdict on every one."""
    verdicts = {
        index: Verdict(None, created=False, error=item)
        for index, item in enumerate(batch.items)
        if isinstance(item, TaskForgeError)
    }
    places = [index for index in range(len(batch.items)) if index not in verdicts]
    drafts = [item for item in batch.items if isinstance(item, JobDraft)]
    stored = await jobs.submit(rest.core, ctx, drafts, atomic=False) if drafts else []
    for number, (index, verdict) in enumerate(zip(places, stored, strict=True)):
        verdicts[index] = _at(verdict, "" if len(drafts) == 1 else f"/{number}", batch.place(index))
    data = [_item(verdicts[index]) for index in range(len(batch.items))]
    failed = sum(item.error is not None for item in data)
    created = sum(item.created for item in data)
    return BatchAnswer(data, created, len(data) - created - failed, failed)


def with_key(draft: JobDraft, key: str | None) -> JobDraft:
    """The draft with the key of the header. Raises Invalid when header and body name different ones."""
    if key is None or key == draft.idempotency_key:
        return draft
    if draft.idempotency_key is not None:
        detail = "the Idempotency-Key header and the idempotency_key of the body differ; give one of them"
        raise Invalid(
            "idempotency.two_keys", detail, fields=(FieldError("/idempotency_key", "differs", detail),)
        )
    return structs.replace(draft, idempotency_key=key)


def _at(verdict: Verdict, was: str, place: str) -> Verdict:
    """The verdict with its pointers, relative to the drafts that were handed on, made relative to the document."""
    error = verdict.error
    if error is None:
        return verdict
    fields = tuple(
        FieldError(place + field.pointer.removeprefix(was), field.code, field.detail)
        for field in error.fields
    )
    return Verdict(
        None, created=False, error=type(error)(error.code, error.detail, fields=fields, job_id=error.job_id)
    )


def _item(verdict: Verdict) -> BatchItem:
    error = verdict.error
    if error is not None:
        return BatchItem(created=False, error=ItemError.of(error))
    return BatchItem(
        str(verdict.job_id),
        verdict.state,
        verdict.created,
        replaced=None if verdict.replaced is None else str(verdict.replaced),
    )
