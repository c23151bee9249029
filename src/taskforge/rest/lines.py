"""Bodies with one JSON document a line, read while they arrive, in constant memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from litestar.types import Receive

from taskforge.errors import TooLarge
from taskforge.rest.bodies import ClientGone
from taskforge.rest.problems import RequestTimeout

IDLE_SECONDS = 30.0
PIECE_LINES = 1_000
PIECE_BYTES = 4 * 1024 * 1024


async def read_pieces(receive: Receive, *, longest: int) -> AsyncIterator[list[bytes]]:
    """The lines that are not empty, in pieces of bounded size. While a piece is worked on nothing more is read, so the
    sender has to wait.

    Raises TooLarge for a line above `longest` bytes, RequestTimeout when nothing arrives for 30 seconds, ClientGone.
    """
    piece: list[bytes] = []
    size = 0
    rest = b""
    is_last = False
    while not is_last:
        part, is_last = await _receive(receive)
        lines = (rest + part).split(b"\n")
        rest = lines.pop() if not is_last else b""
        if len(rest) > longest or any(len(line) > longest for line in lines):
            raise TooLarge("request.line_too_large", f"a line has at most {longest} bytes")
        for line in lines:
            if not line or line.isspace():
                continue
            piece.append(line)
            size += len(line)
            if len(piece) >= PIECE_LINES or size >= PIECE_BYTES:
                yield piece
                piece, size = [], 0
    if piece:
        yield piece


async def _receive(receive: Receive) -> tuple[bytes, bool]:
    try:
        async with asyncio.timeout(IDLE_SECONDS):
            message = await receive()
    except TimeoutError:
        raise RequestTimeout(
            "request.timeout", f"nothing arrived for {IDLE_SECONDS:.0f} seconds; what came before is stored"
        ) from None
    if message["type"] != "http.request":
        raise ClientGone
    return message.get("body", b""), not message.get("more_body", False)
