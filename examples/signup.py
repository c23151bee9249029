"""A user and the welcome mail, stored in one transaction."""

from __future__ import annotations

import asyncio

import asyncpg

from taskforge import TaskForge
from taskforge.settings import load

forge = TaskForge()


@forge.job(queue="mail", max_attempts=5, timeout=30)
async def welcome(address: str) -> str:
    return f"welcome, {address}"


async def sign_up(connection: asyncpg.Connection, address: str) -> str:
    """The id of the mail's job. Both exist once the caller's transaction commits."""
    await connection.execute("insert into users (address) values ($1)", address)
    handle = await welcome.options(connection=connection).submit(address)
    return handle.id


async def main() -> None:
    async with forge:
        connection = await asyncpg.connect(load().database_url)
        await connection.execute("create table if not exists users (address text primary key)")
        async with connection.transaction():
            job_id = await sign_up(connection, "ann@example.com")
        print(await forge.handle(job_id).result(timeout=20))
        try:
            async with connection.transaction():
                await sign_up(connection, "ann@example.com")
        except asyncpg.UniqueViolationError:
            print("known already, and no second mail")
        await connection.execute("drop table users")
        await connection.close()


if __name__ == "__main__":
    asyncio.run(main())
