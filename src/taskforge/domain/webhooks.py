"""Webhooks: what a URL must look like, how a message is signed, and when it is sent again."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from random import Random

from msgspec import Struct

MAX_URL = 2_000
MAX_ATTEMPTS = 25
PATIENCE_SECONDS = 72 * 3_600.0
TOLERANCE_SECONDS = 300
MAX_ACTIVE_SECRETS = 2
SECRET_PREFIX = "whsec_"
SECRET_BYTES = 32
_FIRST_DELAY = 5.0
_LONGEST_DELAY = 6 * 3_600.0

_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>/[!-\"$-~]*|\?[!-\"$-~]*)?"
)
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_IPV4 = re.compile(r"(?:0|[1-9][0-9]{0,2})(?:\.(?:0|[1-9][0-9]{0,2})){3}")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")


class Address(Struct, frozen=True):
    """A URL in its parts: where to connect, and what to ask for there. `host` is lower case, without brackets."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"


def read_url(url: str) -> Address | str:
    """The URL in its parts, or why it is none that a webhook can have.

    Stricter than browsers on purpose: what two programs might read differently is refused. So there is no user, no
    fragment, no other scheme, no name outside ASCII, and no host in numbers but four plain decimal ones.
    """
    if len(url) > MAX_URL:
        return f"has more than {MAX_URL} characters"
    if "@" in url.partition("://")[2].partition("/")[0]:
        return "must not hold a user or password"
    if "#" in url:
        return "must not have a fragment"
    match = _URL.fullmatch(url)
    if match is None:
        return "must be an http or https URL in ASCII, with a plain host name"
    host = match["host"].lower()
    if host.startswith("["):
        host = host[1:-1]
    else:
        labels = host.split(".")
        if not all(_LABEL.fullmatch(label) for label in labels):
            return "has a host that is no name"
        if _NUMBER.fullmatch(labels[-1]) and not _IPV4.fullmatch(host):
            return "has a host in numbers; write an address as four decimal ones"
    port = int(match["port"]) if match["port"] else (443 if match["scheme"] == "https" else 80)
    if not 1 <= port <= 65_535:
        return "has a port that does not exist"
    target = match["target"] or "/"
    return Address(match["scheme"], host, port, target if target.startswith("/") else f"/{target}")


def why_not_url(url: str) -> str | None:
    found = read_url(url)
    return found if isinstance(found, str) else None


class DeliveryState(StrEnum):
    WAITING = "waiting"
    DELIVERED = "delivered"
    FAILED = "failed"


DELIVERY_STATES = (DeliveryState.WAITING, DeliveryState.DELIVERED, DeliveryState.FAILED)
"""As the database numbers them, from 1."""


class DeliveryView(Struct, frozen=True):
    """One message to one URL. `error` is a word of ours; what the endpoint said is never kept."""

    id: str
    event: str
    url: str
    state: DeliveryState
    subject: str
    attempts: int
    created_at: datetime
    due_at: datetime | None
    last_attempt_at: datetime | None
    finished_at: datetime | None
    status: int | None
    error: str | None


class SecretView(Struct, frozen=True):
    """A signing secret, as it is shown later. `hint` is its last four characters."""

    id: str
    hint: str
    created_at: datetime
    created_by: str
    retired_at: datetime | None


def message_id(delivery_id: int) -> str:
    """The same for every attempt, so that a receiver can tell a repetition."""
    return f"msg_{delivery_id}"


def sign(key: bytes, *, message: str, timestamp: int, body: bytes) -> str:
    """One signature as the Standard Webhooks convention has it."""
    signed = hmac.digest(key, b"%b.%d.%b" % (message.encode(), timestamp, body), hashlib.sha256)
    return "v1," + base64.b64encode(signed).decode()


def is_signed(keys: Iterable[bytes], *, message: str, timestamp: int, body: bytes, signatures: str) -> bool:
    """True when one of the space-separated signatures is by one of the keys. Takes as long whichever it is."""
    given = [signature.encode() for signature in signatures.split(" ")][:10]
    found = False
    for key in keys:
        expected = sign(key, message=message, timestamp=timestamp, body=body).encode()
        for signature in given:
            found |= hmac.compare_digest(expected, signature)
    return found


def secret_text(key: bytes) -> str:
    return SECRET_PREFIX + base64.b64encode(key).decode()


def secret_key(text: str) -> bytes:
    """The key in a secret. Raises ValueError for a text that is none."""
    try:
        key = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except ValueError:
        raise ValueError("a webhook secret looks like whsec_ and base64") from None
    if not 24 <= len(key) <= 64:
        raise ValueError("a webhook secret holds 24 to 64 bytes")
    return key


def next_delay(attempts: int, *, age_seconds: float, asked: float | None, rng: Random) -> float | None:
    """Seconds until the next attempt after `attempts` that failed, or None: it is given up.

    Four times longer each time from 5 s on, 6 h at most, half of it by chance; never sooner than the endpoint asked
    for within those bounds.
    """
    if attempts >= MAX_ATTEMPTS or age_seconds >= PATIENCE_SECONDS:
        return None
    full = min(_LONGEST_DELAY, _FIRST_DELAY * 4.0 ** min(attempts - 1, 10))
    delay = full * (0.5 + 0.5 * rng.random())
    if asked is not None:
        delay = max(delay, min(asked, _LONGEST_DELAY))
    return delay


def header(headers: Mapping[str, str], name: str) -> str | None:
    """A header by its name in any case."""
    return next((value for key, value in headers.items() if key.lower() == name), None)
