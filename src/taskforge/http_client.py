"""The SDK's client for a remote server, over the REST API."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any, NoReturn

import httpx2
import msgspec
from msgspec import Struct

from taskforge import errors
from taskforge.api import Api
from taskforge.domain.jobs import BATCH_LIMIT, JobDraft, JobView
from taskforge.errors import FieldError, TaskForgeError, Unavailable

LONGEST_WAIT = 30.0
LARGEST_BODY = 8 * 1024 * 1024
ATTEMPTS = 4

_BY_STATUS: dict[int, type[TaskForgeError]] = {
    400: errors.Malformed,
    401: errors.Unauthorized,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    412: errors.Outdated,
    413: errors.TooLarge,
    415: errors.UnsupportedMedia,
    422: errors.Invalid,
    503: errors.Unavailable,
}


class _Accepted(Struct):
    id: str


class _Batch(Struct):
    data: list[_Accepted]


class _Problem(Struct):
    code: str = "http.error"
    detail: str = ""
    errors: tuple[FieldError, ...] = ()
    job_id: str | None = None


class HttpClient:
    """Requests that change nothing, and submits with an idempotency key, are tried again when the server is away."""

    def __init__(
        self, url: str, token: str | None, *, transport: httpx2.AsyncBaseTransport | None = None
    ) -> None:
        self._url = url.rstrip("/")
        self.api = Api(self)
        self._rng = Random()
        self._http = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=httpx2.Timeout(30.0, connect=5.0, read=LONGEST_WAIT + 30.0),
            transport=transport,
        )

    async def submit(self, draft: JobDraft, payloads: Sequence[bytes]) -> list[str]:
        item = _item(draft)
        repeatable = draft.idempotency_key is not None
        if len(payloads) == 1:
            body = item + payloads[0] + b"}"
            answer = await self._call("POST", "/api/v1/jobs", body=body, repeatable=repeatable)
            return [msgspec.json.decode(answer, type=_Accepted).id]
        ids: list[str] = []
        for part in _parts(payloads, len(item)):
            body = b"[" + b",".join([item + payload + b"}" for payload in part]) + b"]"
            answer = await self._call("POST", "/api/v1/jobs/batch", body=body, repeatable=repeatable)
            ids += [accepted.id for accepted in msgspec.json.decode(answer, type=_Batch).data]
        return ids

    async def get(self, job_id: str) -> JobView:
        return _view(await self._call("GET", f"/api/v1/jobs/{job_id}", repeatable=True))

    async def wait(self, job_id: str, *, timeout: float) -> JobView:
        seconds = max(0.0, min(timeout, LONGEST_WAIT))
        return _view(await self._call("GET", f"/api/v1/jobs/{job_id}?wait={seconds:.3f}", repeatable=True))

    async def cancel(self, job_id: str) -> JobView:
        return _view(await self._call("POST", f"/api/v1/jobs/{job_id}/cancel"))

    async def request(self, method: str, path: str, body: bytes | None, content_type: str) -> bytes:
        """For `api`: any request; what changes nothing is tried again when the server is away."""
        return await self._call(
            method, path, body=body, repeatable=method == "GET", content_type=content_type
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def _call(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        repeatable: bool = False,
        content_type: str = "application/json",
    ) -> bytes:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await self._once(method, path, body, content_type)
            except Unavailable as error:
                if not repeatable or attempt == ATTEMPTS:
                    raise
                pause = error.retry_after or 0.1 * 2**attempt
                await asyncio.sleep(min(pause, 5.0) * (0.5 + self._rng.random()))
        raise AssertionError("unreachable")

    async def _once(self, method: str, path: str, body: bytes | None, content_type: str) -> bytes:
        headers = {"Content-Type": content_type} if body is not None else {}
        try:
            response = await self._http.request(method, self._url + path, content=body, headers=headers)
        except httpx2.TransportError as error:
            detail = f"the server at {self._url} does not answer ({type(error).__name__})"
            raise Unavailable("server.unavailable", detail, retry_after=0.2) from error
        if response.status_code >= 400:
            raise_problem(response)
        return response.content


def _item(draft: JobDraft) -> bytes:
    """The job as the API takes it, up to where its payload goes."""
    fields: dict[str, Any] = {"queue_name": draft.queue_name, "job_type": draft.job_type}
    fields["priority"] = draft.priority
    for name in ("max_attempts", "timeout_seconds", "run_at", "delay_seconds", "retry", "idempotency_key"):
        if (value := getattr(draft, name)) is not None:
            fields[name] = value
    if draft.tags:
        fields["tags"] = draft.tags
    if draft.terms is not None:
        fields |= msgspec.to_builtins(draft.terms)
    return msgspec.json.encode(fields)[:-1] + b',"payload":'


def _parts(payloads: Sequence[bytes], overhead: int) -> list[Sequence[bytes]]:
    """Cut to the server's limits on jobs and bytes in one request."""
    parts: list[Sequence[bytes]] = []
    start = size = 0
    for index, payload in enumerate(payloads):
        length = len(payload) + overhead + 2
        if index > start and (index - start >= BATCH_LIMIT or size + length > LARGEST_BODY):
            parts.append(payloads[start:index])
            start, size = index, 0
        size += length
    parts.append(payloads[start:])
    return parts


def _view(body: bytes) -> JobView:
    """The result is taken out first: a type of `Raw | None` reads nothing but null."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    result = fields.pop("result", None)
    view = msgspec.json.decode(msgspec.json.encode(fields), type=JobView)
    if result is None or bytes(result) == b"null":
        return view
    return msgspec.structs.replace(view, result=result)


def raise_problem(response: httpx2.Response) -> NoReturn:
    """What the problem document of an answer says, as the error that the services raise."""
    try:
        problem = msgspec.json.decode(response.content, type=_Problem)
    except msgspec.DecodeError:
        problem = _Problem(detail=f"the server answered {response.status_code}")
    after = response.headers.get("Retry-After", "")
    kind = _BY_STATUS.get(response.status_code, TaskForgeError)
    if kind is TaskForgeError and response.status_code in (429, 502, 504):
        kind = Unavailable
    raise kind(
        problem.code,
        problem.detail,
        fields=problem.errors,
        job_id=problem.job_id,
        retry_after=float(after) if after.isdigit() else None,
    )
