"""taskforge dead-letters"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import click

from taskforge.api import path_of
from taskforge.cli.access import Access
from taskforge.cli.bulk_operations import carry_out, error_options, how_options, split
from taskforge.cli.command import ClientGroup, Common, pass_common
from taskforge.cli.jobs import print_jobs
from taskforge.cli.kinds import duration
from taskforge.cli.output import emit, table
from taskforge.cli.paging import collect
from taskforge.cli.queues import ask, tenant_option
from taskforge.domain.bulk import Canary
from taskforge.domain.dead_letters import DeadLetterGroups
from taskforge.domain.jobs import JobView
from taskforge.rest.schemas import JobPage
from taskforge.services.pages import Page

_type = click.option("--type", "job_type", metavar="TYPE", help="Only of this type.")
_tag = click.option("--tag", metavar="TAG", help="Only with this tag.")


@click.group("dead-letters", cls=ClientGroup)
def dead_letters() -> None:
    """Look into the failed jobs of a queue, run them again, delete them."""


@dead_letters.command()
@click.argument("queue")
@click.option(
    "--limit", type=click.IntRange(1, 1_000), default=20, show_default=True, help="How many at most."
)
@tenant_option
@pass_common
def groups(common: Common, queue: str, limit: int, tenant: UUID | None) -> None:
    """Group the dead letters of a queue by what went wrong, the largest groups first.

    \b
    Example:
      taskforge dead-letters groups email
    """
    path = path_of("queues", queue, "dead-letters", "groups", query={"limit": limit})
    found = ask(common, tenant, lambda access: access.api.call("GET", path, reads=DeadLetterGroups))
    if common.is_json:
        for group in found.data:
            emit(group)
        return
    columns = ("fingerprint", "count", "last", "types", "error")
    rows = [
        (
            group.fingerprint,
            group.count,
            group.last_failed_at,
            group.job_types,
            f"{group.error_class}: {group.message}"[:80] if group.error_class else "-",
        )
        for group in found.data
    ]
    table(columns, rows, right=("count",))


@dead_letters.command("list")
@click.argument("queue")
@_type
@_tag
@error_options
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="How many at most."
)
@tenant_option
@pass_common
def list_(common: Common, /, queue: str, limit: int, tenant: UUID | None, **wanted: Any) -> None:
    """List the dead letters of a queue, newest first.

    \b
    Examples:
      taskforge dead-letters list email --error "refused"
      taskforge dead-letters list email --fingerprint 0a54ee4cca6f3c05 --json
    """

    async def page(access: Access, size: int, cursor: str | None) -> Page[JobView]:
        path = path_of("queues", queue, "dead-letters", query={**wanted, "limit": size, "cursor": cursor})
        found = await access.api.call("GET", path, reads=JobPage)
        return Page(found.data, found.next_cursor)

    async def fetch(access: Access) -> None:
        await print_jobs(common, collect(lambda size, cursor: page(access, size, cursor), limit=limit))

    ask(common, tenant, fetch)


@dead_letters.command()
@click.argument("queue")
@_type
@_tag
@error_options
@click.option(
    "--canary", type=click.IntRange(1, 1_000), metavar="N", help="First N only; the rest if they succeed."
)
@click.option(
    "--watch", type=duration, default=60.0, metavar="DURATION", help="How long the canary may take; 1m."
)
@click.option(
    "--min-success", type=float, default=1.0, metavar="RATIO", help="Share of the canary that must; 1."
)
@how_options
@tenant_option
@pass_common
def redrive(
    common: Common,
    /,
    queue: str,
    canary: int | None,
    watch: float,
    min_success: float,
    tenant: UUID | None,
    **given: Any,
) -> int:
    """Give dead letters new attempts, in the background.

    \b
    Example:
      taskforge dead-letters redrive email --fingerprint 0a54ee4cca6f3c05 --canary 10 --rate 100
    """
    wanted, how = split(given)
    first = None if canary is None else Canary(canary, watch, min_success)
    return carry_out(common, tenant, "redrive", wanted | {"queue_name": queue}, how, canary=first)


@dead_letters.command()
@click.argument("queue")
@_type
@_tag
@error_options
@how_options
@tenant_option
@pass_common
def purge(common: Common, /, queue: str, tenant: UUID | None, **given: Any) -> int:
    """Delete dead letters for good, in the background.

    \b
    Example:
      taskforge dead-letters purge email --failed-until 30d --preview
    """
    wanted, how = split(given)
    return carry_out(common, tenant, "purge", wanted | {"queue_name": queue}, how)
