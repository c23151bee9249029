"""When are two submits the same?"""

from __future__ import annotations

import hashlib
import json

import msgspec

from taskforge.domain.jobs import JobDraft


def body_hash(draft: JobDraft, payload: bytes) -> bytes:
    """Equal for jobs that mean the same: the payload's spacing and key order do not count, nor does the trace."""
    canonical: object
    try:
        canonical = json.loads(payload, parse_float=lambda text: {"": text})  # not rounded, and no string
    except (ValueError, RecursionError):
        canonical = payload.hex()
    rest = msgspec.to_builtins(msgspec.structs.replace(draft, payload=b"", trace=None))
    text = json.dumps([canonical, rest], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
