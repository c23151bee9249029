"""Child: submits N jobs in batches of 1,000 through the SDK, four batches under way, when the parent says so."""

from __future__ import annotations

import asyncio
import sys

import uvloop

from taskforge.bench.jobs import CALL, forge, noop
from taskforge.bench.processes import go

BATCH = 1_000
_UNDER_WAY = 4


async def submit(count: int) -> None:
    """`count` jobs, durable when this returns."""
    batches = iter(range(count // BATCH))

    async def work() -> None:
        for _ in batches:
            await noop.submit_many([CALL] * BATCH)

    await asyncio.gather(*(work() for _ in range(_UNDER_WAY)))


async def main() -> None:
    count = int(sys.argv[1])
    await noop.submit_many([CALL] * BATCH)  # connections and plans exist before the clock starts
    await go()
    await submit(count)
    sys.stdout.write("done\n")
    sys.stdout.flush()
    await forge.close()


if __name__ == "__main__":
    uvloop.run(main())
