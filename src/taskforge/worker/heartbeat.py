"""The worker's end of its heartbeat process: starts it, listens to it, starts it again when it dies."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable

import msgspec
import structlog

from taskforge.domain.leases import Beat
from taskforge.worker.journal import Journal
from taskforge.worker.pulse import Orders, Start, Told
from taskforge.worker.source import Standing

log = structlog.get_logger("taskforge.worker")

RESTART_PAUSE = 0.2


class Heartbeat:
    """`on_beat` hears every answer to a beat of the current registration."""

    def __init__(
        self, dsn: str, standing: Standing, journal: Journal, *, ttl: float, on_beat: Callable[[Beat], None]
    ) -> None:
        self._dsn = dsn
        self._standing = standing
        self._journal = journal
        self._ttl = ttl
        self._on_beat = on_beat
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def run(self) -> None:
        """Keep the process running until `stop`."""
        while not self._stopping:
            self._process = process = await self._spawn()
            try:
                await self._listen(process)
                code = await process.wait()
            except BaseException:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
                raise
            if not self._stopping:
                log.warning("worker.heartbeat_died", exit_code=code)
                await asyncio.sleep(RESTART_PAUSE)

    def renew(self) -> None:
        """Beat for the registration in force, at once."""
        self._send(Orders(worker_id=self._standing.worker_id))

    def beat(self) -> None:
        """Beat at once, to hear what is new."""
        self._send(Orders(beat=True))

    def stop(self) -> None:
        """`run` returns soon. To be called before the registration is given up, or its end looks like a loss."""
        self._stopping = True
        self._send(Orders(stop=True))

    def _send(self, orders: Orders) -> None:
        process = self._process
        if process is not None and process.returncode is None and process.stdin is not None:
            process.stdin.write(msgspec.json.encode(orders) + b"\n")

    async def _spawn(self) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "taskforge.worker.pulse",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=(self._journal.fd,),
            # Signals from the terminal are for the worker, which needs its registration until it has drained.
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
        )
        assert process.stdin is not None
        start = Start(self._dsn, self._ttl, self._standing.worker_id, self._journal.fd)
        process.stdin.write(msgspec.json.encode(start) + b"\n")
        if self._stopping:
            self._process = process
            self._send(Orders(stop=True))
        return process

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            told = msgspec.json.decode(line, type=Told)
            if told.beat is None:
                log.warning("worker.heartbeat_failed", error=told.error)
            elif told.worker_id == self._standing.worker_id:
                self._on_beat(told.beat)
