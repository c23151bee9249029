"""A worker: producer, slots, completer and heartbeat put together, with their start, their drain and their end."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import structlog

from taskforge.domain.leases import Beat, RegisterWorker, Registration
from taskforge.domain.tenants import Context
from taskforge.errors import ConfigurationError, TaskForgeError, Unavailable
from taskforge.services.core import Core
from taskforge.services.wakeups import CANCEL
from taskforge.worker.completer import Completer
from taskforge.worker.elsewhere import Elsewhere
from taskforge.worker.handlers import Handler
from taskforge.worker.heartbeat import Heartbeat
from taskforge.worker.interrupts import Interrupt
from taskforge.worker.journal import Journal
from taskforge.worker.producer import Producer
from taskforge.worker.progress import ProgressReporter
from taskforge.worker.shutdown import Shutdown
from taskforge.worker.slots import GRACE, Slots
from taskforge.worker.source import DirectSource, Standing

log = structlog.get_logger("taskforge.worker")

LAST_WORDS = 10.0
HURRIED_WORDS = 2.0


class Worker:
    """Runs jobs of `queues` with `handlers`. `start` and `stop`, or `run` until a signal.

    A worker that `is_shared` serves the queues of these names in every tenant, each tenant its share.
    `on_maintain` hears with every beat whether this process is the one that should run the maintenance loops.
    """

    def __init__(
        self,
        core: Core,
        handlers: Mapping[str, Handler],
        *,
        queues: Sequence[str],
        ctx: Context | None = None,
        concurrency: int = 50,
        prefetch: int = 5000,
        shutdown_timeout: float = 30.0,
        grace: float = GRACE,
        name: str = "",
        version: str = "",
        is_shared: bool = False,
        on_maintain: Callable[[bool], None] = lambda maintain: None,
    ) -> None:
        if not queues:
            raise ConfigurationError(
                "worker.no_queues", "no queue to serve; name one with -q, or declare a job"
            )
        self._core = core
        self._handlers = handlers
        self._concurrency = concurrency
        self._prefetch = prefetch
        self._shutdown_timeout = shutdown_timeout
        self._grace = grace
        self._on_maintain = on_maintain
        host = socket.gethostname()
        self._registration = RegisterWorker(
            name=name or f"{host}-{os.getpid()}",
            queues=tuple(dict.fromkeys(queues)),
            job_types=tuple(sorted(handlers)),
            concurrency=concurrency,
            version=version,
            host=host,
            pid=os.getpid(),
            is_shared=is_shared,
        )
        self._source = DirectSource(core, ctx or Context(), self._registration)
        self._tasks: list[asyncio.Task[None]] = []
        self._started = False

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def worker_id(self) -> int:
        return self._standing.worker_id

    async def start(self) -> None:
        """Registered, with its queues existing, and claiming. Raises Unavailable when the database is away."""
        self._broken = False
        self.shutdown = Shutdown()
        self._standing = Standing()
        registration = await self._register()
        self._standing.worker_id = registration.worker_id
        self._journal = Journal(self._concurrency)
        self._progress = ProgressReporter(self._source, self._standing)
        self._completer = Completer(
            self._source,
            self._standing,
            self._journal,
            bound=2 * (self._prefetch + self._concurrency),
            progress=self._progress,
        )
        self._elsewhere = Elsewhere(self._source, self._standing)
        self.slots = Slots(
            concurrency=self._concurrency,
            handlers=self._handlers,
            completer=self._completer,
            elsewhere=self._elsewhere,
            journal=self._journal,
            on_progress=self._progress.note,
            grace=self._grace,
            is_shared=self._registration.is_shared,
        )
        self._producer = Producer(
            self._source,
            self._standing,
            self.slots,
            self._completer,
            concurrency=self._concurrency,
            most=self._prefetch,
            is_shared=self._registration.is_shared,
        )
        self.heartbeat = Heartbeat(
            self._core.database.dsn,
            self._standing,
            self._journal,
            ttl=registration.ttl,
            on_beat=self._on_beat,
        )
        self._unsubscribe = self._core.wakeups.subscribe(self._on_hint)
        self._producing = self._own(self._producer.run(), "worker-producer")
        self._beating = self._own(self.heartbeat.run(), "worker-heartbeat")
        self._own(self._completer.run(), "worker-completer")
        self._own(self._progress.run(), "worker-progress")
        self._own(self._watch_registration(), "worker-registration")
        self._started = True
        log.info(
            "worker.started",
            worker_id=registration.worker_id,
            queues=list(self._registration.queues),
            concurrency=self._concurrency,
        )

    async def run(self, *, signals: bool = True) -> int:
        """Work until SIGTERM, SIGINT or an order to drain; the process's exit code: 0 after a clean drain,
        128 plus the signal's number when handlers had to be interrupted, 1 when a loop of the worker broke."""
        await self.start()
        if signals:
            self.shutdown.install()
        try:
            await self.shutdown.requested.wait()
        finally:
            clean = await self.stop()
            if signals:
                self.shutdown.uninstall()
        if self._broken:
            return 1
        return 0 if clean else 128 + self.shutdown.number

    async def stop(self) -> bool:
        """Drained: nothing new starts, what runs ends within `shutdown_timeout` or is released, all is reported.

        True when every handler ended by itself. Setting `shutdown.hurried` cuts the wait short.
        """
        if not self._started:
            return True
        self._started = False
        self._unsubscribe()
        log.info("worker.draining", running=self.slots.running)
        self._producer.stop()
        released = self.slots.halt()
        # What a claim under way still brings is given back as it arrives.
        await _within(HURRIED_WORDS, self._producing)
        clean = await self._drain_slots()
        words = HURRIED_WORDS if self.shutdown.hurried.is_set() else LAST_WORDS
        all_said = await _within(words, self._completer.drained())
        if not all_said:
            log.error("worker.outcomes_unreported", count=self._completer.waiting)
        self.heartbeat.stop()
        await _within(HURRIED_WORDS, self._beating)
        try:
            await _within(HURRIED_WORDS, self._source.deregister(self.worker_id))
        except (TaskForgeError, OSError) as error:
            log.warning("worker.deregister_failed", error=str(error))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await self._elsewhere.close()
        self._journal.close()
        log.info("worker.stopped", clean=clean, released=released)
        return clean and all_said

    async def _drain_slots(self) -> bool:
        draining = asyncio.create_task(self.slots.drain(), name="worker-drain")
        hurried = asyncio.create_task(self.shutdown.hurried.wait(), name="worker-hurried")
        await asyncio.wait(
            {draining, hurried}, timeout=self._shutdown_timeout, return_when=asyncio.FIRST_COMPLETED
        )
        hurried.cancel()
        clean = draining.done()
        if not clean:
            interrupted = self.slots.interrupt_all(Interrupt.RELEASE)
            log.warning("worker.interrupting", running=interrupted)
            await asyncio.wait({draining}, timeout=min(self._grace, HURRIED_WORDS))
            if not draining.done():
                self.slots.abandon_all()
                await draining
        return clean

    def _own(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._on_ended)
        self._tasks.append(task)
        return task

    def _on_ended(self, task: asyncio.Task[None]) -> None:
        """A loop that breaks is a fault of ours; the worker ends, so that whoever supervises it starts a sound one."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("worker.loop_failed", loop=task.get_name(), exc_info=error)
            self._broken = True
            self.shutdown.requested.set()

    def _on_hint(self, numbers: frozenset[int]) -> None:
        if CANCEL in numbers:
            self.heartbeat.beat()
        if not numbers or numbers.intersection(self._source.queue_ids):
            self._producer.poke()

    def _on_beat(self, beat: Beat) -> None:
        if not beat.alive:
            self._standing.lost.set()
            return
        if beat.cancel:
            self.slots.cancel(beat.cancel)
        if beat.drain:
            self.shutdown.requested.set()
        self._on_maintain(beat.maintain)

    async def _watch_registration(self) -> None:
        while True:
            await self._standing.lost.wait()
            log.error("worker.registration_lost", worker_id=self.worker_id, running=self.slots.running)
            # Others have these jobs now: end the handlers, drop their results, start over under a new name.
            self.slots.stock.clear()
            self.slots.interrupt_all(Interrupt.LOST)
            self._completer.forget()
            self._standing.worker_id = await self._register_anew()
            self._standing.lost.clear()
            self.heartbeat.renew()
            self._producer.poke()
            log.info("worker.registered_anew", worker_id=self.worker_id)

    async def _register(self) -> Registration:
        """A commit whose answer was lost is asked again: a registration nobody beats for expires by itself."""
        try:
            return await self._source.register()
        except Unavailable as error:
            if error.code != "database.commit_unknown":
                raise
            return await self._source.register()

    async def _register_anew(self) -> int:
        pause = 0.1
        while True:
            try:
                return (await self._source.register()).worker_id
            except (Unavailable, OSError, TimeoutError) as error:
                log.warning("worker.register_delayed", error=str(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)


async def _within(seconds: float, work: Coroutine[Any, Any, None] | asyncio.Task[None]) -> bool:
    """False when the work was not done in that time; it is cancelled then."""
    try:
        async with asyncio.timeout(seconds):
            await work
    except TimeoutError:
        return False
    return True
