"""Job ids, taken in blocks from one sequence whose increment is the block size, so that no two processes meet."""

from __future__ import annotations

import asyncio
import time

from taskforge.postgres.pool import Database
from taskforge.postgres.sql import queries

BLOCK = 1_000
_MAX_BLOCKS = 32
_IDLE_SECONDS = 10.0
_NEXT = queries("submit")["next_blocks"]


class JobIds:
    """Hands out runs of contiguous ids. Ids of a block that lies idle are let go, so that ids follow time roughly."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._runs: list[range] = []
        self._used_at = time.monotonic()
        self._blocks = 1
        self._lock = asyncio.Lock()

    async def take(self, count: int) -> list[range]:
        """`count` ids as few ranges, ascending. One round trip for every few blocks."""
        async with self._lock:
            now = time.monotonic()
            if now - self._used_at > _IDLE_SECONDS:
                self._runs.clear()
                self._blocks = 1
            self._used_at = now
            if sum(map(len, self._runs)) < count:
                await self._refill(count)
            return self._cut(count)

    async def _refill(self, count: int) -> None:
        wanted = max(self._blocks, -(-count // BLOCK))
        self._blocks = min(_MAX_BLOCKS, max(self._blocks, wanted) * 2)
        rows = await self._database.call(_NEXT, wanted)
        for row in rows:
            last: int = row[0]
            block = range(last - BLOCK + 1, last + 1)
            if self._runs and self._runs[-1].stop == block.start:
                self._runs[-1] = range(self._runs[-1].start, block.stop)
            else:
                self._runs.append(block)

    def _cut(self, count: int) -> list[range]:
        taken = []
        while count:
            first = self._runs[0]
            part = first[:count]
            taken.append(part)
            count -= len(part)
            if len(part) == len(first):
                del self._runs[0]
            else:
                self._runs[0] = first[len(part) :]
        return taken
