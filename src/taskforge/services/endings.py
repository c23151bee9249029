"""Waiting for jobs to end: one question to the database for all that this process waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

from taskforge.domain.leases import LeaseReport
from taskforge.errors import TaskForgeError
from taskforge.postgres import jobs
from taskforge.postgres.pool import Database

_FIRST_SECONDS = 0.02
_SLOWEST_SECONDS = 0.5


class Endings:
    """Polls only while somebody waits, ever more slowly; a finish in this very process is noticed at once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[tuple[UUID, int], set[asyncio.Event]] = {}
        self._poller: asyncio.Task[None] | None = None
        self._fresh = asyncio.Event()

    async def wait(self, tenant_id: UUID, job_id: int, *, timeout: float) -> bool:
        """True when the job ended (or went away) within `timeout` seconds."""
        key, event = (tenant_id, job_id), asyncio.Event()
        self._waiting.setdefault(key, set()).add(event)
        self._fresh.set()
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll(), name="endings")
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await event.wait()
            return event.is_set()
        finally:
            events = self._waiting.get(key, set())
            events.discard(event)
            if not events:
                self._waiting.pop(key, None)

    def heard(self, reports: Sequence[LeaseReport]) -> None:
        """Jobs were reported in this process; look at once if any of them is waited for."""
        if self._waiting and any(
            (report.lease.tenant_id, outcome.job_id) in self._waiting
            for report in reports
            for outcome in report.outcomes
        ):
            self._fresh.set()

    async def close(self) -> None:
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)

    async def _poll(self) -> None:
        delay = _FIRST_SECONDS
        while self._waiting:
            if self._fresh.is_set():
                self._fresh.clear()
                delay = _FIRST_SECONDS
            with suppress(TaskForgeError):
                await self._look()
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._fresh.wait()
            delay = min(delay * 1.5, _SLOWEST_SECONDS)

    async def _look(self) -> None:
        by_tenant: dict[UUID, list[int]] = {}
        for tenant_id, job_id in self._waiting:
            by_tenant.setdefault(tenant_id, []).append(job_id)
        for tenant_id, ids in by_tenant.items():
            async with self._database.tenant(tenant_id) as connection:
                for job_id in await jobs.ended(connection, tenant_id, ids):
                    for event in self._waiting.get((tenant_id, job_id), ()):
                        event.set()
