"""The heartbeat, in a process of its own: no handler can hold it up, neither by its event loop nor by its GIL.

Reads JSON lines from the worker, writes one JSON line for every beat. It keeps the registration alive exactly as long
as the worker's process lives and is not stopped. When the worker has died it hands back its jobs at once.
"""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import timedelta
from pathlib import Path

import msgspec
from msgspec import Struct

from taskforge.clock import SystemClock
from taskforge.domain.leases import Beat
from taskforge.errors import TaskForgeError
from taskforge.postgres.pool import Database
from taskforge.services import leases
from taskforge.services.core import Core
from taskforge.services.wakeups import Wakeups
from taskforge.worker.journal import started_jobs


class Orders(Struct, frozen=True, omit_defaults=True):
    """A line from the worker: what changed. `beat` asks for one now, `stop` ends this process in good order."""

    worker_id: int = 0
    beat: bool = False
    stop: bool = False


class Start(Struct, frozen=True):
    """The first line from the worker. It comes by a pipe because a database URL holds a password."""

    dsn: str
    ttl: float
    worker_id: int
    journal_fd: int


class Told(Struct, frozen=True):
    """A line to the worker: the answer to the heartbeat of one registration, or why there is none."""

    worker_id: int
    beat: Beat | None = None
    error: str = ""


class Pulse:
    def __init__(self, start: Start, core: Core) -> None:
        self._core = core
        self._interval = start.ttl / 4
        self._ttl = start.ttl
        self._journal_fd = start.journal_fd
        self._worker_id = start.worker_id
        self._parent = os.getppid()
        self._due = asyncio.Event()

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Beat until told to stop, or until the worker is dead and its jobs have been handed back."""
        beating = asyncio.create_task(self._beat(), name="pulse")
        try:
            while line := await reader.readline():
                orders = msgspec.json.decode(line, type=Orders)
                if orders.stop:
                    return
                self._worker_id = orders.worker_id or self._worker_id
                self._due.set()
        finally:
            beating.cancel()
        await self._bury()

    async def _beat(self) -> None:
        while True:
            pause = self._interval
            self._due.clear()
            if os.getppid() != self._parent:
                await self._bury()
                os._exit(0)
            if not _is_stopped(self._parent):
                worker_id = self._worker_id
                try:
                    async with asyncio.timeout(self._ttl):
                        told = Told(worker_id, await leases.heartbeat(self._core, worker_id))
                except (TaskForgeError, TimeoutError) as error:
                    told = Told(worker_id, error=str(error) or type(error).__name__)
                    pause = self._interval / 4
                os.write(sys.stdout.fileno(), msgspec.json.encode(told) + b"\n")
            try:
                async with asyncio.timeout(pause):
                    await self._due.wait()
            except TimeoutError:
                pass

    async def _bury(self) -> None:
        running = started_jobs(self._journal_fd)
        try:
            async with asyncio.timeout(self._ttl):
                while True:
                    try:
                        await leases.bury(self._core, self._worker_id, running)
                        return
                    except TaskForgeError:
                        await asyncio.sleep(self._interval / 8)
        except TimeoutError:
            pass  # the reaper will find it


def _is_stopped(pid: int) -> bool:
    """True for a process halted by SIGSTOP. Where there is no /proc nobody can tell, and the answer is False."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (OSError, IndexError):
        return False


async def main() -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    line = await reader.readline()
    if not line:
        return
    start = msgspec.json.decode(line, type=Start)
    database = Database(start.dsn, ingest=1, dispatch=1, app=1)
    core = Core(
        database,
        Wakeups(database, sends=False),
        clock=SystemClock(),
        worker_ttl=timedelta(seconds=start.ttl),
        max_payload_bytes=0,
    )
    try:
        await Pulse(start, core).run(reader)
    finally:
        await core.close()


if __name__ == "__main__":
    asyncio.run(main())
