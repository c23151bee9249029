"""/api/v1/queues"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from litestar import Request, delete, get, patch, post
from litestar.types import Scope

from taskforge.domain.queues import Pause, QueueChange, QueueDraft, Revert
from taskforge.errors import FieldError, Invalid, NotFound
from taskforge.rest.bodies import check_content_type, read_body
from taskforge.rest.paging import PageQuery, fetch_page, next_link
from taskforge.rest.parameters import read_query
from taskforge.rest.replies import Header, Reply, json_reply, no_content
from taskforge.rest.schemas import QueuePage, QueueVersionPage, QueueView
from taskforge.rest.state import RestState, enter
from taskforge.rest.strict_json import T, decode_all
from taskforge.rest.tracing import header
from taskforge.services import health, queues

PATH = "/api/v1/queues"
MAX_DOCUMENT_BYTES = 1024 * 1024

_draft = msgspec.json.Decoder(QueueDraft).decode
_change = msgspec.json.Decoder(QueueChange).decode
_pause = msgspec.json.Decoder(Pause).decode
_revert = msgspec.json.Decoder(Revert).decode

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
    return _shown(QueueView.of(await queues.get(rest.core, ctx, name)))


@patch(PATH + "/{name:str}")
async def change_queue(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    name = request.path_params["name"]
    change = await read_document(rest, request, _change)
    if (version := _if_match(request.scope)) is not None:
        change = msgspec.structs.replace(change, if_version=version)
    return _shown(QueueView.of(await queues.update(rest.core, ctx, name, change)))


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
    pause = await read_optional(rest, request, _pause, queues.NO_REASON)
    return json_reply(QueueView.of(await queues.pause(rest.core, ctx, name, pause)))


@post(PATH + "/{name:str}/resume", status_code=200)
async def resume_queue(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    name = request.path_params["name"]
    return json_reply(QueueView.of(await queues.resume(rest.core, ctx, name)))


@get(PATH + "/{name:str}/health")
async def queue_health(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    name = request.path_params["name"]
    return json_reply(await health.of_queue(rest.core, ctx, name))


@get(PATH + "/{name:str}/versions")
async def list_queue_versions(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    name = request.path_params["name"]
    query = read_query(request.scope, PageQuery)
    page = await fetch_page(
        rest,
        ctx,
        lambda limit, cursor: queues.list_versions(rest.core, ctx, name, limit=limit, cursor=cursor),
        limit=query.limit,
        cursor=query.cursor,
        bound_to=["versions", name],
    )
    return json_reply(
        QueueVersionPage(page.data, page.next_cursor), headers=next_link(request.scope, page.next_cursor)
    )


@get(PATH + "/{name:str}/versions/{version:str}")
async def get_queue_version(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    name = request.path_params["name"]
    return json_reply(await queues.get_version(rest.core, ctx, name, _version(request)))


@post(PATH + "/{name:str}/versions/{version:str}/revert", status_code=200)
async def revert_queue(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    name = request.path_params["name"]
    wanted = await read_optional(rest, request, _revert, Revert())
    return _shown(QueueView.of(await queues.revert(rest.core, ctx, name, _version(request), wanted)))


async def read_document(rest: RestState, request: AnyRequest, decoder: Callable[[bytes], T]) -> T:
    check_content_type(request.scope)
    limit = min(rest.max_body_bytes, MAX_DOCUMENT_BYTES)
    return decode_all(await read_body(request.scope, request.receive, limit=limit), decoder)


async def read_optional(rest: RestState, request: AnyRequest, decoder: Callable[[bytes], T], default: T) -> T:
    """The document in the body, or `default` when there is no body."""
    limit = min(rest.max_body_bytes, MAX_DOCUMENT_BYTES)
    body = await read_body(request.scope, request.receive, limit=limit)
    if not body:
        return default
    check_content_type(request.scope)
    return decode_all(body, decoder)


def _shown(view: QueueView) -> Reply:
    headers: tuple[Header, ...] = ((b"etag", f'"{view.version}"'.encode()),)
    return json_reply(view, headers=headers)


def _version(request: AnyRequest) -> int:
    text: str = request.path_params["version"]
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        name = request.path_params["name"]
        raise NotFound("queue.version_not_found", f'queue "{name}" has no such version')
    return int(text)


def _if_match(scope: Scope) -> int | None:
    """The version that If-Match names. Raises Invalid for what is no ETag of a queue."""
    given = header(scope, b"if-match")
    if given is None or given == b"*":
        return None
    text = given.decode("latin-1").strip()
    if (
        len(text) > 2
        and text[0] == text[-1] == '"'
        and text.isascii()
        and text[1:-1].isdigit()
        and len(text) < 12
    ):
        return int(text[1:-1])
    detail = 'must be the ETag of the queue, for example "3"'
    raise Invalid(
        "request.invalid", f"If-Match: {detail}", fields=(FieldError("/if_match", "pattern", detail),)
    )


HANDLERS = (
    create_queue,
    list_queues,
    get_queue,
    change_queue,
    delete_queue,
    pause_queue,
    resume_queue,
    queue_health,
    list_queue_versions,
    get_queue_version,
    revert_queue,
)
