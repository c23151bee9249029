"""An HTTP load generator that costs little: keep-alive connections that send one prepared request over and over."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import cast

from msgspec import Struct

_LONGEST_SECONDS = 300.0


class Load(Struct, frozen=True):
    """Closed loop: each connection sends its next request when the last was answered."""

    requests: int
    seconds: float
    latencies: list[float]

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


class _Connection(asyncio.Protocol):
    def __init__(
        self, request: bytes, budget: list[int], latencies: list[float], ended: asyncio.Future[None]
    ) -> None:
        self._request = request
        self._budget = budget
        self._latencies = latencies
        self._ended = ended
        self._buffer = b""
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class does not say so itself
        self._next()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        lower = head.lower()
        start = lower.index(b"content-length:") + len(b"content-length:")
        length = int(lower[start:].split(b"\r\n", 1)[0])
        if len(body) < length:
            return
        if not head.startswith((b"HTTP/1.1 201", b"HTTP/1.1 200")):
            self._fail(RuntimeError(f"the server answered {head.splitlines()[0]!r}: {body[:300]!r}"))
            return
        self._latencies.append(time.perf_counter() - self._sent)
        self._buffer = body[length:]
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or RuntimeError("the server closed the connection"))

    def _fail(self, error: Exception) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)

    def _next(self) -> None:
        if self._budget[0] <= 0:
            if not self._ended.done():
                self._ended.set_result(None)
            self._transport.close()
            return
        self._budget[0] -= 1
        self._sent = time.perf_counter()
        self._transport.write(self._request)


def post(path: str, body: bytes, token: str) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def load(port: int, request: bytes, *, requests: int, connections: int) -> Load:
    """`requests` in all, over so many connections. Raises when any answer is not a success."""
    loop = asyncio.get_running_loop()
    budget, latencies = [requests], list[float]()
    ended = [loop.create_future() for _ in range(connections)]
    started = time.perf_counter()
    for future in ended:
        connection = _Connection(request, budget, latencies, future)
        await loop.create_connection(partial(_itself, connection), "127.0.0.1", port)
    async with asyncio.timeout(_LONGEST_SECONDS):
        await asyncio.gather(*ended)
    return Load(len(latencies), time.perf_counter() - started, latencies)


def _itself(connection: _Connection) -> _Connection:
    return connection
