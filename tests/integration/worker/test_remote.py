"""The SDK through a server: the same declarations, another client."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from taskforge import JobFailed, TaskForge
from taskforge.domain.jobs import JobState
from taskforge.domain.tenants import DEFAULT_TENANT
from taskforge.errors import Invalid, NotFound, Unauthorized
from taskforge.rest.app import create_app
from taskforge.rest.server import HttpServer
from taskforge.rest.state import state_of
from taskforge.services.core import Core
from taskforge.settings import load
from taskforge.worker.worker import Worker

SECRET = "5b0f6a1c9d3e47728a64c1f0e92b7d35"


@pytest.fixture
async def server(core: Core, database_url: str) -> AsyncIterator[tuple[str, str]]:
    settings = load(
        environ={"DATABASE_URL": database_url, "JWT_SECRET": SECRET, "HOME": "/"}, flags={"port": 0}
    )
    app = create_app(core, settings)
    server = HttpServer(app, settings)
    await server.start()
    token = state_of(app).tokens.make(tenant_id=DEFAULT_TENANT, subject="sdk")
    yield f"http://127.0.0.1:{server.port}", token
    await server.stop()


@pytest.fixture
async def remote(server: tuple[str, str]) -> AsyncIterator[TaskForge]:
    url, token = server
    async with TaskForge(url=url, token=token) as forge:
        yield forge


async def test_jobs_go_through_the_server_and_results_come_back(remote: TaskForge, core: Core) -> None:
    @remote.job
    async def add(a: int, b: int) -> int:
        return a + b

    @remote.job(max_attempts=1)
    async def fail() -> None:
        raise ValueError("no such mailbox")

    async with Worker(core, remote.handlers(), queues=remote.queues):
        handle = await add.options(tags=["sum"], priority=9).submit(1, b=2)
        assert await handle.result(timeout=10) == 3
        handles = await add.submit_many([(n, n) for n in range(50)])
        assert [await h.result(timeout=10) for h in handles] == [2 * n for n in range(50)]
        with pytest.raises(JobFailed, match="no such mailbox"):
            await (await fail.submit()).result(timeout=10)
    view = await handle.refresh()
    assert (view.state, view.tags, view.priority) == (JobState.SUCCEEDED, ("sum",), 9)


async def test_mistakes_come_back_as_the_project_s_errors(remote: TaskForge, server: tuple[str, str]) -> None:
    @remote.job(queue="nowhere")
    async def lost() -> None: ...

    with pytest.raises(Invalid, match="nowhere"):
        await lost.submit()
    with pytest.raises(NotFound):
        await remote.handle("999999").refresh()
    async with TaskForge(url=server[0], token="wrong") as stranger:
        with pytest.raises(Unauthorized):
            await stranger.handle("1").refresh()
