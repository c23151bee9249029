"""Keeps the local stock filled: claims what the slots can start soon, and no more.

The stock holds about 100 ms of work as measured, so that a claim is under way while handlers run; handlers that take
seconds leave it empty, and other workers get the jobs. One claim at a time.
"""

from __future__ import annotations

import asyncio
import time
from random import Random

import structlog

from taskforge.errors import Unavailable, WorkerLost
from taskforge.worker.completer import Completer
from taskforge.worker.doubts import Doubts
from taskforge.worker.slots import Slots
from taskforge.worker.source import Source, Standing

log = structlog.get_logger("taskforge.worker")

STOCK_SECONDS = 0.1
SHARED_STOCK_SECONDS = 0.02
SOON_SECONDS = 0.01
FIRST_POLL = 0.005
LONGEST_POLL = 2.0
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0


class Producer:
    """`run` is the one task that claims; `poke` tells it that there may be something."""

    def __init__(
        self,
        source: Source,
        standing: Standing,
        slots: Slots,
        completer: Completer,
        *,
        concurrency: int,
        most: int,
        is_shared: bool = False,
        rng: Random | None = None,
    ) -> None:
        self._source = source
        self._standing = standing
        self._slots = slots
        self._completer = completer
        self._most = most
        self._doubts = Doubts(source)
        self._rng = rng or Random()
        self._hungry = asyncio.Event()
        self._hint = asyncio.Event()
        self._stopping = False
        self._ended_before = 0
        self._measured_at = time.monotonic()
        self._soon = 0
        # A tenant's job waits for the next claim, however much another tenant has here: so the stock is small.
        self._stock_seconds = SHARED_STOCK_SECONDS if is_shared else STOCK_SECONDS
        self._set_prefetch(min(concurrency, most))
        slots.on_low = self._hungry.set

    @property
    def prefetch(self) -> int:
        """How many jobs the stock should hold beyond what idle slots take at once."""
        return self._prefetch

    def poke(self) -> None:
        self._hint.set()

    def stop(self) -> None:
        """No claim starts after this; one under way still brings its jobs."""
        self._stopping = True
        self._hint.set()
        self._hungry.set()

    async def run(self) -> None:
        """Claim until stopped."""
        poll, pause = FIRST_POLL, FIRST_PAUSE
        while not self._stopping:
            self._hungry.clear()
            want = self.want()
            if want <= 0:
                await self._hungry.wait()
                continue
            self._hint.clear()
            try:
                got = await self.run_once(want)
            except WorkerLost:
                self._standing.lost.set()
                await self._hint.wait()
                continue
            except (Unavailable, OSError, TimeoutError) as error:
                log.warning("worker.claim_delayed", error=str(error))
                await self._rest(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            pause = FIRST_PAUSE
            if got:
                poll = FIRST_POLL
            if got < want:  # nothing is left for now
                poll = FIRST_POLL if await self._rest(poll) else min(poll * 2, LONGEST_POLL)
                if not got:
                    self._restart_measurement()

    async def run_once(self, want: int) -> int:
        """Claim once, into the stock; how many jobs came."""
        worker_id = self._standing.worker_id
        await self._doubts.settle(worker_id)
        try:
            leases = await self._source.claim(worker_id, want=want, startable=self.startable())
        except (Unavailable, OSError, TimeoutError):
            self._doubts.arise()
            raise
        self._doubts.heard(leases)
        if worker_id != self._standing.worker_id:
            return 0  # they went with the registration they were claimed under
        return self._slots.put(leases)

    def want(self) -> int:
        """How many jobs to claim now; 0 while the stock is three quarters full."""
        self._measure()
        stock, idle = len(self._slots.stock), len(self._slots.idle)
        if stock >= self._slots.low and (stock or not idle):
            return 0
        return idle + self._prefetch - stock

    def startable(self) -> int:
        """How many jobs would start at once if they came now. Limited ones go to the head of the stock, so while it
        feeds the slots that is what ends within a hundredth of a second: else a full stock would shut them out."""
        stock, idle = len(self._slots.stock), len(self._slots.idle)
        return max(idle - stock, self._soon if stock else 0, 0)

    def _measure(self) -> None:
        now = time.monotonic()
        elapsed = now - self._measured_at
        ended = self._completer.added - self._ended_before
        if elapsed < 0.001 or (ended == 0 and elapsed < self._stock_seconds):
            return
        measured = ended / elapsed * self._stock_seconds
        self._soon = max(1, int(ended / elapsed * SOON_SECONDS)) if measured >= 1 else 0
        # Half the old value, so that one hiccup does not empty the stock; growth counts at once.
        self._set_prefetch(min(self._most, int(max(measured, (measured + self._prefetch) / 2))))
        self._restart_measurement()

    def _restart_measurement(self) -> None:
        self._measured_at = time.monotonic()
        self._ended_before = self._completer.added

    def _set_prefetch(self, prefetch: int) -> None:
        self._prefetch = prefetch
        self._slots.low = (prefetch * 3 + 3) // 4

    async def _rest(self, seconds: float) -> bool:
        """Wait about so long; True when a hint came earlier."""
        try:
            async with asyncio.timeout(seconds * (0.75 + self._rng.random() / 2)):
                await self._hint.wait()
        except TimeoutError:
            return False
        return True
