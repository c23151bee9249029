"""/healthz, /readyz and /metrics: for machines, without tenant data; /api/v1/health: a tenant's queues at a glance."""

from __future__ import annotations

import ipaddress
from typing import Any

import msgspec
from litestar import Request, get
from litestar.types import Scope

from taskforge.rest.auth import authenticate
from taskforge.rest.metrics import CONTENT_TYPE
from taskforge.rest.paging import PageQuery, next_link
from taskforge.rest.parameters import check_limit, read_query
from taskforge.rest.replies import Reply, json_reply
from taskforge.rest.schemas import Health
from taskforge.rest.state import enter, state_of
from taskforge.services import health

AnyRequest = Request[Any, Any, Any]


@get("/healthz")
async def healthz() -> Reply:
    """The process answers. No input or output."""
    return json_reply(Health("ok"))


@get("/readyz")
async def readyz(request: AnyRequest) -> Reply:
    """Requests can be served now: not draining, the database there and migrated."""
    rest = state_of(request.app)
    rest.refuse_if_draining()
    await rest.check_ready()
    return json_reply(Health("ready"))


@get("/metrics")
async def metrics(request: AnyRequest) -> Reply:
    """Open to this machine in development; otherwise it takes a token."""
    rest = state_of(request.app)
    if not (rest.is_development and _is_local(request.scope)):
        authenticate(request.scope, rest.tokens)
    return Reply(200, await rest.metrics.render(), media=CONTENT_TYPE)


@get("/api/v1/health")
async def overview(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    query = read_query(request.scope, PageQuery)
    check_limit(query.limit)
    seal, bound = rest.cursors, ["health"]
    position = None
    if query.cursor is not None:
        position = seal.open(query.cursor, tenant_id=ctx.tenant_id, query=bound)
    found = await health.of_all(rest.core, ctx, limit=query.limit, cursor=position)
    if found.next_cursor is not None:
        sealed = seal.seal(found.next_cursor, tenant_id=ctx.tenant_id, query=bound)
        found = msgspec.structs.replace(found, next_cursor=sealed)
    return json_reply(found, headers=next_link(request.scope, found.next_cursor))


def _is_local(scope: Scope) -> bool:
    client = scope.get("client")
    if client is None:
        return False
    try:
        return ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False


HANDLERS = (
    healthz,
    readyz,
    metrics,
    overview,
)
