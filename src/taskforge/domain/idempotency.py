"""When are two submits the same?"""

from __future__ import annotations

import hashlib
import json

import msgspec

from taskforge.domain.jobs import JobDraft
from taskforge.domain.terms import NO_TERMS


def body_hash(draft: JobDraft, payload: bytes) -> bytes:
    """Equal for jobs that mean the same.

    The payload's spacing and key order do not count, nor do the trace and the parent.
    """
    canonical: object
    try:
        canonical = json.loads(payload, parse_float=lambda text: {"": text})  # not rounded, and no string
    except (ValueError, RecursionError):
        canonical = payload.hex()
    terms = None if draft.terms is None else msgspec.structs.replace(draft.terms, parent_id=None)
    if terms == NO_TERMS:
        terms = None
    rest = msgspec.to_builtins(msgspec.structs.replace(draft, payload=b"", trace=None, terms=terms))
    text = json.dumps([canonical, rest], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
