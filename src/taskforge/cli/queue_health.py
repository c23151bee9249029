"""taskforge queues health"""

from __future__ import annotations

from uuid import UUID

import click

from taskforge.api import path_of
from taskforge.cli.access import Access
from taskforge.cli.command import ClientCommand, Common, pass_common
from taskforge.cli.output import emit, table
from taskforge.cli.queues import ask, tenant_option
from taskforge.domain.health import HealthSummary, QueueHealth

_COLUMNS = (
    "queue",
    "score",
    "pending",
    "scheduled",
    "retrying",
    "processing",
    "dead",
    "oldest",
    "p95",
    "in/s",
    "done/s",
    "drain",
    "workers",
    "why",
)


@click.command("health", cls=ClientCommand)
@click.argument("names", metavar="[NAME]...", nargs=-1)
@tenant_option
@pass_common
def health(common: Common, names: tuple[str, ...], tenant: UUID | None) -> None:
    """Show a score with its reasons, depth, waits and rates; of all queues when none is named.

    Rates and waits are those of the last minute.
    """

    async def fetch(access: Access) -> list[QueueHealth]:
        if names:
            return [await access.health(name) for name in names]
        found: list[QueueHealth] = []
        cursor: str | None = None
        while True:
            path = path_of("health", query={"limit": 500, "cursor": cursor})
            page = await access.api.call("GET", path, reads=HealthSummary)
            found += page.queues
            cursor = page.next_cursor
            if cursor is None:
                return found

    found = ask(common, tenant, fetch)
    if common.is_json:
        for queue in found:
            emit(queue)
        return
    table(_COLUMNS, [_row(queue) for queue in found], right=_COLUMNS[1:-1])


def _row(queue: QueueHealth) -> tuple[object, ...]:
    return (
        f"{queue.queue_name} (paused)" if queue.paused else queue.queue_name,
        queue.score,
        queue.pending,
        queue.scheduled,
        queue.retrying,
        queue.processing,
        queue.dead_letters,
        _seconds(queue.oldest_wait_seconds),
        _seconds(queue.wait_p95_seconds),
        f"{queue.submitted_per_second:.1f}",
        f"{queue.finished_per_second:.1f}",
        _seconds(queue.drain_seconds),
        queue.workers,
        "; ".join(reason.detail for reason in queue.reasons),
    )


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} s" if value < 1 else f"{value:.1f} s"
