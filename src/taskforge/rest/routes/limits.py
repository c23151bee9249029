"""/api/v1/queues/{name}/keys and /api/v1/tenant"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
from litestar import Request, get, patch, put

from taskforge.domain.limits import KeyPolicy, TenantChange
from taskforge.rest.paging import PageQuery, fetch_page, next_link
from taskforge.rest.parameters import read_query
from taskforge.rest.replies import Reply, json_reply
from taskforge.rest.routes.queues import PATH, read_document
from taskforge.rest.schemas import KeyPage
from taskforge.rest.state import enter
from taskforge.services import limits

KEYS = PATH + "/{name:str}/keys"
TENANT = "/api/v1/tenant"

_policy = msgspec.json.Decoder(KeyPolicy).decode
_change = msgspec.json.Decoder(TenantChange).decode

AnyRequest = Request[Any, Any, Any]


@get(KEYS)
async def list_keys(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    name = request.path_params["name"]
    query = read_query(request.scope, PageQuery)
    page = await fetch_page(
        rest,
        ctx,
        lambda limit, cursor: limits.list_keys(rest.core, ctx, name, limit=limit, cursor=cursor),
        limit=query.limit,
        cursor=query.cursor,
        bound_to=["keys", name],
    )
    return json_reply(
        KeyPage(page.data, page.next_cursor), headers=next_link(request.scope, page.next_cursor)
    )


@get(KEYS + "/{key:path}")
async def get_key(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    name, key = _named(request)
    return json_reply(await limits.get_key(rest.core, ctx, name, key))


@put(KEYS + "/{key:path}")
async def set_key(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    name, key = _named(request)
    policy = await read_document(rest, request, _policy)
    return json_reply(await limits.set_key(rest.core, ctx, name, key, policy))


@get(TENANT)
async def get_tenant(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    return json_reply(await limits.get_tenant(rest.core, ctx))


@patch(TENANT)
async def change_tenant(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    return json_reply(await limits.change_tenant(rest.core, ctx, await read_document(rest, request, _change)))


def _named(request: AnyRequest) -> tuple[str, str]:
    """Queue and key. A key may hold slashes, so it is read from the path as it was sent: what has been decoded and
    tidied up does not tell them from the path's own. What is not ASCII is no key, however it is decoded."""
    sent = request.scope["raw_path"].partition(b"?")[0]
    return request.path_params["name"], unquote_to_bytes(sent.split(b"/", 6)[6]).decode("latin-1")


HANDLERS = (list_keys, get_key, set_key, get_tenant, change_tenant)
