"""/api/v1/jobs"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import msgspec
from litestar import Request, asgi, get, post
from litestar.types import Receive, Scope, Send
from msgspec import Struct

from taskforge.domain.jobs import JobFilter, JobState, JobView
from taskforge.domain.tenants import Context
from taskforge.errors import FieldError, Invalid
from taskforge.rest.paging import PageQuery, fetch_page, next_link
from taskforge.rest.parameters import read_job_id, read_query
from taskforge.rest.problems import MethodNotAllowed
from taskforge.rest.replies import Reply, json_reply
from taskforge.rest.routes.submit import submit, submit_batch
from taskforge.rest.schemas import JobPage
from taskforge.rest.state import RestState, enter
from taskforge.services import jobs

PATH = "/api/v1/jobs"
MAX_WAIT_SECONDS = 60.0


class ListQuery(PageQuery, frozen=True):
    queue_name: str | None = None
    state: JobState | None = None
    job_type: str | None = None
    tag: str | None = None
    submitted_after: datetime | None = None
    submitted_before: datetime | None = None


class WaitQuery(Struct, frozen=True):
    wait: float = 0.0


@asgi(PATH, copy_scope=False)
async def job_collection(scope: Scope, receive: Receive, send: Send) -> None:
    match scope.get("method"):
        case "POST":
            reply = await submit(scope, receive)
        case "GET":
            reply = await _list(scope)
        case _:
            raise MethodNotAllowed("GET, POST")
    await reply(scope, receive, send)


@asgi(f"{PATH}/batch", copy_scope=False)
async def job_batch(scope: Scope, receive: Receive, send: Send) -> None:
    if scope.get("method") != "POST":
        raise MethodNotAllowed("POST")
    reply = await submit_batch(scope, receive)
    await reply(scope, receive, send)


@get(PATH + "/{job_id:str}")
async def get_job(request: Request[Any, Any, Any]) -> Reply:
    rest, ctx = enter(request.scope)
    job_id = read_job_id(request.path_params["job_id"])
    seconds = read_query(request.scope, WaitQuery).wait
    if not 0 <= seconds <= MAX_WAIT_SECONDS:
        detail = f"must be between 0 and {MAX_WAIT_SECONDS:.0f} seconds"
        raise Invalid(
            "request.invalid", f"/wait: {detail}", fields=(FieldError("/wait", "out_of_range", detail),)
        )
    view = await jobs.get(rest.core, ctx, job_id)
    if seconds and not view.state.is_final:
        view = await _wait(rest, ctx, job_id, seconds)
    return json_reply(view)


@post(PATH + "/{job_id:str}/cancel", status_code=200)
async def cancel_job(request: Request[Any, Any, Any]) -> Reply:
    rest, ctx = enter(request.scope)
    job_id = read_job_id(request.path_params["job_id"])
    view = await jobs.cancel(rest.core, ctx, job_id)
    return json_reply(view, 200 if view.state.is_final else 202)


@post(PATH + "/{job_id:str}/retry", status_code=200)
async def retry_job(request: Request[Any, Any, Any]) -> Reply:
    rest, ctx = enter(request.scope)
    job_id = read_job_id(request.path_params["job_id"])
    return json_reply(await jobs.retry(rest.core, ctx, job_id))


async def _list(scope: Scope) -> Reply:
    rest, ctx = enter(scope)
    query = read_query(scope, ListQuery)
    wanted = msgspec.convert(query, JobFilter, from_attributes=True)
    page = await fetch_page(
        rest,
        ctx,
        lambda limit, cursor: jobs.list_jobs(rest.core, ctx, wanted, limit=limit, cursor=cursor),
        limit=query.limit,
        cursor=query.cursor,
        bound_to=["jobs", wanted],
    )
    return json_reply(JobPage(page.data, page.next_cursor), headers=next_link(scope, page.next_cursor))


async def _wait(rest: RestState, ctx: Context, job_id: int, seconds: float) -> JobView:
    """The job at its end, or as it is when the time is over or the server is about to stop."""
    waiting = asyncio.create_task(jobs.wait(rest.core, ctx, job_id, timeout=seconds), name="wait-for-job")
    stopping = asyncio.create_task(rest.draining.wait(), name="wait-for-drain")
    try:
        await asyncio.wait((waiting, stopping), return_when=asyncio.FIRST_COMPLETED)
        return await waiting if waiting.done() else await jobs.get(rest.core, ctx, job_id)
    finally:
        waiting.cancel()
        stopping.cancel()
        await asyncio.gather(waiting, stopping, return_exceptions=True)


HANDLERS = (
    job_collection,
    job_batch,
    get_job,
    cancel_job,
    retry_job,
)
