"""/api/v1/bulk"""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, get, post

from taskforge.domain.bulk import BulkRequest
from taskforge.domain.tenants import Context
from taskforge.errors import NotFound
from taskforge.rest.paging import PageQuery, fetch_page, next_link
from taskforge.rest.parameters import parse_job_id, read_query
from taskforge.rest.replies import Reply, json_reply
from taskforge.rest.routes.queues import read_document
from taskforge.rest.schemas import BulkPage
from taskforge.rest.state import RestState, enter
from taskforge.rest.strict_json import escape
from taskforge.services import bulk

PATH = "/api/v1/bulk"

AnyRequest = Request[Any, Any, Any]

_request = msgspec.json.Decoder(BulkRequest).decode


@post(PATH)
async def start_bulk(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    return await answer(rest, ctx, await read_document(rest, request, _request))


@get(PATH)
async def list_bulk(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    query = read_query(request.scope, PageQuery)
    page = await fetch_page(
        rest,
        ctx,
        lambda limit, cursor: bulk.list_operations(rest.core, ctx, limit=limit, cursor=cursor),
        limit=query.limit,
        cursor=query.cursor,
        bound_to=["bulk"],
    )
    return json_reply(
        BulkPage(page.data, page.next_cursor), headers=next_link(request.scope, page.next_cursor)
    )


@get(PATH + "/{operation_id:str}")
async def get_bulk(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    return json_reply(await bulk.get(rest.core, ctx, _operation_id(request)))


@post(PATH + "/{operation_id:str}/stop", status_code=200)
async def stop_bulk(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    return json_reply(await bulk.stop(rest.core, ctx, _operation_id(request)))


async def answer(rest: RestState, ctx: Context, wanted: BulkRequest) -> Reply:
    """What would be done, or 202 and where to follow it."""
    if wanted.preview:
        return json_reply(await bulk.preview(rest.core, ctx, wanted))
    rest.refuse_if_draining()
    operation = await bulk.start(rest.core, ctx, wanted)
    return json_reply(operation, 202, headers=((b"location", f"{PATH}/{operation.id}".encode()),))


def _operation_id(request: AnyRequest) -> int:
    text = request.path_params["operation_id"]
    operation_id = parse_job_id(text)
    if operation_id is None:
        raise NotFound("bulk.not_found", f'bulk operation "{escape(text)}" does not exist')
    return operation_id


HANDLERS = (start_bulk, list_bulk, get_bulk, stop_bulk)
