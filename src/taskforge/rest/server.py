"""Serves the application with uvicorn: uvloop's fast paths, httptools, limits, and a stop that loses no request."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

import uvicorn

from taskforge.errors import ConfigurationError
from taskforge.rest.protocol import LimitedProtocol
from taskforge.rest.state import state_of
from taskforge.settings import Settings

if TYPE_CHECKING:
    from taskforge.rest.app import RestApp

KEEP_ALIVE_SECONDS = 75
BACKLOG = 2_048


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the process, which may run more than this server."""
        yield


class HttpServer:
    """One listening socket and the application behind it."""

    def __init__(self, app: RestApp, settings: Settings, *, sock: socket.socket | None = None) -> None:
        self._app = app
        self._socket = sock if sock is not None else bind(settings.host, settings.port)
        self._server = _Server(
            uvicorn.Config(
                app,
                http=LimitedProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout)),
            )
        )
        self._running: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    async def start(self) -> None:
        """Returns when connections are accepted."""
        self._running = asyncio.create_task(self._server.serve([self._socket]), name="http-server")
        # uvicorn has no event for "started"; it takes two or three turns of the loop.
        while not self._server.started and not self._running.done():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        if self._running.done():
            await self._running

    def drain(self) -> None:
        """From now on new jobs are refused with 503, /readyz says so too, and long waits end."""
        state_of(self._app).draining.set()

    async def stop(self) -> None:
        """Returns when every request under way has been answered, or `shutdown_timeout` is over."""
        self.drain()
        self._server.should_exit = True
        await self.wait()

    async def wait(self) -> None:
        if self._running is not None:
            await asyncio.shield(self._running)


async def serve(app: RestApp, settings: Settings, *, sock: socket.socket | None = None) -> None:
    """Serve until cancelled; then drain, stop, and only then let the cancellation through."""
    server = HttpServer(app, settings, sock=sock)
    await server.start()
    try:
        await server.wait()
    finally:
        await server.stop()


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to the address. Raises ConfigurationError when it is taken or is not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise ConfigurationError("config.port", f"cannot listen on {host}:{port}: {error.strerror}") from None
    return sock
