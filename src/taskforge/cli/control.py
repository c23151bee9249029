"""taskforge jobs change, taskforge jobs changes"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import click
import msgspec
from msgspec import Raw

from taskforge.api import path_of
from taskforge.cli.access import Access
from taskforge.cli.command import ClientCommand, Common, pass_common
from taskforge.cli.kinds import duration, moment
from taskforge.cli.output import emit, table
from taskforge.cli.queues import ask, tenant_option
from taskforge.domain.control import ChangeView
from taskforge.domain.jobs import JobView
from taskforge.rest.schemas import JobChanges


def json_value(_: click.Context, __: click.Parameter, value: str | None) -> Raw | None:
    """An option's callback: one JSON value, kept as it is written."""
    if value is None:
        return None
    try:
        msgspec.json.decode(value)
    except msgspec.DecodeError as error:
        raise click.BadParameter(f"{error}; write JSON") from None
    return Raw(value.encode())


@click.command("change", cls=ClientCommand)
@click.argument("job_id")
@click.option("--run-at", type=moment, metavar="TIME", help="Run no sooner than this time.")
@click.option(
    "--delay", type=duration, metavar="DURATION", help="Run no sooner than this long from now; 0: now."
)
@click.option("--priority", type=int, help="0 to 9, 9 first.")
@click.option("-q", "--queue", metavar="NAME", help="Move it to this queue.")
@click.option("--payload", callback=json_value, metavar="JSON", help="In place of the whole payload.")
@click.option("--patch", callback=json_value, metavar="JSON", help="Merge into the payload; null removes.")
@tenant_option
@pass_common
def change(
    common: Common,
    job_id: str,
    run_at: datetime | None,
    delay: float | None,
    priority: int | None,
    queue: str | None,
    payload: Raw | None,
    patch: Raw | None,
    tenant: UUID | None,
) -> None:
    """Reschedule, move, reprioritise or patch a job that waits; move or patch a dead letter.

    \b
    Examples:
      taskforge jobs change 4711 --delay 1h
      taskforge jobs change 4711 -q urgent --priority 9
      taskforge jobs change 4711 --patch '{"to": "right@example.com"}'
    """
    from taskforge.cli.jobs import check_id, print_job

    given: dict[str, Any] = {
        "run_at": run_at,
        "delay_seconds": delay,
        "priority": priority,
        "queue_name": queue,
        "payload": payload,
        "payload_patch": patch,
    }
    body = {name: value for name, value in given.items() if value is not None}
    if not body:
        raise click.UsageError("nothing to change; see --help")
    path = path_of("jobs", check_id(job_id))
    view = ask(common, tenant, lambda access: access.api.call("PATCH", path, body, reads=JobView))
    print_job(common, view)


@click.command("changes", cls=ClientCommand)
@click.argument("job_id")
@tenant_option
@pass_common
def changes(common: Common, job_id: str, tenant: UUID | None) -> None:
    """Show who changed what of a job after its submission."""
    from taskforge.cli.jobs import check_id

    path = path_of("jobs", check_id(job_id), "changes")

    async def fetch(access: Access) -> list[ChangeView]:
        return (await access.api.call("GET", path, reads=JobChanges)).data

    found = ask(common, tenant, fetch)
    if common.is_json:
        for entry in found:
            emit(entry)
        return
    rows = [(e.changed_at, e.actor, e.verb, _said(e.before), _said(e.after)) for e in found]
    table(("at", "by", "what", "before", "after"), rows)


def _said(values: dict[str, Raw]) -> str:
    return ", ".join(f"{name}={bytes(raw).decode()}" for name, raw in values.items()) or "-"
