"""taskforge config"""

from __future__ import annotations

import click

from taskforge.cli.command import Common, Group, pass_common
from taskforge.settings import Settings


@click.group(cls=Group)
def config() -> None:
    """Look at the settings."""


@config.command()
@pass_common
def show(common: Common) -> None:
    """Show every setting with its value and where it comes from. Secrets are not shown.

    Later readings win: default, taskforge.toml, environment, command line.

    \b
    Example:
      TASKFORGE_CONCURRENCY=200 taskforge config show
    """
    from taskforge.cli.output import emit, say, table
    from taskforge.settings import describe

    settings = common.settings()
    rows = describe(settings)
    if common.is_json:
        for row in rows:
            emit(row)
    else:
        table(
            ("setting", "value", "unit", "origin", "variable"),
            [(row.name, row.value or "-", row.unit, row.origin, row.env) for row in rows],
        )
    for warning in warnings(settings):
        say(f"warning: {warning}")


def warnings(settings: Settings) -> list[str]:
    """What is allowed, but probably not meant."""
    found = []
    if settings.database_direct_url is not None and settings.database_url is None:
        found.append("DATABASE_DIRECT_URL is set but DATABASE_URL is not, so it has no effect")
    if settings.concurrency > 10 * settings.pool_size:
        found.append(
            f"concurrency {settings.concurrency} is far above pool_size {settings.pool_size}: handlers that use "
            "connections of that pool will wait for each other"
        )
    if settings.prefetch < settings.concurrency:
        found.append(
            f"prefetch {settings.prefetch} is below concurrency {settings.concurrency}: slots may wait for the database"
        )
    if settings.worker_ttl < 2:
        found.append(
            f"worker_ttl {settings.worker_ttl:g} s is short: a pause of the machine looks like a lost worker"
        )
    if settings.url is not None and settings.token is None:
        found.append(
            "TASKFORGE_URL is set but TASKFORGE_TOKEN is not, so the server will refuse every request"
        )
    if not settings.is_development and settings.database_url is None:
        found.append(
            "this is production on the embedded database, which no other machine can reach; set DATABASE_URL"
        )
    if not settings.is_development and settings.jwt_secret is None:
        found.append("JWT_SECRET is not set, so the server will not start")
    return found
