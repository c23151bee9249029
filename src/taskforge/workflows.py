"""Workflows in Python: jobs added like calls, where the result of one may be an argument of the next."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Self, TypeVar

import msgspec
from msgspec import Raw, structs

from taskforge.api import Api, path_of
from taskforge.domain.terms import OnFailure
from taskforge.domain.workflows import (
    CancelPreview,
    Edge,
    NodeView,
    WorkflowDraft,
    WorkflowNode,
    WorkflowView,
)
from taskforge.job_type import JobType, Submitter

if TYPE_CHECKING:
    from taskforge.forge import TaskForge

P = ParamSpec("P")
R = TypeVar("R", covariant=True)

_FIRST_LOOK = 0.05
_SLOWEST_LOOK = 2.0


class _Nodes(msgspec.Struct):
    data: list[NodeView]
    next_cursor: str | None


class Node(Generic[R]):
    """A job of a workflow to come. Given as an argument to another one, it stands for its result."""

    def __init__(self, made: WorkflowNode) -> None:
        self._made = made
        self._edges: list[Edge] = list(made.edges())

    @property
    def name(self) -> str:
        return self._made.name

    def after(self, *parents: Node[Any], on_failure: OnFailure = "cancel") -> Self:
        """Wait for these too. `on_failure`: `cancel` this job if one fails, `block` it until that is retried, `run` it
        anyway, or run it `only` then."""
        for parent in parents:
            self._edges = [edge for edge in self._edges if edge.node != parent.name]
            self._edges.append(Edge(parent.name, on_failure=on_failure))
        return self

    def built(self) -> WorkflowNode:
        return structs.replace(self._made, depends_on=tuple(self._edges))


class Workflow:
    """`with forge.workflow("report") as w:` add jobs; then `await w.submit()`."""

    def __init__(self, forge: TaskForge, name: str, tags: Sequence[str] = ()) -> None:
        self._forge = forge
        self._name = name
        self._tags = tuple(tags)
        self._nodes: dict[str, Node[Any]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def add(self, job: JobType[..., Any, R] | Submitter[..., R], /, *args: Any, **kwargs: Any) -> Node[R]:
        """A job with these arguments; nodes among them are awaited, and their results passed. Its name is the job
        type's, with a number from the second on."""
        submitter = job.options() if isinstance(job, JobType) else job
        draft = submitter.draft
        if draft.idempotency_key is not None or draft.run_at is not None:
            raise ValueError("a job of a workflow takes no idempotency key and no absolute time")
        signature = inspect.signature(submitter.job.fn)
        try:
            given = dict(signature.bind(*args, **kwargs).arguments)
        except TypeError as error:
            raise TypeError(f"{draft.job_type}() {error}") from None
        for parameter in signature.parameters.values():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                given.update(given.pop(parameter.name, {}))
        inputs = {key: value.name for key, value in given.items() if isinstance(value, Node)}
        rest = {key: value for key, value in given.items() if key not in inputs}
        node: Node[R] = Node(
            WorkflowNode(
                name=self._free_name(draft.job_type),
                queue_name=draft.queue_name,
                job_type=draft.job_type,
                payload=Raw(submitter.job.binding.encode(rest)),
                inputs=inputs,
                priority=draft.priority,
                max_attempts=draft.max_attempts,
                timeout_seconds=draft.timeout_seconds,
                delay_seconds=draft.delay_seconds,
                retry=draft.retry,
                tags=draft.tags,
                concurrency_key=None if draft.terms is None else draft.terms.concurrency_key,
            )
        )
        self._nodes[node.name] = node
        return node

    def map(self, job: JobType[..., Any, R], calls: Iterable[tuple[Any, ...]]) -> list[Node[R]]:
        """A job for each tuple of arguments."""
        return [self.add(job, *call) for call in calls]

    async def submit(self) -> WorkflowHandle:
        """Durable when this returns; its first jobs are ready. Raises Invalid, `workflow.cycle` among others."""
        draft = WorkflowDraft(
            tuple(node.built() for node in self._nodes.values()), self._name, tags=self._tags
        )
        api = await self._forge.api()
        made = await api.call("POST", path_of("workflows"), draft, reads=WorkflowView)
        return WorkflowHandle(self._forge, made.id)

    def _free_name(self, job_type: str) -> str:
        if job_type not in self._nodes:
            return job_type
        number = 2
        while f"{job_type}.{number}" in self._nodes:
            number += 1
        return f"{job_type}.{number}"


class WorkflowHandle:
    """A workflow that was submitted."""

    def __init__(self, forge: TaskForge, workflow_id: str) -> None:
        self.id = workflow_id
        self._forge = forge

    async def status(self) -> WorkflowView:
        return await (await self._api()).call("GET", self._path(), reads=WorkflowView)

    async def nodes(self) -> list[NodeView]:
        """All of its jobs, in the order in which they were added."""
        api, found, cursor = await self._api(), list[NodeView](), None
        while True:
            query = {"limit": 1_000, "cursor": cursor}
            page = await api.call("GET", path_of("workflows", self.id, "nodes", query=query), reads=_Nodes)
            found += page.data
            if (cursor := page.next_cursor) is None:
                return found

    async def wait(self, *, timeout: float = 60.0) -> WorkflowView:
        """The workflow once it has ended. Raises TimeoutError; it goes on all the same."""
        until, pause = time.monotonic() + timeout, _FIRST_LOOK
        while not (view := await self.status()).state.is_final:
            if (left := until - time.monotonic()) <= 0:
                raise TimeoutError(f"workflow {self.id} is {view.state} after {timeout:g} s")
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 1.5, _SLOWEST_LOOK)
        return view

    async def preview_cancel(self) -> CancelPreview:
        """What `cancel` would hit now."""
        path = path_of("workflows", self.id, "cancel", query={"preview": True})
        return await (await self._api()).call("POST", path, reads=CancelPreview)

    async def cancel(self) -> WorkflowView:
        return await (await self._api()).call("POST", self._path("cancel"), reads=WorkflowView)

    async def retry(self) -> WorkflowView:
        """Run again what failed, and what was cancelled for it."""
        return await (await self._api()).call("POST", self._path("retry"), reads=WorkflowView)

    async def _api(self) -> Api:
        return await self._forge.api()

    def _path(self, *parts: str) -> str:
        return path_of("workflows", self.id, *parts)
