"""taskforge queues"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from uuid import UUID

import click
import msgspec

from taskforge.api import path_of
from taskforge.cli.access import Access, open_access
from taskforge.cli.command import ClientGroup, Common, pass_common
from taskforge.cli.output import confirm, details, emit, progress, say, shown, table
from taskforge.cli.queue_settings import given, settings_options
from taskforge.domain.queues import DEFAULT_SETTINGS, SETTING_NAMES, Pause, QueueChange, QueueDraft
from taskforge.rest.schemas import QueueView

T = TypeVar("T")

tenant_option = click.option("--tenant", type=click.UUID, help="Whose; the default tenant if not given.")
_sure = click.option("--yes", is_flag=True, help="Do not ask.")


@click.group(cls=ClientGroup)
def queues() -> None:
    """Make, change, pause and look at queues and their dead letters."""


def ask(common: Common, tenant: UUID | None, question: Callable[[Access], Awaitable[T]]) -> T:
    """Open what is asked, ask, close."""

    async def run() -> T:
        async with open_access(common, tenant_id=tenant) as access:
            return await question(access)

    return asyncio.run(run())


@queues.command("list")
@tenant_option
@pass_common
def list_(common: Common, tenant: UUID | None) -> None:
    """List the queues by name.

    \b
    Example:
      taskforge queues list --json | jq -r .name
    """

    async def fetch(access: Access) -> list[QueueView]:
        found: list[QueueView] = []
        cursor: str | None = None
        while True:
            page = await access.list_queues(limit=500, cursor=cursor)
            found += page.data
            cursor = page.next_cursor
            if cursor is None:
                return found

    found = ask(common, tenant, fetch)
    if common.is_json:
        for queue in found:
            emit(queue)
        return
    columns = ("queue", "priority", "paused", "attempts", "timeout", "retry")
    rows = [
        (q.name, q.priority, q.paused, q.max_attempts, f"{q.timeout_seconds:g} s", q.retry.kind)
        for q in found
    ]
    table(columns, rows, right=("priority", "attempts", "timeout"))


@queues.command()
@click.argument("name")
@tenant_option
@pass_common
def show(common: Common, name: str, tenant: UUID | None) -> None:
    """Show one queue and its policy."""
    print_queue(common, ask(common, tenant, lambda access: access.get_queue(name)))


@queues.command()
@click.argument("name")
@settings_options
@tenant_option
@pass_common
def create(common: Common, /, name: str, tenant: UUID | None, **policy: Any) -> None:
    """Make a queue.

    \b
    Example:
      taskforge queues create email --max-attempts 8 --timeout 30s --retry linear
    """
    draft = QueueDraft(name=name, **given(policy))
    print_queue(common, ask(common, tenant, lambda access: access.create_queue(draft)))


@queues.command()
@click.argument("name")
@settings_options
@click.option("--comment", help="Why; kept with the version.")
@click.option("--if-version", type=int, metavar="N", help="Only if the queue is still at this version.")
@tenant_option
@pass_common
def update(
    common: Common,
    /,
    name: str,
    comment: str | None,
    if_version: int | None,
    tenant: UUID | None,
    **policy: Any,
) -> None:
    """Change a queue; what is not given stays. Jobs that wait already follow, unless they say otherwise themselves.

    \b
    Example:
      taskforge queues update email --timeout 2m --max-concurrency 10 --comment "the mail server is slow"
    """
    changes = given(policy)
    if not changes:
        raise click.UsageError("nothing to change; give at least one setting, for example --max-attempts 8")
    change = QueueChange(**changes, comment=comment, if_version=if_version)
    print_queue(common, ask(common, tenant, lambda access: access.update_queue(name, change)))


@queues.command()
@click.argument("name")
@_sure
@tenant_option
@pass_common
def delete(common: Common, name: str, yes: bool, tenant: UUID | None) -> None:
    """Delete a queue that holds no job which has not ended."""
    confirm(f'Delete the queue "{name}"?', is_sure=yes)
    ask(common, tenant, lambda access: access.delete_queue(name))
    say(f'queue "{name}" is deleted')


@queues.command()
@click.argument("name")
@click.option("--reason", help="Why; shown to whoever wonders.")
@tenant_option
@pass_common
def pause(common: Common, name: str, reason: str | None, tenant: UUID | None) -> None:
    """Take no more jobs from a queue. Submits are still accepted; running jobs go on."""
    path = path_of("queues", name, "pause")
    body = Pause(reason)
    print_queue(
        common, ask(common, tenant, lambda access: access.api.call("POST", path, body, reads=QueueView))
    )


@queues.command()
@click.argument("name")
@tenant_option
@pass_common
def resume(common: Common, name: str, tenant: UUID | None) -> None:
    """Take jobs from a paused queue again."""
    print_queue(common, ask(common, tenant, lambda access: access.set_paused(name, False)))


@queues.command("dead-letters")
@click.argument("name")
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="How many at most."
)
@tenant_option
@pass_common
def dead_letters(common: Common, name: str, limit: int, tenant: UUID | None) -> None:
    """List the failed jobs of a queue, newest first."""
    from taskforge.cli.jobs import print_jobs
    from taskforge.cli.paging import collect

    async def fetch(access: Access) -> None:
        pages = collect(
            lambda size, cursor: access.list_dead_letters(name, limit=size, cursor=cursor), limit=limit
        )
        await print_jobs(common, pages)

    ask(common, tenant, fetch)


@queues.command()
@click.argument("name")
@click.argument("job_ids", metavar="[JOB_ID]...", nargs=-1)
@_sure
@tenant_option
@pass_common
def redrive(common: Common, name: str, job_ids: tuple[str, ...], yes: bool, tenant: UUID | None) -> None:
    """Give dead letters new attempts: those named, or all of the queue.

    \b
    Example:
      taskforge queues redrive email --yes
    """
    if not job_ids:
        confirm(f'Run every dead letter of "{name}" again?', is_sure=yes)
    count = ask(common, tenant, lambda access: _work_off(access, name, job_ids, is_purge=False))
    _count(common, "redriven", count)


@queues.command()
@click.argument("name")
@click.argument("job_ids", metavar="[JOB_ID]...", nargs=-1)
@_sure
@tenant_option
@pass_common
def purge(common: Common, name: str, job_ids: tuple[str, ...], yes: bool, tenant: UUID | None) -> None:
    """Delete dead letters for good: those named, or all of the queue."""
    what = f"{len(job_ids)} dead letters" if job_ids else "every dead letter"
    confirm(f'Delete {what} of "{name}" for good?', is_sure=yes)
    count = ask(common, tenant, lambda access: _work_off(access, name, job_ids, is_purge=True))
    _count(common, "purged", count)


async def _work_off(access: Access, name: str, job_ids: tuple[str, ...], *, is_purge: bool) -> int:
    """Done in one call; the bar follows the number of dead letters that are left."""
    before = (await access.health(name)).dead_letters
    act = access.purge if is_purge else access.redrive
    with progress() as bar:
        shown = bar.add_task("purging" if is_purge else "redriving", total=len(job_ids) or before)
        working = asyncio.ensure_future(act(name, list(job_ids) or None))
        while not (await asyncio.wait({working}, timeout=0.5))[0]:
            left = (await access.health(name)).dead_letters
            bar.update(shown, completed=max(0, before - left))
        return await working


def _count(common: Common, verb: str, count: int) -> None:
    if common.is_json:
        emit({verb: count})
    else:
        say(f"{verb} {count}")


def print_queue(common: Common, queue: QueueView) -> None:
    if common.is_json:
        emit(queue)
        return
    policy = queue.retry
    extra = [(name, _setting(queue, name)) for name in SETTING_NAMES]
    details(
        (
            ("queue", queue.name),
            ("version", queue.version),
            ("paused", _pause_text(queue)),
            ("priority", queue.priority),
            ("max attempts", queue.max_attempts),
            ("timeout", f"{queue.timeout_seconds:g} s"),
            ("retry", f"{policy.kind}, {msgspec.json.encode(policy).decode()}"),
            *((name.replace("_", " "), text) for name, text in extra if text is not None),
            ("created", queue.created_at),
            ("updated", queue.updated_at),
        )
    )


def _pause_text(queue: QueueView) -> str:
    if not queue.paused:
        return "no"
    return f"by {queue.paused_by} since {shown(queue.paused_at)}" + (
        f": {queue.pause_reason}" if queue.pause_reason else ""
    )


def _setting(queue: QueueView, name: str) -> str | None:
    """None for what the queue leaves alone."""
    value = getattr(queue, name)
    if value == getattr(DEFAULT_SETTINGS, name):
        return None
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
