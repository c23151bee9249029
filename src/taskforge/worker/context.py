"""What a running handler can ask about its job."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from datetime import datetime
from typing import Protocol
from uuid import UUID

import structlog

from taskforge.domain.tenants import DEFAULT_TENANT
from taskforge.worker.answers import Cancel
from taskforge.worker.conclusions import storable

MAX_PROGRESS_MESSAGE = 500


class Logger(Protocol):
    """The part of a bound structlog logger that handlers use."""

    def debug(self, event: str, **fields: object) -> None: ...

    def info(self, event: str, **fields: object) -> None: ...

    def warning(self, event: str, **fields: object) -> None: ...

    def error(self, event: str, **fields: object) -> None: ...

    def exception(self, event: str, **fields: object) -> None: ...


class JobContext:
    """One attempt, as its handler sees it.

    `deadline`, on the clock of `time.monotonic()`, is when this attempt is stopped; `job_deadline` that of all
    attempts, if the job has one: jobs submitted from the handler inherit it.

    `tenant_id` is whose job it is. On a worker that serves several tenants what a handler submits or asks for through
    the SDK is that tenant's, too (`acts_for_tenant`).

    `f"{job_id}:{fence}"` is unique to this attempt; `job_id` alone is the same for all attempts of the job.
    """

    def __init__(
        self,
        *,
        job_id: str,
        job_type: str,
        queue_name: str,
        attempt: int,
        fence: int,
        deadline: float,
        tenant_id: UUID = DEFAULT_TENANT,
        acts_for_tenant: bool = False,
        job_deadline: datetime | None = None,
        on_progress: Callable[[JobContext], None] = lambda context: None,
    ) -> None:
        self.job_id = job_id
        self.job_type = job_type
        self.queue_name = queue_name
        self.attempt = attempt
        self.fence = fence
        self.deadline = deadline
        self.tenant_id = tenant_id
        self.acts_for_tenant = acts_for_tenant
        self.job_deadline = job_deadline
        self.cancelled = False
        self.fraction = 0.0
        self.message = ""
        self._logger: Logger | None = None
        self._on_progress = on_progress

    @property
    def logger(self) -> Logger:
        """A structlog logger that names the job in every line."""
        if self._logger is None:
            self._logger = structlog.get_logger("taskforge.job").bind(
                job_id=self.job_id, job_type=self.job_type, queue=self.queue_name, attempt=self.attempt
            )
        return self._logger

    @property
    def remaining(self) -> float:
        """Seconds until the deadline; negative when it has passed."""
        return self.deadline - time.monotonic()

    def progress(self, fraction: float, message: str = "") -> None:
        """Say how far the job is, 0 to 1; whoever looks at the job sees the newest word, at most half a second late.

        Costs no waiting and, said often, no more than the newest word twice a second.
        """
        self.fraction = min(max(fraction, 0.0), 1.0) if fraction == fraction else 0.0  # NaN is no progress
        self.message = storable(message[:MAX_PROGRESS_MESSAGE], MAX_PROGRESS_MESSAGE)
        self._on_progress(self)

    def check(self) -> None:
        """Raise Cancel when the job was asked to stop. For long-running code in threads, which nobody can interrupt."""
        if self.cancelled:
            raise Cancel("cancelled on request")


current: ContextVar[Callable[[], JobContext]] = ContextVar("taskforge_job")
"""Gives the context of the running job. It holds a function so that a slot sets it once, not once per job."""


def tenant_acted_for() -> UUID | None:
    """The tenant of the running job, on a worker that serves several; None everywhere else."""
    try:
        context = current.get()()
    except LookupError:
        return None
    return context.tenant_id if context.acts_for_tenant else None


def current_job() -> JobContext:
    """The context of the job whose handler is running. Raises LookupError outside a handler."""
    try:
        return current.get()()
    except LookupError:
        raise LookupError("no job is running here; current_job() works inside a handler") from None
