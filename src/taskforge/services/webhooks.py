"""Webhooks: the messages and how they fared, and the secrets that sign them."""

from __future__ import annotations

import secrets

from msgspec import Struct

from taskforge.domain.tenants import Context
from taskforge.domain.webhooks import (
    MAX_ACTIVE_SECRETS,
    SECRET_BYTES,
    DeliveryState,
    DeliveryView,
    SecretView,
    secret_text,
)
from taskforge.errors import Conflict, Invalid, NotFound
from taskforge.postgres import webhooks
from taskforge.services.core import Core
from taskforge.services.pages import Page

MAX_ID = 2**63 - 1


class NewSecret(Struct, frozen=True):
    """The only time that the secret is told."""

    view: SecretView
    text: str


async def list_deliveries(
    core: Core, ctx: Context, *, state: DeliveryState | None, limit: int, cursor: str | None = None
) -> Page[DeliveryView]:
    """Newest first."""
    if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 20):
        raise Invalid("cursor.invalid", "the cursor is not one of ours; start again without it")
    below = MAX_ID if cursor is None else min(int(cursor), MAX_ID)
    async with core.database.tenant(ctx.tenant_id) as connection:
        found = await webhooks.list_deliveries(
            connection, ctx.tenant_id, state=state, below=below, limit=limit + 1
        )
    more = len(found) > limit
    return Page(found[:limit], found[limit - 1].id if more else None)


async def get_delivery(core: Core, ctx: Context, delivery_id: int) -> DeliveryView:
    """Raises NotFound."""
    async with core.database.tenant(ctx.tenant_id) as connection:
        found = await webhooks.get_delivery(connection, ctx.tenant_id, _small(delivery_id))
    return _delivery(found, delivery_id)


async def redeliver(core: Core, ctx: Context, delivery_id: int) -> DeliveryView:
    """Send it again, now, with all attempts anew, whatever became of it. Raises NotFound."""
    async with core.database.tenant(ctx.tenant_id) as connection:
        found = await webhooks.redeliver(connection, ctx.tenant_id, _small(delivery_id))
    core.wakeups.jobs_parked()
    return _delivery(found, delivery_id)


async def list_secrets(core: Core, ctx: Context) -> list[SecretView]:
    """Newest first; what they are is not told any more."""
    async with core.database.tenant(ctx.tenant_id) as connection:
        return await webhooks.secrets(connection, ctx.tenant_id)


async def create_secret(core: Core, ctx: Context) -> NewSecret:
    """A second one beside the first signs together with it, until the first is retired.

    Raises Conflict `webhook.too_many_secrets` when there are two already.
    """
    key = secrets.token_bytes(SECRET_BYTES)
    async with core.database.tenant(ctx.tenant_id) as connection:
        made = await webhooks.add_secret(connection, ctx.tenant_id, key, ctx.actor)
    if made is None:
        raise Conflict(
            "webhook.too_many_secrets",
            f"{MAX_ACTIVE_SECRETS} secrets are active; retire one of them first",
        )
    core.wakeups.jobs_parked()
    return NewSecret(made, secret_text(key))


async def retire_secret(core: Core, ctx: Context, secret_id: int) -> SecretView:
    """From now on nothing is signed with it. Raises NotFound."""
    async with core.database.tenant(ctx.tenant_id) as connection:
        found = await webhooks.retire_secret(connection, ctx.tenant_id, _small(secret_id))
    if found is None:
        raise NotFound("webhook.secret_not_found", f'webhook secret "{secret_id}" does not exist')
    return found


def _small(number: int) -> int:
    return number if 0 < number <= MAX_ID else 0


def _delivery(found: DeliveryView | None, delivery_id: int) -> DeliveryView:
    if found is None:
        raise NotFound("webhook.delivery_not_found", f'webhook delivery "{delivery_id}" does not exist')
    return found
