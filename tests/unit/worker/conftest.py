from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest

from taskforge.domain.leases import FinishResult, Lease, LeaseReport, Outcome, Registration
from taskforge.domain.retry import DEFAULT_POLICY
from taskforge.domain.tenants import DEFAULT_TENANT
from taskforge.worker.completer import Completer
from taskforge.worker.elsewhere import Elsewhere
from taskforge.worker.handlers import Handler, make_handler
from taskforge.worker.journal import Journal
from taskforge.worker.slots import Slots
from taskforge.worker.source import Standing


def make_lease(
    job_type: str = "job",
    payloads: Sequence[bytes | None] = (b"{}",),
    *,
    first_id: int = 1,
    fence: int = 7,
    attempt: int = 1,
    timeout: float = 60.0,
    **changes: Any,
) -> Lease:
    ids = list(range(first_id, first_id + len(payloads)))
    fields: dict[str, Any] = {
        "fence": fence,
        "tenant_id": DEFAULT_TENANT,
        "queue_id": 1,
        "queue_name": "default",
        "priority": 5,
        "attempt": attempt,
        "ids": ids,
        "job_types": [job_type] * len(ids),
        "payloads": list(payloads),
        "max_attempts": None,
        "timeouts": None,
        "options": None,
        "claimed_at": datetime.now(UTC),
        "claimed_us": time.time_ns() // 1_000,
        "queue_max_attempts": 5,
        "queue_timeout": timeout,
        "queue_retry": DEFAULT_POLICY,
    }
    return Lease(**(fields | changes))


class MemorySource:
    """Answers claims from `ready`; remembers reports. `failures` are raised by finish, one per call."""

    def __init__(self) -> None:
        self.ready: list[list[Lease]] = []
        self.wanted: list[int] = []
        self.outcomes: dict[int, Outcome] = {}
        self.batches: list[list[LeaseReport]] = []
        self.failures: list[BaseException] = []
        self.stale: list[tuple[int, int]] = []
        self.large: dict[int, bytes] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.changed = asyncio.Event()

    async def register(self) -> Registration:
        return Registration(1, 10.0, (1,))

    async def claim(self, worker_id: int, *, want: int, startable: int) -> list[Lease]:
        self.wanted.append(want)
        self._note()
        return self.ready.pop(0) if self.ready else []

    async def disown(self, worker_id: int, *, above: int, known: Sequence[int]) -> int:
        return 0

    async def fetch_payloads(self, worker_id: int, lease: Lease, ids: Sequence[int]) -> dict[int, bytes]:
        return {job_id: self.large[job_id] for job_id in ids if job_id in self.large}

    async def finish(self, worker_id: int, reports: Sequence[LeaseReport]) -> FinishResult:
        await self.gate.wait()
        self.batches.append(list(reports))
        self._note()
        if self.failures:
            raise self.failures.pop(0)
        for report in reports:
            for outcome in report.outcomes:
                assert outcome.job_id not in self.outcomes, "reported twice"
                self.outcomes[outcome.job_id] = outcome
        return FinishResult(self.stale)

    async def deregister(self, worker_id: int) -> None: ...

    def _note(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def until(self, predicate: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not predicate():
                await self.changed.wait()


class Rig:
    """Slots with everything around them, on a source in memory."""

    def __init__(self, handlers: dict[str, Handler], *, concurrency: int, grace: float, bound: int) -> None:
        self.source = MemorySource()
        self.standing = Standing()
        self.journal = Journal(concurrency)
        self.completer = Completer(self.source, self.standing, self.journal, bound=bound)
        self.elsewhere = Elsewhere(self.source, self.standing, rng=Random(1))
        self.slots = Slots(
            concurrency=concurrency,
            handlers=handlers,
            completer=self.completer,
            elsewhere=self.elsewhere,
            journal=self.journal,
            grace=grace,
        )

    async def run(self, *leases: Lease) -> list[Outcome]:
        """The outcomes of all jobs of these leases, once all have ended."""
        ids = [job_id for lease in leases for job_id in lease.ids]
        self.slots.put(leases)
        await self.source.until(lambda: all(job_id in self.source.outcomes for job_id in ids))
        return [self.source.outcomes[job_id] for job_id in ids]


RigMaker = Callable[..., Any]


@pytest.fixture
def rig() -> RigMaker:
    @asynccontextmanager
    async def make(
        *functions: Callable[..., Any],
        concurrency: int = 4,
        grace: float = 0.2,
        bound: int = 10_000,
        report: bool = True,
        **options: Any,
    ) -> AsyncIterator[Rig]:
        handlers = {fn.__name__: make_handler(fn, job_type=fn.__name__, **options) for fn in functions}
        made = Rig(handlers, concurrency=concurrency, grace=grace, bound=bound)
        reporting = asyncio.create_task(made.completer.run()) if report else None
        try:
            yield made
        finally:
            drain: Awaitable[None] = asyncio.ensure_future(made.slots.drain())
            await asyncio.sleep(0)
            made.slots.stock.clear()
            made.slots.abandon_all()
            await drain
            if reporting is not None:
                reporting.cancel()
            await made.elsewhere.close()
            made.journal.close()

    return make


@pytest.fixture
def lease() -> Callable[..., Lease]:
    return make_lease


@pytest.fixture
async def source() -> MemorySource:
    return MemorySource()
