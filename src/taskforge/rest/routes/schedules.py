"""/api/v1/schedules"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from litestar import Request, delete, get, patch, post
from msgspec import Struct

from taskforge.domain.schedules import ScheduleChange, ScheduleDraft
from taskforge.rest.paging import PageQuery, fetch_page, next_link
from taskforge.rest.parameters import read_query
from taskforge.rest.replies import Reply, json_reply, no_content
from taskforge.rest.routes.queues import read_document
from taskforge.rest.schedule_schemas import (
    Firings,
    PreviewRequest,
    SchedulePage,
    ScheduleRun,
    ScheduleView,
    TickPage,
)
from taskforge.rest.state import enter
from taskforge.services import schedules

PATH = "/api/v1/schedules"

_draft = msgspec.json.Decoder(ScheduleDraft).decode
_change = msgspec.json.Decoder(ScheduleChange).decode
_preview = msgspec.json.Decoder(PreviewRequest).decode

AnyRequest = Request[Any, Any, Any]


class PreviewQuery(Struct, frozen=True):
    count: int = 10
    after: datetime | None = None


@post(PATH)
async def create_schedule(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    made = await schedules.create(rest.core, ctx, await read_document(rest, request, _draft))
    location = f"{PATH}/{made.definition.name}".encode()
    return json_reply(ScheduleView.of(made), 201, headers=((b"location", location),))


@get(PATH)
async def list_schedules(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    query = read_query(request.scope, PageQuery)
    page = await fetch_page(
        rest,
        ctx,
        lambda limit, cursor: schedules.list_schedules(rest.core, ctx, limit=limit, cursor=cursor),
        limit=query.limit,
        cursor=query.cursor,
        bound_to=["schedules"],
    )
    views = [ScheduleView.of(schedule) for schedule in page.data]
    return json_reply(
        SchedulePage(views, page.next_cursor), headers=next_link(request.scope, page.next_cursor)
    )


@post(PATH + "/preview", status_code=200)
async def preview_expression(request: AnyRequest) -> Reply:
    rest, _ = enter(request.scope)
    asked = await read_document(rest, request, _preview)
    return json_reply(
        Firings(
            schedules.preview_expression(
                rest.core,
                asked.expression,
                asked.timezone,
                start_at=asked.start_at,
                end_at=asked.end_at,
                after=asked.after,
                count=asked.count,
            )
        )
    )


@get(PATH + "/{name:str}")
async def get_schedule(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    return json_reply(ScheduleView.of(await schedules.get(rest.core, ctx, request.path_params["name"])))


@patch(PATH + "/{name:str}")
async def change_schedule(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    name = request.path_params["name"]
    change = await read_document(rest, request, _change)
    return json_reply(ScheduleView.of(await schedules.update(rest.core, ctx, name, change)))


@delete(PATH + "/{name:str}", status_code=200)
async def delete_schedule(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    await schedules.delete(rest.core, ctx, request.path_params["name"])
    return no_content()


@post(PATH + "/{name:str}/pause", status_code=200)
async def pause_schedule(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    return json_reply(ScheduleView.of(await schedules.pause(rest.core, ctx, request.path_params["name"])))


@post(PATH + "/{name:str}/resume", status_code=200)
async def resume_schedule(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    return json_reply(ScheduleView.of(await schedules.resume(rest.core, ctx, request.path_params["name"])))


@post(PATH + "/{name:str}/run")
async def run_schedule(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    rest.refuse_if_draining()
    job_id = await schedules.run(rest.core, ctx, request.path_params["name"])
    location = (b"location", b"/api/v1/jobs/%d" % job_id)
    return json_reply(ScheduleRun(str(job_id)), 201, headers=(location,))


@get(PATH + "/{name:str}/preview")
async def preview_schedule(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    query = read_query(request.scope, PreviewQuery)
    name = request.path_params["name"]
    return json_reply(
        Firings(await schedules.preview(rest.core, ctx, name, after=query.after, count=query.count))
    )


@get(PATH + "/{name:str}/ticks")
async def list_ticks(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    query = read_query(request.scope, PageQuery)
    name = request.path_params["name"]
    page = await fetch_page(
        rest,
        ctx,
        lambda limit, cursor: schedules.list_ticks(rest.core, ctx, name, limit=limit, cursor=cursor),
        limit=query.limit,
        cursor=query.cursor,
        bound_to=["ticks", name],
    )
    return json_reply(
        TickPage(page.data, page.next_cursor), headers=next_link(request.scope, page.next_cursor)
    )


HANDLERS = (
    create_schedule,
    list_schedules,
    preview_expression,
    get_schedule,
    change_schedule,
    delete_schedule,
    pause_schedule,
    resume_schedule,
    run_schedule,
    preview_schedule,
    list_ticks,
)
