"""The loop that keeps the queue healthy: promote, reap, raise floors, roll up counts, make and drop partitions.

Every process that heartbeats may run it; the heartbeat's answer elects one (a server before a worker). Two at once do
no harm, only double work. While none runs: delayed and retrying jobs wait, dead workers' jobs stay theirs.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from datetime import timedelta

import structlog
from msgspec import Struct

from taskforge.errors import TaskForgeError
from taskforge.postgres import limits, maintenance
from taskforge.postgres.maintenance import Look
from taskforge.runtime.duties import Duties, all_duties
from taskforge.services.core import Core
from taskforge.services.wakeups import PARKED

_log = structlog.get_logger(__name__)

_IDLE_SECONDS = 1.0
_PROMOTE_BATCH = 1_000
_PROMOTE_BATCHES_PER_PASS = 20
_PROMOTE_FROM_THE_FRONT_SECONDS = 5.0
_REAP_AT_ONCE = 20
_REAP_SECONDS = 10.0
_FLOOR_STEP = 1_000
_HURRY_SECONDS = 0.05
_ROLL_UP_SECONDS = 1.0
_ROLL_UP_AGE = timedelta(seconds=1)
_PARTITION_SECONDS = 2.0
_PARTITIONS_AHEAD = 4
_BLOCKS_AHEAD = 20
_SWEEP_SECONDS = 60.0
_SWEEP_LIMIT = 5_000


class Pass(Struct):
    """What one pass did, and how long the next one may wait."""

    promoted: int = 0
    reaped: int = 0
    floors_raised: bool = False
    rolled_up: int = 0
    below_floors: int = 0
    pruned: int = 0
    rest_seconds: float = _IDLE_SECONDS


class Maintenance:
    """Active only while elected: `set_active` follows the heartbeat."""

    def __init__(self, core: Core, *, retention: timedelta = timedelta(days=7)) -> None:
        self._core = core
        self._retention = retention
        self._duties = Duties(all_duties(core))
        self._wake = asyncio.Event()
        self._active = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._unsubscribe = core.wakeups.subscribe(self._heard)
        self._first_look: Look | None = None
        self._raised_to = 0
        self._looked_at = time.monotonic()
        self._changed_since = 0
        self._partitions_for = -1
        self._blocks_for = -1
        self._promoted_upto: maintenance.Place | None = None
        self._done_at: dict[str, float] = {}

    def set_active(self, active: bool) -> None:
        if active:
            self._active.set()
        else:
            self._active.clear()

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._loop(), name="maintenance")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self._duties.stop()
        with suppress(ValueError):
            self._unsubscribe()

    async def run_once(self) -> Pass:
        """One pass over every duty that is due."""
        result = Pass()
        database = self._core.database
        survey = await maintenance.survey(database)
        if survey.next_due_in is not None and survey.next_due_in <= 0:
            result.promoted = await self._promote()
        if survey.expired or self._is_due("reap", _REAP_SECONDS):
            result.reaped = await self._reap()
        await self._floors(survey.next_ready, result)
        if survey.next_flow > survey.flow_floor and self._is_due("roll_up", _ROLL_UP_SECONDS):
            result.rolled_up = await self._roll_up()
        if survey.next_id != self._partitions_for and self._is_due("partitions", _PARTITION_SECONDS):
            await maintenance.ensure_partitions(database, ahead=_PARTITIONS_AHEAD)
            self._partitions_for = survey.next_id
        if survey.next_enqueue and survey.next_enqueue // 1_000 != self._blocks_for:
            await maintenance.stock_blocks(database, ahead=_BLOCKS_AHEAD)
            self._blocks_for = survey.next_enqueue // 1_000
        if self._is_due("sweep", _SWEEP_SECONDS):
            result.below_floors = await self._sweep(result)
        if result.promoted == _PROMOTE_BATCH * _PROMOTE_BATCHES_PER_PASS:
            result.rest_seconds = 0.01
        elif survey.next_due_in is not None:
            result.rest_seconds = min(result.rest_seconds, max(0.005, survey.next_due_in))
        if (next_duty := self._duties.start_due(survey.duties)) is not None:
            result.rest_seconds = min(result.rest_seconds, max(0.005, next_duty))
        return result

    async def _loop(self) -> None:
        while True:
            await self._active.wait()
            rest = _IDLE_SECONDS
            try:
                rest = (await self.run_once()).rest_seconds
            except TaskForgeError as error:
                _log.warning("maintenance.interrupted", error=error.code, detail=error.detail)
            except Exception:
                _log.exception("maintenance.failed")
            with suppress(TimeoutError):
                async with asyncio.timeout(rest):
                    await self._wake.wait()
            self._wake.clear()

    def _heard(self, numbers: frozenset[int]) -> None:
        if PARKED in numbers:
            self._wake.set()

    def _is_due(self, duty: str, seconds: float) -> bool:
        """At most once per `seconds`."""
        now = time.monotonic()
        if now - self._done_at.get(duty, -seconds) < seconds:
            return False
        self._done_at[duty] = now
        return True

    async def _promote(self) -> int:
        """A bounded number of due jobs, so that the other duties have their turn.

        While more is due than a pass takes, the next one goes on where it stopped; now and then, and whenever the end
        is reached, it starts at the front again, for what was locked or committed late.
        """
        total = 0
        if self._is_due("promote_from_the_front", _PROMOTE_FROM_THE_FRONT_SECONDS):
            self._promoted_upto = None
        for _ in range(_PROMOTE_BATCHES_PER_PASS):
            promoted = await maintenance.promote(
                self._core.database, limit=_PROMOTE_BATCH, after=self._promoted_upto
            )
            self._promoted_upto = promoted.upto if promoted.count == _PROMOTE_BATCH else None
            total += promoted.count
            if promoted.count:
                self._core.wakeups.jobs_ready(promoted.queue_ids)
            if promoted.count < _PROMOTE_BATCH:
                break
        return total

    async def _reap(self) -> int:
        buried = await maintenance.reap(self._core.database, ttl=self._core.worker_ttl, limit=_REAP_AT_ONCE)
        for worker_id, returned in buried.items():
            _log.warning("worker.lost", worker_id=worker_id, returned=returned)
        if any(buried.values()):
            self._core.wakeups.everything()
        return len(buried)

    async def _floors(self, next_ready: int, result: Pass) -> None:
        """Second look of the last pass's first look, then a new first look: decision 0002.

        The next pass comes when about a step's worth of extents will have gone by, so that claims have little to skip.
        """
        now = time.monotonic()
        gained = 0
        if self._first_look is not None:
            first = self._first_look
            result.floors_raised = await maintenance.raise_floors(
                self._core.database, first, since=self._changed_since
            )
            if result.floors_raised:
                gained = first.next_ready - self._raised_to
                self._raised_to, self._changed_since = first.next_ready, first.next_flow
                self._first_look = None
        behind = next_ready - self._raised_to
        if self._first_look is None and (behind > 0 or gained):
            self._first_look = await maintenance.look(self._core.database)
        # Work comes in bursts, so that the pauses grow slowly again.
        pause = (now - self._looked_at) * min(2.0, _FLOOR_STEP / max(behind, gained, 1))
        result.rest_seconds = min(_IDLE_SECONDS, max(_HURRY_SECONDS, pause))
        self._looked_at = now

    async def _roll_up(self) -> int:
        """Not beyond what the floors have learnt from: they ask `flow` which lanes have changed."""
        first = await maintenance.look(self._core.database)
        upto = None if self._first_look is None else self._changed_since
        total = 0
        while True:
            rolled = await maintenance.roll_up(self._core.database, first, age=_ROLL_UP_AGE, upto=upto)
            if rolled == 0:
                return total
            total += rolled

    async def _sweep(self, result: Pass) -> int:
        database = self._core.database
        below = await maintenance.count_below_floors(database)
        if below:
            _log.error("floors.broken", extents=below)
        if orphans := await maintenance.count_orphans(database):
            _log.error("dependencies.orphans", jobs=orphans)
        if drift := await limits.count_drift(database):
            _log.error("limits.drifted", rows=drift)
        await maintenance.sweep(database, keep=self._retention, limit=_SWEEP_LIMIT)
        await maintenance.forget_seconds(database)
        with suppress(TaskForgeError):
            while await maintenance.prune(database, keep=self._retention) is not None:
                result.pruned += 1
        return below
