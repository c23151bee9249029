"""Child: a worker process as `taskforge worker` runs it, with default settings."""

from __future__ import annotations

import os
import sys

import uvloop

from taskforge import memory
from taskforge.app import open_core
from taskforge.bench.jobs import QUEUE, forge
from taskforge.bench.processes import quiet
from taskforge.runtime.maintenance import Maintenance
from taskforge.worker.worker import Worker


async def main() -> None:
    quiet()
    async with open_core(os.environ["DATABASE_URL"], listens=True) as core:
        maintenance = Maintenance(core)
        maintenance.start()
        worker = Worker(core, forge.handlers(), queues=[QUEUE], on_maintain=maintenance.set_active)
        await worker.start()
        worker.shutdown.install()
        memory.settle()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await worker.shutdown.requested.wait()
        await worker.stop()
        await maintenance.stop()


if __name__ == "__main__":
    uvloop.run(main())
