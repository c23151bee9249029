"""When are two submits the same?"""

from __future__ import annotations

import hashlib
import json

import msgspec

from taskforge.domain.jobs import JobDraft


def body_hash(draft: JobDraft, payload: bytes) -> bytes:
    """Equal for jobs that mean the same: spacing and key order of the payload do not count."""
    canonical: object
    try:
        canonical = json.loads(payload, parse_float=str)
    except (ValueError, RecursionError):
        canonical = payload.hex()
    rest = msgspec.to_builtins(msgspec.structs.replace(draft, payload=b""))
    text = json.dumps([canonical, rest], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
