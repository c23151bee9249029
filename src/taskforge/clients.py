"""How the SDK reaches TaskForge: through the database, through a server, or (in tests) not at all."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Protocol
from uuid import UUID

from taskforge.api import Api
from taskforge.domain.jobs import JobDraft, JobGroup, JobView
from taskforge.domain.tenants import Context
from taskforge.errors import NotFound
from taskforge.services import jobs
from taskforge.services.core import Core
from taskforge.settings import Settings
from taskforge.worker.context import tenant_acted_for


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


_MOST_APIS = 100


class DirectClient:
    """The services in this process, on a database. `resources` are closed with the client."""

    def __init__(self, core: Core, ctx: Context, settings: Settings, resources: AsyncExitStack) -> None:
        self._core = core
        self._ctx = ctx
        self._settings = settings
        self._resources = resources
        self._apis: dict[UUID, Api] = {}

    @property
    def _acting(self) -> Context:
        """A handler on a worker that serves several tenants acts for the one whose job it runs."""
        tenant_id = tenant_acted_for()
        return self._ctx if tenant_id is None else Context(tenant_id, self._ctx.actor)

    @property
    def api(self) -> Api:
        from taskforge.rest.in_process import InProcess  # a web framework that plain submitting never needs

        acting = self._acting
        if acting.tenant_id not in self._apis:
            if len(self._apis) >= _MOST_APIS:
                self._apis.clear()
            self._apis[acting.tenant_id] = Api(InProcess(self._core, acting, self._settings))
        return self._apis[acting.tenant_id]

    async def submit(self, draft: JobDraft, payloads: Sequence[bytes]) -> Sequence[int] | Sequence[str]:
        # The queue was declared in code, so it is no typing mistake and may be made.
        answers = await jobs.submit_groups(
            self._core, self._acting, [JobGroup(draft, payloads)], ensure_queues=True
        )
        [answer] = answers
        if answer.error is not None:
            raise answer.error
        return answer.ids

    async def get(self, job_id: str) -> JobView:
        return await jobs.get(self._core, self._acting, _number(job_id))

    async def wait(self, job_id: str, *, timeout: float) -> JobView:
        return await jobs.wait(self._core, self._acting, _number(job_id), timeout=timeout)

    async def cancel(self, job_id: str) -> JobView:
        return await jobs.cancel(self._core, self._acting, _number(job_id))

    async def close(self) -> None:
        await self._resources.aclose()


def _number(job_id: str) -> int:
    if not (job_id.isascii() and job_id.isdigit() and len(job_id) < 20):
        raise NotFound("job.not_found", f'job "{job_id}" does not exist')
    return int(job_id)
