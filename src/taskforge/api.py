"""The REST API as Python calls, over the network or in this very process: one contract, whatever carries it.

Everything but the hot verbs of a job goes this way, so that the SDK, the command line and the server cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar, overload
from urllib.parse import quote, urlencode

import msgspec

T = TypeVar("T")


class Transport(Protocol):
    async def request(self, method: str, path: str, body: bytes | None, content_type: str) -> bytes:
        """The body of a good answer. Raises the TaskForgeError that a problem document names."""


class Api:
    """Paths start with `/api/v1`. Bodies are anything that msgspec encodes."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @overload
    async def call(self, method: str, path: str, body: Any = ..., *, reads: type[T]) -> T: ...
    @overload
    async def call(self, method: str, path: str, body: Any = ..., *, reads: None = ...) -> None: ...
    async def call(
        self, method: str, path: str, body: Any = None, *, reads: type[T] | None = None
    ) -> T | None:
        """One request; the answer as a value of `reads`. Raises what a problem document says, as TaskForgeError."""
        data = None if body is None else msgspec.json.encode(body)
        answer = await self._transport.request(method, path, data, "application/json")
        return None if reads is None else msgspec.json.decode(answer, type=reads)

    async def send(self, method: str, path: str, body: bytes, content_type: str, *, reads: type[T]) -> T:
        """As `call`, with a body that is sent as it is."""
        return msgspec.json.decode(
            await self._transport.request(method, path, body, content_type), type=reads
        )


def path_of(*parts: str, query: Mapping[str, Any] | None = None) -> str:
    """`/api/v1/...` with each part escaped; a query parameter that is None is left out."""
    path = "/api/v1/" + "/".join(quote(part, safe="") for part in parts)
    given = {name: _text(value) for name, value in (query or {}).items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
