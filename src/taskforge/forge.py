"""TaskForge, the SDK's front door: declares jobs, submits them, and gives workers their handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, ParamSpec, Protocol, Self, TypeVar, overload
from uuid import UUID

from taskforge.api import Api
from taskforge.batching import Batch, OnEnd, batch_draft
from taskforge.bulk import Bulk
from taskforge.clients import Client, DirectClient
from taskforge.domain.jobs import DEFAULT_PRIORITY, JobDraft
from taskforge.domain.retry import RetryPolicy
from taskforge.domain.schedules import Missed, Overlap
from taskforge.domain.tenants import DEFAULT_TENANT, Context
from taskforge.errors import ConfigurationError
from taskforge.handles import JobHandle
from taskforge.job_type import JobType, check_declaration
from taskforge.limits import Limits
from taskforge.portal import Portal
from taskforge.schedules import Schedules, Scheduling
from taskforge.settings import Settings, load
from taskforge.worker.answers import seconds
from taskforge.worker.handlers import Handler, Mode, check_mode
from taskforge.workflows import Workflow, WorkflowHandle

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class _Decorator(Protocol):
    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]]) -> JobType[P, Coroutine[Any, Any, R], R]: ...
    @overload
    def __call__(self, fn: Callable[P, R]) -> JobType[P, R, R]: ...


class TaskForge:
    """Jobs and the way to them. Nothing is opened before the first submit.

    Where jobs go: `url` or TASKFORGE_URL, a remote server; else `database_url` or DATABASE_URL; else a PostgreSQL of
    its own in the data folder, shared with every process of this user that does the same.
    """

    def __init__(
        self,
        *,
        url: str | None = None,
        token: str | None = None,
        database_url: str | None = None,
        tenant_id: UUID = DEFAULT_TENANT,
    ) -> None:
        self.tenant_id = tenant_id
        self._flags = {"url": url, "token": token, "database_url": database_url}
        self._jobs: dict[str, JobType[..., Any, Any]] = {}
        self._clients: dict[asyncio.AbstractEventLoop, asyncio.Task[Client]] = {}
        self._override: Client | None = None
        self._schedules = Schedules(self)
        self._portal = Portal(self.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @overload
    def job(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> JobType[P, Coroutine[Any, Any, R], R]: ...
    @overload
    def job(self, fn: Callable[P, R], /) -> JobType[P, R, R]: ...
    @overload
    def job(
        self,
        fn: None = None,
        /,
        *,
        name: str | None = None,
        queue: str = "default",
        priority: int = DEFAULT_PRIORITY,
        max_attempts: int | None = None,
        timeout: float | timedelta | None = None,
        retry: RetryPolicy | None = None,
        mode: Mode | str | None = None,
    ) -> _Decorator: ...
    def job(
        self,
        fn: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        queue: str = "default",
        priority: int = DEFAULT_PRIORITY,
        max_attempts: int | None = None,
        timeout: float | timedelta | None = None,
        retry: RetryPolicy | None = None,
        mode: Mode | str | None = None,
    ) -> Any:
        """Declare a function as a job type. What is None is decided by the queue; `name` is the function's by default.

        `mode` is where it runs: "async" (the default for async functions), "thread" (for others), or "process", whose
        jobs are killed when their time is up.
        """

        def declare(fn: Callable[..., Any]) -> JobType[..., Any, Any]:
            draft = JobDraft(
                queue_name=queue,
                job_type=name or fn.__name__,
                payload=b"",
                priority=priority,
                max_attempts=max_attempts,
                timeout_seconds=None if timeout is None else seconds(timeout),
                retry=retry,
            )
            check_declaration(draft)
            chosen = check_mode(fn, None if mode is None else Mode(mode))
            known = self._jobs.get(draft.job_type)
            if known is not None and known.fn.__qualname__ != fn.__qualname__:
                raise ConfigurationError(
                    "job.declared_twice",
                    f'the job type "{draft.job_type}" is declared by {known.fn.__qualname__}() and by '
                    f"{fn.__qualname__}(); give one of them another name",
                )
            job: JobType[..., Any, Any] = JobType(self, fn, draft=draft, mode=chosen)
            self._jobs[draft.job_type] = job
            return job

        return declare if fn is None else declare(fn)

    def schedule(
        self,
        expression: str,
        *,
        tz: str = "UTC",
        name: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        jitter: float | timedelta = 0.0,
        missed: Missed | str = Missed.RUN_ONCE,
        missed_limit: int = 10,
        overlap: Overlap | str = Overlap.ALLOW,
        start_at: datetime | None = None,
        end_at: datetime | None = None,
        tags: Sequence[str] = (),
    ) -> Scheduling:
        """Submit the job at these times: above `@forge.job`, or on a function that this declares as a job.

        Workers make the schedule when they start, once however many there are; `name` is the job's by default. What
        somebody has changed by hand since is left alone. Raises ConfigurationError for one that never fires.
        """
        fields = {
            "expression": expression,
            "timezone": tz,
            "jitter_seconds": seconds(jitter),
            "missed": Missed(missed),
            "missed_limit": missed_limit,
            "overlap": Overlap(overlap),
            "start_at": start_at,
            "end_at": end_at,
            "tags": tuple(tags),
            **({} if name is None else {"name": name}),
        }

        def declare(fn: Any) -> Any:
            job = fn if isinstance(fn, JobType) else self.job(fn)
            self._schedules.declare(job, dict(arguments or {}), fields)
            return job

        return declare

    @property
    def schedules(self) -> Schedules:
        """The schedules that code declares, and verbs for all there are."""
        return self._schedules

    @property
    def jobs(self) -> Mapping[str, JobType[..., Any, Any]]:
        """What was declared, by job type."""
        return self._jobs

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues that declared jobs name, sorted."""
        return tuple(sorted({job.queue for job in self._jobs.values()}))

    def handlers(self) -> dict[str, Handler]:
        """What a worker needs to run the declared jobs. Raises ConfigurationError for one that cannot run."""
        return {name: job.handler for name, job in self._jobs.items()}

    def handle(self, job_id: str) -> JobHandle[Any]:
        """A handle on any job of this tenant."""
        return JobHandle(self, job_id, Any)

    @property
    def limits(self) -> Limits:
        """Keys of queues and the tenant's own limit: `forge.limits.set_key("mail", "customer-7", weight=2)`."""
        return Limits(self)

    @property
    def bulk(self) -> Bulk:
        """One verb for many jobs: `forge.bulk.cancel(queue_name="mail", state="pending")`."""
        return Bulk(self)

    def batch(
        self,
        name: str = "",
        *,
        on_success: OnEnd = None,
        on_failure: OnEnd = None,
        on_complete: OnEnd = None,
        tags: Sequence[str] = (),
    ) -> Batch:
        """Jobs that belong together: `async with forge.batch(on_complete=report) as batch: await batch.add(...)`.

        Callbacks go off at most once each: `on_failure` when the first job has failed for good, `on_complete` when all
        have ended, `on_success` when all have succeeded. Each is a job type, `taskforge.callback(...)` or a URL.
        """
        draft = batch_draft(name, tags, on_success=on_success, on_failure=on_failure, on_complete=on_complete)
        return Batch(self, draft=draft)

    def workflow(self, name: str = "", *, tags: Sequence[str] = ()) -> Workflow:
        """Jobs that wait for each other: `with forge.workflow("report") as w: load = w.add(load, w.add(extract))`."""
        return Workflow(self, name, tags)

    def workflow_of(self, workflow_id: str) -> WorkflowHandle:
        """A handle on a workflow of this tenant that was submitted before."""
        return WorkflowHandle(self, workflow_id)

    def batch_of(self, batch_id: str) -> Batch:
        """A handle on a batch of this tenant that was made before."""
        return Batch(self, batch_id=batch_id)

    def sync(self, work: Coroutine[Any, Any, T]) -> T:
        """Run an async call of this SDK from code without an event loop: `forge.sync(handle.result())`."""
        return self._portal.call(work)

    async def api(self) -> Api:
        """The whole REST API as Python calls, wherever this object's jobs go."""
        return (await self.client()).api

    async def client(self) -> Client:
        """The open client of the running event loop. Loops do not share connections."""
        if self._override is not None:
            return self._override
        loop = asyncio.get_running_loop()
        opening = self._clients.get(loop)
        if opening is None or (opening.done() and (opening.cancelled() or opening.exception())):
            for other in [other for other in self._clients if other.is_closed()]:
                del self._clients[other]
            opening = self._clients[loop] = loop.create_task(self._open(), name="taskforge-client")
        # Several callers may wait for the same opening; one that gives up must not spoil it for the others.
        return await asyncio.shield(opening)

    @contextmanager
    def use(self, client: Client) -> Iterator[None]:
        """Everything goes to `client` meanwhile. This is how `taskforge.testing` comes in."""
        before, self._override = self._override, client
        try:
            yield
        finally:
            self._override = before

    async def close(self) -> None:
        """Connections of the running event loop are closed; the next submit opens new ones."""
        opening = self._clients.pop(asyncio.get_running_loop(), None)
        if opening is not None:
            await (await opening).close()

    def close_sync(self) -> None:
        """As `close`, for what was opened by synchronous calls; ends the background loop, too."""
        self._portal.close()

    async def _open(self) -> Client:
        settings = load(flags=self._flags)
        if settings.url is not None and self._flags["database_url"] is None:
            from taskforge.http_client import HttpClient  # an HTTP library that direct use never needs

            return HttpClient(settings.url, settings.token)
        return await self._open_direct(settings)

    async def _open_direct(self, settings: Settings) -> Client:
        from taskforge.app import open_core  # imports everything there is

        async with AsyncExitStack() as resources:
            dsn = settings.database_url
            if dsn is None:
                dsn = await _start_embedded(settings, resources)
            core = await resources.enter_async_context(
                open_core(
                    dsn,
                    max_payload_bytes=settings.max_payload_bytes,
                    max_schedules=settings.max_schedules,
                    pool_size=settings.pool_size,
                )
            )
            return DirectClient(core, Context(self.tenant_id, "sdk"), settings, resources.pop_all())
        raise AssertionError("unreachable")


async def _start_embedded(settings: Settings, resources: AsyncExitStack) -> str:
    from taskforge.postgres.dsn import LOGIN, with_login
    from taskforge.postgres.embedded import EmbeddedPostgres
    from taskforge.postgres.migrate import migrate

    server = await resources.enter_async_context(EmbeddedPostgres(settings.data_dir, pg_bin=settings.pg_bin))
    dsn = await server.start()
    await migrate(dsn, login=LOGIN)
    return with_login(dsn, LOGIN)
