"""/api/v1/webhooks"""

from __future__ import annotations

from typing import Any

from litestar import Request, get, post

from taskforge.domain.webhooks import DeliveryState
from taskforge.errors import NotFound
from taskforge.rest.paging import PageQuery, fetch_page, next_link
from taskforge.rest.parameters import parse_job_id, read_query
from taskforge.rest.replies import Reply, json_reply
from taskforge.rest.schemas import DeliveryPage, SecretMade, Secrets
from taskforge.rest.state import enter
from taskforge.rest.strict_json import escape
from taskforge.services import webhooks

PATH = "/api/v1/webhooks"

AnyRequest = Request[Any, Any, Any]


class ListQuery(PageQuery, frozen=True):
    state: DeliveryState | None = None


@get(PATH + "/deliveries")
async def list_deliveries(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    query = read_query(request.scope, ListQuery)
    page = await fetch_page(
        rest,
        ctx,
        lambda limit, cursor: webhooks.list_deliveries(
            rest.core, ctx, state=query.state, limit=limit, cursor=cursor
        ),
        limit=query.limit,
        cursor=query.cursor,
        bound_to=["deliveries", query.state],
    )
    return json_reply(
        DeliveryPage(page.data, page.next_cursor), headers=next_link(request.scope, page.next_cursor)
    )


@get(PATH + "/deliveries/{delivery_id:str}")
async def get_delivery(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    return json_reply(await webhooks.get_delivery(rest.core, ctx, _read_id(request, "delivery")))


@post(PATH + "/deliveries/{delivery_id:str}/redeliver", status_code=200)
async def redeliver(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    return json_reply(await webhooks.redeliver(rest.core, ctx, _read_id(request, "delivery")), 202)


@get(PATH + "/secrets")
async def list_secrets(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    return json_reply(Secrets(await webhooks.list_secrets(rest.core, ctx)))


@post(PATH + "/secrets")
async def create_secret(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    made = await webhooks.create_secret(rest.core, ctx)
    return json_reply(SecretMade(made.view.id, made.text, made.view.created_at), 201)


@post(PATH + "/secrets/{secret_id:str}/retire", status_code=200)
async def retire_secret(request: AnyRequest) -> Reply:
    rest, ctx = enter(request.scope)
    return json_reply(await webhooks.retire_secret(rest.core, ctx, _read_id(request, "secret")))


def _read_id(request: AnyRequest, noun: str) -> int:
    text = request.path_params[f"{noun}_id"]
    number = parse_job_id(text)
    if number is None:
        raise NotFound(f"webhook.{noun}_not_found", f'webhook {noun} "{escape(text)}" does not exist')
    return number


HANDLERS = (
    list_deliveries,
    get_delivery,
    redeliver,
    list_secrets,
    create_secret,
    retire_secret,
)
