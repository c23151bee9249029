"""Database, server and worker together: brought up in order, kept up, and taken down in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from taskforge.cli.children import Child
from taskforge.cli.command import Common
from taskforge.cli.database import Place, apply, check_ready, open_place
from taskforge.cli.dev import SAMPLES
from taskforge.cli.output import emit, say
from taskforge.cli.process import installed_version
from taskforge.domain.tenants import DEFAULT_TENANT
from taskforge.errors import ConfigurationError
from taskforge.rest.server import BACKLOG, bind
from taskforge.secrets_store import with_jwt_secret
from taskforge.settings import Settings
from taskforge.tokens import Tokens
from taskforge.worker.shutdown import Shutdown

TOKEN_DAYS = 7
LAST_WORDS_SECONDS = 15.0
HURRIED_SECONDS = 6.0

EXAMPLE = (
    'curl -X POST {url}/api/v1/jobs -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" \\\n'
    """  -d '{{"queue_name": "default", "job_type": "send_email", "payload": {{"to": "user@example.com", """
    """"subject": "Hello", "body": "This is a test email"}}, "priority": 5}}'"""
)
_COLORS = {"server": "\x1b[36m", "worker": "\x1b[35m"}


class Ready(Struct, frozen=True):
    """What `--json` prints once the API answers."""

    url: str
    token: str
    data_dir: str
    outbox_dir: str
    database: str
    pid: int
    seconds: float


class Ensemble:
    """`is_up` is true once there are children, which `run` then takes down when `shutdown` is requested."""

    def __init__(self, common: Common, settings: Settings, worker: Sequence[str]) -> None:
        self._common = common
        self._settings = settings
        self._worker = tuple(worker)
        self._started_at = time.monotonic()
        self._children: list[Child] = []
        self.shutdown = Shutdown()
        self.is_up = False

    async def run(self) -> int:
        """The exit code: 0 after a clean drain. Raises when it cannot come up."""
        settings = self._settings
        say(
            f"TaskForge {installed_version()} is starting; its data are kept in {settings.data_dir.absolute()}"
        )
        with _listen(settings.host, settings.port) as sock:
            async with open_place(settings, waits=True, on_progress=say) as place:
                if not place.is_embedded:
                    await _bring_up_to_date(place)
                code = await self._with_children(place, sock)
                if place.is_embedded:
                    say("stopping the database")
        say("stopped; the data are kept")
        return code

    async def _with_children(self, place: Place, sock: socket.socket) -> int:
        settings = with_jwt_secret(self._settings)
        tokens = Tokens(settings.jwt_secret, is_development=True)
        env = self._environment()
        descriptor = sock.fileno()
        fd = str(descriptor)
        serve = ("server", "--socket-fd", fd, "--host", settings.host, "--port", str(settings.port))
        self._children = [
            Child("server", serve, env=env, write=_write, descriptors=(descriptor,)),
            Child("worker", ("worker", *self._worker), env=env, write=_write),
        ]
        self.is_up = True
        runs = [asyncio.create_task(child.run(), name=child.label) for child in self._children]
        told = asyncio.create_task(self.shutdown.requested.wait(), name="told to stop")
        port = sock.getsockname()[1]
        ready = asyncio.create_task(self._announce(place, tokens, port), name="announcement")
        waited: set[asyncio.Task[Any]] = {*runs, told}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        told.cancel()
        if not self.shutdown.requested.is_set():
            [broken, *_] = [run for run in runs if run.done()]
            say(f"the {broken.get_name()} cannot run like this; see its last line above")
        else:
            say("stopping; Ctrl-C again stops at once")
        codes = await self._stop(runs)
        if not self.shutdown.requested.is_set():
            return max(codes)
        return 0 if not any(codes) else 128 + self.shutdown.number

    async def _stop(self, runs: Sequence[asyncio.Task[int]]) -> list[int]:
        for child in self._children:
            child.stop()
        everybody = asyncio.ensure_future(asyncio.gather(*runs))
        hurried = asyncio.create_task(self.shutdown.hurried.wait(), name="told to hurry")
        patience = self._settings.shutdown_timeout + LAST_WORDS_SECONDS
        waited: set[asyncio.Future[Any]] = {everybody, hurried}
        await asyncio.wait(waited, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not everybody.done():
            say("stopping at once; interrupted jobs run again later")
            for child in self._children:
                child.stop()
            await asyncio.wait({everybody}, timeout=HURRIED_SECONDS)
            for child in self._children:
                child.kill()
        return await everybody

    def _environment(self) -> dict[str, str]:
        """Children read what we were told on the command line from their environment, where `ps` does not show it."""
        settings, flags = self._settings, self._common.flags
        env = {
            name: value
            for name, value in os.environ.items()
            if name not in ("TASKFORGE_URL", "TASKFORGE_TOKEN")
        }
        env["TASKFORGE_DATA_DIR"] = str(settings.data_dir.absolute())
        env["TASKFORGE_LOG_LEVEL"] = settings.log_level
        env["PYTHONUNBUFFERED"] = "1"
        if settings.origins["log_format"] == "default":
            env["TASKFORGE_LOG_FORMAT"] = "console"
        if self._common.config is not None:
            env["TASKFORGE_CONFIG"] = str(self._common.config.absolute())
        if "database_url" in flags:
            env.pop("DATABASE_URL_FILE", None)
            env["DATABASE_URL"] = str(settings.database_url)
        if sys.stderr.isatty() and not env.get("NO_COLOR"):
            env["FORCE_COLOR"] = "1"
        return env

    async def _announce(self, place: Place, tokens: Tokens, port: int) -> None:
        settings = self._settings
        await _until_ready(port, "127.0.0.1" if settings.host in ("0.0.0.0", "") else settings.host)
        host = "localhost" if settings.host in ("127.0.0.1", "0.0.0.0", "::1", "::") else settings.host
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        made = tokens.make(
            tenant_id=DEFAULT_TENANT, subject="developer", lifetime_seconds=TOKEN_DAYS * 86_400
        )
        took = time.monotonic() - self._started_at
        data, outbox = str(settings.data_dir.absolute()), str(settings.outbox_dir.absolute())
        if self._common.is_json:
            kind = "embedded" if place.is_embedded else "external"
            emit(Ready(url, made, data, outbox, kind, os.getpid(), round(took, 3)))
            return
        lines = [
            "",
            f"TaskForge is ready after {took:.1f} s, at {url}",
            f"  API docs  {url}/docs",
            f"  data      {data}" if place.is_embedded else "  data      in DATABASE_URL",
        ]
        if self._worker[0] == SAMPLES:
            lines += [
                f"  outbox    {outbox} (send_email writes its mails there)",
                "",
                f"Paste this into another terminal (the token is good for {TOKEN_DAYS} days):",
                "",
                f"export TOKEN={made}",
                EXAMPLE.format(url=url),
            ]
        else:
            lines += ["", f"export TOKEN={made}"]
        lines += ["", "Ctrl-C stops everything; the data are kept.", ""]
        print("\n".join(lines), flush=True)


def _listen(host: str, port: int) -> socket.socket:
    """From now on connections wait for the server, also while it is started again. Nobody else can take the port."""
    sock = bind(host, port)
    try:
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ConfigurationError("config.port", f"cannot listen on {host}:{port}: {error.strerror}") from None
    return sock


async def _bring_up_to_date(place: Place) -> None:
    """Migrate only if need be, so that a login that may not is enough for the rest."""
    try:
        await check_ready(place.admin_dsn, is_development=True)
    except ConfigurationError:
        for name in await apply(place.admin_dsn):
            say(f"applied {name}")


async def _until_ready(port: int, host: str) -> None:
    """Returns once /readyz says 200, however long it takes."""
    request = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    while True:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_connection(host, port)
                try:
                    writer.write(request)
                    if b" 200 " in await reader.readline():
                        return
                finally:
                    writer.close()
        await asyncio.sleep(0.05)


def _write(label: str, line: str) -> None:
    """A line of a child. A terminal that is gone is no reason to stop."""
    color, end = (_COLORS.get(label, ""), "\x1b[0m") if _is_colored() else ("", "")
    with contextlib.suppress(OSError, ValueError):
        print(f"{color}{label} |{end} {line}", file=sys.stderr, flush=True)


def _is_colored() -> bool:
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")
