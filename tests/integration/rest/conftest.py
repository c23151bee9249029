"""A real server on a real database, and a client that speaks HTTP to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import httpx2
import pytest

from taskforge.app import open_core
from taskforge.domain.leases import (
    Failed,
    Lease,
    LeaseReport,
    Outcome,
    Progress,
    RegisterWorker,
    Registration,
    Succeeded,
)
from taskforge.domain.tenants import DEFAULT_TENANT, Context
from taskforge.rest.app import RestApp, create_app
from taskforge.rest.server import HttpServer
from taskforge.rest.state import state_of
from taskforge.services import leases
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
async def stranger_token(app: RestApp, database_url: str) -> str:
    """Of another tenant."""
    stranger = uuid4()
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(
            "insert into taskforge.tenants (tenant_id, name) values ($1, 'stranger')", stranger
        )
    finally:
        await connection.close()
    return state_of(app).tokens.make(tenant_id=stranger, subject="eve")


class TinyWorker:
    """Works off jobs of `default` one claim at a time, with the outcome it is told."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._registration: Registration | None = None

    async def claim(self) -> Lease:
        if self._registration is None:
            worker = RegisterWorker(name="tiny", queues=("default",), concurrency=10)
            self._registration = await leases.register(self._core, Context(), worker)
        found = await leases.claim(
            self._core, self._registration.worker_id, self._registration.queue_ids, want=10
        )
        assert found, "there was nothing to claim"
        return found[0]

    async def say(self, lease: Lease, fraction: float, message: str) -> None:
        assert self._registration is not None
        said = [Progress(lease.fence, job_id, fraction, message) for job_id in lease.ids]
        assert not await leases.report_progress(self._core, self._registration.worker_id, said)

    async def finish(self, lease: Lease, *, error: str | None = None, result: bytes | None = None) -> None:
        assert self._registration is not None
        outcomes: list[Outcome] = [
            Failed(job_id, 1, 2, "ValueError", error, "trace", None)
            if error is not None
            else Succeeded(job_id, 1, 2, result)
            for job_id in lease.ids
        ]
        done = await leases.finish(self._core, self._registration.worker_id, [LeaseReport(lease, outcomes)])
        assert not done.stale


@pytest.fixture
def worker(core: Core) -> TinyWorker:
    return TinyWorker(core)
