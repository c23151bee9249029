"""/api/v1/queues/{name}/dead-letters"""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, get, post

from taskforge.domain.jobs import BATCH_LIMIT
from taskforge.errors import FieldError, Invalid
from taskforge.rest.paging import PageQuery, fetch_page, next_link
from taskforge.rest.parameters import parse_job_id, read_query
from taskforge.rest.replies import Reply, json_reply
from taskforge.rest.routes.queues import read_document
from taskforge.rest.schemas import DeadLetterSelection, JobPage, Purged, Redriven
from taskforge.rest.state import enter
from taskforge.services import dead_letters

PATH = "/api/v1/queues/{name:str}/dead-letters"

AnyRequest = Request[Any, Any, Any]


_selection = msgspec.json.Decoder(DeadLetterSelection).decode


@get(PATH)
async def list_dead_letters(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    name = request.path_params["name"]
    query = read_query(request.scope, PageQuery)
    page = await fetch_page(
        rest,
        ctx,
        lambda limit, cursor: dead_letters.list_dead_letters(
            rest.core, ctx, name, limit=limit, cursor=cursor
        ),
        limit=query.limit,
        cursor=query.cursor,
        bound_to=["dead-letters", name],
    )
    return json_reply(
        JobPage(page.data, page.next_cursor), headers=next_link(request.scope, page.next_cursor)
    )


@post(PATH + "/redrive", status_code=200)
async def redrive_dead_letters(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    name = request.path_params["name"]
    ids = selected(await read_document(rest, request, _selection))
    return json_reply(Redriven(await dead_letters.redrive(rest.core, ctx, name, ids)))


@post(PATH + "/purge", status_code=200)
async def purge_dead_letters(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    name = request.path_params["name"]
    ids = selected(await read_document(rest, request, _selection))
    return json_reply(Purged(await dead_letters.purge(rest.core, ctx, name, ids)))


def selected(selection: DeadLetterSelection) -> list[int] | None:
    """The ids, or None for all of the queue. What cannot be an id is no dead letter and is left out."""
    if selection.job_ids is None:
        return None
    if len(selection.job_ids) > BATCH_LIMIT:
        detail = f"at most {BATCH_LIMIT} ids at a time"
        raise Invalid("request.invalid", detail, fields=(FieldError("/job_ids", "too_many", detail),))
    return [job_id for text in selection.job_ids if (job_id := parse_job_id(text)) is not None]


HANDLERS = (
    list_dead_letters,
    redrive_dead_letters,
    purge_dead_letters,
)
