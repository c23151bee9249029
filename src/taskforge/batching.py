"""Batches in Python: jobs that belong together, with callbacks that are jobs or webhooks."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeAlias, TypeVar

import msgspec
from msgspec import Raw, structs

from taskforge.api import Api, path_of
from taskforge.domain.batches import (
    BatchDraft,
    BatchView,
    Callback,
    CallbackHook,
    CallbackJob,
    Callbacks,
)
from taskforge.domain.terms import NO_TERMS
from taskforge.errors import Conflict, Invalid, NotFound
from taskforge.handles import JobHandle
from taskforge.job_type import JobType, Submitter

if TYPE_CHECKING:
    from taskforge.forge import TaskForge

P = ParamSpec("P")
R = TypeVar("R")

OnEnd: TypeAlias = "Callback | JobType[..., Any, Any] | Submitter[..., Any] | str | None"
"""What to do then: a job type without arguments, what `callback` makes, or the URL of a webhook."""

BATCH_ARGUMENT = "batch"
PIECE_JOBS = 1_000
_FIRST_LOOK = 0.05
_SLOWEST_LOOK = 2.0


def callback(job: JobType[..., Any, Any] | Submitter[..., Any], *args: Any, **kwargs: Any) -> Callback:
    """A job to be submitted when a batch comes to that. If its function has a parameter `batch` that is not given
    here, it is passed how the batch went: a dict with `id`, `state`, `total`, `succeeded`, `failed` and more."""
    submitter = job.options() if isinstance(job, JobType) else job
    draft = submitter.draft
    if draft.terms is not None or draft.idempotency_key is not None or draft.run_at is not None:
        raise ValueError(
            "of options a callback takes the queue, priority, delay, tags, retry, timeout and attempts"
        )
    takes_batch = False
    parameters = inspect.signature(submitter.job.fn).parameters
    if BATCH_ARGUMENT in parameters and BATCH_ARGUMENT not in kwargs:
        takes_batch = list(parameters).index(BATCH_ARGUMENT) >= len(args)
    payload = submitter.job.binding.write(args, kwargs | ({BATCH_ARGUMENT: None} if takes_batch else {}))
    if takes_batch:
        fields = msgspec.json.decode(payload, type=dict[str, Raw])
        del fields[BATCH_ARGUMENT]
        payload = msgspec.json.encode(fields)
    made = CallbackJob(
        draft.queue_name,
        draft.job_type,
        Raw(payload),
        draft.priority,
        draft.max_attempts,
        draft.timeout_seconds,
        draft.delay_seconds,
        draft.retry,
        draft.tags,
    )
    return Callback(made, None, BATCH_ARGUMENT if takes_batch else None)


class Batch:
    """Open while its `async with` block runs; sealed at the end of it, cancelled when that raises.

    It holds no connection, so it may be used from any event loop of its process.
    """

    def __init__(
        self, forge: TaskForge, *, batch_id: str | None = None, draft: BatchDraft | None = None
    ) -> None:
        self._forge = forge
        self._id = batch_id
        self._draft = draft or BatchDraft()

    def __repr__(self) -> str:
        return f"Batch({self._id!r})"

    @property
    def id(self) -> str:
        """Raises RuntimeError before the batch has been opened."""
        if self._id is None:
            raise RuntimeError("this batch has not been opened; use it with `async with`, or call open()")
        return self._id

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.seal()
        else:
            # Half a batch must not look like a whole one that went well.
            with suppress(Conflict):
                await self.cancel()

    async def open(self) -> Self:
        """Make it. Queues that its callbacks name in code exist afterwards."""
        api = await self._forge.api()
        if self._id is None:
            try:
                made = await api.call("POST", path_of("batches"), self._draft, reads=BatchView)
            except Invalid as error:
                if error.code != "queue.not_found":
                    raise
                await self._make_queues(api)
                made = await api.call("POST", path_of("batches"), self._draft, reads=BatchView)
            self._id = made.id
        return self

    async def add(
        self, job: JobType[P, Any, R] | Submitter[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> JobHandle[R]:
        """Submit one job into the batch. Raises Conflict `batch.sealed`."""
        return await self._member(job).submit(*args, **kwargs)

    async def add_many(
        self,
        job: JobType[..., Any, R] | Submitter[..., R],
        calls: Iterable[Mapping[str, Any] | tuple[Any, ...]],
    ) -> int:
        """Submit a job for each call, a thousand at a time, so that a generator may give any number; how many.

        When one piece is refused, those before it are stored.
        """
        submitter = self._member(job)
        iterator = iter(calls)
        total = 0
        while piece := list(islice(iterator, PIECE_JOBS)):
            total += len(await submitter.submit_many(piece))
        return total

    async def seal(self) -> BatchView:
        """No job joins any more; with the end of its last one the batch ends."""
        return await self._post("seal")

    async def cancel(self) -> BatchView:
        """Seal it, and cancel its jobs. Raises Conflict when it has ended already."""
        return await self._post("cancel")

    async def progress(self) -> BatchView:
        """How far it is: its state, counts, share of jobs that have ended, and the callbacks that went off."""
        path = path_of("batches", self.id)
        return await (await self._forge.api()).call("GET", path, reads=BatchView)

    async def wait(self, timeout: float | None = None) -> BatchView:
        """The batch once it has ended. Raises TimeoutError after `timeout` seconds (None: as long as it takes)."""
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = _FIRST_LOOK
        while True:
            view = await self.progress()
            if view.state.is_final:
                return view
            left = pause if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"batch {self.id} is {view.state} after {timeout:g} s")
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 1.5, _SLOWEST_LOOK)

    def _member(self, job: JobType[P, Any, R] | Submitter[P, R]) -> Submitter[P, R]:
        submitter = job.options() if isinstance(job, JobType) else job
        draft = submitter.draft
        terms = structs.replace(draft.terms or NO_TERMS, batch_id=self.id)
        return submitter.like(structs.replace(draft, terms=terms))

    async def _post(self, verb: str) -> BatchView:
        path = path_of("batches", self.id, verb)
        return await (await self._forge.api()).call("POST", path, reads=BatchView)

    async def _make_queues(self, api: Api) -> None:
        for name in ("on_success", "on_failure", "on_complete"):
            wanted: Callback | None = getattr(self._draft.callbacks, name)
            if wanted is not None and wanted.job is not None:
                try:
                    await api.call("GET", path_of("queues", wanted.job.queue_name))
                except NotFound:
                    with suppress(Conflict):
                        await api.call("POST", path_of("queues"), {"name": wanted.job.queue_name})


def batch_draft(
    name: str, tags: Sequence[str], *, on_success: OnEnd, on_failure: OnEnd, on_complete: OnEnd
) -> BatchDraft:
    return BatchDraft(name, Callbacks(_then(on_success), _then(on_failure), _then(on_complete)), tuple(tags))


def _then(wanted: OnEnd) -> Callback | None:
    match wanted:
        case None | Callback():
            return wanted
        case str():
            return Callback(webhook=CallbackHook(wanted))
    return callback(wanted)
