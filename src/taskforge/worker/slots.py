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
from itertools import repeat
from random import Random

import structlog

from taskforge.domain.leases import Cancelled, Failed, Lease, Released, Succeeded
from taskforge.worker.completer import Completer
from taskforge.worker.conclusions import Broke, Conclusion, conclude_error, conclude_value, invalid_payload
from taskforge.worker.context import JobContext, current
from taskforge.worker.elsewhere import Elsewhere
from taskforge.worker.handlers import Handler, Mode
from taskforge.worker.held import Held, Item
from taskforge.worker.interrupts import Interrupt, conclude_interrupted
from taskforge.worker.journal import Journal

log = structlog.get_logger("taskforge.worker")

TURN_NS = 2_000_000
"""Longest time that slots together keep the event loop from its I/O, unless a handler itself does."""

SWEEP = 0.05
GRACE = 5.0


class Slots:
    """The slots of one worker and the stock they take from.

    `on_low` is called when the stock has fallen below `low` or a slot found it empty. `grace` is how long a
    cancelled handler may take to end before its slot is given to other jobs.
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
        grace: float = GRACE,
        rng: Random | None = None,
    ) -> None:
        self.handlers = handlers
        self.completer = completer
        self.elsewhere = elsewhere
        self.stock: deque[Item] = deque()
        self.idle: list[Slot] = []
        self.low = 0
        self.on_low = on_low
        self.turn_ends = 0
        self.stopping = False
        self.rng = rng or Random()
        self.context = copy_context()
        self.loop = asyncio.get_running_loop()
        self.tasks: set[asyncio.Task[None]] = set()
        self._grace_ns = int(grace * 1e9)
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
            self.stock.extend(
                zip(repeat(held), range(len(ids)), ids, lease.job_types, lease.payloads, strict=False)
            )
        added = len(self.stock) - before
        if self.stopping:
            self._release_stock()
            return added
        for _ in range(min(added, len(self.idle))):
            self.idle.pop().wake()
        if added and self._sweeper is None:
            self._sweeper = self.loop.call_later(SWEEP, self._sweep)
        return added

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


class Slot:
    """One place where a job can run. `item` is the job that runs there now."""

    __slots__ = (
        "_context",
        "_slots",
        "_waiter",
        "abandoned",
        "cell",
        "handler",
        "interrupted",
        "interrupted_at",
        "item",
        "started",
        "task",
        "timeout",
    )

    def __init__(self, slots: Slots, cell: int) -> None:
        self._slots = slots
        self.cell = cell
        self._waiter: asyncio.Future[None] | None = None
        self._context: JobContext | None = None
        self.task: asyncio.Task[None] | None = None
        self.item: Item | None = None
        self.handler: Handler | None = None
        self.started = 0
        self.timeout = 0.0
        self.interrupted: Interrupt | None = None
        self.interrupted_at = 0
        self.abandoned = False

    def start(self) -> None:
        context = self._slots.context.copy()
        context.run(current.set, self.job_context)
        task = self._slots.loop.create_task(self._run(), name="taskforge-slot", context=context)
        self._slots.tasks.add(task)
        task.add_done_callback(self._ended)
        self.task = task

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def job_context(self) -> JobContext:
        """Made when first asked for; most handlers never ask."""
        if self._context is None:
            if self.item is None:
                raise LookupError("the job has ended")
            held, _, job_id, job_type, _ = self.item
            lease = held.lease
            self._context = JobContext(
                job_id=str(job_id),
                job_type=job_type,
                queue_name=lease.queue_name,
                attempt=lease.attempt,
                fence=lease.fence,
                deadline=self.started / 1e9 + self.timeout,
            )
        return self._context

    def interrupt(self, reason: Interrupt) -> None:
        """Cancel the running handler. The first reason counts, but a lost registration overrides the others."""
        if self.interrupted is None:
            self.interrupted = reason
            self.interrupted_at = time.monotonic_ns()
            assert self.task is not None
            self.task.cancel()
        elif reason is Interrupt.LOST:
            self.interrupted = reason

    def abandon(self) -> None:
        """Report the job as its interrupt says, and drop whatever the handler may still come up with."""
        self.abandoned = True
        reason = self.interrupted or Interrupt.RELEASE
        self._report(Broke("CancelledError"), time.monotonic_ns(), reason)
        self.interrupted = reason

    async def _run(self) -> None:
        slots = self._slots
        stock, handlers, completer = slots.stock, slots.handlers, slots.completer
        cells, cell = slots.cells, self.cell
        clean = copy_context()
        clock = time.monotonic_ns
        now = clock()
        while True:
            try:
                item = stock.popleft()
            except IndexError:
                if not await self._wait_for_stock():
                    return
                now = clock()
                continue
            held, index, job_id, job_type, payload = item
            self.handler = handler = handlers.get(job_type)
            self.timeout = held.timeout(index, handler)
            self.started = now
            self._context = None
            self.item = item
            cells[cell] = job_id
            value: object = None
            conclusion: Conclusion | None = None
            if handler is None or payload is None or handler.mode is not Mode.ASYNC:
                try:
                    conclusion = await slots.elsewhere.run(self.job_context(), item, handler)
                except BaseException as error:
                    conclusion = self._caught(error)
            else:
                try:
                    args, kwargs = handler.read(payload)
                except Exception as error:  # a parameter's own type may refuse a value with any error
                    conclusion = invalid_payload(error)
                else:
                    try:
                        value = await handler.fn(*args, **kwargs)
                    except BaseException as error:  # SystemExit too: it ends the attempt, not the worker
                        conclusion = self._caught(error)
            now = clock()
            if self.abandoned:
                return
            if value is None and conclusion is None and self.interrupted is None:
                claimed = held.claimed_ns
                outcome = Succeeded(job_id, (self.started - claimed) // 1_000, (now - claimed) // 1_000)
                completer.add(held, outcome)
            else:
                self._report(conclusion or conclude_value(value), now, self.interrupted)
            self.item = None
            if copy_context() != clean:
                # The handler left a context variable changed; the next job must not see it.
                self.start()
                return
            if completer.full:
                await completer.room()
                now = clock()
            elif now > slots.turn_ends:
                if slots.turn_ends:
                    await asyncio.sleep(0)
                    now = clock()
                else:
                    slots.begin_turn(now)

    async def _wait_for_stock(self) -> bool:
        """False when there will be none."""
        slots = self._slots
        if slots.stopping:
            return False
        self._waiter = slots.loop.create_future()
        slots.idle.append(self)
        slots.on_low()
        await self._waiter
        return True

    def _caught(self, error: BaseException) -> Conclusion:
        if isinstance(error, asyncio.CancelledError) and self.interrupted is None:
            assert self.task is not None
            if self.task.cancelling():
                raise error  # the event loop itself is being shut down
        return conclude_error(error)

    def _report(self, conclusion: Conclusion, now: int, interrupted: Interrupt | None) -> None:
        assert self.item is not None
        held, index, _, job_type, _ = self.item
        if interrupted is not None:
            self._clear_interrupt()
            ended = conclude_interrupted(interrupted, conclusion, self.timeout)
            if ended is None:
                return
            conclusion = ended
        outcome = held.outcome(
            conclusion,
            index=index,
            handler=self.handler,
            started_us=(self.started - held.claimed_ns) // 1_000,
            finished_us=(now - held.claimed_ns) // 1_000,
            rng=self._slots.rng,
        )
        if isinstance(outcome, Failed):
            log.warning(
                "job.failed",
                job_id=str(outcome.job_id),
                job_type=job_type,
                attempt=held.lease.attempt,
                error_class=outcome.error_class,
                message=outcome.message,
                retry_in=outcome.retry_in,
            )
        self._slots.completer.add(held, outcome)

    def _clear_interrupt(self) -> None:
        self.interrupted = None
        task = self.task
        while task is not None and task.cancelling():
            task.uncancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._slots.note_ended(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("worker.slot_failed", exc_info=error)
