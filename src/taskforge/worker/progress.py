"""Passes on how far jobs say they are: the newest word of each, at most twice a second and once more before its end.

A handler never waits for it. A word that cannot be stored now is kept until it can, or until a newer one replaces it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable

import structlog

from taskforge.domain.leases import Progress
from taskforge.errors import Unavailable, WorkerLost
from taskforge.worker.context import JobContext
from taskforge.worker.source import Source, Standing

log = structlog.get_logger("taskforge.worker")

INTERVAL = 0.5


class ProgressReporter:
    """`note` may be called from any thread; `run` is the task that reports, `last_words` reports out of turn."""

    def __init__(self, source: Source, standing: Standing) -> None:
        self._source = source
        self._standing = standing
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._newest: dict[int, Progress] = {}
        self._arrived = asyncio.Event()
        self._sending = asyncio.Lock()
        self.stale = 0

    @property
    def is_idle(self) -> bool:
        """Nothing waits and nothing is on its way."""
        return not self._newest and not self._sending.locked()

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
            await self._send(self._take_all)
            await asyncio.sleep(INTERVAL)

    async def last_words(self, ended: Iterable[int]) -> None:
        """Report on jobs whose end is about to be reported, which would make their words stale."""
        await self._send(lambda: self._take(ended))

    def _take_all(self) -> dict[int, Progress]:
        self._arrived.clear()
        with self._lock:
            said, self._newest = self._newest, {}
        return said

    def _take(self, ended: Iterable[int]) -> dict[int, Progress]:
        with self._lock:
            return {job_id: self._newest.pop(job_id) for job_id in ended if job_id in self._newest}

    async def _send(self, take: Callable[[], dict[int, Progress]]) -> None:
        async with self._sending:  # an older word must not overtake a newer one
            said = take()
            if said:
                await self._report(said)

    async def _report(self, said: dict[int, Progress]) -> None:
        try:
            refused = await self._source.report_progress(self._standing.worker_id, list(said.values()))
        except (Unavailable, OSError, TimeoutError) as error:
            log.warning("worker.progress_delayed", error=str(error))
            with self._lock:
                self._newest = {**said, **self._newest}
            self._arrived.set()
        except WorkerLost:
            self._standing.lost.set()
            self._count_stale(len(said))
        except Exception as error:  # progress is never worth a worker
            log.error("worker.progress_refused", count=len(said), error=repr(error))
        else:
            if refused:
                self._count_stale(len(refused))

    def _count_stale(self, count: int) -> None:
        self.stale += count
        log.warning("worker.stale_progress", count=count)
