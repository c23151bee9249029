"""Job ids come in blocks, so that those of a batch are neighbours and no two processes meet."""

from __future__ import annotations

import asyncio
import sys

from taskforge.postgres.ids import BLOCK, JobIds
from tests.support.engine import Engine

PROGRAM = """
import asyncio, sys
from taskforge.postgres.ids import JobIds
from taskforge.postgres.pool import Database

async def main():
    database = Database(sys.argv[1])
    ids = JobIds(database)
    for _ in range(20):
        for run in await ids.take(777):
            print(run.start, run.stop)
    await database.close()

asyncio.run(main())
"""


async def test_a_batch_gets_contiguous_ids(engine: Engine) -> None:
    ids = JobIds(engine.core.database)
    assert await ids.take(2_500) == [range(1, 2_501)]
    assert await ids.take(1) == [range(2_501, 2_502)]


async def test_a_batch_that_meets_another_process_gets_few_runs(engine: Engine, other: Engine) -> None:
    mine, theirs = JobIds(engine.core.database), JobIds(other.core.database)
    await mine.take(BLOCK - 1)
    await theirs.take(1)
    runs = await mine.take(2)
    assert [len(run) for run in runs] == [1, 1]
    assert runs[0].stop - 1 == BLOCK and runs[1].start > 2 * BLOCK


async def test_tasks_of_one_process_never_share_an_id(engine: Engine) -> None:
    ids = JobIds(engine.core.database)
    taken = await asyncio.gather(*(ids.take(n % 37 + 1) for n in range(200)))
    flat = [i for runs in taken for run in runs for i in run]
    assert len(flat) == len(set(flat)) == sum(n % 37 + 1 for n in range(200))


async def test_two_processes_never_meet(engine: Engine) -> None:
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, engine.core.database.dsn, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(2)
    ]
    outputs = [(await process.communicate())[0].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    given = [
        {i for line in output.splitlines() for i in range(*map(int, line.split()))} for output in outputs
    ]
    assert [len(ids) for ids in given] == [20 * 777] * 2
    assert not given[0] & given[1]
