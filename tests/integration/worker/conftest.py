from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from taskforge import TaskForge
from taskforge.app import open_core
from taskforge.services.core import Core
from taskforge.worker.worker import Worker


@pytest.fixture
async def core(database_url: str) -> AsyncIterator[Core]:
    async with open_core(database_url, worker_ttl=2.0) as core:
        yield core


@pytest.fixture
async def forge(database_url: str) -> AsyncIterator[TaskForge]:
    forge = TaskForge(database_url=database_url)
    yield forge
    await forge.close()


@pytest.fixture
def working(core: Core, forge: TaskForge) -> Callable[..., Any]:
    """`async with working() as worker:` runs the jobs declared on `forge`; drained at the end."""

    @asynccontextmanager
    async def run(**options: Any) -> AsyncIterator[Worker]:
        async with Worker(core, forge.handlers(), queues=forge.queues, **options) as worker:
            yield worker

    return run
