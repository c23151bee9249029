"""Names for a request: the W3C trace it belongs to, and the id its sender gave it."""

from __future__ import annotations

import re
import secrets

from litestar.types import Scope

_TRACEPARENT = re.compile(rb"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_KEY = "taskforge.trace_id"


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of that (lower-case) name."""
    for key, value in scope["headers"]:
        if key == name:
            return value
    return None


def traceparent_of(scope: Scope) -> str | None:
    """The sender's trace context, if it sent a sound one."""
    value = header(scope, b"traceparent")
    return value.decode() if value is not None and _TRACEPARENT.fullmatch(value) else None


def trace_id_of(scope: Scope) -> str:
    """The id of the sender's trace, or one made for this request; the same on every call."""
    state = scope["state"]
    if _KEY not in state:
        parent = traceparent_of(scope)
        state[_KEY] = parent[3:35] if parent else secrets.token_hex(16)
    return str(state[_KEY])


def request_id_of(scope: Scope) -> bytes | None:
    """The sender's X-Request-Id, if it is fit to be sent back."""
    value = header(scope, b"x-request-id")
    return value if value is not None and _REQUEST_ID.fullmatch(value) else None
