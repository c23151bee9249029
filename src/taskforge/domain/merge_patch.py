"""JSON merge patch, RFC 7396, on the text itself: what a patch does not touch is kept byte for byte."""

from __future__ import annotations

import msgspec
from msgspec import Raw

_members = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.Encoder().encode


def merge_patch(target: bytes, patch: bytes) -> bytes:
    """`target` with the members of `patch`; null takes a member away. Both are valid JSON of bounded depth.

    A patch that is no object takes the place of the whole target.
    """
    if not _is_object(patch):
        return patch
    merged = dict(_members(target)) if _is_object(target) else {}
    for name, value in _members(patch).items():
        raw = bytes(value)
        if raw == b"null":
            merged.pop(name, None)
        else:
            merged[name] = Raw(merge_patch(bytes(merged.get(name, Raw(b"null"))), raw))
    return _encode(merged)


def _is_object(text: bytes) -> bool:
    return text.lstrip()[:1] == b"{"
