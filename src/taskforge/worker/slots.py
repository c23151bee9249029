"""Runs jobs: `concurrency` long-lived tasks that take jobs from the local stock and await their handlers in place.

No task is made per job: that alone would cost more than everything else done here for a job that returns at once.
A slot is a real task, so `asyncio.timeout`, `current_task` and task groups work in a handler as anywhere else.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextvars import copy_context
from itertools import repeat, zip_longest
from random import Random
from uuid import UUID

import structlog

from taskforge.domain.leases import Cancelled, Lease, Released
from taskforge.worker.completer import Completer
from taskforge.worker.context import JobContext
from taskforge.worker.elsewhere import Elsewhere
from taskforge.worker.handlers import Handler, Mode
from taskforge.worker.held import Held, Item
from taskforge.worker.interrupts import Interrupt
from taskforge.worker.journal import Journal
from taskforge.worker.slot import Slot

log = structlog.get_logger("taskforge.worker")

TURN_NS = 2_000_000
"""Longest time that slots together keep the event loop from its I/O, unless a handler itself does."""

SWEEP = 0.05
GRACE = 5.0


class Slots:
    """The slots of one worker and the stock they take from.

    `on_low` is called when the stock has fallen below `low` or a slot found it empty. `grace` is how long a
    cancelled handler may take to end before its slot is given to other jobs. A worker that `is_shared` runs jobs of
    several tenants by turns.
    """

    def __init__(
        self,
        *,
        concurrency: int,
        handlers: Mapping[str, Handler],
        completer: Completer,
        elsewhere: Elsewhere,
        journal: Journal,
        on_low: Callable[[], None] = lambda: None,
        on_progress: Callable[[JobContext], None] = lambda context: None,
        grace: float = GRACE,
        is_shared: bool = False,
        rng: Random | None = None,
    ) -> None:
        self.handlers = handlers
        self.completer = completer
        self.elsewhere = elsewhere
        self.stock: deque[Item] = deque()
        self.idle: list[Slot] = []
        self.low = 0
        self.on_low = on_low
        self.on_progress = on_progress
        self.turn_ends = 0
        self.stopping = False
        self.rng = rng or Random()
        self.context = copy_context()
        self.loop = asyncio.get_running_loop()
        self.tasks: set[asyncio.Task[None]] = set()
        self._grace_ns = int(grace * 1e9)
        self.is_shared = is_shared
        self._sweeper: asyncio.TimerHandle | None = None
        self._drained = asyncio.Event()
        self.cells = journal.running
        self._slots = [Slot(self, cell) for cell in range(concurrency)]
        for slot in self._slots:
            slot.start()

    @property
    def running(self) -> int:
        return sum(slot.item is not None for slot in self._slots)

    def put(self, leases: Iterable[Lease]) -> int:
        """Add the jobs of `leases` to the stock and wake slots for them; how many jobs that were."""
        before = len(self.stock)
        now = time.monotonic_ns()
        for lease in leases:
            ids, held = lease.ids, Held(lease, now)
            items = zip(repeat(held), range(len(ids)), ids, lease.job_types, lease.payloads, strict=False)
            if lease.is_limited:
                self.stock.extendleft(reversed(list(items)))
            else:
                self.stock.extend(items)
        if self.is_shared:
            self._take_turns()
        added = len(self.stock) - before
        if self.stopping:
            self._release_stock()
            return added
        for _ in range(min(added, len(self.idle))):
            self.idle.pop().wake()
        if added and self._sweeper is None:
            self._sweeper = self.loop.call_later(SWEEP, self._sweep)
        return added

    def _take_turns(self) -> None:
        """Jobs of several tenants one after another, so that none waits behind all that another has here."""
        lines: dict[UUID, list[Item]] = {}
        for item in self.stock:
            lines.setdefault(item[0].lease.tenant_id, []).append(item)
        if len(lines) > 1:
            self.stock.clear()
            for turn in zip_longest(*lines.values()):
                self.stock.extend(item for item in turn if item is not None)

    def cancel(self, job_ids: Iterable[int]) -> None:
        """Stop these jobs where they are here; they end cancelled. A handler in a thread is only told."""
        wanted = frozenset(job_ids)
        for slot in self._slots:
            if slot.item is not None and slot.item[2] in wanted:
                slot.job_context().cancelled = True
                if slot.handler is None or slot.handler.mode is not Mode.THREAD:
                    slot.interrupt(Interrupt.CANCEL)
        kept: list[Item] = []
        for item in self.stock:
            if item[2] in wanted:
                held = item[0]
                now_us = (time.monotonic_ns() - held.claimed_ns) // 1_000
                self.completer.add(held, Cancelled(item[2], now_us, now_us, "cancelled on request"))
            else:
                kept.append(item)
        if len(kept) < len(self.stock):
            self.stock.clear()
            self.stock.extend(kept)

    def halt(self) -> int:
        """No handler starts from now on. How many jobs none has seen; they are given back, no attempt spent."""
        self.stopping = True
        while self.idle:
            self.idle.pop().wake()
        return self._release_stock()

    async def drain(self) -> None:
        """Let running handlers end and take nothing more; returns when none runs."""
        self.halt()
        await self._drained.wait()

    def _release_stock(self) -> int:
        released = len(self.stock)
        for held, _, job_id, _, _ in self.stock:
            self.completer.add(held, Released(job_id))
        self.stock.clear()
        return released

    def note_ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if self.stopping and not self.tasks:
            self._drained.set()

    def interrupt_all(self, reason: Interrupt) -> int:
        """Stop every running handler, whatever its kind; how many there were."""
        running = [slot for slot in self._slots if slot.item is not None]
        for slot in running:
            slot.job_context().cancelled = True
            slot.interrupt(reason)
        return len(running)

    def abandon_all(self) -> int:
        """Give up on handlers that ignored their cancellation; how many there were."""
        running = [slot for slot in self._slots if slot.item is not None]
        for slot in running:
            self._give_up(slot)
        return len(running)

    def begin_turn(self, now: int) -> None:
        """Called by the first slot that ends a job in this pass of the event loop."""
        self.turn_ends = now + TURN_NS
        self.loop.call_soon(self._end_turn)
        if len(self.stock) < self.low:
            self.on_low()

    def _end_turn(self) -> None:
        self.turn_ends = 0

    def replace(self, slot: Slot) -> None:
        """A new slot takes the place of one that cannot be used any more."""
        fresh = Slot(self, slot.cell)
        self._slots[self._slots.index(slot)] = fresh
        if not self.stopping:
            fresh.start()

    def _sweep(self) -> None:
        now = time.monotonic_ns()
        busy = False
        for slot in list(self._slots):
            if slot.item is None:
                continue
            busy = True
            if slot.interrupted is None:
                if now >= slot.started + int(slot.timeout * 1e9):
                    slot.interrupt(Interrupt.TIMEOUT)
            elif now >= slot.interrupted_at + self._grace_ns:
                log.error(
                    "worker.handler_ignored_cancellation", job_id=str(slot.item[2]), job_type=slot.item[3]
                )
                self._give_up(slot)
        self._sweeper = self.loop.call_later(SWEEP, self._sweep) if busy or self.stock else None

    def _give_up(self, slot: Slot) -> None:
        slot.abandon()
        self.replace(slot)
        if slot.task is not None:
            self.note_ended(slot.task)
