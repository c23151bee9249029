"""A worker of the operator that serves every tenant: each its share, and nobody's jobs are mixed up."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from uuid import UUID, uuid4

import asyncpg
import pytest

from taskforge import TaskForge, current_job
from taskforge.clients import DirectClient
from taskforge.domain.jobs import JobDraft
from taskforge.domain.tenants import Context
from taskforge.services import jobs
from taskforge.services.core import Core
from taskforge.settings import load
from taskforge.worker import source
from taskforge.worker.worker import Worker
from tests.support.waiting import until


async def new_tenant(database_url: str) -> Context:
    tenant_id = uuid4()
    admin = await asyncpg.connect(database_url)
    try:
        await admin.execute(
            "insert into taskforge.tenants (tenant_id, name) values ($1, $2)", tenant_id, str(tenant_id)
        )
    finally:
        await admin.close()
    return Context(tenant_id, "test")


async def submit(core: Core, ctx: Context, job_type: str, count: int = 1) -> list[int]:
    await core.directory.ensure(ctx.tenant_id, ["default"])
    verdicts = await jobs.submit(core, ctx, [JobDraft("default", job_type, b"{}")] * count)
    return [verdict.job_id for verdict in verdicts if verdict.job_id is not None]


async def test_what_a_handler_submits_belongs_to_the_tenant_whose_job_it_runs(
    core: Core, forge: TaskForge, database_url: str
) -> None:
    ran: Counter[tuple[str, UUID]] = Counter()

    @forge.job
    async def child() -> None:
        ran["child", current_job().tenant_id] += 1

    @forge.job
    async def parent() -> None:
        ran["parent", current_job().tenant_id] += 1
        await child.submit()

    @forge.job(mode="thread")
    def threaded() -> None:
        ran["threaded", current_job().tenant_id] += 1
        child.delay()

    a, b = await new_tenant(database_url), await new_tenant(database_url)
    for ctx in (a, b):
        await submit(core, ctx, "parent")
        await submit(core, ctx, "threaded")
    with forge.use(DirectClient(core, Context(), load(), AsyncExitStack())):
        async with Worker(core, forge.handlers(), queues=["default"], is_shared=True):
            await until(lambda: ran.total() == 8)
    assert ran == {
        (name, ctx.tenant_id): n
        for ctx in (a, b)
        for name, n in {"parent": 1, "threaded": 1, "child": 2}.items()
    }


async def test_a_queue_that_is_made_later_is_served_too(
    core: Core, forge: TaskForge, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "LOOK_SECONDS", 0.05)
    ran = asyncio.Event()

    @forge.job
    async def note() -> None:
        ran.set()

    async with Worker(core, forge.handlers(), queues=["default"], is_shared=True):
        await submit(core, await new_tenant(database_url), "note")
        async with asyncio.timeout(10):
            await ran.wait()
