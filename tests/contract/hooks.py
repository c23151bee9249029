"""How the tool writes bodies that it does not know by itself. Loaded by the tests and by its own runner."""

from __future__ import annotations

import json

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def lines(context: object, value: object) -> bytes:
    """The contract calls such a body a string; as often as not it is one that no job can be read from."""
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else json.dumps(value).encode()
