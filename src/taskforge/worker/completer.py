"""Reports how jobs ended, many at a time, and keeps the reports for as long as the database cannot take them.

No flush running: flush at once. While one runs, whatever arrives becomes the next batch. So an idle worker adds
no delay and a busy one pays one commit for many jobs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random

import structlog

from taskforge.domain.leases import Expired, Failed, LeaseReport, Outcome, Released
from taskforge.errors import TaskForgeError, Unavailable, WorkerLost
from taskforge.worker.held import Held
from taskforge.worker.journal import Journal
from taskforge.worker.progress import ProgressReporter
from taskforge.worker.source import Source, Standing

log = structlog.get_logger("taskforge.worker")

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 5.0
LARGEST_BATCH = 5_000


class Completer:
    """`add` is called by the slots; `run` is the one task that reports. At most `bound` outcomes wait or travel."""

    def __init__(
        self,
        source: Source,
        standing: Standing,
        journal: Journal,
        *,
        bound: int,
        progress: ProgressReporter | None = None,
        rng: Random | None = None,
    ) -> None:
        self._source = source
        self._standing = standing
        self._ended = journal.ended
        self._ended_mask = journal.ended_mask
        # Twice, because a flush takes what is oldest while as much again may be added.
        self._bound = min(bound, journal.ended_mask // 2)
        self._progress = progress
        self._rng = rng or Random()
        self._touched: list[Held] = []
        self._arrived = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self._generation = 0
        self.waiting = 0
        self.added = 0
        self.stale = 0

    @property
    def full(self) -> bool:
        return self.waiting >= self._bound

    def add(self, held: Held, outcome: Outcome) -> None:
        outcomes = held.outcomes
        if not outcomes:
            self._touched.append(held)
            self._arrived.set()
            self._settled.clear()
        outcomes.append(outcome)
        self._ended[self.added & self._ended_mask] = outcome.job_id
        self.waiting += 1
        self.added += 1

    async def room(self) -> None:
        """Return when fewer than `bound` outcomes wait."""
        while self.full:
            self._settled.clear()
            await self._settled.wait()

    async def drained(self) -> None:
        """Return when everything added so far has been reported."""
        while self.waiting:
            self._settled.clear()
            await self._settled.wait()

    def forget(self) -> None:
        """Drop what waits: the registration it belongs to is gone, and so are its leases."""
        self._generation += 1
        for held in self._touched:
            held.outcomes = []
        self._touched = []
        self.waiting = 0
        self._settled.set()

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._touched:
                await self._flush()

    async def _flush(self) -> None:
        generation, worker_id = self._generation, self._standing.worker_id
        reports, count = self._collect()
        if self._progress is not None and not self._progress.is_idle:
            await self._progress.last_words([o.job_id for report in reports for o in report.outcomes])
        await self._report(worker_id, reports, generation)
        if generation == self._generation:
            self.waiting -= count
            self._settled.set()

    def _collect(self) -> tuple[list[LeaseReport], int]:
        reports: list[LeaseReport] = []
        count = 0
        for held in self._touched:
            if count >= LARGEST_BATCH:
                break
            reports.append(LeaseReport(held.lease, held.outcomes))
            count += len(held.outcomes)
            held.outcomes = []
        del self._touched[: len(reports)]
        return reports, count

    async def _report(self, worker_id: int, reports: Sequence[LeaseReport], generation: int) -> None:
        pause = FIRST_PAUSE
        while generation == self._generation:
            try:
                result = await self._source.finish(worker_id, reports)
            except (Unavailable, OSError, TimeoutError) as error:
                # The report may have been stored before the answer was lost; sent again it is a success, too.
                log.warning("worker.finish_delayed", error=str(error), waiting=self.waiting)
                await asyncio.sleep(pause * (0.5 + self._rng.random()))
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            except WorkerLost:
                self._standing.lost.set()
                self._count_stale([(r.lease.fence, o.job_id) for r in reports for o in r.outcomes])
                return
            except Exception as error:  # one outcome that cannot be stored must not hold back the others
                await self._isolate(worker_id, reports, generation, error)
                return
            if result.stale:
                self._count_stale(result.stale)
            return

    async def _isolate(
        self, worker_id: int, reports: Sequence[LeaseReport], generation: int, error: Exception
    ) -> None:
        """Halve a refused batch until the outcome that is to blame stands alone."""
        if len(reports) > 1:
            half = len(reports) // 2
            await self._report(worker_id, reports[:half], generation)
            await self._report(worker_id, reports[half:], generation)
            return
        lease, outcomes = reports[0].lease, reports[0].outcomes
        if len(outcomes) > 1:
            half = len(outcomes) // 2
            await self._report(worker_id, [LeaseReport(lease, outcomes[:half])], generation)
            await self._report(worker_id, [LeaseReport(lease, outcomes[half:])], generation)
            return
        refused = outcomes[0]
        log.error("worker.outcome_refused", job_id=refused.job_id, error=repr(error))
        if isinstance(refused, Released | Expired) or (
            isinstance(refused, Failed) and refused.error_class == "outcome.refused"
        ):
            return
        message = error.detail if isinstance(error, TaskForgeError) else type(error).__name__
        instead = Failed(
            refused.job_id,
            refused.started_us,
            refused.finished_us,
            "outcome.refused",
            message[:500],
            "",
            None,
        )
        await self._report(worker_id, [LeaseReport(lease, [instead])], generation)

    def _count_stale(self, stale: Sequence[tuple[int, int]]) -> None:
        self.stale += len(stale)
        log.warning(
            "worker.stale_reports", count=len(stale), first_fence=stale[0][0], first_job_id=str(stale[0][1])
        )
