"""The database of a run: a fresh cluster with default settings, or the one at DATABASE_URL."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from taskforge.bench.processes import cpu_seconds, family
from taskforge.postgres.dsn import LOGIN, with_login
from taskforge.postgres.embedded import EmbeddedPostgres
from taskforge.postgres.migrate import migrate


class Meter:
    """Reads what the database has done so far: WAL bytes, commits, CPU seconds of its processes (local ones only)."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record], postmaster: int | None) -> None:
        self.connection = connection
        self._postmaster = postmaster

    async def wal_bytes(self) -> int:
        value = await self.connection.fetchval(
            "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"
        )
        return int(value)

    async def commits(self) -> int:
        value = await self.connection.fetchval(
            "select xact_commit from pg_stat_database where datname = current_database()"
        )
        return int(value)

    def cpu_seconds(self) -> float:
        return 0.0 if self._postmaster is None else cpu_seconds(family(self._postmaster))


class Cluster:
    """`admin_dsn` owns everything, `dsn` is the login that TaskForge's own processes use."""

    def __init__(self, admin_dsn: str, dsn: str, meter: Meter, version: str) -> None:
        self.admin_dsn = admin_dsn
        self.dsn = dsn
        self.meter = meter
        self.version = version


@asynccontextmanager
async def cluster(admin_dsn: str | None) -> AsyncIterator[Cluster]:
    """A migrated database nobody else uses."""
    if admin_dsn is not None:
        async with _open(admin_dsn) as opened:
            yield opened
        return
    with tempfile.TemporaryDirectory(prefix="taskforge-bench-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)
        server = EmbeddedPostgres(Path(folder) / "data")
        dsn = await server.start()
        try:
            async with _open(dsn) as opened:
                yield opened
        finally:
            await server.stop(wait=True)


@asynccontextmanager
async def _open(admin_dsn: str) -> AsyncIterator[Cluster]:
    await migrate(admin_dsn, login=LOGIN)
    connection = await asyncpg.connect(admin_dsn)
    try:
        durable = await connection.fetchval(
            "select current_setting('synchronous_commit') || current_setting('fsync')"
        )
        if durable != "onon":
            raise RuntimeError("the server does not commit durably; a measurement would be worth nothing")
        version = await connection.fetchval("select split_part(version(), ' ', 2)")
        yield Cluster(
            admin_dsn, with_login(admin_dsn, LOGIN), Meter(connection, await _postmaster(connection)), version
        )
    finally:
        await connection.close()


async def _postmaster(connection: asyncpg.Connection[asyncpg.Record]) -> int | None:
    """The parent of our own backend, when it runs on this machine."""
    backend = await connection.fetchval("select pg_backend_pid()")
    try:
        fields = await asyncio.to_thread(Path(f"/proc/{backend}/stat").read_text)
    except OSError:
        return None
    if "postgres" not in fields:
        return None
    return int(fields.rpartition(")")[2].split()[1])
