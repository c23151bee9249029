"""taskforge jobs"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import click

from taskforge.cli import failures
from taskforge.cli.access import LONGEST_WAIT, Access
from taskforge.cli.bulk_operations import How, carry_out, filter_options, how_options, split
from taskforge.cli.command import ClientGroup, Common, pass_common
from taskforge.cli.control import change, changes
from taskforge.cli.kinds import duration, past
from taskforge.cli.output import details, emit, shown, table
from taskforge.cli.paging import collect
from taskforge.cli.queues import ask, tenant_option
from taskforge.cli.submit import submit
from taskforge.cli.tail import tail
from taskforge.domain.jobs import JobFilter, JobState, JobView
from taskforge.errors import NotFound, TaskForgeError

COLUMNS = ("id", "queue", "type", "state", "attempt", "submitted", "finished", "error")
_state = click.option(
    "--state", type=click.Choice([state.value for state in JobState]), help="Only in this state."
)


@click.group(cls=ClientGroup)
def jobs() -> None:
    """Submit jobs, look at them, cancel and retry them."""


jobs.add_command(submit)


@jobs.command("list")
@click.option("-q", "--queue", metavar="NAME", help="Only of this queue.")
@_state
@click.option("--type", "job_type", metavar="TYPE", help="Only of this type.")
@click.option("--tag", metavar="TAG", help="Only with this tag.")
@click.option("--since", type=past, metavar="TIME", help="Submitted after this time, or 15m ago.")
@click.option("--until", type=past, metavar="TIME", help="Submitted before this time, or 15m ago.")
@click.option(
    "--limit", type=click.IntRange(1, 1_000_000), default=50, show_default=True, help="How many at most."
)
@tenant_option
@pass_common
def list_(
    common: Common,
    queue: str | None,
    state: str | None,
    job_type: str | None,
    tag: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
    tenant: UUID | None,
) -> None:
    """List jobs, newest first.

    \b
    Examples:
      taskforge jobs list -q email --state failed --since 1h
      taskforge jobs list --limit 1000000 --json > jobs.ndjson
    """
    wanted = JobFilter(queue, None if state is None else JobState(state), job_type, tag, since, until)

    async def fetch(access: Access) -> None:
        pages = collect(lambda size, cursor: access.list_jobs(wanted, limit=size, cursor=cursor), limit=limit)
        await print_jobs(common, pages)

    ask(common, tenant, fetch)


async def print_jobs(common: Common, pages: AsyncIterator[list[JobView]]) -> None:
    """Pages as they come for JSON; a table needs all of them first."""
    views: list[JobView] = []
    async for page in pages:
        if not common.is_json:
            views += page
            continue
        for view in page:
            emit(view)
    if not common.is_json:
        table(COLUMNS, [row(view) for view in views], right=("id", "attempt"))


def row(view: JobView) -> tuple[object, ...]:
    error = view.error.message or view.error.error_class or "" if view.error else ""
    return (
        view.id,
        view.queue_name,
        view.job_type,
        view.state.value,
        f"{view.attempt}/{view.max_attempts}",
        view.submitted_at,
        view.finished_at,
        error[:60],
    )


@jobs.command()
@click.argument("job_id")
@click.option("--wait", type=duration, metavar="DURATION", help="Wait for its end, this long at most.")
@tenant_option
@pass_common
def show(common: Common, job_id: str, wait: float | None, tenant: UUID | None) -> int:
    """Show one job: state, attempts, times, errors, result.

    With --wait the exit code tells how it ended: 0 succeeded, 1 failed or cancelled, 75 not ended yet.

    \b
    Example:
      taskforge jobs show 4711 --wait 30
    """
    check_id(job_id)

    async def fetch(access: Access) -> JobView:
        return await (access.get(job_id) if wait is None else wait_for(access, job_id, timeout=wait))

    view = ask(common, tenant, fetch)
    print_job(common, view)
    return 0 if wait is None else ending(view)


async def wait_for(access: Access, job_id: str, *, timeout: float) -> JobView:
    """The job at its end, or as it is after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        left = max(0.0, deadline - time.monotonic())
        view = await access.wait(job_id, timeout=min(left, LONGEST_WAIT))
        if view.state.is_final or time.monotonic() >= deadline:
            return view


def ending(view: JobView) -> int:
    """The exit code that tells how a job ended."""
    if not view.state.is_final:
        return failures.TRY_AGAIN
    return 0 if view.state is JobState.SUCCEEDED else failures.FAILURE


def check_id(job_id: str) -> str:
    if not (job_id.isascii() and job_id.isdigit() and len(job_id) < 20):
        raise NotFound("job.not_found", f'job "{job_id}" does not exist; an id is a number')
    return job_id


def print_job(common: Common, view: JobView) -> None:
    if common.is_json:
        emit(view)
        return
    details(
        (
            ("job", view.id),
            ("type", view.job_type),
            ("queue", view.queue_name),
            ("state", f"{view.state} (asked to stop)" if view.cancel_requested else view.state.value),
            ("reason", view.reason),
            ("priority", view.priority),
            ("attempt", f"{view.attempt} of {view.max_attempts}"),
            ("timeout", f"{view.timeout_seconds:g} s"),
            ("tags", view.tags),
            ("key", view.idempotency_key),
            ("submitted", view.submitted_at),
            ("run at", view.run_at),
            ("started", view.started_at),
            ("finished", view.finished_at),
            ("worker", view.worker),
            ("progress", view.progress and f"{view.progress.fraction:.0%} {view.progress.message}".rstrip()),
            ("payload", view.payload),
            ("result", view.result),
        )
    )
    for attempt in view.attempts:
        click.echo()
        details(
            (
                ("attempt", f"{attempt.attempt}, {attempt.outcome} at {shown(attempt.finished_at)}"),
                ("worker", attempt.worker),
                ("started", attempt.started_at),
                ("error", f"{attempt.error_class}: {attempt.message}" if attempt.error_class else None),
                ("traceback", attempt.traceback or None),
            )
        )


@jobs.command()
@click.argument("job_ids", metavar="[JOB_ID]...", nargs=-1)
@filter_options
@how_options
@tenant_option
@pass_common
def cancel(common: Common, /, job_ids: tuple[str, ...], tenant: UUID | None, **given: Any) -> int:
    """Cancel jobs that wait; ask jobs that run to stop: those named, or all that a filter finds.

    \b
    Examples:
      taskforge jobs cancel 4711 4712
      taskforge jobs cancel -q email --type newsletter --preview
    """
    wanted, how = split(given)
    if not job_ids:
        return carry_out(common, tenant, "cancel", wanted, how)
    _refuse_filter(wanted, how)
    return _each(common, tenant, job_ids, lambda access, job_id: access.cancel(job_id))


@jobs.command()
@click.argument("job_ids", metavar="[JOB_ID]...", nargs=-1)
@filter_options
@how_options
@tenant_option
@pass_common
def retry(common: Common, /, job_ids: tuple[str, ...], tenant: UUID | None, **given: Any) -> int:
    """Give failed or cancelled jobs new attempts; run delayed and retrying ones now.

    A filter without --state finds failed ones.

    \b
    Examples:
      taskforge jobs retry 4711 4712
      taskforge jobs retry -q email --state cancelled --since 1h
    """
    wanted, how = split(given)
    if not job_ids:
        return carry_out(common, tenant, "retry", wanted, how)
    _refuse_filter(wanted, how)
    return _each(common, tenant, job_ids, lambda access, job_id: access.retry(job_id))


def _refuse_filter(wanted: dict[str, Any], how: How) -> None:
    if wanted or how.is_preview or how.rate is not None:
        raise click.UsageError("give either ids or a filter, not both")


def _each(
    common: Common,
    tenant: UUID | None,
    job_ids: tuple[str, ...],
    act: Callable[[Access, str], Awaitable[JobView]],
) -> int:
    """One after another; a job that refuses does not keep the others from it. The worst exit code."""

    async def run(access: Access) -> int:
        worst = 0
        for job_id in job_ids:
            try:
                view = await act(access, check_id(job_id))
            except TaskForgeError as error:
                code = failures.report(error, is_json=common.is_json, is_verbose=common.is_verbose)
                worst = max(worst, code)
                if code == failures.UNAVAILABLE:
                    break
                continue
            if common.is_json:
                emit(view)
            else:
                asked = ", asked to stop" if view.cancel_requested else ""
                click.echo(f"{view.id}  {view.state}{asked}")
        return worst

    return ask(common, tenant, run)


jobs.add_command(tail)
jobs.add_command(change)
jobs.add_command(changes)
