"""The seam between the nouns and what they are said to: the services on a database, or a server far away."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Protocol
from uuid import UUID

from taskforge.api import Api
from taskforge.cli.command import Common
from taskforge.domain.health import QueueHealth
from taskforge.domain.jobs import JobDraft, JobFilter, JobView, Verdict
from taskforge.domain.queues import QueueChange, QueueDraft
from taskforge.domain.tenants import DEFAULT_TENANT, Context
from taskforge.errors import NotFound
from taskforge.rest.schemas import QueueView
from taskforge.services import dead_letters, health, jobs, queues
from taskforge.services.core import Core
from taskforge.services.pages import Page
from taskforge.settings import Settings

LONGEST_WAIT = 30.0


class Access(Protocol):
    """Job ids are decimal strings. Errors are those of the services. Newer nouns go through `api`."""

    @property
    def api(self) -> Api: ...

    async def submit_all(self, drafts: Sequence[JobDraft], *, atomic: bool) -> list[Verdict]: ...

    async def get(self, job_id: str) -> JobView: ...

    async def wait(self, job_id: str, *, timeout: float) -> JobView:
        """The job once it has ended, or as it is after `timeout` or LONGEST_WAIT seconds."""

    async def cancel(self, job_id: str) -> JobView: ...

    async def retry(self, job_id: str) -> JobView: ...

    async def list_jobs(self, wanted: JobFilter, *, limit: int, cursor: str | None) -> Page[JobView]: ...

    async def list_queues(self, *, limit: int, cursor: str | None) -> Page[QueueView]: ...

    async def create_queue(self, draft: QueueDraft) -> QueueView: ...

    async def get_queue(self, name: str) -> QueueView: ...

    async def update_queue(self, name: str, change: QueueChange) -> QueueView: ...

    async def delete_queue(self, name: str) -> None: ...

    async def set_paused(self, name: str, paused: bool) -> QueueView: ...

    async def health(self, name: str) -> QueueHealth: ...

    async def list_dead_letters(self, name: str, *, limit: int, cursor: str | None) -> Page[JobView]: ...

    async def redrive(self, name: str, job_ids: Sequence[str] | None) -> int: ...

    async def purge(self, name: str, job_ids: Sequence[str] | None) -> int: ...


@asynccontextmanager
async def open_access(common: Common, *, tenant_id: UUID | None = None) -> AsyncIterator[Access]:
    """As the settings say: a server when one is named and no database is on the command line, else the database."""
    settings = common.settings()
    if settings.url is not None and "database_url" not in common.flags:
        from taskforge.cli.remote import RemoteAccess

        remote = RemoteAccess(settings.url, settings.token)
        try:
            yield remote
        finally:
            await remote.close()
        return
    from taskforge.app import open_core
    from taskforge.cli.database import check_ready, open_place
    from taskforge.cli.output import say

    async with open_place(settings, on_progress=say) as place:
        if not place.is_embedded:
            await check_ready(place.dsn, is_development=True)
        async with open_core(
            place.dsn,
            worker_ttl=settings.worker_ttl,
            max_payload_bytes=settings.max_payload_bytes,
            max_schedules=settings.max_schedules,
        ) as core:
            yield DirectAccess(core, Context(tenant_id or DEFAULT_TENANT, "cli"), settings)


class DirectAccess:
    def __init__(self, core: Core, ctx: Context, settings: Settings) -> None:
        self._core = core
        self._ctx = ctx
        self._settings = settings

    @cached_property
    def api(self) -> Api:
        from taskforge.rest.in_process import InProcess

        return Api(InProcess(self._core, self._ctx, self._settings))

    async def submit_all(self, drafts: Sequence[JobDraft], *, atomic: bool) -> list[Verdict]:
        return await jobs.submit(self._core, self._ctx, drafts, atomic=atomic)

    async def get(self, job_id: str) -> JobView:
        return await jobs.get(self._core, self._ctx, _number(job_id))

    async def wait(self, job_id: str, *, timeout: float) -> JobView:
        return await jobs.wait(self._core, self._ctx, _number(job_id), timeout=min(timeout, LONGEST_WAIT))

    async def cancel(self, job_id: str) -> JobView:
        return await jobs.cancel(self._core, self._ctx, _number(job_id))

    async def retry(self, job_id: str) -> JobView:
        return await jobs.retry(self._core, self._ctx, _number(job_id))

    async def list_jobs(self, wanted: JobFilter, *, limit: int, cursor: str | None) -> Page[JobView]:
        return await jobs.list_jobs(self._core, self._ctx, wanted, limit=limit, cursor=cursor)

    async def list_queues(self, *, limit: int, cursor: str | None) -> Page[QueueView]:
        page = await queues.list_queues(self._core, self._ctx, limit=limit, cursor=cursor)
        return Page([QueueView.of(queue) for queue in page.data], page.next_cursor)

    async def create_queue(self, draft: QueueDraft) -> QueueView:
        return QueueView.of(await queues.create(self._core, self._ctx, draft))

    async def get_queue(self, name: str) -> QueueView:
        return QueueView.of(await queues.get(self._core, self._ctx, name))

    async def update_queue(self, name: str, change: QueueChange) -> QueueView:
        return QueueView.of(await queues.update(self._core, self._ctx, name, change))

    async def delete_queue(self, name: str) -> None:
        await queues.delete(self._core, self._ctx, name)

    async def set_paused(self, name: str, paused: bool) -> QueueView:
        change = queues.pause if paused else queues.resume
        return QueueView.of(await change(self._core, self._ctx, name))

    async def health(self, name: str) -> QueueHealth:
        return await health.of_queue(self._core, self._ctx, name)

    async def list_dead_letters(self, name: str, *, limit: int, cursor: str | None) -> Page[JobView]:
        return await dead_letters.list_dead_letters(self._core, self._ctx, name, limit=limit, cursor=cursor)

    async def redrive(self, name: str, job_ids: Sequence[str] | None) -> int:
        return await dead_letters.redrive(self._core, self._ctx, name, _numbers(job_ids))

    async def purge(self, name: str, job_ids: Sequence[str] | None) -> int:
        return await dead_letters.purge(self._core, self._ctx, name, _numbers(job_ids))


def _numbers(job_ids: Sequence[str] | None) -> list[int] | None:
    return None if job_ids is None else [_number(job_id) for job_id in job_ids]


def _number(job_id: str) -> int:
    if not (job_id.isascii() and job_id.isdigit() and len(job_id) < 20):
        raise NotFound("job.not_found", f'job "{job_id}" does not exist')
    return int(job_id)
