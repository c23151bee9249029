"""A core that reaches its database through a proxy which can cut and hold back what is said."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from taskforge.app import open_core
from taskforge.services.core import Core
from tests.chaos.proxy import Proxy, proxied


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[Proxy]:
    if "host=" not in database_url:
        pytest.skip("the proxy stands before a unix socket")
    async with proxied(database_url) as proxy:
        yield proxy


@pytest.fixture
async def core(proxy: Proxy) -> AsyncIterator[Core]:
    async with open_core(proxy.dsn, worker_ttl=2.0) as core:
        yield core


@pytest.fixture
async def admin(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url, server_settings={"search_path": "taskforge"})
    yield connection
    await connection.close()
