"""One slot: the task that takes a job, awaits its handler in place, and takes the next."""

from __future__ import annotations

import asyncio
import time
from contextvars import copy_context
from typing import TYPE_CHECKING

import structlog

from taskforge.domain.leases import Failed, Succeeded
from taskforge.worker.conclusions import (
    Broke,
    Conclusion,
    conclude_error,
    conclude_value,
    invalid_payload,
)
from taskforge.worker.context import JobContext, current
from taskforge.worker.handlers import Handler, Mode
from taskforge.worker.held import Item
from taskforge.worker.interrupts import Interrupt, conclude_interrupted

if TYPE_CHECKING:
    from taskforge.worker.slots import Slots

log = structlog.get_logger("taskforge.worker")


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
            held, index, job_id, job_type, _ = self.item
            lease = held.lease
            self._context = JobContext(
                job_id=str(job_id),
                job_type=job_type,
                queue_name=lease.queue_name,
                attempt=lease.attempt,
                fence=lease.fence,
                deadline=self.started / 1e9 + self.timeout,
                tenant_id=lease.tenant_id,
                acts_for_tenant=self._slots.is_shared,
                job_deadline=held.ends_at(index),
                on_progress=self._slots.on_progress,
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
            if held.is_timed:
                if (late := held.too_late(index, now)) is not None:
                    log.info("job.too_late", job_id=str(job_id), reason=getattr(late, "reason", ""))
                    completer.add(held, late)
                    await (completer.room() if completer.full else asyncio.sleep(0))
                    now = clock()
                    continue
                self.timeout = held.cut(index, self.timeout, now)
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
