"""Every error as one RFC 9457 problem document, and the one table from errors to HTTP statuses."""

from __future__ import annotations

import math
from http import HTTPStatus
from urllib.parse import quote

import structlog
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException
from litestar.types import Scope
from msgspec import Struct

from taskforge.errors import (
    Conflict,
    FieldError,
    Forbidden,
    Invalid,
    Malformed,
    NotFound,
    Outdated,
    TaskForgeError,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnsupportedMedia,
    WorkerLost,
)
from taskforge.rest.replies import PROBLEM, Header, Reply, encode
from taskforge.rest.tracing import trace_id_of

TYPE_URL = "https://taskforge.dev/problems/"

_log = structlog.get_logger("taskforge.rest")


class MethodNotAllowed(TaskForgeError):
    """The path exists, but not with this method; `allow` lists those it has."""

    def __init__(self, allow: str) -> None:
        super().__init__("request.method_not_allowed", f"this resource allows {allow}")
        self.allow = allow


class RequestTimeout(TaskForgeError):
    """The body did not arrive in time."""


class Problem(Struct, omit_defaults=True):
    """RFC 9457. `code` is stable; `errors` points at the parts of the input that are wrong, `job_id` names the job
    that is in the way."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    trace_id: str
    errors: tuple[FieldError, ...] = ()
    job_id: str | None = None


STATUS: tuple[tuple[type[TaskForgeError], int], ...] = (
    (Malformed, 400),
    (Unauthorized, 401),
    (Forbidden, 403),
    (NotFound, 404),
    (MethodNotAllowed, 405),
    (RequestTimeout, 408),
    (Conflict, 409),
    (WorkerLost, 409),
    (Outdated, 412),
    (TooLarge, 413),
    (UnsupportedMedia, 415),
    (Invalid, 422),
    (Unavailable, 503),
)

# The rest of the body is not read after these, so the connection cannot be used for another request.
_CLOSES = frozenset({408, 413})


def status_of(error: TaskForgeError) -> int:
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)


def problem_reply(error: Exception, scope: Scope) -> Reply:
    """The answer to `error`. Whatever was not raised on purpose is logged and shown as a bare 500."""
    known = _known(error)
    status = status_of(known) if known is not None else 500
    if known is None or status == 500:
        _log.error("request.failed", exc_info=error, path=_instance(scope), trace_id=trace_id_of(scope))
        known = TaskForgeError("internal", "something went wrong here; the trace id finds it in the log")
    return Reply(
        status,
        encode(
            Problem(
                type=TYPE_URL + known.code,
                title=HTTPStatus(status).phrase,
                status=status,
                detail=known.detail,
                instance=_instance(scope),
                code=known.code,
                trace_id=trace_id_of(scope),
                errors=known.fields,
                job_id=known.job_id,
            )
        ),
        media=PROBLEM,
        headers=_headers(known, status),
    )


def _known(error: Exception) -> TaskForgeError | None:
    if isinstance(error, TaskForgeError):
        return error
    if isinstance(error, MethodNotAllowedException):
        allow = (error.headers or {}).get("allow", "")
        return MethodNotAllowed(", ".join(sorted(set(allow.split(", ")) - {"OPTIONS"})))
    if isinstance(error, NotFoundException):
        return NotFound("route.not_found", "there is nothing at this address; see /docs")
    if isinstance(error, HTTPException) and error.status_code < 500:
        return Malformed("request.malformed", "the request cannot be read")
    return None


def _headers(error: TaskForgeError, status: int) -> list[Header]:
    headers: list[Header] = []
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", error.allow.encode()))
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="taskforge"'))
    if status == 503 or error.retry_after is not None:
        seconds = math.ceil(error.retry_after if error.retry_after is not None else 1.0)
        headers.append((b"retry-after", b"%d" % max(1, seconds)))
    if status in _CLOSES:
        headers.append((b"connection", b"close"))
    return headers


def _instance(scope: Scope) -> str:
    """The path that was asked for, in characters that are safe anywhere."""
    return quote(scope["path"][:512], safe="/:@!$&'()*+,;=-._~", errors="replace")
