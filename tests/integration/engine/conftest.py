"""Engines on a database of the test's own."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.guards.mutations import MUTATIONS
from tests.support.engine import Engine, open_engine
from tests.support.mutations import Chosen, is_asked_for


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if is_asked_for():
        test = f"{metafunc.definition.path.name}::{metafunc.function.__name__}"
        names = [name for name, mutation in MUTATIONS.items() if test in mutation.tests]
        metafunc.parametrize("missing_guard", names, ids=[f"<{name}>" for name in names], indirect=True)


@pytest.fixture(autouse=True)
def missing_guard(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In an ordinary run no guard is missing."""
    if not hasattr(request, "param"):
        yield
        return
    mutation = MUTATIONS[request.param]
    if mutation.patch is not None:
        module, name = mutation.patch
        monkeypatch.setattr(importlib.import_module(module), name, mutation.value, raising=False)
    Chosen.mutation = mutation
    yield
    Chosen.mutation = None


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[Engine]:
    async with open_engine(database_url) as engine:
        yield engine


@pytest.fixture
async def other(engine: Engine, database_url: str) -> AsyncIterator[Engine]:
    """A second process, as far as the database can tell."""
    async with open_engine(database_url) as other:
        yield other
