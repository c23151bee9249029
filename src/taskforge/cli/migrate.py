"""taskforge migrate"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click
from msgspec import Struct

from taskforge.cli.command import Command, Common, pass_common
from taskforge.settings import Settings

T = TypeVar("T")


class Report(Struct, frozen=True):
    """What `--json` prints."""

    applied: list[str]
    pending: list[str]


@click.command(cls=Command)
@click.option("--status", is_flag=True, help="Only say what is missing; exit code 1 when something is.")
@click.option(
    "--login", metavar="NAME", help="Also make this unprivileged login, if missing, for servers and workers."
)
@click.option(
    "--sql", is_flag=True, help="Print the SQL, for a database that somebody else looks after; run nothing."
)
@pass_common
def migrate(common: Common, status: bool, login: str | None, sql: bool) -> int:
    """Bring the database to the schema of this version.

    Safe to run again and by many at once: everything happens in one transaction under a lock. Needs an owner's or a
    superuser's login, unlike everything else.

    \b
    Examples:
      DATABASE_URL=postgresql://postgres@db/app taskforge migrate --login taskforge
      taskforge migrate --sql > taskforge.sql
    """
    from taskforge.cli.output import emit, say
    from taskforge.postgres.script import script

    if sql:
        click.echo(script(login=login))
        return 0
    report = asyncio.run(_run(common.settings(), status=status, login=login))
    if common.is_json:
        emit(report)
    else:
        for name in report.applied:
            say(f"applied {name}")
        for name in report.pending:
            say(f"missing {name}")
        if report.pending:
            say("run `taskforge migrate` to apply them")
        else:
            say("the database is at the schema of this version")
    return 1 if report.pending else 0


async def _run(settings: Settings, *, status: bool, login: str | None) -> Report:
    from taskforge.cli.database import apply, missing_steps, open_place
    from taskforge.cli.output import say
    from taskforge.postgres.dsn import LOGIN

    async with open_place(settings, migrates=False, on_progress=say) as place:
        if status:
            return Report([], await missing_steps(place.admin_dsn))
        chosen = login or (LOGIN if place.is_embedded else None)
        return Report(await _with_spinner(lambda: apply(place.admin_dsn, login=chosen)), [])


async def _with_spinner(work: Callable[[], Awaitable[T]]) -> T:
    from taskforge.cli.output import console

    if not sys.stderr.isatty():
        return await work()
    with console(is_error=True).status("migrating; another migration that is under way is waited for"):
        return await work()
