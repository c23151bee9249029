"""A real server on a real database, and a client that speaks HTTP to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import httpx2
import pytest

from taskforge.app import open_core
from taskforge.domain.tenants import DEFAULT_TENANT
from taskforge.rest.app import RestApp, create_app
from taskforge.rest.server import HttpServer
from taskforge.rest.state import state_of
from taskforge.services.core import Core
from taskforge.settings import Settings, load

SECRET = "5b0f6a1c9d3e47728a64c1f0e92b7d35"


@pytest.fixture
def settings(database_url: str) -> Settings:
    return load(
        environ={"DATABASE_URL": database_url, "JWT_SECRET": SECRET, "TASKFORGE_MAX_BODY_BYTES": "4 MiB"},
        flags={"env": "production", "port": 0, "shutdown_timeout": 2.0},
    )


@pytest.fixture
async def core(settings: Settings) -> AsyncIterator[Core]:
    assert settings.database_url is not None
    async with open_core(settings.database_url) as core:
        yield core


@pytest.fixture
def app(core: Core, settings: Settings) -> RestApp:
    return create_app(core, settings)


@pytest.fixture
async def server(app: RestApp, settings: Settings) -> AsyncIterator[HttpServer]:
    server = HttpServer(app, settings)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def token(app: RestApp) -> str:
    return state_of(app).tokens.make(tenant_id=DEFAULT_TENANT, subject="ada")


@pytest.fixture
async def api(server: HttpServer, token: str) -> AsyncIterator[httpx2.AsyncClient]:
    """A client with a token of the default tenant, which has a queue `default`."""
    async with httpx2.AsyncClient(
        base_url=f"http://127.0.0.1:{server.port}", headers={"Authorization": f"Bearer {token}"}, timeout=30
    ) as client:
        if (await client.get("/api/v1/queues/default")).status_code == 404:
            answer = await client.post("/api/v1/queues", json={"name": "default"})
            assert answer.status_code == 201, answer.text
        yield client


@pytest.fixture
def stranger_token(app: RestApp) -> str:
    """Of a tenant that owns nothing."""
    stranger: UUID = uuid4()
    return state_of(app).tokens.make(tenant_id=stranger, subject="eve")
