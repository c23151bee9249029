"""/api/v1/batches"""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, get, post
from litestar.types import Scope

from taskforge.domain.batches import CALLBACK_NAMES, BatchDraft, BatchState, Callback
from taskforge.domain.jobs import JobState
from taskforge.errors import Invalid, Malformed
from taskforge.rest.paging import PageQuery, fetch_page, next_link
from taskforge.rest.parameters import parse_job_id, read_query
from taskforge.rest.replies import Reply, json_reply
from taskforge.rest.routes.batch_stream import add_jobs
from taskforge.rest.routes.queues import read_document
from taskforge.rest.schemas import BatchPage, JobPage
from taskforge.rest.state import enter
from taskforge.rest.strict_json import check_value, escape, relocate
from taskforge.services import batches

PATH = "/api/v1/batches"

AnyRequest = Request[Any, Any, Any]

_draft = msgspec.json.Decoder(BatchDraft).decode


class ListQuery(PageQuery, frozen=True):
    state: BatchState | None = None


class MembersQuery(PageQuery, frozen=True):
    state: JobState | None = None


@post(PATH)
async def create_batch(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    rest.refuse_if_draining()
    draft = await read_document(rest, request, _draft)
    for name in CALLBACK_NAMES:
        callback: Callback | None = getattr(draft.callbacks, name)
        if callback is not None and callback.job is not None:
            _check_payload(bytes(callback.job.payload), f"/callbacks/{name}/job/payload")
    batch = await batches.create(rest.core, ctx, draft)
    return json_reply(batch, 201, headers=((b"location", f"{PATH}/{batch.id}".encode()),))


@get(PATH)
async def list_batches(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    query = read_query(request.scope, ListQuery)
    page = await fetch_page(
        rest,
        ctx,
        lambda limit, cursor: batches.list_batches(
            rest.core, ctx, state=query.state, limit=limit, cursor=cursor
        ),
        limit=query.limit,
        cursor=query.cursor,
        bound_to=["batches", query.state],
    )
    return json_reply(
        BatchPage(page.data, page.next_cursor), headers=next_link(request.scope, page.next_cursor)
    )


@get(PATH + "/{batch_id:str}")
async def get_batch(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    return json_reply(await batches.get(rest.core, ctx, _read_id(request.scope)))


@post(PATH + "/{batch_id:str}/seal", status_code=200)
async def seal_batch(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    return json_reply(await batches.seal(rest.core, ctx, _read_id(request.scope)))


@post(PATH + "/{batch_id:str}/cancel", status_code=200)
async def cancel_batch(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    batch = await batches.cancel(rest.core, ctx, _read_id(request.scope))
    return json_reply(batch, 200 if batch.state.is_final else 202)


@post(PATH + "/{batch_id:str}/jobs", status_code=200)
async def add_jobs_to_batch(request: AnyRequest) -> Reply:
    enter(request.scope)
    return await add_jobs(request.scope, request.receive, _read_id(request.scope))


@get(PATH + "/{batch_id:str}/jobs")
async def list_jobs_of_batch(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    scope = request.scope
    batch_id = _read_id(scope)
    query = read_query(scope, MembersQuery)
    page = await fetch_page(
        rest,
        ctx,
        lambda limit, cursor: batches.list_members(
            rest.core, ctx, batch_id, state=query.state, limit=limit, cursor=cursor
        ),
        limit=query.limit,
        cursor=query.cursor,
        bound_to=["batch", batch_id, query.state],
    )
    return json_reply(JobPage(page.data, page.next_cursor), headers=next_link(scope, page.next_cursor))


def _check_payload(payload: bytes, pointer: str) -> None:
    try:
        check_value(payload)
    except (Invalid, Malformed) as error:
        raise relocate(error, pointer) from None


def _read_id(scope: Scope) -> int:
    text: str = scope["path_params"]["batch_id"]
    batch_id = parse_job_id(text)
    if batch_id is None:
        raise batches.not_found(escape(text))
    return batch_id


HANDLERS = (
    create_batch,
    list_batches,
    get_batch,
    seal_batch,
    cancel_batch,
    add_jobs_to_batch,
    list_jobs_of_batch,
)
