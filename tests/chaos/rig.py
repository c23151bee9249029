"""A database, a server and workers as real processes, and the ways to hurt them. Ends what it started, by id."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import asyncpg
import httpx2

from taskforge.domain.tenants import DEFAULT_TENANT
from taskforge.postgres.dsn import with_login
from taskforge.postgres.embedded import EmbeddedPostgres
from taskforge.postgres.migrate import migrate
from taskforge.tokens import Tokens
from tests.chaos.app import DIARIES, QUEUES
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
LOGIN = "taskforge"


class Process:
    """One `taskforge` command; its output goes to a file, because who is killed must not keep a pipe open."""

    def __init__(
        self, name: str, arguments: Sequence[str], *, env: dict[str, str], log: Path, fd: int
    ) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "taskforge.cli", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=env,
                cwd=ROOT,
                pass_fds=(fd,) if fd >= 0 else (),
                start_new_session=True,
            )
        self.pid = self._popen.pid

    @property
    def is_running(self) -> bool:
        return self._popen.poll() is None

    def send(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    async def ended(self, *, timeout: float = 20.0) -> int:
        await until(lambda: not self.is_running, timeout=timeout)
        assert self._popen.returncode is not None
        return self._popen.returncode

    async def kill(self) -> None:
        """At once, and reaped."""
        if self.is_running:
            self._popen.kill()
        await self.ended()

    def said(self, word: str) -> bool:
        return word in self.log.read_text(errors="replace")

    def children(self) -> list[int]:
        """Those of the worker: its heartbeat."""
        return children_of(self.pid)


class Rig:
    def __init__(self, folder: Path, server: EmbeddedPostgres, admin_dsn: str, ttl: float) -> None:
        self.folder = folder
        self.diaries = folder / "diaries"
        self.diaries.mkdir()
        self.server = server
        self.admin_dsn = admin_dsn
        self.dsn = with_login(admin_dsn, LOGIN)
        self.processes: list[Process] = []
        secret = secrets.token_hex(32)
        self.token = Tokens(secret).make(tenant_id=DEFAULT_TENANT, subject="chaos")
        self.url = ""
        self._socket: socket.socket | None = None
        self._environment = {
            **os.environ,
            "DATABASE_URL": self.dsn,
            "JWT_SECRET": secret,
            "TASKFORGE_WORKER_TTL": str(ttl),
            "TASKFORGE_LOG_LEVEL": "warning",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
            DIARIES: str(self.diaries),
        }
        self._environment.pop("TASKFORGE_URL", None)

    # -- processes

    def start(self, name: str, *arguments: str, fd: int = -1, **environment: str) -> Process:
        process = Process(
            name,
            arguments,
            env=self._environment | environment,
            log=self.folder / f"{name}-{len(self.processes)}.log",
            fd=fd,
        )
        self.processes.append(process)
        return process

    def start_worker(
        self, *queues: str, concurrency: int = 40, prefetch: int = 200, dsn: str | None = None
    ) -> Process:
        """Serves all queues of the tests if none is named."""
        options = ["-c", str(concurrency), "--prefetch", str(prefetch), "--shutdown-timeout", "5"]
        options += [part for queue in queues for part in ("-q", queue)]
        environment = {} if dsn is None else {"DATABASE_URL": dsn}
        return self.start("worker", "worker", "tests.chaos.app:forge", *options, **environment)

    async def registered(self, worker: Process) -> None:
        """Returns when the worker is known to the database."""
        connection = await self.connect()
        try:
            await until(
                lambda: connection.fetchval("select count(*) from workers where pid = $1", worker.pid),
                timeout=20.0,
            )
        finally:
            await connection.close()

    async def start_server(self, *, dsn: str | None = None) -> Process:
        """Listens at `url`, also after it was killed and started again."""
        if self._socket is None:
            self._socket = socket.socket()
            self._socket.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        fd = self._socket.fileno()
        environment = {} if dsn is None else {"DATABASE_URL": dsn}
        server = self.start("server", "server", "--socket-fd", str(fd), fd=fd, **environment)
        port = int(self.url.rpartition(":")[2])

        async def answers() -> bool:
            assert server.is_running, server.log.read_text()
            with suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                line = await reader.readline()
                writer.close()
                return b" 200 " in line
            return False

        await until(answers, timeout=20.0)
        return server

    # -- the database

    @property
    def postmaster(self) -> int:
        return int((self.server.data_dir / "supervisor").read_text().split()[1])

    async def connect(self) -> Any:
        return await asyncpg.connect(self.admin_dsn, server_settings={"search_path": "taskforge"}, timeout=5)

    async def database_returns(self, *, timeout: float = 30.0) -> float:
        """Seconds until a query is answered."""
        began = time.monotonic()

        async def answers() -> bool:
            try:
                connection = await asyncpg.connect(self.dsn, timeout=2)
            except (OSError, asyncpg.PostgresError, TimeoutError):
                return False
            try:
                return bool(await connection.fetchval("select true"))
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                return False
            finally:
                connection.terminate()

        await until(answers, timeout=timeout)
        return time.monotonic() - began

    def backends(self) -> list[int]:
        return children_of(self.postmaster)

    async def kill_database(self, *, with_backends: bool = False) -> None:
        """SIGKILL the postmaster, or all of its processes; the supervisor starts it again."""
        before = self.postmaster
        send_to_all([before, *(self.backends() if with_backends else [])], signal.SIGKILL)
        await until(lambda: not is_alive(before))

    async def stop_database(self, number: signal.Signals) -> None:
        """SIGINT is a fast stop, SIGQUIT an immediate one; it stays down."""
        before = self.postmaster
        os.kill(before, number)
        await until(lambda: not is_alive(before))
        await self.server.stop(wait=True)

    async def start_database(self) -> None:
        """After `stop_database`, or when the supervisor has given up."""
        await self.server.stop()
        await self.server.start()

    def halt_database(self) -> list[int]:
        """SIGSTOP every process of it; whom to send SIGCONT to."""
        pids = [self.postmaster, *self.backends()]
        send_to_all(pids, signal.SIGSTOP)
        return pids

    async def create_queues(self) -> None:
        policy = {"kind": "fixed", "base_seconds": 0.2, "jitter": 0.0}
        async with self.http() as http:
            for name in QUEUES:
                attempts = 2 if name == "quiet" else 100
                body = {"name": name, "max_attempts": attempts, "retry": policy}
                answer = await http.post("/api/v1/queues", json=body)
                assert answer.status_code == 201, answer.text

    async def health(self) -> dict[str, dict[str, Any]]:
        """Of every queue of the tests, through the API."""
        found = {}
        async with self.http() as http:
            for name in QUEUES:
                answer = await http.get(f"/api/v1/queues/{name}/health")
                assert answer.status_code == 200, answer.text
                found[name] = answer.json()
        return found

    async def at_rest(self, *, timeout: float = 60.0) -> None:
        """Returns when no job waits or runs."""

        async def nothing_waits() -> bool:
            queues = (await self.health()).values()
            return not any(q[k] for q in queues for k in ("pending", "scheduled", "retrying", "processing"))

        await until(nothing_waits, timeout=timeout)

    def http(self, *, timeout: float = 30.0) -> httpx2.AsyncClient:
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=timeout)

    async def close(self) -> None:
        for process in self.processes:
            if process.is_running:
                process.send(signal.SIGCONT)
                await process.kill()
        if self._socket is not None:
            self._socket.close()


@asynccontextmanager
async def open_rig(
    *,
    ttl: float = 10.0,
    is_durable: bool = True,
    options: dict[str, str] | None = None,
    prepare: Callable[[Path], AbstractContextManager[None]] = nullcontext,
) -> AsyncIterator[Rig]:
    """A rig on a fresh, migrated cluster that nobody else uses. `prepare` is entered with the cluster's folder."""
    folder = Path(tempfile.mkdtemp(prefix="taskforge-chaos-", dir="/tmp"))
    folder.chmod(0o711)  # as root, the account that runs the server must be able to pass
    chosen = os.environ.get("TASKFORGE_PG_BIN")
    settings = {} if is_durable else {"fsync": "off"}
    server = EmbeddedPostgres(
        folder / "db", pg_bin=Path(chosen) if chosen else None, options=settings | (options or {})
    )
    try:
        with prepare(folder / "db"):
            try:
                admin_dsn = await server.start()
                await migrate(admin_dsn, login=LOGIN)
                rig = Rig(folder, server, admin_dsn, ttl)
                try:
                    yield rig
                finally:
                    await rig.close()
            finally:
                await server.stop(wait=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def is_alive(pid: int) -> bool:
    """False for a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children_of(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def send_to_all(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
