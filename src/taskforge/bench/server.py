"""Child: the API server on a free port of the loopback address; says `ready`, then its port."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import timedelta

import uvloop

from taskforge import memory
from taskforge.app import open_core
from taskforge.bench.processes import quiet
from taskforge.rest.app import create_app
from taskforge.rest.server import HttpServer
from taskforge.runtime.maintenance import Maintenance
from taskforge.runtime.presence import Presence
from taskforge.settings import load


async def main() -> None:
    quiet()
    settings = load(flags={"port": 0})
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with open_core(os.environ["DATABASE_URL"], listens=True) as core:
        presence = Presence(
            core, Maintenance(core, retention=timedelta(days=7)), name="bench-server", version="bench"
        )
        presence.start()
        server = HttpServer(create_app(core, settings), settings)
        await server.start()
        memory.settle()
        sys.stdout.write(f"ready\n{server.port}\n")
        sys.stdout.flush()
        await stop.wait()
        await server.stop()
        await presence.stop()


if __name__ == "__main__":
    uvloop.run(main())
