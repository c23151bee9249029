"""What a server and a worker cost while nothing happens."""

from __future__ import annotations

import asyncio
import secrets
from unittest.mock import patch

from taskforge.bench.cluster import Cluster
from taskforge.bench.figures import Figure
from taskforge.bench.processes import child, cpu_seconds, family, resident_bytes

_SETTLE_SECONDS = 12.0
_OWN_QUERIES = 2


async def idle(cluster: Cluster, *, seconds: float) -> list[Figure]:
    """One window of so many seconds; CPU of server, worker and heartbeat together, transactions, growth of memory."""
    with patch.dict("os.environ", JWT_SECRET=secrets.token_urlsafe(48)):
        async with child("taskforge.bench.server") as server, child("taskforge.bench.worker") as worker:
            await server.line()
            await asyncio.sleep(_SETTLE_SECONDS)
            pids = family(server.pid) + family(worker.pid)
            cpu, memory, commits = cpu_seconds(pids), resident_bytes(pids), await cluster.meter.commits()
            await asyncio.sleep(seconds)
            busy = (cpu_seconds(pids) - cpu) / seconds * 100
            grown = (resident_bytes(pids) - memory) / 1024
            rate = (await cluster.meter.commits() - commits - _OWN_QUERIES) / seconds
            total = resident_bytes(pids) / 1024 / 1024
    return [
        Figure("idle server and worker: CPU", busy, "% of a core", "< 3 %", busy < 3, [busy]),
        Figure("idle server and worker: queries", rate, "a second", "<= 5", rate <= 5, [rate]),
        Figure(
            "idle server and worker: growth of memory",
            grown,
            f"KiB in {seconds:.0f} s",
            "none",
            grown <= 256,
            [grown],
            note=f"{total:.0f} MiB resident in all",
        ),
    ]
