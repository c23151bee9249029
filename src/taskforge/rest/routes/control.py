"""/api/v1/jobs/{job_id}: changes by hand"""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, get, patch
from msgspec import UNSET

from taskforge.domain.control import JobChange
from taskforge.errors import Invalid
from taskforge.rest.parameters import read_job_id
from taskforge.rest.replies import Reply, json_reply
from taskforge.rest.routes.queues import read_document
from taskforge.rest.schemas import JobChanges
from taskforge.rest.state import enter
from taskforge.rest.strict_json import check_value, relocate
from taskforge.services import control

PATH = "/api/v1/jobs/{job_id:str}"

AnyRequest = Request[Any, Any, Any]

_change = msgspec.json.Decoder(JobChange).decode


@patch(PATH)
async def change_job(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    job_id = read_job_id(request.path_params["job_id"])
    change = await read_document(rest, request, _change)
    for name in ("payload", "payload_patch"):
        if (raw := getattr(change, name)) is not UNSET:
            try:
                check_value(bytes(raw))
            except Invalid as error:
                raise relocate(error, f"/{name}") from None
    return json_reply(await control.change(rest.core, ctx, job_id, change))


@get(PATH + "/changes")
async def list_changes(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    job_id = read_job_id(request.path_params["job_id"])
    return json_reply(JobChanges(await control.changes(rest.core, ctx, job_id)))


HANDLERS = (change_job, list_changes)
