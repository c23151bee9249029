"""A proxy before PostgreSQL's socket that can cut connections at a chosen message or hold back what is said."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

COMMITTED = b"COMMIT\0"


class Proxy:
    """`dsn` leads through it. `cut_answer` decides for each piece that the server says: None lets it through; a number
    lets so many bytes of it through and then cuts the connection."""

    def __init__(self, dsn: str, target: str) -> None:
        self.dsn = dsn
        self.cut_answer: Callable[[bytes], int | None] = lambda piece: None
        self.cuts = 0
        self.held = asyncio.Event()
        self._holding: bytes | None = None
        self._target = target
        self._tasks: set[asyncio.Task[None]] = set()

    def lose_answer(self, holding: bytes, *, times: int = 1) -> None:
        """The next answers that hold these bytes are never heard, and their connections are cut."""
        left = times

        def cut(piece: bytes) -> int | None:
            nonlocal left
            if left and holding in piece:
                left -= 1
                return 0
            return None

        self.cut_answer = cut

    def hold_answer(self, holding: bytes) -> None:
        """Answers that hold these bytes are kept back; `held` is set when there is one."""
        self._holding = holding

    def cut_after(self, pieces: int) -> None:
        """The connection that hears piece number `pieces` from now on is cut right after it."""
        left = pieces

        def cut(piece: bytes) -> int | None:
            nonlocal left
            left -= 1
            return len(piece) if left == 0 else None

        self.cut_answer = cut

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with suppress(OSError, asyncio.CancelledError):
            above, below = await asyncio.open_unix_connection(self._target)
            asking = asyncio.create_task(self._pass_on(reader, below))
            try:
                await self._answer(above, writer)
            finally:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
                below.transport.abort()
        writer.transport.abort()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await reader.read(1 << 16):
                writer.write(piece)
                await writer.drain()
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(1 << 16):
            if self._holding is not None and self._holding in piece:
                self._holding = None
                self.held.set()
                await asyncio.Event().wait()
            upto = self.cut_answer(piece)
            writer.write(piece if upto is None else piece[:upto])
            if upto is not None:
                self.cuts += 1
                return writer.close()
            await writer.drain()


@asynccontextmanager
async def proxied(dsn: str) -> AsyncIterator[Proxy]:
    """`dsn` names a server by the folder of its unix socket."""
    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    port = query.get("port", ["5432"])[0]
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        place = f"host={quote(folder, safe='')}&port={port}"
        proxy = Proxy(urlunsplit(parts._replace(query=place)), f"{query['host'][0]}/.s.PGSQL.{port}")
        server = await asyncio.start_unix_server(proxy.serve, Path(folder) / f".s.PGSQL.{port}")
        try:
            yield proxy
        finally:
            server.close()
            await proxy.close()
