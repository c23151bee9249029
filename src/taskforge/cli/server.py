"""taskforge server"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import click
import structlog

from taskforge import memory
from taskforge.cli.command import Command, Common, pass_common
from taskforge.cli.process import end_with_stdin, installed_version, run, until_eof
from taskforge.settings import Settings

if TYPE_CHECKING:
    from taskforge.domain.health import QueueHealth
    from taskforge.services.core import Core

_LAST_SECONDS = 5.0
_READY_SECONDS = 5.0
_MOST_QUEUES_SHOWN = 100

log = structlog.get_logger("taskforge.server")


@click.command(cls=Command)
@click.option("--host", help="Address to listen on; 127.0.0.1 if not given.")
@click.option("--port", type=int, help="Port to listen on; 8000 if not given, 0 takes a free one.")
@click.option(
    "--shutdown-timeout", type=float, metavar="SECONDS", help="Time for requests under way after SIGTERM."
)
@click.option("--socket-fd", type=int, hidden=True)
@until_eof
@pass_common
def server(
    common: Common,
    host: str | None,
    port: int | None,
    shutdown_timeout: float | None,
    socket_fd: int | None,
    until_eof: bool,
) -> int:
    """Serve the API, and look after the queues: delayed jobs, lost workers, old data.

    Several servers may run side by side. The first SIGTERM or Ctrl-C stops taking requests and answers those under way;
    the second stops at once.

    \b
    Example:
      DATABASE_URL=postgresql://taskforge@db/app JWT_SECRET_FILE=/run/secrets/jwt taskforge server --host 0.0.0.0
    """
    settings = common.settings_with_logs(host=host, port=port, shutdown_timeout=shutdown_timeout)
    return run(_serve(settings, socket_fd=socket_fd, until_eof=until_eof))


async def _serve(settings: Settings, *, socket_fd: int | None, until_eof: bool) -> int:
    from taskforge.cli.database import open_ready_core
    from taskforge.rest.app import create_app
    from taskforge.rest.server import HttpServer, bind
    from taskforge.runtime.maintenance import Maintenance
    from taskforge.runtime.presence import Presence
    from taskforge.secrets_store import with_jwt_secret
    from taskforge.tokens import check_secret
    from taskforge.worker.shutdown import Shutdown

    if until_eof:
        end_with_stdin()
    settings = with_jwt_secret(settings)
    # What is wrong with the configuration is said before anything is started.
    check_secret(settings.jwt_secret, is_development=settings.is_development)
    sock = bind(settings.host, settings.port) if socket_fd is None else socket.socket(fileno=socket_fd)
    shutdown = Shutdown()
    async with open_ready_core(settings) as core:
        app = create_app(core, settings, check_ready=_readiness(core), queue_stats=lambda: _queue_stats(core))
        http = HttpServer(app, settings, sock=sock)
        maintenance = Maintenance(core, retention=timedelta(days=settings.retention_days))
        name = f"{socket.gethostname()}:{http.port}"
        presence = Presence(core, maintenance, name=name, version=installed_version())
        shutdown.install()
        await http.start()
        presence.start()
        memory.settle()
        log.info("server.started", host=settings.host, port=http.port, env=settings.env)
        try:
            await _until_stopped(http.wait(), shutdown.requested)
            log.info("server.draining")
            http.drain()
            is_clean = await _drained(
                http.stop(), shutdown.hurried, settings.shutdown_timeout + _LAST_SECONDS
            )
        finally:
            await presence.stop()
            shutdown.uninstall()
    log.info("server.stopped", clean=is_clean)
    if not shutdown.requested.is_set():
        return 1
    return 0 if is_clean else 128 + shutdown.number


async def _until_stopped(serving: Awaitable[None], requested: asyncio.Event) -> None:
    """Returns when told to stop, or when serving ended by itself."""
    tasks = {asyncio.ensure_future(serving), asyncio.create_task(requested.wait(), name="stop-requested")}
    done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    for task in done:
        task.result()


async def _drained(stopping: Awaitable[None], hurried: asyncio.Event, timeout: float) -> bool:
    """False when a second signal, or the time, came before the end."""
    task = asyncio.ensure_future(stopping)
    hurry = asyncio.create_task(hurried.wait(), name="stop-hurried")
    await asyncio.wait({task, hurry}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    is_clean = task.done() and not hurried.is_set()
    for pending in (task, hurry):
        pending.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return is_clean


def _readiness(core: Core) -> Callable[[], Awaitable[None]]:
    """For /readyz: raises unless the database answers and has this version's schema."""
    from taskforge.cli.database import check_schema
    from taskforge.errors import ConfigurationError, Unavailable

    async def check() -> None:
        try:
            async with asyncio.timeout(_READY_SECONDS), core.database.dispatch() as connection:
                await check_schema(connection)
        except TimeoutError as error:
            raise Unavailable(
                "database.unavailable", "the database does not answer in time", retry_after=5
            ) from error
        except ConfigurationError as error:
            raise Unavailable(error.code, error.detail, retry_after=5) from error

    return check


async def _queue_stats(core: Core) -> list[QueueHealth]:
    """For /metrics: the default tenant's queues. Nothing while the database is away, so that the other figures stay."""
    from taskforge.domain.tenants import Context
    from taskforge.errors import TaskForgeError
    from taskforge.services import health

    try:
        return (await health.of_all(core, Context(), limit=_MOST_QUEUES_SHOWN)).queues
    except TaskForgeError as error:
        log.warning("server.queues_unknown", error=error.code, detail=error.detail)
        return []
