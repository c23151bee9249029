"""Schedules in the SDK: those that code declares, and calls to look after any."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, overload

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from taskforge.api import path_of
from taskforge.clock import SystemClock
from taskforge.domain import schedules as rules
from taskforge.domain.retry import RetryPolicy
from taskforge.domain.schedules import Firing, Missed, Overlap, ScheduleDraft, Tick
from taskforge.errors import ConfigurationError, Invalid
from taskforge.handles import JobHandle
from taskforge.job_type import JobType
from taskforge.rest.schedule_schemas import Firings, SchedulePage, ScheduleRun, ScheduleView, TickPage
from taskforge.worker.answers import seconds

if TYPE_CHECKING:
    from taskforge.forge import TaskForge

P = ParamSpec("P")
C = TypeVar("C")
R = TypeVar("R")

_PAGE = 500


class Scheduling(Protocol):
    """What `@forge.schedule(...)` makes of a job, or of a function that it declares as one."""

    # A job is a function, too; the first that fits is meant.
    @overload
    def __call__(self, fn: JobType[P, C, R]) -> JobType[P, C, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]]) -> JobType[P, Coroutine[Any, Any, R], R]: ...
    @overload
    def __call__(self, fn: Callable[P, R]) -> JobType[P, R, R]: ...


class _Declared(Struct, frozen=True):
    job: JobType[..., Any, Any]
    draft: ScheduleDraft
    arguments: Mapping[str, Any]

    def complete(self) -> ScheduleDraft:
        # Not at declaration: the signature may name types that are defined further down.
        try:
            payload = self.job.binding.write((), self.arguments)
        except TypeError as error:
            raise ConfigurationError(
                "schedule.arguments",
                f'the schedule "{self.draft.name}" cannot call its job: {error}; give them with arguments={{...}}',
            ) from None
        return msgspec.structs.replace(self.draft, payload=Raw(payload))


class Schedules:
    """`await forge.schedules.list()` and so on: the verbs of the REST API, wherever the forge's jobs go."""

    def __init__(self, forge: TaskForge) -> None:
        self._forge = forge
        self._declared: dict[str, _Declared] = {}

    @property
    def declared(self) -> tuple[ScheduleDraft, ...]:
        """Those that code declares, by name; a worker makes them when it starts. Raises ConfigurationError for one
        whose arguments are not those of its job."""
        return tuple(self._declared[name].complete() for name in sorted(self._declared))

    def declare(
        self, job: JobType[..., Any, Any], arguments: Mapping[str, Any], fields: Mapping[str, Any]
    ) -> None:
        """Raises ConfigurationError for a schedule that no server would take."""
        template = job.options().draft
        draft = ScheduleDraft(
            job_type=job.name,
            queue_name=job.queue,
            priority=template.priority,
            max_attempts=template.max_attempts,
            timeout_seconds=template.timeout_seconds,
            retry=template.retry,
            **{"name": _name_for(job.name), **fields},
        )
        try:
            rules.check(draft, now=SystemClock().now(), max_payload_bytes=2)
        except Invalid as error:
            if error.code != "schedule.never_fires" or draft.end_at is None:  # its time may simply be over
                raise ConfigurationError(error.code, f"@schedule for {job.name!r}: {error.detail}") from None
        known = self._declared.get(draft.name)
        if known is not None and (known.job.fn.__qualname__ != job.fn.__qualname__ or known.draft != draft):
            raise ConfigurationError(
                "schedule.declared_twice",
                f'the schedule "{draft.name}" is declared twice; give one of them another name=',
            )
        self._declared[draft.name] = _Declared(job, draft, arguments)

    async def list(self) -> list[ScheduleView]:
        """All of them, by name."""
        found: list[ScheduleView] = []
        cursor: str | None = None
        while True:
            path = path_of("schedules", query={"limit": _PAGE, "cursor": cursor})
            page = await (await self._forge.api()).call("GET", path, reads=SchedulePage)
            found += page.data
            cursor = page.next_cursor
            if cursor is None:
                return found

    async def get(self, name: str) -> ScheduleView:
        """Raises NotFound."""
        return await self._view("GET", path_of("schedules", name))

    async def create(
        self,
        name: str,
        expression: str,
        job: JobType[..., Any, Any] | str,
        *,
        tz: str = "UTC",
        arguments: Mapping[str, Any] | None = None,
        queue: str | None = None,
        jitter: float | timedelta = 0.0,
        missed: Missed | str = Missed.RUN_ONCE,
        missed_limit: int = 10,
        overlap: Overlap | str = Overlap.ALLOW,
        start_at: datetime | None = None,
        end_at: datetime | None = None,
        priority: int | None = None,
        max_attempts: int | None = None,
        timeout: float | timedelta | None = None,
        retry: RetryPolicy | None = None,
        tags: Sequence[str] = (),
        paused: bool = False,
    ) -> ScheduleView:
        """Raises Invalid, also when it never fires; Conflict when the name is taken. What is None is as the job was
        declared, or as the queue says."""
        template: dict[str, Any] = {}
        if isinstance(job, JobType):
            draft = job.options().draft
            template = {
                "queue_name": draft.queue_name,
                "priority": draft.priority,
                "max_attempts": draft.max_attempts,
                "timeout_seconds": draft.timeout_seconds,
                "retry": draft.retry,
                "payload": Raw(job.binding.write((), arguments or {})),
            }
        elif arguments is not None:
            template = {"payload": arguments}
        given = {
            "queue_name": queue,
            "priority": priority,
            "max_attempts": max_attempts,
            "timeout_seconds": None if timeout is None else seconds(timeout),
            "retry": retry,
        }
        body = {
            "name": name,
            "expression": expression,
            "job_type": job.name if isinstance(job, JobType) else job,
            "timezone": tz,
            "jitter_seconds": seconds(jitter),
            "missed": missed,
            "missed_limit": missed_limit,
            "overlap": overlap,
            "start_at": start_at,
            "end_at": end_at,
            "tags": tuple(tags),
            "paused": paused,
            **template,
            **{field: value for field, value in given.items() if value is not None},
        }
        return await self._view("POST", path_of("schedules"), body)

    async def update(
        self,
        name: str,
        *,
        expression: str | UnsetType = UNSET,
        tz: str | UnsetType = UNSET,
        arguments: Mapping[str, Any] | UnsetType = UNSET,
        queue: str | UnsetType = UNSET,
        jitter: float | timedelta | UnsetType = UNSET,
        missed: Missed | str | UnsetType = UNSET,
        missed_limit: int | UnsetType = UNSET,
        overlap: Overlap | str | UnsetType = UNSET,
        start_at: datetime | UnsetType | None = UNSET,
        end_at: datetime | UnsetType | None = UNSET,
        priority: int | UnsetType = UNSET,
        max_attempts: int | UnsetType | None = UNSET,
        timeout: float | timedelta | UnsetType | None = UNSET,
        retry: RetryPolicy | UnsetType | None = UNSET,
        tags: Sequence[str] | UnsetType = UNSET,
    ) -> ScheduleView:
        """What is not given stays. In force at once."""
        change = {
            "expression": expression,
            "timezone": tz,
            "payload": arguments,
            "queue_name": queue,
            "jitter_seconds": UNSET if isinstance(jitter, UnsetType) else seconds(jitter),
            "missed": missed,
            "missed_limit": missed_limit,
            "overlap": overlap,
            "start_at": start_at,
            "end_at": end_at,
            "priority": priority,
            "max_attempts": max_attempts,
            "timeout_seconds": timeout if timeout is UNSET or timeout is None else seconds(timeout),
            "retry": retry,
            "tags": UNSET if isinstance(tags, UnsetType) else tuple(tags),
        }
        given = {field: value for field, value in change.items() if value is not UNSET}
        return await self._view("PATCH", path_of("schedules", name), given)

    async def delete(self, name: str) -> None:
        """With its record of times; jobs that it has submitted stay."""
        await (await self._forge.api()).call("DELETE", path_of("schedules", name))

    async def pause(self, name: str) -> ScheduleView:
        return await self._view("POST", path_of("schedules", name, "pause"))

    async def resume(self, name: str) -> ScheduleView:
        return await self._view("POST", path_of("schedules", name, "resume"))

    async def run(self, name: str) -> JobHandle[Any]:
        """Submit its job now; a handle on it."""
        api = await self._forge.api()
        ran = await api.call("POST", path_of("schedules", name, "run"), reads=ScheduleRun)
        return self._forge.handle(ran.job_id)

    async def preview(
        self, name: str, *, count: int = 10, after: datetime | None = None
    ) -> tuple[Firing, ...]:
        """The next times."""
        path = path_of("schedules", name, "preview", query={"count": count, "after": after})
        return (await (await self._forge.api()).call("GET", path, reads=Firings)).data

    async def ticks(self, name: str, *, limit: int = 100) -> tuple[Tick, ...]:
        """What became of its last times, newest first."""
        path = path_of("schedules", name, "ticks", query={"limit": limit})
        return tuple((await (await self._forge.api()).call("GET", path, reads=TickPage)).data)

    async def _view(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> ScheduleView:
        return await (await self._forge.api()).call(method, path, body, reads=ScheduleView)


def _name_for(job_type: str) -> str:
    """A job type may hold characters that a name in a path should not."""
    return job_type.lower().replace(":", "-").lstrip("_") or "schedule"
