"""One PostgreSQL for the whole run, one migrated template, one clone of it for every test that asks.

TASKFORGE_TEST_DATABASE_URL names an existing server (as a superuser); without it a cluster of its own is made below
/tmp, with fsync off, and shared by all pytest-xdist workers. TASKFORGE_PG_BIN chooses its release.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from inspect import isawaitable
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from taskforge.postgres.embedded import EmbeddedPostgres
from taskforge.postgres.migrate import migrate

FOLDERS = ("unit", "integration", "contract", "e2e", "property", "chaos", "load")
RUN = pytest.StashKey[Path]()


class Eventually(Protocol):
    async def __call__(
        self, predicate: Callable[[], object | Awaitable[object]], timeout: float = 10.0
    ) -> object: ...


def pytest_configure(config: pytest.Config) -> None:
    worker_input = getattr(config, "workerinput", None)
    if worker_input is not None:
        config.stash[RUN] = Path(worker_input["taskforge_run"])
        return
    folder = Path(tempfile.mkdtemp(prefix="taskforge-test-", dir="/tmp"))
    # As root, the account that runs the server must be able to pass.
    folder.chmod(0o711)
    config.stash[RUN] = folder


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    node.workerinput["taskforge_run"] = str(node.config.stash[RUN])  # type: ignore[attr-defined]


def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or RUN not in config.stash:
        return
    folder = config.stash[RUN]
    asyncio.run(_tear_down(folder))
    shutil.rmtree(folder, ignore_errors=True)


async def _tear_down(folder: Path) -> None:
    if external := os.environ.get("TASKFORGE_TEST_DATABASE_URL"):
        with contextlib.suppress(OSError, asyncpg.PostgresError):
            await _execute(external, f'drop database if exists "{_template(folder)}"')
    elif (folder / "cluster" / "holders").exists():
        server = EmbeddedPostgres(folder / "cluster")
        await server.start()
        await server.stop(wait=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder in FOLDERS:
            item.add_marker(folder)
        if folder in ("chaos", "load"):
            item.add_marker("serial")


@pytest.fixture(scope="session")
def server_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A superuser's DSN of the server of this run; its database belongs to no test."""
    external = os.environ.get("TASKFORGE_TEST_DATABASE_URL")
    if external:
        yield external
        return
    chosen = os.environ.get("TASKFORGE_PG_BIN")
    server = EmbeddedPostgres(
        request.config.stash[RUN] / "cluster",
        pg_bin=Path(chosen) if chosen else None,
        options={"fsync": "off", "max_connections": "300"},
    )
    yield asyncio.run(server.start())
    asyncio.run(server.stop())


@pytest.fixture(scope="session")
def template(server_url: str, request: pytest.FixtureRequest) -> str:
    """Name of a migrated database that nobody connects to, made once a run."""
    folder = request.config.stash[RUN]
    name = _template(folder)
    with (folder / "template.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "template.made").exists():
            asyncio.run(_make_template(server_url, name))
            (folder / "template.made").touch()
    return name


@pytest.fixture
async def database_url(server_url: str, template: str) -> AsyncIterator[str]:
    """A migrated database of this test alone."""
    name = f"tf_{uuid.uuid4().hex}"
    await _execute(server_url, f'create database "{name}" template "{template}"')
    yield with_database(server_url, name)
    await _execute(server_url, f'drop database "{name}" with (force)')


@pytest.fixture
async def empty_database_url(server_url: str) -> AsyncIterator[str]:
    """A database of this test alone, not migrated."""
    name = f"tf_{uuid.uuid4().hex}"
    await _execute(server_url, f"create database \"{name}\" template template0 encoding 'UTF8'")
    yield with_database(server_url, name)
    await _execute(server_url, f'drop database "{name}" with (force)')


@pytest.fixture
def eventually() -> Eventually:
    """`await eventually(predicate)` returns the predicate's first true answer; fails at the deadline."""
    return wait_until


async def wait_until(predicate: Callable[[], object | Awaitable[object]], timeout: float = 10.0) -> object:
    deadline = time.monotonic() + timeout
    while True:
        answer = predicate()
        if isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        if time.monotonic() > deadline:
            pytest.fail(f"{getattr(predicate, '__name__', predicate)} was not true within {timeout} s")
        await asyncio.sleep(0.01)


def with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def _template(folder: Path) -> str:
    return f"template_{folder.name.replace('-', '_')}"


async def _make_template(server_url: str, name: str) -> None:
    await _execute(server_url, f"create database \"{name}\" template template0 encoding 'UTF8'")
    await migrate(with_database(server_url, name))


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
