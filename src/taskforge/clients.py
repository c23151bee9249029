"""How the SDK reaches TaskForge: through the database, through a server, or (in tests) not at all."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import cached_property
from typing import Protocol

from taskforge.api import Api
from taskforge.domain.jobs import JobDraft, JobGroup, JobView
from taskforge.domain.tenants import Context
from taskforge.errors import NotFound
from taskforge.services import jobs
from taskforge.services.core import Core
from taskforge.settings import Settings


class Client(Protocol):
    """Job ids are decimal strings. Verbs that are not hot go through `api`."""

    @property
    def api(self) -> Api: ...

    async def submit(self, draft: JobDraft, payloads: Sequence[bytes]) -> Sequence[int] | Sequence[str]:
        """Jobs like `draft`, one for each payload, all or nothing; durable when this returns."""

    async def get(self, job_id: str) -> JobView: ...

    async def wait(self, job_id: str, *, timeout: float) -> JobView:
        """The job once it has ended, or as it is after `timeout` seconds."""

    async def cancel(self, job_id: str) -> JobView: ...

    async def close(self) -> None: ...


class DirectClient:
    """The services in this process, on a database. `resources` are closed with the client."""

    def __init__(self, core: Core, ctx: Context, settings: Settings, resources: AsyncExitStack) -> None:
        self._core = core
        self._ctx = ctx
        self._settings = settings
        self._resources = resources

    @cached_property
    def api(self) -> Api:
        from taskforge.rest.in_process import InProcess  # a web framework that plain submitting never needs

        return Api(InProcess(self._core, self._ctx, self._settings))

    async def submit(self, draft: JobDraft, payloads: Sequence[bytes]) -> Sequence[int] | Sequence[str]:
        # The queue was declared in code, so it is no typing mistake and may be made.
        answers = await jobs.submit_groups(
            self._core, self._ctx, [JobGroup(draft, payloads)], ensure_queues=True
        )
        [answer] = answers
        if answer.error is not None:
            raise answer.error
        return answer.ids

    async def get(self, job_id: str) -> JobView:
        return await jobs.get(self._core, self._ctx, _number(job_id))

    async def wait(self, job_id: str, *, timeout: float) -> JobView:
        return await jobs.wait(self._core, self._ctx, _number(job_id), timeout=timeout)

    async def cancel(self, job_id: str) -> JobView:
        return await jobs.cancel(self._core, self._ctx, _number(job_id))

    async def close(self) -> None:
        await self._resources.aclose()


def _number(job_id: str) -> int:
    if not (job_id.isascii() and job_id.isdigit() and len(job_id) < 20):
        raise NotFound("job.not_found", f'job "{job_id}" does not exist')
    return int(job_id)
