"""Request bodies as bytes, within limits of size, kind and time that hold before anything is parsed."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress

from litestar.types import Receive, Scope

from taskforge.errors import TooLarge, UnsupportedMedia
from taskforge.rest.problems import RequestTimeout
from taskforge.rest.tracing import header

BODY_TIMEOUT_SECONDS = 30.0
DISCARD_SECONDS = 0.5

_JSON = b"application/json"
_NDJSON = b"application/x-ndjson"
_CONTENT_TYPE = re.compile(
    rb"\s*(application/json|application/x-ndjson)\s*(?:;\s*charset\s*=\s*(?:utf-8|\"utf-8\")\s*)?;?\s*",
    re.IGNORECASE,
)


class ClientGone(Exception):
    """The sender closed the connection before its body was complete."""


async def read_body(
    scope: Scope, receive: Receive, *, limit: int, timeout: float = BODY_TIMEOUT_SECONDS
) -> bytes:
    """The whole body. Raises TooLarge as soon as it is known to pass `limit`, RequestTimeout after `timeout`."""
    declared = header(scope, b"content-length")
    if declared is not None and (not declared.isdigit() or len(declared) > 18 or int(declared) > limit):
        await _discard(scope, receive, limit)
        raise _too_large(limit)
    try:
        async with asyncio.timeout(timeout):
            return await _collect(receive, limit)
    except TooLarge:
        await _discard(scope, receive, limit)
        raise
    except TimeoutError:
        raise RequestTimeout(
            "request.timeout", f"the body did not arrive within {timeout:.0f} seconds"
        ) from None


def check_content_type(scope: Scope, *, allow_ndjson: bool = False) -> bool:
    """True for NDJSON, False for JSON. Raises UnsupportedMedia for anything else, and for any encoding of it."""
    kinds = [value for name, value in scope["headers"] if name == b"content-type"]
    if header(scope, b"content-encoding") is not None:
        raise UnsupportedMedia("request.content_encoding", "send the body without a Content-Encoding")
    if len(kinds) == 1:
        if kinds[0] == _JSON:
            return False
        match = _CONTENT_TYPE.fullmatch(kinds[0])
        is_ndjson = match is not None and match[1].lower() == _NDJSON
        if match is not None and (allow_ndjson or not is_ndjson):
            return is_ndjson
    expected = "application/json or application/x-ndjson" if allow_ndjson else "application/json"
    raise UnsupportedMedia("request.content_type", f"send {expected}, in UTF-8")


async def _collect(receive: Receive, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGone
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return b"".join((*parts, part)) if parts else part
        parts.append(part)


async def _discard(scope: Scope, receive: Receive, limit: int) -> None:
    """Take in a little more of a body that is refused anyway.

    A connection closed over unread bytes is reset, and the reset can overtake the answer.
    """
    if header(scope, b"expect") is not None:
        return  # the sender waits for our word before it sends anything
    size = 0
    with suppress(TimeoutError, ClientGone):
        async with asyncio.timeout(DISCARD_SECONDS):
            while size <= limit:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
                size += len(message.get("body", b""))


def _too_large(limit: int) -> TooLarge:
    return TooLarge("request.too_large", f"a body has at most {limit} bytes")
