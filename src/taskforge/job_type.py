"""A decorated function: callable as itself, and submittable as a job."""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from taskforge import transactions
from taskforge.clock import SystemClock
from taskforge.domain.jobs import JobDraft, check_draft, names_one_job
from taskforge.domain.retry import RetryPolicy
from taskforge.domain.terms import NO_TERMS, Dependency, JobTerms, Unique, Webhook
from taskforge.errors import ConfigurationError, Invalid
from taskforge.handles import JobHandle, JobHandles
from taskforge.worker.answers import Answer, seconds
from taskforge.worker.binding import Binding
from taskforge.worker.context import current
from taskforge.worker.handlers import Handler, Mode, make_handler

if TYPE_CHECKING:
    from taskforge.forge import TaskForge

P = ParamSpec("P")
C = TypeVar("C", covariant=True)
R = TypeVar("R", covariant=True)


class Submitter(Generic[P, R]):
    """Submits jobs of one type with certain options; made by `JobType.options`."""

    def __init__(self, job: JobType[P, Any, R], draft: JobDraft, connection: object = None) -> None:
        self.job = job
        self._connection = connection
        self.draft = draft

    def like(self, draft: JobDraft) -> Submitter[P, R]:
        """The same, for jobs like `draft`."""
        return Submitter(self.job, draft, self._connection)

    async def submit(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """Submit one job; durable when this returns (or, with a connection, when its transaction commits).

        Raises TypeError for arguments that the function itself would not take.
        """
        [job_id] = await self._send([self.job.binding.write(args, kwargs)])
        return self.job.handle(str(job_id))

    async def submit_many(self, calls: Sequence[Mapping[str, Any] | tuple[Any, ...]]) -> JobHandles[R]:
        """Submit a job for each call, all or nothing; a call is a dict of its keyword arguments or a tuple of its
        positional ones."""
        if names_one_job(self.draft) and len(calls) > 1:
            raise ValueError("a key names one job; submit jobs with keys one by one")
        payloads = list(self.job.binding.write_many(calls))
        return JobHandles(self.job.handle, await self._send(payloads) if payloads else ())

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """As `submit`, for code that has no event loop; blocks until the job is durable."""
        if transactions.is_blocking(self._connection):
            payload = self.job.binding.write(args, kwargs)
            [job_id] = transactions.enqueue_blocking(
                self._connection, self.job.forge.tenant_id, inherit(self.draft), [payload]
            )
            return self.job.handle(job_id)
        return self.job.forge.sync(self.submit(*args, **kwargs))

    async def _send(self, payloads: list[bytes]) -> Sequence[int] | Sequence[str]:
        forge, draft = self.job.forge, inherit(self.draft)
        if self._connection is None:
            client = await forge.client()
            return await client.submit(draft, payloads)
        return await transactions.enqueue(self._connection, forge.tenant_id, draft, payloads)


class JobType(Generic[P, C, R]):
    """`C` is what calling the function gives, `R` what its job results in: for an async function the awaited value."""

    def __init__(
        self,
        forge: TaskForge,
        fn: Callable[P, C],
        *,
        draft: JobDraft,
        mode: Mode | None,
    ) -> None:
        self.forge = forge
        self.fn = fn
        self.name = draft.job_type
        self.queue = draft.queue_name
        self._draft = draft
        self._mode = mode
        self._plain: Submitter[P, R] = Submitter(self, draft)
        functools.update_wrapper(self, fn)

    def __repr__(self) -> str:
        return f"<job {self.name!r} on queue {self.queue!r}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> C:
        return self.fn(*args, **kwargs)

    async def submit(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """Submit one job with these arguments; see `Submitter.submit`."""
        return await self._plain.submit(*args, **kwargs)

    async def submit_many(self, calls: Sequence[Mapping[str, Any] | tuple[Any, ...]]) -> JobHandles[R]:
        """Submit a job for each call, all or nothing; see `Submitter.submit_many`."""
        return await self._plain.submit_many(calls)

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """As `submit`, for code that has no event loop."""
        return self._plain.delay(*args, **kwargs)

    def options(
        self,
        *,
        queue: str | UnsetType = UNSET,
        priority: int | UnsetType = UNSET,
        run_at: datetime | UnsetType = UNSET,
        delay: float | timedelta | UnsetType = UNSET,
        max_attempts: int | UnsetType = UNSET,
        timeout: float | timedelta | UnsetType = UNSET,
        retry: RetryPolicy | UnsetType = UNSET,
        idempotency_key: str | UnsetType = UNSET,
        tags: Sequence[str] | UnsetType = UNSET,
        concurrency_key: str | None = None,
        dependency_key: str | None = None,
        expires: datetime | float | timedelta | None = None,
        deadline: datetime | float | timedelta | None = None,
        unique: Unique | None = None,
        depends_on: Sequence[JobHandle[Any] | Dependency | str] = (),
        batch_id: str | None = None,
        webhook: Webhook | str | None = None,
        result_retention: float | timedelta | None = None,
        schema_version: int | None = None,
        connection: object = None,
    ) -> Submitter[P, R]:
        """A submitter whose jobs differ from the declaration in what is given here.

        `connection` is an open asyncpg, psycopg or SQLAlchemy connection or session: the job exists if and only if the
        transaction in progress on it commits. Its queue must exist already (a worker that serves it makes it), and the
        connection's role needs to be a member of `taskforge_client`.
        """
        given = {
            "queue_name": queue,
            "priority": priority,
            "run_at": run_at,
            "delay_seconds": UNSET if delay is UNSET else seconds(delay),
            "max_attempts": max_attempts,
            "timeout_seconds": UNSET if timeout is UNSET else seconds(timeout),
            "retry": retry,
            "idempotency_key": idempotency_key,
            "tags": UNSET if tags is UNSET else tuple(tags),
        }
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not UNSET}
        terms = JobTerms(
            concurrency_key=concurrency_key,
            dependency_key=dependency_key,
            expires_at=expires if isinstance(expires, datetime) else None,
            expires_in_seconds=_in_seconds(expires),
            deadline_at=deadline if isinstance(deadline, datetime) else None,
            deadline_in_seconds=_in_seconds(deadline),
            unique=unique,
            depends_on=tuple(_dependency(parent) for parent in depends_on),
            batch_id=batch_id,
            webhook=Webhook(webhook) if isinstance(webhook, str) else webhook,
            result_retention_seconds=_in_seconds(result_retention),
            schema_version=schema_version,
        )
        if terms != NO_TERMS:
            changes["terms"] = terms
        if connection is not None:
            transactions.check(connection)
        return Submitter(self, msgspec.structs.replace(self._draft, **changes), connection)

    def handle(self, job_id: str) -> JobHandle[R]:
        """A handle on a job of this type that was submitted before."""
        return JobHandle(self.forge, job_id, self._result_type)

    @functools.cached_property
    def binding(self) -> Binding:
        # Not at declaration: annotations may name types that are defined further down.
        return Binding(self.fn)

    @functools.cached_property
    def handler(self) -> Handler:
        """What a worker runs. Raises ConfigurationError for a function that cannot be a handler."""
        return make_handler(
            self.fn,
            job_type=self.name,
            binding=self.binding,
            mode=self._mode,
            timeout=self._draft.timeout_seconds,
            max_attempts=self._draft.max_attempts,
            retry=self._draft.retry,
        )

    @functools.cached_property
    def _result_type(self) -> Any:
        """The declared result without the answers a handler may also return. Unreadable types are left unchecked."""
        try:
            declared = typing.get_type_hints(self.fn).get("return", Any)
        except NameError:
            return Any
        parts = typing.get_args(declared) if _is_union(declared) else (declared,)
        values = [p for p in parts if not (isinstance(p, type) and issubclass(p, Answer))]
        if not values or object in values:
            return Any
        return typing.Union[tuple(values)]  # noqa: UP007 - the members are only known here


def inherit(draft: JobDraft) -> JobDraft:
    """The draft as it is submitted from here: inside a handler it names its parent, and has its deadline if none of its
    own."""
    make = current.get(None)
    if make is None:
        return draft
    try:
        parent = make()
    except LookupError:  # the handler has ended; what it left behind still runs
        return draft
    terms = draft.terms or NO_TERMS
    changes: dict[str, Any] = {"parent_id": parent.job_id}
    if terms.deadline_at is None and terms.deadline_in_seconds is None:
        changes["deadline_at"] = parent.job_deadline
    return msgspec.structs.replace(draft, terms=msgspec.structs.replace(terms, **changes))


def _in_seconds(value: datetime | float | timedelta | None) -> float | None:
    return None if value is None or isinstance(value, datetime) else seconds(value)


def _dependency(parent: JobHandle[Any] | Dependency | str) -> Dependency:
    match parent:
        case Dependency():
            return parent
        case str():
            return Dependency(parent)
    return Dependency(parent.id)


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, type(int | str))


def check_declaration(draft: JobDraft) -> None:
    """Raise ConfigurationError for a declaration that no server would accept a job of."""
    try:
        check_draft(draft, now=SystemClock().now(), max_payload_bytes=1)
    except Invalid as error:
        raise ConfigurationError("job.invalid", f"@job for {draft.job_type!r}: {error.detail}") from None
