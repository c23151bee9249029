"""taskforge schedules"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import click
import msgspec
from msgspec import Raw

from taskforge.api import path_of
from taskforge.cli.access import Access
from taskforge.cli.command import ClientGroup, Common, pass_common
from taskforge.cli.control import json_value
from taskforge.cli.kinds import duration, moment
from taskforge.cli.output import confirm, details, emit, say, table
from taskforge.cli.paging import collect
from taskforge.cli.queue_settings import retry_policy
from taskforge.cli.queues import ask, tenant_option
from taskforge.domain.schedules import MAX_PREVIEW, Missed, Overlap, Tick
from taskforge.rest.schedule_schemas import Firings, SchedulePage, ScheduleRun, ScheduleView, TickPage
from taskforge.services.pages import Page

_ALL = 1_000_000


@click.group(cls=ClientGroup)
def schedules() -> None:
    """Submit jobs at certain times, again and again; look at when, and at what became of it."""


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--retry", type=retry_policy, metavar="POLICY", help="As of a queue."),
        click.option("--tag", "tags", metavar="TAG", multiple=True, help="Can be given several times."),
        click.option("--timeout", type=duration, metavar="DURATION", help="How long one attempt may run."),
        click.option("--max-attempts", type=int, help="As the queue says if not given."),
        click.option("--priority", type=click.IntRange(0, 9), help="9 first, 0 last; 5 if not given."),
        click.option("--payload", callback=json_value, metavar="JSON", help="What the handler gets."),
        click.option("-q", "--queue", metavar="NAME", help="Where the jobs wait; default if not given."),
        click.option("--end-at", type=moment, metavar="TIME", help="No time after this one counts."),
        click.option("--start-at", type=moment, metavar="TIME", help="No time before this one counts."),
        click.option(
            "--overlap",
            type=click.Choice([policy.value for policy in Overlap]),
            help="What to do while the job before has not ended; allow if not given.",
        ),
        click.option("--missed-limit", type=int, help="With run_all: how many at most."),
        click.option(
            "--missed",
            type=click.Choice([policy.value for policy in Missed]),
            help="What to do about times nobody could keep; run_once if not given.",
        ),
        click.option("--jitter", type=duration, metavar="DURATION", help="Spread the starts over this long."),
        click.option(
            "--tz", metavar="ZONE", help="An IANA time zone such as Asia/Jakarta; UTC if not given."
        ),
    ):
        command = option(command)
    return command


_FIELDS = {
    "expression": "expression",
    "job_type": "job_type",
    "tz": "timezone",
    "jitter": "jitter_seconds",
    "missed": "missed",
    "missed_limit": "missed_limit",
    "overlap": "overlap",
    "start_at": "start_at",
    "end_at": "end_at",
    "queue": "queue_name",
    "payload": "payload",
    "priority": "priority",
    "max_attempts": "max_attempts",
    "timeout": "timeout_seconds",
    "retry": "retry",
    "tags": "tags",
}


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {_FIELDS[name]: value for name, value in options.items() if value is not None and value != ()}


@schedules.command()
@click.argument("name")
@click.argument("expression")
@click.argument("job_type")
@_options
@click.option("--paused", is_flag=True, help="Make it, but let it not fire yet.")
@tenant_option
@pass_common
def create(common: Common, /, name: str, paused: bool, tenant: UUID | None, **options: Any) -> None:
    """Make a schedule.

    EXPRESSION is a cron expression of five fields (minute, hour, day of month, month, day of week) or of six with the
    second first, or @hourly, @daily, @weekly, @monthly, @yearly, or an interval such as "@every 90s".

    \b
    Examples:
      taskforge schedules create nightly "30 2 * * MON-FRI" report --tz Asia/Jakarta --overlap skip
      taskforge schedules create ping "@every 90s" noop
    """
    body = {"name": name, "paused": paused, **_given(options)}
    _print(common, _view(common, tenant, "POST", path_of("schedules"), body))


@schedules.command("list")
@tenant_option
@pass_common
def list_(common: Common, tenant: UUID | None) -> None:
    """List the schedules by name, with the time of the next job.

    \b
    Example:
      taskforge schedules list --json | jq -r .next_at
    """

    async def fetch(access: Access) -> list[ScheduleView]:
        async def page(limit: int, cursor: str | None) -> Page[ScheduleView]:
            path = path_of("schedules", query={"limit": limit, "cursor": cursor})
            found = await access.api.call("GET", path, reads=SchedulePage)
            return Page(found.data, found.next_cursor)

        return [view async for views in collect(page, limit=_ALL) for view in views]

    found = ask(common, tenant, fetch)
    if common.is_json:
        for view in found:
            emit(view)
        return
    table(
        ("schedule", "expression", "zone", "job type", "queue", "next", "last job"),
        [
            (
                view.name,
                view.expression,
                view.timezone,
                view.job_type,
                view.queue_name,
                "paused" if view.paused else view.next_at or "never",
                view.last_job_id,
            )
            for view in found
        ],
    )


@schedules.command()
@click.argument("name")
@tenant_option
@pass_common
def show(common: Common, name: str, tenant: UUID | None) -> None:
    """Show one schedule."""
    _print(common, _view(common, tenant, "GET", path_of("schedules", name)))


@schedules.command()
@click.argument("name")
@click.option("--expression", help="In place of the one it has.")
@click.option("--job-type", help="In place of the one it has.")
@_options
@tenant_option
@pass_common
def update(common: Common, /, name: str, tenant: UUID | None, **options: Any) -> None:
    """Change a schedule; what is not given stays. In force at once.

    \b
    Example:
      taskforge schedules update nightly --expression "0 3 * * *" --priority 7
    """
    change = _given(options)
    if not change:
        raise click.UsageError("nothing to change; give --expression or any other option")
    _print(common, _view(common, tenant, "PATCH", path_of("schedules", name), change))


@schedules.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@tenant_option
@pass_common
def delete(common: Common, name: str, yes: bool, tenant: UUID | None) -> None:
    """Delete a schedule and its record of times. Jobs that it has submitted stay."""
    confirm(f'Delete the schedule "{name}"?', is_sure=yes)
    ask(common, tenant, lambda access: access.api.call("DELETE", path_of("schedules", name)))
    say(f'schedule "{name}" is deleted')


@schedules.command()
@click.argument("name")
@tenant_option
@pass_common
def pause(common: Common, name: str, tenant: UUID | None) -> None:
    """Submit no more jobs of a schedule. Times that pass meanwhile are not made up for."""
    _print(common, _view(common, tenant, "POST", path_of("schedules", name, "pause")))


@schedules.command()
@click.argument("name")
@tenant_option
@pass_common
def resume(common: Common, name: str, tenant: UUID | None) -> None:
    """Go on with a paused schedule, from its next time."""
    _print(common, _view(common, tenant, "POST", path_of("schedules", name, "resume")))


@schedules.command()
@click.argument("name")
@tenant_option
@pass_common
def run(common: Common, name: str, tenant: UUID | None) -> None:
    """Submit the job of a schedule now, and print its id.

    \b
    Example:
      taskforge jobs wait $(taskforge schedules run nightly)
    """
    ran = ask(
        common,
        tenant,
        lambda access: access.api.call("POST", path_of("schedules", name, "run"), reads=ScheduleRun),
    )
    if common.is_json:
        emit(ran)
    else:
        click.echo(ran.job_id)


@schedules.command()
@click.argument("what", metavar="NAME|EXPRESSION")
@click.option("--tz", metavar="ZONE", help="Of an expression; UTC if not given.")
@click.option("--after", type=moment, metavar="TIME", help="Times after this one; now if not given.")
@click.option(
    "-n", "--count", type=click.IntRange(1, MAX_PREVIEW), default=10, show_default=True, help="How many."
)
@tenant_option
@pass_common
def preview(
    common: Common, what: str, tz: str | None, after: datetime | None, count: int, tenant: UUID | None
) -> None:
    """Show the next times of a schedule, or of an expression that nobody has stored.

    \b
    Examples:
      taskforge schedules preview nightly
      taskforge schedules preview "30 2 * * *" --tz Europe/Berlin --after 2026-03-28T12:00:00Z -n 3
    """
    is_expression = " " in what or what.startswith("@")
    if tz is not None and not is_expression:
        raise click.UsageError("--tz belongs to an expression; a schedule has its own time zone")

    async def fetch(access: Access) -> Firings:
        if not is_expression:
            path = path_of("schedules", what, "preview", query={"count": count, "after": after})
            return await access.api.call("GET", path, reads=Firings)
        body = {"expression": what, "timezone": tz or "UTC", "after": after, "count": count}
        return await access.api.call("POST", path_of("schedules", "preview"), body, reads=Firings)

    found = ask(common, tenant, fetch)
    if common.is_json:
        for firing in found.data:
            emit(firing)
        return
    table(("at", "local"), [(firing.at, firing.local) for firing in found.data])


@schedules.command()
@click.argument("name")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many at most."
)
@tenant_option
@pass_common
def ticks(common: Common, name: str, limit: int, tenant: UUID | None) -> None:
    """Show what became of the times of a schedule, newest first."""

    async def fetch(access: Access) -> list[Tick]:
        async def page(size: int, cursor: str | None) -> Page[Tick]:
            path = path_of("schedules", name, "ticks", query={"limit": size, "cursor": cursor})
            found = await access.api.call("GET", path, reads=TickPage)
            return Page(found.data, found.next_cursor)

        return [tick async for ticks in collect(page, limit=limit) for tick in ticks]

    found = ask(common, tenant, fetch)
    if common.is_json:
        for tick in found:
            emit(tick)
        return
    table(
        ("time", "verdict", "reason", "job", "times"),
        [(tick.slot, tick.verdict, tick.reason, tick.job_id, tick.slots or "many") for tick in found],
        right=("times",),
    )


def _view(
    common: Common, tenant: UUID | None, method: str, path: str, body: dict[str, Any] | None = None
) -> ScheduleView:
    return ask(common, tenant, lambda access: access.api.call(method, path, body, reads=ScheduleView))


def _print(common: Common, view: ScheduleView) -> None:
    if common.is_json:
        emit(view)
        return
    skipped = {"name", "payload", "retry", "webhook", "tags", "created_at", "updated_at"}
    rest = [
        (name.replace("_", " "), getattr(view, name))
        for name in ScheduleView.__struct_fields__
        if name not in skipped
    ]
    shown: list[tuple[str, object]] = [
        ("schedule", view.name),
        *rest,
        ("payload", view.payload),
        ("retry", None if view.retry is None else Raw(msgspec.json.encode(view.retry))),
        ("webhook", None if view.webhook is None else view.webhook.url),
        ("tags", view.tags),
        ("created", view.created_at),
        ("updated", view.updated_at),
    ]
    details(shown)
