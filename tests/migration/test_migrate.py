"""Bringing a database to the schema of this version: at once by many, again and again, or not at all."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from taskforge.app import open_core
from taskforge.domain.jobs import JobDraft
from taskforge.domain.leases import RegisterWorker
from taskforge.domain.tenants import Context
from taskforge.errors import ConfigurationError
from taskforge.postgres import migrate as migrations
from taskforge.postgres.migrate import migrate, pending
from taskforge.services import jobs, leases
from tests.support.waiting import until

INITIAL = "migrations/0001_initial.sql"
CLAIM = "functions/claim.sql"


async def run(url: str, statement: str, *arguments: object) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetch(statement, *arguments)
    finally:
        await connection.close()


def with_user(url: str, user: str, password: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{host}"))


@pytest.fixture
async def login(server_url: str) -> AsyncIterator[str]:
    """The name of a role that does not exist yet and will not remain."""
    name = f"login_{uuid4().hex}"
    yield name
    await run(server_url, f"drop role if exists {name}")


async def test_an_empty_database_gets_everything_and_a_second_run_finds_nothing_to_do(
    empty_database_url: str,
) -> None:
    applied = await migrate(empty_database_url)
    assert applied[0] == INITIAL and CLAIM in applied
    assert await migrate(empty_database_url) == []


async def test_what_is_pending_is_everything_before_and_nothing_after(empty_database_url: str) -> None:
    connection = await asyncpg.connect(empty_database_url)
    try:
        before = await pending(connection)
        assert await migrate(empty_database_url) == before
        assert await pending(connection) == []
    finally:
        await connection.close()


async def test_many_at_once_apply_each_step_once(empty_database_url: str) -> None:
    results = await asyncio.gather(*(migrate(empty_database_url) for _ in range(6)))
    assert sorted(map(len, results))[:5] == [0] * 5
    assert len(max(results, key=len)) == len(
        await run(empty_database_url, "table taskforge.schema_migrations")
    )


async def test_three_processes_at_once_all_succeed(empty_database_url: str) -> None:
    program = (
        "import asyncio, sys; from taskforge.postgres.migrate import migrate;"
        "print(len(asyncio.run(migrate(sys.argv[1]))))"
    )
    started = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, empty_database_url, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(3)
    ]
    outputs = [(await process.communicate())[0] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert sorted(int(output) for output in outputs)[:2] == [0, 0]


async def test_databases_of_one_cluster_can_be_migrated_at_once_with_one_login(
    server_url: str, empty_database_url: str, login: str
) -> None:
    names = [f"tf_{uuid4().hex}" for _ in range(2)]
    urls = [urlunsplit(urlsplit(server_url)._replace(path=f"/{name}")) for name in names]
    for name in names:
        await run(server_url, f"create database \"{name}\" template template0 encoding 'UTF8'")
    try:
        await asyncio.gather(*(migrate(url, login=login) for url in (*urls, empty_database_url)))
    finally:
        for name in names:
            await run(server_url, f'drop database "{name}" with (force)')


async def test_functions_are_applied_again_only_when_they_have_changed(database_url: str) -> None:
    await run(database_url, "drop function taskforge.claim")
    assert await migrate(database_url) == []
    await run(
        database_url, "update taskforge.schema_migrations set checksum = 'of before' where name = $1", CLAIM
    )
    assert await migrate(database_url) == [CLAIM]
    [row] = await run(
        database_url,
        "select proowner::regrole::text as owner, has_function_privilege('public', oid, 'execute') as is_public"
        " from pg_proc where proname = 'claim' and pronamespace = 'taskforge'::regnamespace",
    )
    assert (row["owner"], row["is_public"]) == ("taskforge_dispatch", False)


async def test_a_released_migration_that_was_changed_is_refused_and_nothing_happens(
    database_url: str,
) -> None:
    await run(
        database_url,
        "update taskforge.schema_migrations set checksum = 'of before' where name = any ($1)",
        [INITIAL, CLAIM],
    )
    with pytest.raises(ConfigurationError, match="0001_initial") as refused:
        await migrate(database_url)
    assert refused.value.code == "database.migration_changed"
    rows = await run(database_url, "select from taskforge.schema_migrations where checksum = 'of before'")
    assert len(rows) == 2


async def test_a_step_that_fails_leaves_the_database_as_it_was(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "9999_broken.sql"
    broken.write_text("create table taskforge.half (id integer); select 1 / 0;", encoding="utf-8")
    steps = [*migrations._steps(), migrations._Step("migrations", broken)]
    monkeypatch.setattr(migrations, "_steps", lambda: steps)
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(empty_database_url)
    [row] = await run(empty_database_url, "select to_regnamespace('taskforge') as schema")
    assert row["schema"] is None


async def test_jobs_survive_a_new_release_of_the_functions(database_url: str) -> None:
    async with open_core(database_url) as core:
        [verdict] = await jobs.submit(core, Context(), [JobDraft("default", "noop", b"{}")])
    await run(
        database_url,
        "update taskforge.schema_migrations set checksum = 'of before' where name like 'functions/%'",
    )
    assert len(await migrate(database_url)) > 5
    async with open_core(database_url) as core:
        assert verdict.job_id is not None
        assert (await jobs.get(core, Context(), verdict.job_id)).state.value == "pending"


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_a_database_that_is_not_utf8_is_refused(server_url: str, encoding: str) -> None:
    name = f"tf_{uuid4().hex}"
    await run(
        server_url,
        f"create database \"{name}\" template template0 encoding '{encoding}' lc_collate 'C' lc_ctype 'C'",
    )
    try:
        with pytest.raises(ConfigurationError, match=encoding) as refused:
            await migrate(urlunsplit(urlsplit(server_url)._replace(path=f"/{name}")))
        assert refused.value.code == "database.encoding"
    finally:
        await run(server_url, f'drop database "{name}" with (force)')


async def test_a_server_that_is_too_old_is_refused_before_anything_is_made(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "_MINIMUM_VERSION", 990_000)
    with pytest.raises(ConfigurationError, match="too old") as refused:
        await migrate(empty_database_url)
    assert refused.value.code == "database.too_old"
    [row] = await run(empty_database_url, "select to_regnamespace('taskforge') as schema")
    assert row["schema"] is None


async def test_a_login_without_rights_is_told_whom_to_ask(empty_database_url: str, login: str) -> None:
    await run(empty_database_url, f"create role {login} login password 'x'")
    with pytest.raises(ConfigurationError, match="superuser") as refused:
        await migrate(with_user(empty_database_url, login, "x"))
    assert refused.value.code == "database.insufficient_privilege"


async def test_the_login_role_owns_nothing_bypasses_nothing_and_is_enough_to_work(
    empty_database_url: str, login: str
) -> None:
    await migrate(empty_database_url, login=login)
    assert await migrate(empty_database_url, login=login) == []
    await run(empty_database_url, f"alter role {login} password 'x'")
    [role] = await run(empty_database_url, "select * from pg_roles where rolname = $1", login)
    assert role["rolcanlogin"]
    assert not (role["rolsuper"] or role["rolbypassrls"] or role["rolcreaterole"] or role["rolcreatedb"])
    assert await run(empty_database_url, "select from pg_class where relowner = $1", role["oid"]) == []

    async with open_core(with_user(empty_database_url, login, "x")) as core:
        [verdict] = await jobs.submit(core, Context(), [JobDraft("default", "noop", b"{}")])
        assert verdict.job_id is not None
        assert (await jobs.cancel(core, Context(), verdict.job_id)).state.value == "cancelled"
        made = await leases.register(core, Context(), RegisterWorker("w", ("default",)))
        assert await leases.claim(core, made.worker_id, made.queue_ids, want=1) == []


async def test_a_login_that_somebody_else_makes_at_that_moment_is_no_error(
    server_url: str, database_url: str, login: str
) -> None:
    rival = await asyncpg.connect(server_url)
    try:
        transaction = rival.transaction()
        await transaction.start()
        await rival.execute(f"create role {login} login")
        migrating = asyncio.create_task(migrate(database_url, login=login))
        await until(lambda: blocked_by(server_url, rival))
        await transaction.commit()
    finally:
        await rival.close()
    assert await migrating == []
    [row] = await run(
        server_url,
        "select pg_has_role(oid, 'taskforge_app', 'member') as may from pg_roles where rolname = $1",
        login,
    )
    assert row["may"]


async def blocked_by(url: str, connection: asyncpg.Connection) -> bool:
    rows = await run(
        url,
        "select from pg_stat_activity where $1 = any (pg_blocking_pids(pid))",
        connection.get_server_pid(),
    )
    return len(rows) > 0
