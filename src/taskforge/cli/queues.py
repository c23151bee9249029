"""taskforge queues"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from uuid import UUID

import click
import msgspec
from msgspec import UNSET

from taskforge.cli.access import Access, open_access
from taskforge.cli.command import ClientGroup, Common, pass_common
from taskforge.cli.kinds import duration
from taskforge.cli.output import confirm, details, emit, progress, say, table
from taskforge.domain.queues import QueueChange, QueueDraft, QueueHealth
from taskforge.domain.retry import RetryPolicy
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
    _print(common, ask(common, tenant, lambda access: access.get_queue(name)))


def policy_option(_: click.Context, __: click.Parameter, value: str | None) -> RetryPolicy | None:
    """An option's callback: a retry policy, by its kind or as JSON."""
    if value is None:
        return None
    text = value if value.lstrip().startswith("{") else msgspec.json.encode({"kind": value}).decode()
    try:
        return msgspec.json.decode(text, type=RetryPolicy)
    except msgspec.DecodeError as error:
        raise click.BadParameter(
            f'{error}; write exponential, linear, fixed, or a policy like {{"kind": "fixed", "base_seconds": 10}}'
        ) from None


def _policy_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--retry", callback=policy_option, metavar="POLICY", help="exponential, linear, fixed, or JSON."
        ),
        click.option("--timeout", type=duration, metavar="DURATION", help="How long one attempt may run."),
        click.option("--max-attempts", type=int, help="Attempts before a job is a dead letter, 1 to 100."),
        click.option("--priority", type=int, help="Against other queues, higher first, -1000 to 1000."),
    ):
        command = option(command)
    return command


def _given(
    priority: int | None, max_attempts: int | None, timeout: float | None, retry: RetryPolicy | None
) -> dict[str, Any]:
    values = {"priority": priority, "max_attempts": max_attempts, "timeout_seconds": timeout, "retry": retry}
    return {name: value for name, value in values.items() if value is not None}


@queues.command()
@click.argument("name")
@_policy_options
@tenant_option
@pass_common
def create(common: Common, /, name: str, tenant: UUID | None, **policy: Any) -> None:
    """Make a queue.

    \b
    Example:
      taskforge queues create email --max-attempts 8 --timeout 30s --retry linear
    """
    draft = QueueDraft(name=name, **_given(**policy))
    _print(common, ask(common, tenant, lambda access: access.create_queue(draft)))


@queues.command()
@click.argument("name")
@_policy_options
@tenant_option
@pass_common
def update(common: Common, /, name: str, tenant: UUID | None, **policy: Any) -> None:
    """Change a queue; what is not given stays. Jobs that wait already follow, unless they say otherwise themselves.

    \b
    Example:
      taskforge queues update email --timeout 2m
    """
    given = _given(**policy)
    if not given:
        raise click.UsageError("nothing to change; give --priority, --max-attempts, --timeout or --retry")
    change = QueueChange(**{name: given.get(name, UNSET) for name in QueueChange.__struct_fields__})
    _print(common, ask(common, tenant, lambda access: access.update_queue(name, change)))


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
@tenant_option
@pass_common
def pause(common: Common, name: str, tenant: UUID | None) -> None:
    """Take no more jobs from a queue. Submits are still accepted; running jobs go on."""
    _print(common, ask(common, tenant, lambda access: access.set_paused(name, True)))


@queues.command()
@click.argument("name")
@tenant_option
@pass_common
def resume(common: Common, name: str, tenant: UUID | None) -> None:
    """Take jobs from a paused queue again."""
    _print(common, ask(common, tenant, lambda access: access.set_paused(name, False)))


@queues.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@tenant_option
@pass_common
def health(common: Common, names: tuple[str, ...], tenant: UUID | None) -> None:
    """Show depth, oldest wait and rates; of all queues when none is named. Rates are those of the last minute."""

    async def fetch(access: Access) -> list[QueueHealth]:
        wanted = names or [queue.name for queue in (await access.list_queues(limit=500, cursor=None)).data]
        return [await access.health(name) for name in wanted]

    found = ask(common, tenant, fetch)
    if common.is_json:
        for queue in found:
            emit(queue)
        return
    columns = (
        "queue",
        "pending",
        "scheduled",
        "retrying",
        "processing",
        "dead",
        "oldest",
        "in/s",
        "done/s",
        "workers",
    )
    rows = [
        (
            f"{q.queue_name} (paused)" if q.paused else q.queue_name,
            q.pending,
            q.scheduled,
            q.retrying,
            q.processing,
            q.dead_letters,
            "-" if q.oldest_wait_seconds is None else f"{q.oldest_wait_seconds:.1f} s",
            f"{q.submitted_per_second:.1f}",
            f"{q.finished_per_second:.1f}",
            q.workers,
        )
        for q in found
    ]
    table(columns, rows, right=columns[1:])


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


def _print(common: Common, queue: QueueView) -> None:
    if common.is_json:
        emit(queue)
        return
    policy = queue.retry
    details(
        (
            ("queue", queue.name),
            ("paused", queue.paused),
            ("priority", queue.priority),
            ("max attempts", queue.max_attempts),
            ("timeout", f"{queue.timeout_seconds:g} s"),
            ("retry", f"{policy.kind}, {msgspec.json.encode(policy).decode()}"),
            ("created", queue.created_at),
            ("updated", queue.updated_at),
        )
    )
