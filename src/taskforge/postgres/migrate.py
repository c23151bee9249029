"""Brings a database to the schema of this version: numbered migrations once, functions whenever they change.

Everything runs in one transaction under an advisory lock, so that many processes may start at once and a failure leaves
the database as it was.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from importlib.resources import files
from importlib.resources.abc import Traversable

import asyncpg

from taskforge.errors import ConfigurationError
from taskforge.postgres.dsn import connect_arguments

_LOCK = 7_161_209_381_117
_MINIMUM_VERSION = 140_000

_LEDGER = """
create table if not exists taskforge.schema_migrations (
  name text primary key,
  checksum text not null,
  applied_at timestamptz not null default now()
)
"""


async def migrate(dsn: str, *, login: str | None = None) -> list[str]:
    """Apply what is missing; returns the names applied, in order. An empty list means nothing was to do.

    `login` names a role to create, if missing, that may use TaskForge and owns nothing.
    Raises ConfigurationError when the server is too old, not UTF8, or the role may not create roles.
    """
    connection = await asyncpg.connect(**connect_arguments(dsn))
    try:
        async with connection.transaction():
            await connection.execute("select pg_advisory_xact_lock($1)", _LOCK)
            await _check_server(connection)
            return await _apply(connection, login)
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigurationError(
            "database.insufficient_privilege",
            f"this login may not set up TaskForge: {error}; run `taskforge migrate` as a superuser once",
        ) from error
    finally:
        await connection.close()


async def pending(connection: asyncpg.Connection) -> list[str]:
    """Names of migrations and functions that this version has and the database has not."""
    if await connection.fetchval("select to_regclass('taskforge.schema_migrations')") is None:
        return [step.name for step in _steps()]
    done = {
        r["name"]: r["checksum"] for r in await connection.fetch("select * from taskforge.schema_migrations")
    }
    return [step.name for step in _steps() if done.get(step.name) != _checksum(step)]


async def _apply(connection: asyncpg.Connection, login: str | None) -> list[str]:
    await connection.execute(_read("roles.sql"))
    await connection.execute("create schema if not exists taskforge")
    await connection.execute("set local search_path = taskforge, pg_temp")
    await connection.execute(_LEDGER)
    applied = []
    done = {
        r["name"]: r["checksum"]
        for r in await connection.fetch("select name, checksum from schema_migrations")
    }
    for step in _steps():
        checksum = _checksum(step)
        if done.get(step.name) == checksum:
            continue
        if step.name in done and step.parent == "migrations":
            raise ConfigurationError(
                "database.migration_changed",
                f"migration {step.name} was changed after it had been applied; restore the released file",
            )
        await connection.execute(step.sql)
        await connection.execute(
            "insert into schema_migrations (name, checksum) values ($1, $2)"
            " on conflict (name) do update set checksum = excluded.checksum, applied_at = now()",
            step.name,
            checksum,
        )
        applied.append(step.name)
    if applied:
        # Ownership and grants follow the functions, whichever of them were replaced.
        await connection.execute(_read("functions/grants.sql"))
        await connection.execute(
            "grant select on schema_migrations to taskforge_app, taskforge_dispatch, taskforge_ingest"
        )
        await connection.fetchval("select ensure_partitions(1)")
    if login is not None:
        await _ensure_login(connection, login)
    return applied


async def _ensure_login(connection: asyncpg.Connection, login: str) -> None:
    name = await connection.fetchval("select quote_ident($1)", login)
    if not await connection.fetchval("select exists (select from pg_roles where rolname = $1)", login):
        await _try(connection, f"create role {name} login nosuperuser nocreatedb nocreaterole nobypassrls")
    await _try(
        connection, f"grant taskforge_ingest, taskforge_dispatch, taskforge_app, taskforge_client to {name}"
    )


async def _try(connection: asyncpg.Connection, statement: str) -> None:
    """Roles belong to the whole cluster: another database's migration may do the same at the same moment."""
    with suppress(asyncpg.UniqueViolationError, asyncpg.DuplicateObjectError):
        async with connection.transaction():
            await connection.execute(statement)


async def _check_server(connection: asyncpg.Connection) -> None:
    version = await connection.fetchval("select current_setting('server_version_num')::int")
    if version < _MINIMUM_VERSION:
        raise ConfigurationError(
            "database.too_old", f"PostgreSQL {version // 10_000} is too old; TaskForge needs 14 or newer"
        )
    encoding = await connection.fetchval("select current_setting('server_encoding')")
    if encoding != "UTF8":
        raise ConfigurationError(
            "database.encoding", f"the database's encoding is {encoding}; it must be UTF8"
        )


class _Step:
    def __init__(self, parent: str, file: Traversable) -> None:
        self.parent = parent
        self.name = f"{parent}/{file.name}"
        self.sql = file.read_text(encoding="utf-8")


def _steps() -> list[_Step]:
    root = files("taskforge.postgres")
    return [
        _Step(parent, file)
        for parent in ("migrations", "functions")
        for file in sorted((root / parent).iterdir(), key=lambda f: f.name)
        if file.name.endswith(".sql") and file.name != "grants.sql"
    ]


def _checksum(step: _Step) -> str:
    return hashlib.sha256(step.sql.encode()).hexdigest()


def _read(path: str) -> str:
    return (files("taskforge.postgres") / path).read_text(encoding="utf-8")
