"""The same over the REST API of a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec
from msgspec import UNSET, Raw, Struct, structs

from taskforge.domain.health import QueueHealth
from taskforge.domain.jobs import JobDraft, JobFilter, JobView, Verdict
from taskforge.domain.queues import QueueChange, QueueDraft
from taskforge.errors import TaskForgeError
from taskforge.http_client import HttpClient, _item, _view
from taskforge.rest.schemas import BatchAnswer, Purged, QueuePage, QueueView, Redriven
from taskforge.services.pages import Page

T = TypeVar("T")


class _Views(Struct):
    """A page of jobs, each to be read by the client that knows how."""

    data: list[Raw]
    next_cursor: str | None = None

    def read(self) -> Page[JobView]:
        return Page([_view(bytes(raw)) for raw in self.data], self.next_cursor)


class RemoteAccess(HttpClient):
    async def submit_all(self, drafts: Sequence[JobDraft], *, atomic: bool) -> list[Verdict]:
        body = b"[" + b",".join(_item(draft) + draft.payload + b"}" for draft in drafts) + b"]"
        repeatable = all(draft.idempotency_key is not None for draft in drafts)
        path = f"/api/v1/jobs/batch?atomic={'true' if atomic else 'false'}"
        answer = await self._call("POST", path, body=body, repeatable=repeatable)
        return [
            Verdict(
                None, created=False, error=TaskForgeError(e.code, e.detail, fields=e.errors, job_id=e.job_id)
            )
            if (e := item.error) is not None
            else Verdict(int(item.id or 0), item.state, item.created)
            for item in msgspec.json.decode(answer, type=BatchAnswer).data
        ]

    async def retry(self, job_id: str) -> JobView:
        return _view(await self._call("POST", f"/api/v1/jobs/{_safe(job_id)}/retry"))

    async def list_jobs(self, wanted: JobFilter, *, limit: int, cursor: str | None) -> Page[JobView]:
        query = {
            name: value.isoformat() if hasattr(value, "isoformat") else str(value)
            for name, value in structs.asdict(wanted).items()
            if value is not None
        }
        return (await self._ask("GET", f"/api/v1/jobs?{_page(limit, cursor, query)}", _Views)).read()

    async def list_queues(self, *, limit: int, cursor: str | None) -> Page[QueueView]:
        page = await self._ask("GET", f"/api/v1/queues?{_page(limit, cursor, {})}", QueuePage)
        return Page(page.data, page.next_cursor)

    async def create_queue(self, draft: QueueDraft) -> QueueView:
        return await self._ask("POST", "/api/v1/queues", QueueView, draft)

    async def get_queue(self, name: str) -> QueueView:
        return await self._ask("GET", _queue(name), QueueView)

    async def update_queue(self, name: str, change: QueueChange) -> QueueView:
        given = {key: value for key, value in structs.asdict(change).items() if value is not UNSET}
        return await self._ask("PATCH", _queue(name), QueueView, given)

    async def delete_queue(self, name: str) -> None:
        await self._call("DELETE", _queue(name))

    async def set_paused(self, name: str, paused: bool) -> QueueView:
        return await self._ask("POST", f"{_queue(name)}/{'pause' if paused else 'resume'}", QueueView)

    async def health(self, name: str) -> QueueHealth:
        return await self._ask("GET", f"{_queue(name)}/health", QueueHealth)

    async def list_dead_letters(self, name: str, *, limit: int, cursor: str | None) -> Page[JobView]:
        path = f"{_queue(name)}/dead-letters?{_page(limit, cursor, {})}"
        return (await self._ask("GET", path, _Views)).read()

    async def redrive(self, name: str, job_ids: Sequence[str] | None) -> int:
        path = f"{_queue(name)}/dead-letters/redrive"
        return (await self._ask("POST", path, Redriven, {"job_ids": job_ids})).redriven

    async def purge(self, name: str, job_ids: Sequence[str] | None) -> int:
        path = f"{_queue(name)}/dead-letters/purge"
        return (await self._ask("POST", path, Purged, {"job_ids": job_ids})).purged

    async def _ask(self, method: str, path: str, kind: type[T], document: Any = None) -> T:
        body = None if document is None else msgspec.json.encode(document)
        return msgspec.json.decode(
            await self._call(method, path, body=body, repeatable=method == "GET"), type=kind
        )


def _queue(name: str) -> str:
    return f"/api/v1/queues/{_safe(name)}"


def _safe(text: str) -> str:
    return quote(text, safe="")


def _page(limit: int, cursor: str | None, query: dict[str, str]) -> str:
    return urlencode({**query, "limit": limit} | ({} if cursor is None else {"cursor": cursor}))
