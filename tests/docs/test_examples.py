"""Every example of the README and the guides is run, in the order in which a reader meets them."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from taskforge.app import open_core
from taskforge.cli.ensemble import EXAMPLE
from taskforge.domain.tenants import DEFAULT_TENANT
from taskforge.rest.app import create_app
from taskforge.rest.server import HttpServer
from taskforge.settings import Settings, load
from taskforge.tokens import Tokens
from tests.docs.pages import ROOT, WALKED, examples
from tests.docs.walk import Walk, tools

SECRET = "5b0f6a1c9d3e47728a64c1f0e92b7d35"


@pytest.fixture
def settings(database_url: str) -> Settings:
    return load(environ={"DATABASE_URL": database_url, "JWT_SECRET": SECRET}, flags={"port": 0})


@pytest.fixture
async def server(settings: Settings) -> AsyncIterator[HttpServer]:
    assert settings.database_url is not None
    async with open_core(settings.database_url) as core:
        server = HttpServer(create_app(core, settings), settings)
        await server.start()
        yield server
        await server.stop()


@pytest.fixture
async def walk(
    server: HttpServer, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Walk]:
    folder = tmp_path / "reader"
    folder.mkdir()
    env = {
        "DATABASE_URL": database_url,
        "JWT_SECRET": SECRET,
        "TOKEN": Tokens(SECRET).make(tenant_id=DEFAULT_TENANT, subject="reader"),
        "TASKFORGE_DATA_DIR": str(tmp_path / "data"),
        "TASKFORGE_WORKER_TTL": "2",
        "TASKFORGE_LOG_FORMAT": "json",
        "PYTHONPATH": str(ROOT),  # where `examples` is
        "PATH": f"{tools(tmp_path / 'bin')}{os.pathsep}{os.environ['PATH']}",
    }
    for name in ("TASKFORGE_URL", "TASKFORGE_TOKEN", "TASKFORGE_CONFIG", "TASKFORGE_ENV"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    walk = Walk(folder, env, port=server.port)
    yield walk
    await walk.close()


@pytest.mark.parametrize("page", WALKED)
async def test_every_example_of_the_page_runs(page: str, walk: Walk) -> None:
    found = [example for example in examples(page) if example.kind != "text"]
    assert found, f"{page} shows nothing"
    for example in found:
        await walk.run(example)


def test_the_readme_shows_the_very_curl_that_make_run_prints() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert EXAMPLE.format(url="http://localhost:8000") in readme
