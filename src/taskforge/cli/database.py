"""The database a command works on: DATABASE_URL, or the embedded server, held and brought back while we use it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import asyncpg
import structlog
from msgspec import Struct

from taskforge.domain import egress
from taskforge.domain.egress import EgressPolicy
from taskforge.errors import ConfigurationError, TaskForgeError
from taskforge.postgres.dsn import LOGIN, connect_arguments, with_login
from taskforge.postgres.embedded import EmbeddedPostgres
from taskforge.postgres.faults import translated
from taskforge.postgres.migrate import migrate, pending
from taskforge.services.core import Core
from taskforge.settings import Settings

_RETRY_SECONDS = 1.0

_log = structlog.get_logger("taskforge.database")


class Place(Struct, frozen=True):
    """`dsn` is for work, `direct_dsn` for LISTEN past a pooler, `admin_dsn` for setting up the schema."""

    dsn: str
    admin_dsn: str
    direct_dsn: str
    is_embedded: bool
    version: str | None = None


@asynccontextmanager
async def open_place(
    settings: Settings,
    *,
    migrates: bool = True,
    waits: bool = False,
    on_progress: Callable[[str], None] = lambda message: None,
) -> AsyncIterator[Place]:
    """The database, up while this is open. The embedded one is migrated as well, unless told otherwise.

    It stops by itself soon after; with `waits`, and unless somebody else uses it, it is down on exit.
    Raises ConfigurationError or Unavailable.
    """
    if settings.database_url is not None:
        direct = settings.database_direct_url or settings.database_url
        yield Place(settings.database_url, direct, direct, False)
        return
    held = [_server(settings, on_progress)]
    admin = await held[0].start()
    try:
        if migrates:
            await apply(admin, login=LOGIN)
        version = held[0].binaries.version if held[0].binaries else None
        keeper = asyncio.create_task(_keep(settings, admin, held), name="database-keeper")
        try:
            dsn = with_login(admin, LOGIN)
            yield Place(dsn, admin, dsn, True, version)
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
    finally:
        await held[0].stop(wait=waits)


async def apply(dsn: str, *, login: str | None = None) -> list[str]:
    """As `migrate`, with the driver's errors translated."""
    with translated():
        return await migrate(dsn, login=login)


@asynccontextmanager
async def connect(dsn: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """One connection outside any pool, with the driver's errors translated."""
    with translated():
        connection = await asyncpg.connect(**connect_arguments(dsn))
        try:
            yield connection
        finally:
            await connection.close()


async def missing_steps(dsn: str) -> list[str]:
    """Migrations and functions that the database lacks."""
    async with connect(dsn) as connection:
        return await pending(connection)


async def check_ready(dsn: str, *, is_development: bool) -> None:
    """Raises ConfigurationError when the schema is not of this version, or the login is mightier than it must be."""
    async with connect(dsn) as connection:
        await check_schema(connection)
        role = await connection.fetchrow(
            "select rolname, rolsuper, rolbypassrls from pg_roles where rolname = session_user"
        )
    if not is_development and role is not None and (role["rolsuper"] or role["rolbypassrls"]):
        right = "a superuser" if role["rolsuper"] else "exempt from row-level security"
        raise ConfigurationError(
            "database.login_too_mighty",
            f'the login "{role["rolname"]}" is {right}; make another with `taskforge migrate --login NAME` and put it '
            "into DATABASE_URL",
        )


async def check_schema(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Raises ConfigurationError unless the schema is of this version and may be used by this login."""
    try:
        missing = await pending(connection)
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigurationError(
            "database.insufficient_privilege",
            f"this login may not use TaskForge here ({error}); let an owner run `taskforge migrate --login NAME`",
        ) from error
    if missing:
        raise ConfigurationError(
            "database.not_migrated",
            f"the database is not at the schema of this version ({len(missing)} steps missing); "
            "run `taskforge migrate`",
        )


@asynccontextmanager
async def open_ready_core(settings: Settings) -> AsyncIterator[Core]:
    """For processes that stay: a core that listens, on a database that is fit for this version."""
    from taskforge.app import open_core

    async with open_place(
        settings, on_progress=lambda message: _log.info("database.starting", detail=message)
    ) as place:
        await check_ready(place.dsn, is_development=settings.is_development or place.is_embedded)
        async with open_core(
            place.dsn,
            direct_dsn=place.direct_dsn,
            worker_ttl=settings.worker_ttl,
            max_payload_bytes=settings.max_payload_bytes,
            max_schedules=settings.max_schedules,
            pool_size=settings.pool_size,
            listens=True,
            egress=_egress(settings),
        ) as core:
            yield core


def _egress(settings: Settings) -> EgressPolicy:
    """Where webhooks may go. Raises ConfigurationError."""
    try:
        return egress.policy(
            settings.egress_allow,
            ports=settings.egress_ports,
            allows_http=settings.egress_http == "yes" or settings.is_development,
        )
    except ValueError as error:
        raise ConfigurationError("config.egress", f"where webhooks may go cannot be read: {error}") from None


def _server(settings: Settings, on_progress: Callable[[str], None]) -> EmbeddedPostgres:
    return EmbeddedPostgres(settings.data_dir, pg_bin=settings.pg_bin, on_progress=on_progress)


async def _keep(settings: Settings, dsn: str, held: list[EmbeddedPostgres]) -> None:
    """Bring the server back whenever its supervisor was killed: nobody else would, as long as we hold it."""
    while True:
        await _until_gone(dsn)
        again = _server(settings, lambda message: _log.warning("database.starting", detail=message))
        try:
            await again.start()
        except TaskForgeError as error:
            _log.error("database.away", error=error.code, detail=error.detail)
            await asyncio.sleep(_RETRY_SECONDS)
            continue
        before, held[0] = held[0], again
        await before.stop()


async def _until_gone(dsn: str) -> None:
    gone = asyncio.Event()
    with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
        connection = await asyncpg.connect(**connect_arguments(dsn))
        try:
            connection.add_termination_listener(lambda _: gone.set())
            await gone.wait()
        finally:
            connection.terminate()
