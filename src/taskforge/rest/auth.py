"""Who asks: the bearer token of a request, and nothing else in it, decides actor and tenant."""

from __future__ import annotations

from litestar.types import Scope

from taskforge.domain.tenants import Context
from taskforge.errors import Unauthorized
from taskforge.tokens import Tokens


def authenticate(scope: Scope, tokens: Tokens) -> Context:
    """The context of the request's token. Raises Unauthorized."""
    found: bytes | None = None
    for name, value in scope["headers"]:
        if name == b"authorization":
            if found is not None:
                raise _missing()
            found = value
    if found is None or found[:7].lower() != b"bearer ":
        raise _missing()
    return tokens.verify(found[7:].strip().decode("latin-1"))


def _missing() -> Unauthorized:
    return Unauthorized(
        "auth.missing_token", "send `Authorization: Bearer TOKEN`; `taskforge token` makes a token"
    )
