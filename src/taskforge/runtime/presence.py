"""A server's own registration: it shows that the server lives, and elects who runs maintenance.

If it stops, another process is elected within the time to live; the server itself goes on serving.
"""

from __future__ import annotations

import asyncio
import os
import socket

import structlog

from taskforge.domain.leases import RegisterWorker
from taskforge.domain.tenants import DEFAULT_TENANT
from taskforge.errors import TaskForgeError
from taskforge.postgres import workers
from taskforge.runtime.maintenance import Maintenance
from taskforge.services.core import Core

_log = structlog.get_logger(__name__)


class Presence:
    """Heartbeats every quarter of the time to live and passes the election's result to `maintenance`."""

    def __init__(self, core: Core, maintenance: Maintenance, *, name: str, version: str) -> None:
        self._core = core
        self._maintenance = maintenance
        self._me = RegisterWorker(
            name=name, queues=(), version=version, host=socket.gethostname(), pid=os.getpid()
        )
        self._worker_id: int | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._maintenance.start()
            self._task = asyncio.create_task(self._loop(), name="presence")

    async def stop(self) -> None:
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        await self._maintenance.stop()
        if self._worker_id is not None:
            try:
                await workers.deregister(self._core.database, self._worker_id)
            except TaskForgeError as error:
                _log.info("presence.left_unsaid", error=error.code)

    async def run_once(self) -> bool:
        """One heartbeat; True when this process is to run maintenance."""
        database, ttl = self._core.database, self._core.worker_ttl
        if self._worker_id is None:
            self._worker_id = await workers.register(
                database, DEFAULT_TENANT, self._me, queue_ids=(), ttl=ttl, is_server=True
            )
        beat = await workers.heartbeat(database, self._worker_id, ttl=ttl)
        if not beat.alive:
            self._worker_id = None
        self._maintenance.set_active(beat.maintain)
        return beat.maintain

    async def _loop(self) -> None:
        while True:
            try:
                await self.run_once()
            except TaskForgeError as error:
                _log.warning("presence.missed", error=error.code, detail=error.detail)
            except Exception:
                _log.exception("presence.failed")
            await asyncio.sleep(self._core.worker_ttl.total_seconds() / 4)
