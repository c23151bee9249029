"""Query strings, headers and path parts, read as strictly as bodies."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TypeVar
from urllib.parse import parse_qsl

import msgspec
from litestar.types import Scope

from taskforge.errors import FieldError, Invalid, NotFound
from taskforge.rest.strict_json import escape
from taskforge.rest.tracing import header

MAX_LIMIT = 1_000
DEFAULT_LIMIT = 50
MAX_JOB_ID = 2**63 - 1

_DATE = re.compile(r"\d{4}-")
_JOB_ID = re.compile(r"[1-9][0-9]{0,18}")
_MAX_PARAMETERS = 32
_IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,255}")

T = TypeVar("T", bound=msgspec.Struct)


def read_query(scope: Scope, kind: type[T]) -> T:
    """The query string as a struct. Raises Invalid for unknown, repeated or ill-formed parameters."""
    try:
        pairs = parse_qsl(
            scope["query_string"].decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_MAX_PARAMETERS,
        )
    except ValueError:
        raise _invalid("", "invalid", "the query string cannot be read") from None
    given = dict(pairs)
    if len(given) != len(pairs):
        raise _invalid("", "duplicate_key", "a parameter is given more than once")
    known = {field.encode_name for field in msgspec.structs.fields(kind)}
    for name, value in pairs:
        if name not in known:
            raise _invalid(f"/{escape(name)}", "unknown_field", "there is no such parameter")
        if "\x00" in value:
            raise _invalid(f"/{name}", "nul_character", "the NUL character is not allowed")
        try:
            read = getattr(msgspec.convert({name: value}, kind, strict=False), name)
        except msgspec.ValidationError:
            read = None
        # Also what a lax reader makes of `null`, and of a number where a time belongs.
        if read is None or (isinstance(read, datetime) and not _DATE.match(value)):
            raise _invalid(f"/{name}", "invalid", "the value is not allowed here")
    return msgspec.convert(given, kind, strict=False)


def check_limit(limit: int) -> int:
    if not 1 <= limit <= MAX_LIMIT:
        raise _invalid("/limit", "out_of_range", f"must be between 1 and {MAX_LIMIT}")
    return limit


def parse_job_id(text: str) -> int | None:
    if _JOB_ID.fullmatch(text) and (job_id := int(text)) <= MAX_JOB_ID:
        return job_id
    return None


def read_job_id(text: str) -> int:
    """The id in a path. What cannot be an id is answered like one that does not exist."""
    job_id = parse_job_id(text)
    if job_id is None:
        raise NotFound("job.not_found", f'job "{escape(text)}" does not exist')
    return job_id


def read_idempotency_key(scope: Scope) -> str | None:
    """The Idempotency-Key header, bare or as the quoted string of RFC 8941."""
    raw = header(scope, b"idempotency-key")
    if raw is None:
        return None
    key = raw.decode("latin-1").strip()
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = re.sub(r'\\(["\\])', r"\1", key[1:-1])
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        raise _invalid(
            "/idempotency_key",
            "pattern",
            "the Idempotency-Key header has 1 to 255 printable ASCII characters",
        )
    return key


def _invalid(pointer: str, code: str, detail: str) -> Invalid:
    return Invalid(
        "request.invalid", f"{pointer or 'the query'}: {detail}", fields=(FieldError(pointer, code, detail),)
    )
