"""Short words for what tests of the engine do again and again. Everything goes through the services or named SQL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, TypeAlias
from uuid import uuid4

import asyncpg
from msgspec import structs

from taskforge.app import open_core
from taskforge.domain.jobs import JobDraft, JobView
from taskforge.domain.leases import (
    Cancelled,
    Failed,
    Lease,
    LeaseReport,
    Outcome,
    RegisterWorker,
    Released,
    Snoozed,
    Succeeded,
)
from taskforge.domain.tenants import Context
from taskforge.postgres import maintenance
from taskforge.services import jobs, leases
from taskforge.services.core import Core
from tests.support.mutations import apply_chosen
from tests.support.waiting import until

NEVER = timedelta(0)
AnyConnection = Any  # asyncpg's connections are generic only for type checkers
Worker: TypeAlias = tuple[int, tuple[int, ...]]


class Engine:
    """A core, the tenant it is used for, and a superuser's connection to look behind the scenes."""

    def __init__(self, core: Core, admin: AnyConnection, ctx: Context | None = None) -> None:
        self.core = core
        self.admin = admin
        self.ctx = ctx or Context()

    # -- verbs

    async def submit(self, count: int = 1, **fields: Any) -> list[int]:
        draft = structs.replace(JobDraft("default", "noop", b"{}"), **fields)
        verdicts = await jobs.submit(self.core, self.ctx, [draft] * count)
        return [verdict.job_id for verdict in verdicts if verdict.job_id is not None]

    async def register(self, *queues: str) -> Worker:
        made = await leases.register(self.core, self.ctx, RegisterWorker("w", queues or ("default",)))
        return made.worker_id, made.queue_ids

    async def claim(self, worker: Worker, want: int = 1) -> list[Lease]:
        return await leases.claim(self.core, worker[0], worker[1], want=want)

    async def finish(self, worker: Worker, *reports: LeaseReport) -> list[tuple[int, int]]:
        return (await leases.finish(self.core, worker[0], reports)).stale

    async def cancel(self, job_id: int) -> JobView:
        return await jobs.cancel(self.core, self.ctx, job_id)

    async def view(self, job_id: int) -> JobView:
        return await jobs.get(self.core, self.ctx, job_id)

    async def state(self, job_id: int) -> str:
        return (await self.view(job_id)).state.value

    # -- time and death

    async def expire(self, worker: Worker) -> None:
        """The worker's last heartbeat was long ago."""
        await self.admin.execute(
            "update workers set expires_at = now() - interval '1 s' where worker_id = $1", worker[0]
        )

    async def reap(self) -> dict[int, int]:
        return await maintenance.reap(self.core.database, ttl=NEVER, limit=100)

    async def make_due(self, ids: Iterable[int]) -> None:
        await self.admin.execute(
            "update parked set run_at = clock_timestamp() where id = any ($1::bigint[])", list(ids)
        )

    async def promote(self) -> int:
        return (await maintenance.promote(self.core.database, limit=1_000)).count

    async def raise_floors(self) -> None:
        """Both looks of the floor rule. Waits for whoever is still writing."""
        first = await maintenance.look(self.core.database)
        await until(lambda: maintenance.raise_floors(self.core.database, first, since=0))

    # -- looking

    async def places(self, ids: Sequence[int]) -> dict[int, list[str]]:
        """Every place each job is in; the invariant E3 says that it is one."""
        rows = await self.admin.fetch(
            """
            select i as id, array(
              select 'ready' from ready where i between lo and hi
              union all select 'lease' from leases where ranges @> i
              union all select 'parked' from parked where id = i
              union all select 'ended' from outcomes where id = i
            ) as places
            from unnest($1::bigint[]) as i
            """,
            list(ids),
        )
        return {row["id"]: row["places"] for row in rows}

    async def assert_one_place(self, ids: Sequence[int]) -> None:
        lost = {i: found for i, found in (await self.places(ids)).items() if len(found) != 1}
        assert not lost, f"jobs in no place or in several: {lost}"

    # -- concurrency

    @asynccontextmanager
    async def holding(self, statement: str, *arguments: Any) -> AsyncIterator[AnyConnection]:
        """A transaction of its own that has run `statement` and keeps its locks until the block ends."""
        connection = await asyncpg.connect(self.core.database.dsn, server_settings=_SEARCH_PATH)
        try:
            async with connection.transaction():
                await connection.execute(statement, *arguments)
                yield connection
        finally:
            await connection.close()

    @asynccontextmanager
    async def gate(self, table: str) -> AsyncIterator[None]:
        """While it lasts, whoever writes to `table` waits; row locks taken before that are kept."""
        async with self.holding(f"lock table {table} in share row exclusive mode"):
            yield

    async def blocked(self, count: int = 1) -> None:
        """Returns once `count` sessions of this database wait for a lock."""
        await until(lambda: self._is_blocked(count), timeout=5)

    async def _is_blocked(self, count: int) -> bool:
        waiting = await self.admin.fetchval(
            "select count(*) from pg_stat_activity"
            " where datname = current_database() and wait_event_type = 'Lock'"
        )
        return bool(waiting >= count)

    async def stranger(self, *queues: str) -> Engine:
        """The same core, seen by a new tenant that has these queues."""
        tenant_id = uuid4()
        await self.admin.execute(
            "insert into tenants (tenant_id, name) values ($1, $2)", tenant_id, str(tenant_id)
        )
        stranger = Engine(self.core, self.admin, Context(tenant_id, "stranger"))
        await self.core.directory.ensure(tenant_id, queues)
        return stranger


_SEARCH_PATH = {"search_path": "taskforge"}


@asynccontextmanager
async def open_engine(database_url: str) -> AsyncIterator[Engine]:
    admin = await asyncpg.connect(database_url, server_settings=_SEARCH_PATH)
    try:
        await apply_chosen(admin)
        async with open_core(database_url) as core:
            yield Engine(core, admin)
    finally:
        await admin.close()


def report(lease: Lease, make: Callable[[int], Outcome], ids: Sequence[int] | None = None) -> LeaseReport:
    return LeaseReport(lease, [make(i) for i in (lease.ids if ids is None else ids)])


def succeeded(job_id: int) -> Outcome:
    return Succeeded(job_id, 10, 20, b'"done"')


def failed(job_id: int) -> Outcome:
    """For good: a dead letter."""
    return Failed(job_id, 10, 20, "ValueError", "no", "trace")


def retrying(job_id: int) -> Outcome:
    return Failed(job_id, 10, 20, "ValueError", "no", "trace", 3_600.0)


def snoozed(job_id: int) -> Outcome:
    return Snoozed(job_id, 10, 20, 3_600.0)


def released(job_id: int) -> Outcome:
    return Released(job_id)


def stopped(job_id: int) -> Outcome:
    return Cancelled(job_id, 10, 20, "asked to")


async def together(*awaitables: Any) -> list[Any]:
    """All of them at once; exceptions are results."""
    return await asyncio.gather(*awaitables, return_exceptions=True)


async def dead_letters(engine: Engine, count: int) -> list[int]:
    """Jobs that have failed for good."""
    ids = await engine.submit(count)
    worker = await engine.register()
    for lease in await engine.claim(worker, count):
        await engine.finish(worker, report(lease, failed))
    return ids


async def buffers(connection: AnyConnection, statement: str, *arguments: Any) -> int:
    """Pages the statement touched, those of the functions it calls included. It is executed."""
    text = await connection.fetchval(f"explain (analyze, buffers, format json) {statement}", *arguments)
    plan = json.loads(text)[0]["Plan"]
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])
