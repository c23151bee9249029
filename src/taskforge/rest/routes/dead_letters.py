"""/api/v1/queues/{name}/dead-letters"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from litestar import Request, get, post

from taskforge.domain.bulk import BulkFilter, BulkRequest, BulkVerb
from taskforge.domain.jobs import BATCH_LIMIT, JobFilter, JobState
from taskforge.errors import FieldError, Invalid
from taskforge.rest.paging import PageQuery, fetch_page, next_link
from taskforge.rest.parameters import DEFAULT_LIMIT, check_limit, parse_job_id, read_query
from taskforge.rest.replies import Reply, json_reply
from taskforge.rest.routes.bulk import answer
from taskforge.rest.routes.queues import read_document
from taskforge.rest.schemas import DeadLetterFilter, DeadLetterSelection, JobPage, Purged, Redriven
from taskforge.rest.state import enter
from taskforge.services import dead_letters, queues

PATH = "/api/v1/queues/{name:str}/dead-letters"

AnyRequest = Request[Any, Any, Any]


_selection = msgspec.json.Decoder(DeadLetterSelection).decode


class ListQuery(PageQuery, frozen=True):
    job_type: str | None = None
    tag: str | None = None
    submitted_after: datetime | None = None
    submitted_before: datetime | None = None
    fingerprint: str | None = None
    error_text: str | None = None
    failed_after: datetime | None = None
    failed_before: datetime | None = None


class GroupQuery(msgspec.Struct, frozen=True):
    limit: int = DEFAULT_LIMIT


@get(PATH)
async def list_dead_letters(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    name = request.path_params["name"]
    query = read_query(request.scope, ListQuery)
    wanted = msgspec.convert(query, JobFilter, from_attributes=True)
    page = await fetch_page(
        rest,
        ctx,
        lambda limit, cursor: dead_letters.list_dead_letters(
            rest.core, ctx, name, limit=limit, cursor=cursor, wanted=wanted
        ),
        limit=query.limit,
        cursor=query.cursor,
        bound_to=["dead-letters", name, wanted],
    )
    return json_reply(
        JobPage(page.data, page.next_cursor), headers=next_link(request.scope, page.next_cursor)
    )


@get(PATH + "/groups")
async def group_dead_letters(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    limit = check_limit(read_query(request.scope, GroupQuery).limit)
    return json_reply(await dead_letters.groups(rest.core, ctx, request.path_params["name"], limit=limit))


@post(PATH + "/redrive", status_code=200)
async def redrive_dead_letters(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    name = request.path_params["name"]
    selection = await read_document(rest, request, _selection)
    await queues.get(rest.core, ctx, name)
    if (wanted := in_background("redrive", name, selection)) is not None:
        return await answer(rest, ctx, wanted)
    return json_reply(Redriven(await dead_letters.redrive(rest.core, ctx, name, selected(selection))))


@post(PATH + "/purge", status_code=200)
async def purge_dead_letters(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    name = request.path_params["name"]
    selection = await read_document(rest, request, _selection)
    await queues.get(rest.core, ctx, name)
    if (wanted := in_background("purge", name, selection)) is not None:
        return await answer(rest, ctx, wanted)
    return json_reply(Purged(await dead_letters.purge(rest.core, ctx, name, selected(selection))))


def in_background(verb: BulkVerb, name: str, selection: DeadLetterSelection) -> BulkRequest | None:
    """The bulk operation that is asked for, if anything is beyond the ids."""
    chosen, rate, canary = selection.filter, selection.rate_per_second, selection.canary
    if chosen is None and rate is None and canary is None and not selection.preview:
        return None
    given = msgspec.structs.asdict(chosen or DeadLetterFilter())
    wanted = BulkFilter(**given, queue_name=name, state=JobState.FAILED, job_ids=selection.job_ids)
    return BulkRequest(verb, wanted, rate_per_second=rate, canary=canary, preview=selection.preview)


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
    group_dead_letters,
    redrive_dead_letters,
    purge_dead_letters,
)
