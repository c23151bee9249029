"""Which failures are the same failure: what went wrong, and where, without what differs from job to job."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

_MESSAGE_CHARS = 1_000
_TRACE_CHARS = 4_000

_FRAME = re.compile(r'^\s*File "([^"\n]+)", line \d+, in (.+)$', re.MULTILINE)
# Each alternative begins at a place of its own and is bounded, so a message takes linear time whatever it says.
_VARIES = re.compile(
    r"(?<!\w)'[^'\n]{0,300}'(?!\w)"
    r'|(?<!\w)"[^"\n]{0,300}"(?!\w)'
    r"|`[^`\n]{0,300}`"
    r"|\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"
    r"|\b0[xX][0-9a-fA-F]+\b"
    r"|\b(?=[a-f]{0,16}[0-9])[0-9a-f]{8,}\b"
    r"|\b(?=[A-Za-z_-]{0,32}[0-9])[A-Za-z0-9_-]{16,}\b"
    r"|[0-9]+(?:[.,:][0-9]+)*"
)
_SPACE = re.compile(r"\s+")


def fingerprint(error_class: str, message: str, traceback: str) -> str:
    """16 hex digits, the same for failures of one class, at one place, whose messages differ in numbers, ids, hex and
    quoted text only. Line numbers do not count, so that a deployment does not make new ones. Some 5 microseconds."""
    return _digest(error_class, message[:_MESSAGE_CHARS], last_frame(traceback))


@lru_cache(maxsize=1_024)
def _digest(error_class: str, message: str, frame: str) -> str:
    text = "\x00".join((error_class, normalised(message), frame))
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


def normalised(message: str) -> str:
    """The message with `#` for what varies."""
    return _SPACE.sub(" ", _VARIES.sub("#", message)).strip()


def last_frame(traceback: str) -> str:
    """`folder/file.py:function` of the frame that raised; empty when the traceback is not Python's."""
    frames = _FRAME.findall(traceback[-_TRACE_CHARS:])
    if not frames:
        return ""
    path, function = frames[-1]
    folder_and_file = "/".join(re.split(r"[\\/]", path)[-2:])
    return f"{folder_and_file}:{function}"
