"""Answers: one value that both raw ASGI handlers and Litestar's handlers can send."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from litestar.types import Receive, Scope, Send

JSON = b"application/json"
NDJSON = b"application/x-ndjson"
PROBLEM = b"application/problem+json"

Header = tuple[bytes, bytes]

_encoder = msgspec.json.Encoder()
encode = _encoder.encode


class Reply:
    """An ASGI application that gives one answer."""

    __slots__ = ("body", "headers", "status")

    def __init__(
        self, status: int, body: bytes, *, media: bytes = JSON, headers: Sequence[Header] = ()
    ) -> None:
        self.status = status
        self.body = body
        self.headers: list[Header] = [
            (b"content-type", media),
            (b"content-length", b"%d" % len(body)),
            *headers,
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


def json_reply(value: Any, status: int = 200, *, headers: Sequence[Header] = ()) -> Reply:
    return Reply(status, encode(value), headers=headers)


def ndjson_reply(values: Iterable[Any], status: int = 200, *, headers: Sequence[Header] = ()) -> Reply:
    return Reply(status, _encoder.encode_lines(values), media=NDJSON, headers=headers)


def no_content() -> Reply:
    reply = Reply(204, b"")
    reply.headers = []
    return reply
