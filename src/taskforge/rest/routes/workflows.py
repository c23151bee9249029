"""/api/v1/workflows"""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, get, post
from litestar.types import Scope
from msgspec import Struct

from taskforge.domain.workflows import WorkflowDraft, WorkflowNode
from taskforge.errors import Invalid, Malformed, NotFound
from taskforge.rest.bodies import check_content_type, read_body
from taskforge.rest.paging import PageQuery, fetch_page, next_link
from taskforge.rest.parameters import parse_job_id, read_query
from taskforge.rest.replies import Reply, json_reply
from taskforge.rest.schemas import NodePage, WorkflowPage
from taskforge.rest.state import RestState, enter
from taskforge.rest.strict_json import check_value, decode_all, escape, relocate
from taskforge.services import workflows

PATH = "/api/v1/workflows"
ONE = PATH + "/{workflow_id:str}"

AnyRequest = Request[Any, Any, Any]


class WorkflowNodes(Struct, frozen=True, forbid_unknown_fields=True):
    nodes: tuple[WorkflowNode, ...]


class CancelQuery(Struct, frozen=True):
    preview: bool = False


_draft = msgspec.json.Decoder(WorkflowDraft).decode
_nodes = msgspec.json.Decoder(WorkflowNodes).decode


@post(PATH)
async def create_workflow(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    rest.refuse_if_draining()
    draft = decode_all(await _body(rest, request), _draft)
    _check_payloads(draft.nodes)
    made = await workflows.create(rest.core, ctx, draft)
    return json_reply(made, 201, headers=((b"location", f"{PATH}/{made.id}".encode()),))


@get(PATH)
async def list_workflows(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    query = read_query(request.scope, PageQuery)
    page = await fetch_page(
        rest,
        ctx,
        lambda limit, cursor: workflows.list_workflows(rest.core, ctx, limit=limit, cursor=cursor),
        limit=query.limit,
        cursor=query.cursor,
        bound_to=["workflows"],
    )
    return json_reply(
        WorkflowPage(page.data, page.next_cursor), headers=next_link(request.scope, page.next_cursor)
    )


@get(ONE)
async def get_workflow(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    return json_reply(await workflows.get(rest.core, ctx, _id(request.scope)))


@get(ONE + "/nodes")
async def list_nodes(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    workflow_id = _id(request.scope)
    query = read_query(request.scope, PageQuery)
    page = await fetch_page(
        rest,
        ctx,
        lambda limit, cursor: workflows.list_nodes(rest.core, ctx, workflow_id, limit=limit, cursor=cursor),
        limit=query.limit,
        cursor=query.cursor,
        bound_to=["workflow-nodes", workflow_id],
    )
    return json_reply(
        NodePage(page.data, page.next_cursor), headers=next_link(request.scope, page.next_cursor)
    )


@post(ONE + "/nodes", status_code=200)
async def add_nodes(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    rest.refuse_if_draining()
    given = decode_all(await _body(rest, request), _nodes)
    _check_payloads(given.nodes)
    return json_reply(await workflows.grow(rest.core, ctx, _id(request.scope), given.nodes))


@post(ONE + "/start", status_code=200)
async def start_workflow(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    return json_reply(await workflows.start(rest.core, ctx, _id(request.scope)))


@post(ONE + "/cancel", status_code=200)
async def cancel_workflow(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    workflow_id = _id(request.scope)
    if read_query(request.scope, CancelQuery).preview:
        return json_reply(await workflows.preview_cancel(rest.core, ctx, workflow_id))
    return json_reply(await workflows.cancel(rest.core, ctx, workflow_id), 202)


@post(ONE + "/retry", status_code=200)
async def retry_workflow(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    return json_reply(await workflows.retry(rest.core, ctx, _id(request.scope)))


HANDLERS = (
    create_workflow,
    list_workflows,
    get_workflow,
    list_nodes,
    add_nodes,
    start_workflow,
    cancel_workflow,
    retry_workflow,
)


async def _body(rest: RestState, request: AnyRequest) -> bytes:
    check_content_type(request.scope)
    return await read_body(request.scope, request.receive, limit=rest.max_body_bytes)


def _check_payloads(nodes: tuple[WorkflowNode, ...]) -> None:
    for index, node in enumerate(nodes):
        try:
            check_value(bytes(node.payload))
        except (Invalid, Malformed) as error:
            raise relocate(error, f"/nodes/{index}/payload") from None


def _id(scope: Scope) -> int:
    text = scope["path_params"]["workflow_id"]
    number = parse_job_id(text)
    if number is None:
        raise NotFound("workflow.not_found", f'workflow "{escape(text)}" does not exist')
    return number
