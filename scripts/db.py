"""psql into the embedded database, which is started if it does not run."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys

from taskforge.errors import TaskForgeError
from taskforge.postgres.binaries import locate_binaries
from taskforge.postgres.embedded import EmbeddedPostgres
from taskforge.settings import load


async def main() -> int:
    settings = load()
    async with EmbeddedPostgres(settings.data_dir, pg_bin=settings.pg_bin) as server:
        beside = locate_binaries(pg_bin=settings.pg_bin).folder / "psql"
        psql = str(beside) if beside.exists() else shutil.which("psql")
        if psql is None or server.dsn is None:
            print(f"there is no psql here; the address is {server.dsn}", file=sys.stderr)
            return 1
        return await asyncio.to_thread(subprocess.call, [psql, server.dsn, *sys.argv[1:]])


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except TaskForgeError as error:
        print(error.detail, file=sys.stderr)
        sys.exit(69)
