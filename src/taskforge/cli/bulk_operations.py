"""taskforge bulk: one verb for all jobs that a filter finds"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import click
from msgspec import Struct

from taskforge.api import Api, path_of
from taskforge.cli import failures
from taskforge.cli.access import Access
from taskforge.cli.command import ClientGroup, Common, pass_common
from taskforge.cli.kinds import duration, moment, past
from taskforge.cli.output import confirm, details, emit, progress, say, table
from taskforge.cli.queues import ask, tenant_option
from taskforge.domain.bulk import BulkOperation, BulkPreview, BulkState, BulkVerb
from taskforge.domain.jobs import JobState
from taskforge.errors import NotFound
from taskforge.rest.schemas import BulkPage

_LOOK_SECONDS = 0.25
_NOBODY_SECONDS = 10.0

Command = Callable[..., Any]


class How(Struct, frozen=True):
    """What every bulk command may be told beside its filter."""

    rate: float | None
    is_preview: bool
    is_sure: bool
    is_followed: bool


_FILTER = (
    click.option("-q", "--queue", "queue_name", metavar="NAME", help="Only of this queue."),
    click.option(
        "--state", type=click.Choice([state.value for state in JobState]), help="Only in this state."
    ),
    click.option("--type", "job_type", metavar="TYPE", help="Only of this type."),
    click.option("--tag", metavar="TAG", help="Only with this tag."),
    click.option(
        "--since", "submitted_after", type=past, metavar="TIME", help="Submitted after this, or 15m ago."
    ),
    click.option(
        "--until", "submitted_before", type=past, metavar="TIME", help="Submitted before this, or 15m ago."
    ),
)
_ERRORS = (
    click.option("--fingerprint", metavar="HEX", help="Only dead letters that failed like this."),
    click.option("--error", "error_text", metavar="TEXT", help="Only dead letters with this in their error."),
    click.option(
        "--failed-since", "failed_after", type=past, metavar="TIME", help="Failed after this, or 15m ago."
    ),
    click.option(
        "--failed-until", "failed_before", type=past, metavar="TIME", help="Failed before this, or 15m ago."
    ),
)
_HOW = (
    click.option("--rate", type=float, metavar="N", help="At most so many jobs a second."),
    click.option(
        "--preview", "is_preview", is_flag=True, help="Say how many jobs it would be, and do nothing."
    ),
    click.option("--no-wait", is_flag=True, help="Begin it and return; `taskforge bulk show` follows it."),
    click.option("--yes", "is_sure", is_flag=True, help="Do not ask."),
)


def filter_options(command: Command) -> Command:
    return _with(command, _FILTER)


def error_options(command: Command) -> Command:
    return _with(command, _ERRORS)


def how_options(command: Command) -> Command:
    return _with(command, _HOW)


def _with(command: Command, options: tuple[Callable[[Command], Command], ...]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def split(given: dict[str, Any]) -> tuple[dict[str, Any], How]:
    """The filter and the rest of what a command was told."""
    how = How(given.pop("rate"), given.pop("is_preview"), given.pop("is_sure"), not given.pop("no_wait"))
    return {name: value for name, value in given.items() if value is not None}, how


def carry_out(
    common: Common,
    tenant: UUID | None,
    verb: BulkVerb,
    wanted: dict[str, Any],
    how: How,
    **fields: Any,
) -> int:
    """Look, ask, begin, follow. 0 when all of it was done."""
    if not wanted:
        raise click.UsageError("say which jobs: name some, or give --queue or another condition")
    body = {"verb": verb, "filter": wanted} | {name: v for name, v in fields.items() if v is not None}
    found = ask(common, tenant, lambda access: _preview(access.api, body))
    if how.is_preview:
        _print_preview(common, verb, found)
        return 0
    count = f"{found.count} jobs" if found.is_exact else f"at least {found.count} jobs"
    confirm(f"{verb.replace('_', ' ').capitalize()}: {count}. Go on?", is_sure=how.is_sure)
    if how.rate is not None:
        body["rate_per_second"] = how.rate

    async def act(access: Access) -> BulkOperation:
        begun = await access.api.call("POST", path_of("bulk"), body, reads=BulkOperation)
        if not how.is_followed:
            return begun
        say(f"bulk operation {begun.id} has begun; `taskforge bulk stop {begun.id}` stops it")
        return await follow(access.api, begun)

    operation = ask(common, tenant, act)
    print_operation(common, operation)
    return ending(operation) if how.is_followed else 0


async def follow(api: Api, operation: BulkOperation) -> BulkOperation:
    """With a bar on a terminal, until it is completed or stopped."""
    began, told = time.monotonic(), False
    with progress() as bar:
        shown = bar.add_task(operation.verb, total=operation.total if operation.is_total_exact else None)
        while not operation.state.is_final:
            await asyncio.sleep(_LOOK_SECONDS)
            operation = await api.call("GET", path_of("bulk", operation.id), reads=BulkOperation)
            label = (
                operation.verb
                if operation.state is BulkState.RUNNING
                else f"{operation.verb}: {operation.state}"
            )
            bar.update(shown, description=label, completed=operation.done + operation.failed)
            if not told and not operation.done and time.monotonic() - began > _NOBODY_SECONDS:
                told = True
                say("nothing has happened yet: is a `taskforge server` or `taskforge worker` running?")
    return operation


def ending(operation: BulkOperation) -> int:
    is_done = operation.state is BulkState.COMPLETED and not operation.failed
    return 0 if is_done or not operation.state.is_final else failures.FAILURE


async def _preview(api: Api, body: dict[str, Any]) -> BulkPreview:
    return await api.call("POST", path_of("bulk"), body | {"preview": True}, reads=BulkPreview)


def _print_preview(common: Common, verb: str, found: BulkPreview) -> None:
    if common.is_json:
        emit(found)
        return
    details(
        (
            (verb.replace("_", " "), f"{'' if found.is_exact else 'at least '}{found.count} jobs"),
            ("for example", found.sample),
        )
    )


@click.group("bulk", cls=ClientGroup)
def bulk() -> None:
    """Do something to all jobs that a filter finds, in the background; look after such operations."""


def _verb(verb: BulkVerb, *, errors: bool = False) -> Callable[[Command], click.Command]:
    def declare(function: Command) -> click.Command:
        command = how_options(tenant_option(pass_common(function)))
        if errors:
            command = error_options(command)
        return bulk.command(verb.replace("_", "-"))(filter_options(command))

    return declare


@_verb("cancel")
def cancel(common: Common, /, tenant: UUID | None, **given: Any) -> int:
    """Cancel jobs that wait; ask jobs that run to stop.

    \b
    Example:
      taskforge bulk cancel -q email --type newsletter --preview
    """
    wanted, how = split(given)
    return carry_out(common, tenant, "cancel", wanted, how)


@_verb("retry", errors=True)
def retry(common: Common, /, tenant: UUID | None, **given: Any) -> int:
    """Give failed jobs new attempts; with --state also cancelled, scheduled and retrying ones."""
    wanted, how = split(given)
    return carry_out(common, tenant, "retry", wanted, how)


@_verb("move", errors=True)
@click.option("--to", "target", metavar="NAME", required=True, help="The queue to move them to.")
def move(common: Common, /, tenant: UUID | None, target: str, **given: Any) -> int:
    """Move jobs that wait to another queue; with --state failed, dead letters.

    \b
    Example:
      taskforge bulk move -q email --tag vip --to urgent --yes
    """
    wanted, how = split(given)
    return carry_out(common, tenant, "move", wanted, how, arguments={"queue_name": target})


@_verb("change_priority")
@click.option("--priority", type=int, required=True, help="0 to 9, 9 first.")
def change_priority(common: Common, /, tenant: UUID | None, priority: int, **given: Any) -> int:
    """Change how urgent waiting jobs are."""
    wanted, how = split(given)
    return carry_out(common, tenant, "change_priority", wanted, how, arguments={"priority": priority})


@_verb("reschedule")
@click.option("--run-at", type=moment, metavar="TIME", help="No sooner than this time.")
@click.option("--delay", type=duration, metavar="DURATION", help="No sooner than this long from now; 0: now.")
def reschedule(
    common: Common, /, tenant: UUID | None, run_at: datetime | None, delay: float | None, **given: Any
) -> int:
    """Change when waiting jobs run.

    \b
    Example:
      taskforge bulk reschedule -q reports --delay 2h --yes
    """
    if (run_at is None) == (delay is None):
        raise click.UsageError("give either --run-at or --delay")
    wanted, how = split(given)
    when = {"run_at": run_at} if delay is None else {"delay_seconds": delay}
    return carry_out(common, tenant, "reschedule", wanted, how, arguments=when)


@bulk.command("list")
@click.option(
    "--limit", type=click.IntRange(1, 1_000), default=20, show_default=True, help="How many at most."
)
@tenant_option
@pass_common
def list_(common: Common, limit: int, tenant: UUID | None) -> None:
    """List bulk operations, newest first."""
    path = path_of("bulk", query={"limit": limit})

    async def fetch(access: Access) -> list[BulkOperation]:
        return (await access.api.call("GET", path, reads=BulkPage)).data

    found = ask(common, tenant, fetch)
    if common.is_json:
        for operation in found:
            emit(operation)
        return
    columns = ("id", "what", "state", "done", "failed", "of", "by", "begun")
    rows = [
        (o.id, o.verb, o.state.value, o.done, o.failed, _total(o), o.created_by, o.created_at) for o in found
    ]
    table(columns, rows, right=("id", "done", "failed", "of"))


@bulk.command()
@click.argument("operation_id")
@click.option("--follow", is_flag=True, help="Until it is completed or stopped, with a progress bar.")
@tenant_option
@pass_common
def show(common: Common, operation_id: str, follow: bool, tenant: UUID | None) -> int:
    """Show how far a bulk operation is.

    With --follow the exit code is 1 when it was stopped or some jobs refused.
    """
    path = _path(operation_id)

    async def fetch(access: Access) -> BulkOperation:
        operation = await access.api.call("GET", path, reads=BulkOperation)
        return await _follow(access.api, operation) if follow else operation

    operation = ask(common, tenant, fetch)
    print_operation(common, operation)
    return ending(operation) if follow else 0


@bulk.command()
@click.argument("operation_id")
@tenant_option
@pass_common
def stop(common: Common, operation_id: str, tenant: UUID | None) -> None:
    """Stop a bulk operation: no further job is touched, what was done stays done."""
    path = _path(operation_id) + "/stop"
    operation = ask(common, tenant, lambda access: access.api.call("POST", path, reads=BulkOperation))
    print_operation(common, operation)


_follow = follow


def _path(operation_id: str) -> str:
    if not (operation_id.isascii() and operation_id.isdigit() and len(operation_id) < 20):
        raise NotFound("bulk.not_found", f'bulk operation "{operation_id}" does not exist; an id is a number')
    return path_of("bulk", operation_id)


def _total(operation: BulkOperation) -> str:
    return f"{operation.total}" if operation.is_total_exact else f"{operation.total}+"


def print_operation(common: Common, operation: BulkOperation) -> None:
    if common.is_json:
        emit(operation)
        return
    wanted = {name: value for name, value in _given(operation.filter) if value is not None}
    arguments = {name: value for name, value in _given(operation.arguments) if value is not None}
    details(
        (
            ("operation", operation.id),
            ("what", operation.verb),
            ("jobs", ", ".join(f"{name}={value}" for name, value in wanted.items())),
            ("to", ", ".join(f"{name}={value}" for name, value in arguments.items()) or None),
            (
                "state",
                f"{operation.state}: {operation.reason}" if operation.reason else operation.state.value,
            ),
            ("done", f"{operation.done} of {_total(operation)}"),
            ("failed", operation.failed or None),
            ("begun", f"{operation.created_at} by {operation.created_by}"),
            ("stopped by", operation.stopped_by),
            ("finished", operation.finished_at),
        )
    )
    for item in operation.failures[:20]:
        click.echo(f"  job {item.job_id}: {item.code}")


def _given(struct: Struct) -> list[tuple[str, Any]]:
    return [(name, getattr(struct, name)) for name in struct.__struct_fields__]
