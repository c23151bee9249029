"""Tokens that say who asks: JWTs signed with HS256 under one shared secret.

One algorithm, one type, every claim required. A token that differs in any way is refused with one and the same
error, so that nothing can be learned from the answer.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from uuid import UUID

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OctKey
from msgspec import Struct

from taskforge.clock import Clock, SystemClock
from taskforge.domain.tenants import Context
from taskforge.errors import ConfigurationError, Unauthorized

ALGORITHM = "HS256"
ISSUER = AUDIENCE = "taskforge"
MIN_SECRET_BYTES = 32
MAX_LIFETIME_SECONDS = 366 * 86_400
LEEWAY_SECONDS = 30
MAX_TOKEN_CHARS = 4_096
CACHE_SIZE = 4_096

_PLACEHOLDERS = (
    "changeme",
    "change-me",
    "change_me",
    "change-this",
    "default",
    "dev-only",
    "example",
    "insecure",
    "jwt-key",
    "jwt-secret",
    "jwt_secret",
    "password",
    "placeholder",
    "secret",
    "super-secret",
    "your-",
    "your_",
)
_HEADER_FIELDS = frozenset({"alg", "typ", "kid"})


class _Claims(Struct, frozen=True):
    iss: str
    aud: str
    sub: str
    tenant: UUID
    iat: int
    exp: int
    jti: str


_decode_claims = msgspec.json.Decoder(_Claims).decode


def check_secret(secret: str | None, *, is_development: bool) -> bytes:
    """The secret as bytes, or ConfigurationError when it is missing, too short or copied from an example.

    In development the placeholder of an example is accepted as it stands.
    """
    if not secret:
        raise ConfigurationError(
            "config.jwt_secret_missing", "JWT_SECRET is not set; `openssl rand -hex 32` makes one"
        )
    is_placeholder = any(word in secret.lower() for word in _PLACEHOLDERS) or len(set(secret)) < 8
    if is_placeholder and not is_development:
        raise ConfigurationError(
            "config.jwt_secret_placeholder",
            "JWT_SECRET is the placeholder of an example; make one with `openssl rand -hex 32`",
        )
    raw = secret.encode()
    if len(raw) < MIN_SECRET_BYTES and not is_placeholder:
        raise ConfigurationError(
            "config.jwt_secret_short",
            f"JWT_SECRET has {len(raw)} bytes and needs {MIN_SECRET_BYTES}; `openssl rand -hex 32` makes one",
        )
    return raw


class Tokens:
    """Makes and checks the tokens of one secret. Checked tokens are remembered by their hash until they expire."""

    def __init__(
        self, secret: str | None, *, is_development: bool = False, clock: Clock | None = None
    ) -> None:
        self._secret = check_secret(secret, is_development=is_development)
        self._key = OctKey.import_key(self._secret)
        self._clock = clock or SystemClock()
        self._known: dict[bytes, tuple[float, Context]] = {}

    def make(self, *, tenant_id: UUID, subject: str, lifetime_seconds: int = 86_400) -> str:
        """A token for `subject` in the tenant, valid from now on."""
        if not 1 <= lifetime_seconds <= MAX_LIFETIME_SECONDS:
            raise ConfigurationError(
                "token.lifetime", f"a token lives 1 to {MAX_LIFETIME_SECONDS} seconds, not {lifetime_seconds}"
            )
        if not 1 <= len(subject) <= 255 or not subject.isprintable():
            raise ConfigurationError("token.subject", "a subject has 1 to 255 printable characters")
        now = int(self._clock.now().timestamp())
        claims = _Claims(
            iss=ISSUER,
            aud=AUDIENCE,
            sub=subject,
            tenant=tenant_id,
            iat=now,
            exp=now + lifetime_seconds,
            jti=secrets.token_hex(16),
        )
        return jws.serialize_compact(
            {"alg": ALGORITHM, "typ": "JWT"}, msgspec.json.encode(claims), self._key, [ALGORITHM]
        )

    def verify(self, token: str) -> Context:
        """Who the token speaks for. Raises Unauthorized, always with the same words.

        Cost: a hash for a token seen before, about 25 us otherwise.
        """
        now = self._clock.now().timestamp()
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._known.get(digest)
        if known is not None:
            if now <= known[0] + LEEWAY_SECONDS:
                return known[1]
            del self._known[digest]
        claims = self._read(token)
        if not _holds(claims, now):
            raise _refusal()
        context = Context(tenant_id=claims.tenant, actor=claims.sub)
        while len(self._known) >= CACHE_SIZE:
            del self._known[next(iter(self._known))]
        self._known[digest] = (claims.exp, context)
        return context

    def derive_key(self, purpose: str) -> bytes:
        """A key of its own for another use of the same secret."""
        return hmac.digest(self._secret, f"taskforge:{purpose}".encode(), "sha256")

    def _read(self, token: str) -> _Claims:
        if len(token) > MAX_TOKEN_CHARS or token.count(".") != 2 or not token.isascii():
            raise _refusal()
        try:
            signed = jws.deserialize_compact(token.encode(), self._key, [ALGORITHM])
            header = signed.headers()
            # A claim given twice is read differently by different parsers, so it is refused.
            json.loads(signed.payload, object_pairs_hook=_refuse_duplicates)
            claims = _decode_claims(signed.payload)
        except (JoseError, ValueError, TypeError, KeyError, RecursionError):
            raise _refusal() from None
        if header.get("typ") != "JWT" or not header.keys() <= _HEADER_FIELDS:
            raise _refusal()
        return claims


def _holds(claims: _Claims, now: float) -> bool:
    return (
        claims.iss == ISSUER
        and claims.aud == AUDIENCE
        and 1 <= len(claims.sub) <= 255
        and claims.sub.isprintable()
        and 1 <= len(claims.jti) <= 255
        and claims.iat <= now + LEEWAY_SECONDS
        and now <= claims.exp + LEEWAY_SECONDS
        and 0 < claims.exp - claims.iat <= MAX_LIFETIME_SECONDS
    )


def _refuse_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate claim")
    return found


def _refusal() -> Unauthorized:
    return Unauthorized("auth.invalid_token", "the bearer token is not valid")
