"""Cursors of lists: opaque to clients, and good only for the tenant and the filter they were made for."""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import Any
from uuid import UUID

import msgspec

from taskforge.errors import FieldError, Malformed

_MAC_BYTES = 16
_MAX_CHARS = 1_024

_encode = msgspec.json.Encoder(order="sorted").encode


class Cursors:
    """Seals and opens cursors under one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def seal(self, position: str, *, tenant_id: UUID, query: Any) -> str:
        raw = position.encode()
        return base64.urlsafe_b64encode(self._mac(raw, tenant_id, query) + raw).rstrip(b"=").decode()

    def open(self, cursor: str, *, tenant_id: UUID, query: Any) -> str:
        """The position that was sealed for the same tenant and query. Raises Malformed for anything else."""
        try:
            if len(cursor) > _MAX_CHARS or not cursor.isascii():
                raise ValueError
            sealed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
            mac, raw = sealed[:_MAC_BYTES], sealed[_MAC_BYTES:]
            position = raw.decode()
        except (ValueError, binascii.Error):
            raise _refusal() from None
        if not hmac.compare_digest(mac, self._mac(raw, tenant_id, query)):
            raise _refusal()
        return position

    def _mac(self, raw: bytes, tenant_id: UUID, query: Any) -> bytes:
        bound = _encode([str(tenant_id), query])
        return hmac.digest(self._key, b"%d:%b%b" % (len(bound), bound, raw), "sha256")[:_MAC_BYTES]


def _refusal() -> Malformed:
    detail = "this cursor was not made for this list and filter; start again without it"
    return Malformed("cursor.invalid", detail, fields=(FieldError("/cursor", "invalid", detail),))
