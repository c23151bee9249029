"""Submitting inside the caller's own transaction, whatever driver that runs on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Any

import asyncpg
import psycopg
import pytest
import sqlalchemy
from psycopg.rows import dict_row
from sqlalchemy.orm import Session

from taskforge import TaskForge, fixed
from taskforge.app import open_core
from taskforge.domain.jobs import JobState
from taskforge.domain.tenants import DEFAULT_TENANT
from taskforge.errors import NotFound
from taskforge.handles import JobHandle
from taskforge.job_type import JobType

Open = Callable[[str], Any]


@asynccontextmanager
async def with_asyncpg(url: str) -> AsyncIterator[tuple[Any, Callable[[bool], Awaitable[None]]]]:
    connection = await asyncpg.connect(url)
    await connection.execute("begin")

    async def end(commit: bool) -> None:
        await connection.execute("commit; begin" if commit else "rollback; begin")

    try:
        yield connection, end
    finally:
        await connection.close()


@asynccontextmanager
async def with_psycopg(url: str) -> AsyncIterator[tuple[Any, Callable[[bool], Awaitable[None]]]]:
    async with await psycopg.AsyncConnection.connect(url, row_factory=dict_row) as connection:

        async def end(commit: bool) -> None:
            await (connection.commit() if commit else connection.rollback())

        yield connection, end


@asynccontextmanager
async def with_sqlalchemy(url: str) -> AsyncIterator[tuple[Any, Callable[[bool], Awaitable[None]]]]:
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))
    async with AsyncSession(engine) as session:

        async def end(commit: bool) -> None:
            await (session.commit() if commit else session.rollback())

        yield session, end
    await engine.dispose()


@pytest.fixture
async def job(forge: TaskForge, database_url: str) -> JobType[..., Any, Any]:
    async with open_core(database_url) as core:
        await core.directory.ensure(DEFAULT_TENANT, ["mail"])

    @forge.job(queue="mail", priority=7, max_attempts=3, retry=fixed(5))
    async def send(to: str, size: float) -> None: ...

    return send


async def is_there(handle: JobHandle[Any]) -> bool:
    try:
        await handle.refresh()
    except NotFound:
        return False
    return True


@pytest.mark.parametrize(
    "opened",
    [
        with_asyncpg,
        with_psycopg,
        pytest.param(
            with_sqlalchemy,
            marks=pytest.mark.skipif(
                find_spec("greenlet") is None, reason="SQLAlchemy's asyncio part needs greenlet"
            ),
        ),
    ],
)
async def test_the_job_exists_if_and_only_if_the_transaction_commits(
    database_url: str, job: JobType[..., Any, Any], opened: Open
) -> None:
    async with opened(database_url) as (connection, end):
        kept = await job.options(connection=connection, tags=["vip"]).submit("ann", size=1.0)
        assert not await is_there(kept)
        await end(True)
        dropped = await job.options(connection=connection).submit("bob", size=2.0)
        await end(False)
    view = await kept.refresh()
    assert bytes(view.payload) == b'{"to":"ann","size":1.0}'
    assert (view.state, view.priority, view.max_attempts, view.tags) == (JobState.PENDING, 7, 3, ("vip",))
    assert not await is_there(dropped)


async def test_many_jobs_join_one_transaction(database_url: str, job: JobType[..., Any, Any]) -> None:
    async with with_asyncpg(database_url) as (connection, end):
        handles = await job.options(connection=connection, delay=60).submit_many([("a", 1.0), ("b", 2.0)])
        await end(True)
    assert [(await handle.refresh()).state for handle in handles] == [JobState.SCHEDULED] * 2


async def test_code_without_an_event_loop_may_do_so_too(
    database_url: str, job: JobType[..., Any, Any]
) -> None:
    def submit() -> list[JobHandle[Any]]:
        with psycopg.connect(database_url) as connection:
            by_psycopg = job.options(connection=connection).delay("ann", size=1.0)
        engine = sqlalchemy.create_engine(database_url.replace("postgresql://", "postgresql+psycopg://"))
        with Session(engine) as session:
            by_session = job.options(connection=session).delay("bob", size=1.0)
            session.commit()
        with engine.connect() as connection:
            dropped = job.options(connection=connection).delay("cid", size=1.0)
        engine.dispose()
        return [by_psycopg, by_session, dropped]

    handles = await asyncio.to_thread(submit)
    assert [await is_there(handle) for handle in handles] == [True, True, False]


@pytest.mark.parametrize(
    "terms", ['{"unique": {"key": "k"}}', '{"depends_on": [{"job_id": "1"}]}', '{"batch_id": "1"}']
)
async def test_the_function_itself_refuses_what_others_would_wait_for(
    database_url: str, job: JobType[..., Any, Any], terms: str
) -> None:
    draft = f'[{{"queue_name": "mail", "job_type": "send", "options": {{"terms": {terms}}}}}]'
    async with with_asyncpg(database_url) as (connection, _):
        with pytest.raises(asyncpg.InvalidParameterValueError, match="no unique key, parents or batch"):
            await connection.fetch("select taskforge.enqueue($1, $2)", DEFAULT_TENANT, draft)


async def test_the_terms_of_a_job_travel_with_it(database_url: str, job: JobType[..., Any, Any]) -> None:
    async with with_asyncpg(database_url) as (connection, end):
        handle = await job.options(connection=connection, concurrency_key="ann").submit("ann", size=1.0)
        await end(True)
        terms = await connection.fetchval(
            "select options -> 'terms' from taskforge.jobs where id = $1", int(handle.id)
        )
    assert terms == '{"concurrency_key": "ann"}'
