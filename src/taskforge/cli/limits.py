"""taskforge queues keys, taskforge queues set-key, taskforge tenant"""

from __future__ import annotations

import asyncio
from uuid import UUID

import click
from msgspec import structs

from taskforge.api import path_of
from taskforge.cli.access import Access
from taskforge.cli.command import ClientCommand, ClientGroup, Command, Common, pass_common
from taskforge.cli.output import details, emit, table
from taskforge.cli.queues import ask, tenant_option
from taskforge.domain.limits import KeyPolicy, KeyView, TenantView
from taskforge.domain.tenants import DEFAULT_TENANT, Context
from taskforge.rest.schemas import KeyPage


@click.command("keys", cls=ClientCommand)
@click.argument("name")
@tenant_option
@pass_common
def keys(common: Common, name: str, tenant: UUID | None) -> None:
    """List the concurrency keys of a queue, with what runs and waits of each.

    \b
    Example:
      taskforge queues keys email --json | jq -r 'select(.waiting > 100) | .key'
    """

    async def fetch(access: Access) -> list[KeyView]:
        found: list[KeyView] = []
        cursor: str | None = None
        while True:
            path = path_of("queues", name, "keys", query={"limit": 500, "cursor": cursor})
            page = await access.api.call("GET", path, reads=KeyPage)
            found += page.data
            cursor = page.next_cursor
            if cursor is None:
                return found

    found = ask(common, tenant, fetch)
    if common.is_json:
        for key in found:
            emit(key)
        return
    columns = ("key", "weight", "limit", "running", "waiting", "opens")
    rows = [
        (
            k.key,
            f"{k.weight:g}",
            "-" if k.max_concurrency is None else k.max_concurrency,
            k.processing,
            f"{k.waiting}+" if k.has_more else k.waiting,
            k.opens_at or "-",
        )
        for k in found
    ]
    table(columns, rows, right=columns[1:5])


@click.command("set-key", cls=ClientCommand)
@click.argument("name")
@click.argument("key")
@click.option("--weight", type=float, default=1.0, show_default=True, help="Its share when keys take turns.")
@click.option("--max-concurrency", type=int, help="A limit of its own; 0 holds it; the queue's if not given.")
@tenant_option
@pass_common
def set_key(
    common: Common, name: str, key: str, weight: float, max_concurrency: int | None, tenant: UUID | None
) -> None:
    """Set one concurrency key of a queue apart. What is not given goes back to its default.

    \b
    Example:
      taskforge queues set-key email customer-7 --weight 2 --max-concurrency 10
    """
    policy = KeyPolicy(weight=weight, max_concurrency=max_concurrency)
    path = path_of("queues", name, "keys", key)
    made = ask(common, tenant, lambda access: access.api.call("PUT", path, policy, reads=KeyView))
    if common.is_json:
        emit(made)
        return
    details(tuple((field.replace("_", " "), value) for field, value in structs.asdict(made).items()))


@click.group(cls=ClientGroup)
def tenant() -> None:
    """Look at a tenant's limit and its share of shared workers, and change them."""


@tenant.command()
@tenant_option
@pass_common
def show(common: Common, tenant: UUID | None) -> None:
    """Show the limit and the share of a tenant."""
    _print(
        common,
        ask(common, tenant, lambda access: access.api.call("GET", path_of("tenant"), reads=TenantView)),
    )


@tenant.command()
@click.argument("max_concurrency", metavar="COUNT|none")
@tenant_option
@pass_common
def limit(common: Common, max_concurrency: str, tenant: UUID | None) -> None:
    """Limit how many jobs of a tenant run at the same time, over all its queues.

    \b
    Examples:
      taskforge tenant limit 100
      taskforge tenant limit none
    """
    if max_concurrency != "none" and not max_concurrency.isdecimal():
        raise click.BadParameter('give a number, or "none"', param_hint="COUNT")
    body = {"max_concurrency": None if max_concurrency == "none" else int(max_concurrency)}
    _print(
        common,
        ask(
            common,
            tenant,
            lambda access: access.api.call("PATCH", path_of("tenant"), body, reads=TenantView),
        ),
    )


@tenant.command(cls=Command)
@click.argument("share", metavar="WEIGHT", type=float)
@tenant_option
@pass_common
def weight(common: Common, share: float, tenant: UUID | None) -> None:
    """Set a tenant's share of workers that serve several tenants; 1 if never set. Needs the database itself.

    \b
    Example:
      taskforge tenant weight 3 --tenant 00000000-0000-7000-8000-000000000001
    """
    from taskforge.cli.database import open_ready_core
    from taskforge.services import limits

    async def run() -> TenantView:
        async with open_ready_core(common.settings()) as core:
            return await limits.weigh_tenant(core, Context(tenant or DEFAULT_TENANT, "operator"), share)

    _print(common, asyncio.run(run()))


def _print(common: Common, shown: TenantView) -> None:
    if common.is_json:
        emit(shown)
        return
    details(tuple((field.replace("_", " "), value) for field, value in structs.asdict(shown).items()))
