"""One connection that LISTENs for hints and passes them on; reconnects for ever. Needs a direct, unpooled URL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

import asyncpg
import structlog

from taskforge.postgres.dsn import connect_arguments

_log = structlog.get_logger(__name__)
_RETRY_SECONDS = (0.2, 5.0)


async def listen(
    dsn: str, heard: Callable[[list[int]], None], *, connected: asyncio.Event | None = None
) -> None:
    """Call `heard` with the numbers of every hint until cancelled. Hints sent while disconnected are lost."""
    rng, delay = Random(), _RETRY_SECONDS[0]

    def on_notify(_connection: object, _pid: int, _channel: str, payload: object) -> None:
        heard([int(part) for part in str(payload).split(",") if part])

    while True:
        closed = asyncio.Event()
        try:
            connection = await asyncpg.connect(**connect_arguments(dsn))
        except (OSError, TimeoutError, asyncpg.PostgresError) as error:
            _log.warning("listen.failed", error=type(error).__name__, retry_in=delay)
        else:
            try:
                connection.add_termination_listener(lambda _connection, closed=closed: closed.set())
                await connection.add_listener("taskforge", on_notify)
                delay = _RETRY_SECONDS[0]
                if connected is not None:
                    connected.set()
                heard([])  # whatever was missed while away: look once
                await closed.wait()
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                _log.warning("listen.lost", error=type(error).__name__)
            finally:
                connection.terminate()
        await asyncio.sleep(delay * (0.5 + rng.random()))
        delay = min(delay * 2, _RETRY_SECONDS[1])
