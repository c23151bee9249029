"""/api/v1/queues"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from litestar import Request, delete, get, patch, post

from taskforge.domain.queues import QueueChange, QueueDraft
from taskforge.rest.bodies import check_content_type, read_body
from taskforge.rest.paging import PageQuery, fetch_page, next_link
from taskforge.rest.parameters import read_query
from taskforge.rest.replies import Reply, json_reply, no_content
from taskforge.rest.schemas import QueuePage, QueueView
from taskforge.rest.state import RestState, enter
from taskforge.rest.strict_json import T, decode_all
from taskforge.services import queues

PATH = "/api/v1/queues"
MAX_DOCUMENT_BYTES = 1024 * 1024

_draft = msgspec.json.Decoder(QueueDraft).decode
_change = msgspec.json.Decoder(QueueChange).decode

AnyRequest = Request[Any, Any, Any]


@post(PATH)
async def create_queue(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    queue = await queues.create(rest.core, ctx, await read_document(rest, request, _draft))
    return json_reply(QueueView.of(queue), 201, headers=((b"location", f"{PATH}/{queue.name}".encode()),))


@get(PATH)
async def list_queues(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    query = read_query(request.scope, PageQuery)
    page = await fetch_page(
        rest,
        ctx,
        lambda limit, cursor: queues.list_queues(rest.core, ctx, limit=limit, cursor=cursor),
        limit=query.limit,
        cursor=query.cursor,
        bound_to=["queues"],
    )
    views = [QueueView.of(queue) for queue in page.data]
    return json_reply(QueuePage(views, page.next_cursor), headers=next_link(request.scope, page.next_cursor))


@get(PATH + "/{name:str}")
async def get_queue(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    name = request.path_params["name"]
    return json_reply(QueueView.of(await queues.get(rest.core, ctx, name)))


@patch(PATH + "/{name:str}")
async def change_queue(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    name = request.path_params["name"]
    change = await read_document(rest, request, _change)
    return json_reply(QueueView.of(await queues.update(rest.core, ctx, name, change)))


@delete(PATH + "/{name:str}", status_code=200)
async def delete_queue(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    name = request.path_params["name"]
    await queues.delete(rest.core, ctx, name)
    return no_content()


@post(PATH + "/{name:str}/pause", status_code=200)
async def pause_queue(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    name = request.path_params["name"]
    return json_reply(QueueView.of(await queues.pause(rest.core, ctx, name)))


@post(PATH + "/{name:str}/resume", status_code=200)
async def resume_queue(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    name = request.path_params["name"]
    return json_reply(QueueView.of(await queues.resume(rest.core, ctx, name)))


@get(PATH + "/{name:str}/health")
async def queue_health(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    name = request.path_params["name"]
    return json_reply(await queues.health(rest.core, ctx, name))


async def read_document(rest: RestState, request: AnyRequest, decoder: Callable[[bytes], T]) -> T:
    check_content_type(request.scope)
    limit = min(rest.max_body_bytes, MAX_DOCUMENT_BYTES)
    return decode_all(await read_body(request.scope, request.receive, limit=limit), decoder)


HANDLERS = (
    create_queue,
    list_queues,
    get_queue,
    change_queue,
    delete_queue,
    pause_queue,
    resume_queue,
    queue_health,
)
