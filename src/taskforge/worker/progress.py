"""Passes on how far jobs say they are: the newest word of each, at most twice a second, before their end is reported.

A handler never waits for it. A word that cannot be stored now is kept until it can, or until a newer one replaces it.
"""

from __future__ import annotations

import asyncio
import threading

import structlog

from taskforge.domain.leases import Progress
from taskforge.errors import Unavailable
from taskforge.worker.context import JobContext
from taskforge.worker.source import Source, Standing

log = structlog.get_logger("taskforge.worker")

INTERVAL = 0.5


class ProgressReporter:
    """`note` may be called from any thread; `run` is the one task that reports, `flush` reports at once."""

    def __init__(self, source: Source, standing: Standing) -> None:
        self._source = source
        self._standing = standing
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._newest: dict[int, Progress] = {}
        self._arrived = asyncio.Event()

    @property
    def is_waiting(self) -> bool:
        return bool(self._newest)

    def note(self, context: JobContext) -> None:
        job_id = int(context.job_id)
        word = Progress(context.fence, job_id, context.fraction, context.message)
        with self._lock:
            is_first = not self._newest
            self._newest[job_id] = word
        if is_first:
            self._loop.call_soon_threadsafe(self._arrived.set)

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            await self._arrived.wait()
            await self.flush()
            await asyncio.sleep(INTERVAL)

    async def flush(self) -> None:
        self._arrived.clear()
        with self._lock:
            said, self._newest = self._newest, {}
        if not said:
            return
        try:
            refused = await self._source.report_progress(self._standing.worker_id, list(said.values()))
        except (Unavailable, OSError, TimeoutError) as error:
            log.warning("worker.progress_delayed", error=str(error))
            with self._lock:
                self._newest = {**said, **self._newest}
            self._arrived.set()
        else:
            if refused:
                log.warning("worker.stale_progress", count=len(refused))
