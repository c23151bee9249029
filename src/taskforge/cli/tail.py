"""taskforge jobs tail"""

from __future__ import annotations

import asyncio
from typing import NoReturn
from uuid import UUID

import click

from taskforge.cli.access import Access
from taskforge.cli.command import ClientCommand, Common, pass_common
from taskforge.cli.kinds import duration
from taskforge.cli.output import STATE_STYLES, console, emit, plain, say, shown
from taskforge.cli.queues import ask, tenant_option
from taskforge.domain.jobs import JobFilter, JobView
from taskforge.errors import Unavailable

WINDOW = 200
MOST_PAGES = 5


@click.command(cls=ClientCommand)
@click.option("-q", "--queue", metavar="NAME", help="Only of this queue.")
@click.option("--type", "job_type", metavar="TYPE", help="Only of this type.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(0, WINDOW),
    default=10,
    show_default=True,
    help="Earlier jobs to show.",
)
@click.option(
    "--interval", type=duration, default=0.5, show_default=True, metavar="DURATION", help="Between two looks."
)
@tenant_option
@pass_common
def tail(
    common: Common, queue: str | None, job_type: str | None, lines: int, interval: float, tenant: UUID | None
) -> None:
    """Follow jobs until Ctrl-C: a line when one is submitted, and whenever its state changes.

    It looks at the newest jobs twice a second, so short states may go unseen, and of more than a thousand new jobs at a
    time only the newest are shown.

    \b
    Example:
      taskforge jobs tail -q email
    """
    wanted = JobFilter(queue_name=queue, job_type=job_type)
    follower = Follower(wanted, is_json=common.is_json)

    async def follow(access: Access) -> NoReturn:
        await follower.look(access, earlier=lines)
        while True:
            await asyncio.sleep(max(interval, 0.05))
            try:
                await follower.look(access)
            except Unavailable as error:
                say(f"{error.detail}; still trying")

    ask(common, tenant, follow)


class Follower:
    def __init__(self, wanted: JobFilter, *, is_json: bool) -> None:
        self._wanted = wanted
        self._is_json = is_json
        self._console = None if is_json else console()
        self._newest = 0
        self._states: dict[str, tuple[str, int]] = {}

    async def look(self, access: Access, *, earlier: int | None = None) -> None:
        """Show what changed since the last look. `earlier` is for the first one: how many jobs it shows."""
        views = await self._fetch(access)
        for index, view in enumerate(reversed(views)):
            state = (view.state.value, view.attempt)
            is_new = self._states.get(view.id) != state
            self._states[view.id] = state
            if is_new and (earlier is None or index >= len(views) - earlier):
                self._show(view)
        if views:
            self._newest = max(self._newest, int(views[0].id))
        seen = {view.id for view in views}
        # What has left the window is not looked at any more.
        self._states = {job_id: state for job_id, state in self._states.items() if job_id in seen}

    async def _fetch(self, access: Access) -> list[JobView]:
        """The window of the newest jobs, and whatever is newer than the last look beyond it."""
        views: list[JobView] = []
        cursor: str | None = None
        for _ in range(MOST_PAGES):
            page = await access.list_jobs(self._wanted, limit=WINDOW, cursor=cursor)
            views += page.data
            cursor = page.next_cursor
            if cursor is None or not self._newest or (views and int(views[-1].id) <= self._newest):
                break
        return views

    def _show(self, view: JobView) -> None:
        if self._console is None:
            emit(view)
            return
        from rich.text import Text

        at = view.finished_at or view.started_at or view.submitted_at
        line = Text(f"{shown(at)}  {view.id:>8}  ")
        line.append(f"{view.state.value:<10}", STATE_STYLES.get(view.state.value, ""))
        line.append(f"  {plain(view.queue_name)}  {plain(view.job_type)}")
        if view.attempt > 1:
            line.append(f"  attempt {view.attempt} of {view.max_attempts}")
        if view.error is not None and view.error.message:
            line.append(f"  {plain(view.error.message[:80])}", "dim")
        self._console.print(line, soft_wrap=True)
