"""Claims whose answer was lost. They may have been granted, and then the jobs stay ours although nobody here has them.

A worker that lives keeps its leases, so no reaper would ever take these away from it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import structlog

from taskforge.domain.leases import Lease
from taskforge.worker.source import Source

log = structlog.get_logger("taskforge.worker")

LASTS_SECONDS = 10.0
"""How long a claim that was given up may still be carried out by a database that had stopped for a while."""


class Doubts:
    """Gives such leases back before the next claim, and once more when no such claim can come any more."""

    def __init__(self, source: Source, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._clock = clock
        self._worker_id = 0
        self._last_fence = 0
        self._since: list[int] = []
        self._arose_at: float | None = None
        self._is_due = False

    def arise(self) -> None:
        """A claim has failed in a way that leaves open whether it was granted."""
        self._arose_at = self._clock()
        self._is_due = True

    def heard(self, leases: Sequence[Lease]) -> None:
        """A claim was answered."""
        fences = [lease.fence for lease in leases]
        if self._arose_at is not None:
            self._since += fences
        elif fences:
            self._last_fence = max(fences)

    async def settle(self, worker_id: int) -> None:
        """To be called before every claim; nothing to do, nearly always. Raises what `disown` raises, and doubts on."""
        if worker_id != self._worker_id:  # its leases went with the former registration
            self._worker_id, self._arose_at, self._is_due = worker_id, None, False
            self._since.clear()
        if self._arose_at is None:
            return
        is_over = self._clock() - self._arose_at > LASTS_SECONDS
        if not self._is_due and not is_over:
            return
        returned = await self._source.disown(worker_id, above=self._last_fence, known=self._since)
        self._is_due = False
        if returned:
            log.warning("worker.lost_claim_returned", count=returned)
        if is_over:
            self._last_fence = max([self._last_fence, *self._since])
            self._since.clear()
            self._arose_at = None
