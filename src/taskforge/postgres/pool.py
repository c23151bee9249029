"""Connections and transactions. Each door is a role with its own pool, so that cached plans stay with their role.

ingest     append jobs                 (COPY; reads nothing back)
dispatch   claim, finish, maintenance  (across tenants, by functions)
tenant     everything a tenant asks    (row-level security, the tenant set for the transaction)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from taskforge.errors import Unavailable
from taskforge.postgres.dsn import connect_arguments
from taskforge.postgres.faults import translated
from taskforge.postgres.sql import queries

Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

_DOORS = queries("doors")
_ACQUIRE_SECONDS = 5.0
# Above the server's own limits (queries/doors.sql), for a server that is silent.
_COMMAND_SECONDS = 35.0
_TENANT_COMMAND_SECONDS = 7.0


class Database:
    """Three small pools on one database. Sizes are connections; none is opened before it is needed.

    Dispatch has its own connections, so that finished work can be reported while submits and reads are piled up.
    """

    def __init__(self, dsn: str, *, ingest: int = 2, dispatch: int = 4, app: int = 4) -> None:
        self.dsn = dsn
        self._ingest = _Door(dsn, _DOORS["ingest"], ingest)
        self._dispatch = _Door(dsn, _DOORS["dispatch"], dispatch)
        self._app = _Door(dsn, _DOORS["app"], app, command_seconds=_TENANT_COMMAND_SECONDS)

    def ingest(self) -> _Transaction:
        """A transaction that may append jobs; it holds an xid already."""
        return _Transaction(self._ingest)

    def dispatch(self) -> _Transaction:
        """A transaction that may claim, finish and maintain across tenants."""
        return _Transaction(self._dispatch)

    @asynccontextmanager
    async def tenant(self, tenant_id: UUID) -> AsyncIterator[Connection]:
        """A transaction bound to one tenant by row-level security."""
        async with _Transaction(self._app) as connection:
            await connection.fetchval(_DOORS["set_tenant"], str(tenant_id))
            yield connection

    async def append(self, query: str, *arguments: Any) -> Any:
        """What one ingest function returns, in a transaction of its own: a single round trip, committed after it.

        Raises Unavailable `database.commit_unknown` when its answer is lost.
        """
        with translated():
            pool = await self._ingest.pool()
            connection = await pool.acquire(timeout=_ACQUIRE_SECONDS)
        try:
            with translated():
                return await connection.fetchval(query, *arguments)
        except Unavailable as error:
            with suppress(Exception):
                connection.terminate()
            if isinstance(error.__cause__, _LOST):
                raise _commit_unknown() from error
            raise
        finally:
            with suppress(asyncpg.InterfaceError):
                await pool.release(connection)

    async def call(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        """One dispatch function in a transaction of its own: a single round trip, committed when this returns."""
        with translated():
            pool = await self._dispatch.pool()
            async with pool.acquire(timeout=_ACQUIRE_SECONDS) as connection:
                try:
                    rows: list[asyncpg.Record] = await connection.fetch(query, *arguments)
                    return rows
                except asyncpg.InternalClientError:
                    connection.terminate()  # its protocol is out of step
                    raise

    async def close(self) -> None:
        await asyncio.gather(self._ingest.close(), self._dispatch.close(), self._app.close())


_LOST = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.OperatorInterventionError,
    TimeoutError,
)


def _commit_unknown() -> Unavailable:
    return Unavailable(
        "database.commit_unknown",
        "the connection was lost while committing; the work may or may not have been stored",
        retry_after=1,
    )


class _Door:
    def __init__(
        self, dsn: str, preamble: str, size: int, *, command_seconds: float = _COMMAND_SECONDS
    ) -> None:
        self.preamble = preamble
        self._dsn = dsn
        self._size = size
        self._command_seconds = command_seconds
        self._pool: Pool | None = None
        self._opening = asyncio.Lock()

    async def pool(self) -> Pool:
        if self._pool is None:
            async with self._opening:
                if self._pool is None:
                    self._pool = await asyncpg.create_pool(
                        **connect_arguments(self._dsn),
                        min_size=0,
                        max_size=self._size,
                        max_inactive_connection_lifetime=300.0,
                        command_timeout=self._command_seconds,
                        reset=_keep,
                    )
        return self._pool

    async def close(self) -> None:
        if self._pool is not None:
            with suppress(TimeoutError, Unavailable):
                async with asyncio.timeout(5):
                    await self._pool.close()
                return
            self._pool.terminate()


async def _keep(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Nothing to reset: every setting of ours ends with its transaction."""


class _Transaction:
    """`async with` begins by the door's preamble, commits at the end, rolls back on any exception.

    A commit whose answer is lost raises Unavailable `database.commit_unknown`: it may have happened.
    """

    def __init__(self, door: _Door) -> None:
        self._door = door

    async def __aenter__(self) -> Connection:
        with translated():
            self._pool = await self._door.pool()
            self._connection: Connection = await self._pool.acquire(timeout=_ACQUIRE_SECONDS)
        try:
            with translated():
                await self._connection.execute(self._door.preamble)
        except BaseException:
            await self._abandon()
            raise
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        if error is not None:
            await self._abandon()
            if isinstance(error, Exception):
                with translated():
                    raise error
            return
        try:
            await self._connection.execute("commit")
        except _LOST as lost:
            await self._abandon()
            raise _commit_unknown() from lost
        except BaseException as failed:
            await self._abandon()
            with translated():
                raise failed
        await self._pool.release(self._connection)

    async def _abandon(self) -> None:
        try:
            async with asyncio.timeout(2):
                await self._connection.execute("rollback")
        except Exception:
            # A connection that was lost has left the pool by itself, and then not even this may be called.
            with suppress(Exception):
                self._connection.terminate()
        with suppress(Exception):
            await self._pool.release(self._connection)
