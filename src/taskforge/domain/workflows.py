"""Workflows: jobs with names that wait for each other, made together and counted as one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum

import msgspec
from msgspec import Raw, Struct

from taskforge.domain.batches import NO_CALLBACKS, Callbacks
from taskforge.domain.graph import find_cycle
from taskforge.domain.jobs import DEFAULT_PRIORITY, JobDraft, JobState, check_draft
from taskforge.domain.retry import RetryPolicy
from taskforge.domain.terms import JOB_ID, Dependency, JobTerms, OnFailure
from taskforge.errors import FieldError, Invalid

MAX_NODES = 10_000
MAX_EDGES = 100_000
MAX_NAME = 200
NODE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:-]{0,127}")
PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


class WorkflowState(StrEnum):
    OPEN = "open"
    RUNNING = "running"
    BLOCKED = "blocked"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in (WorkflowState.SUCCEEDED, WorkflowState.FAILED, WorkflowState.CANCELLED)


class Edge(Struct, frozen=True, forbid_unknown_fields=True):
    """A parent: a node of this workflow, or a job that exists already; and what its failure means (see Dependency)."""

    node: str | None = None
    job_id: str | None = None
    on_failure: OnFailure = "cancel"


class WorkflowNode(Struct, frozen=True, forbid_unknown_fields=True):
    """One job of a workflow. `inputs` gives results of nodes to parameters of the payload, and makes them parents."""

    name: str
    queue_name: str
    job_type: str
    payload: Raw = msgspec.field(default_factory=lambda: Raw(b"{}"))
    depends_on: tuple[Edge | str, ...] = ()
    inputs: dict[str, str] = msgspec.field(default_factory=dict)
    priority: int = DEFAULT_PRIORITY
    max_attempts: int | None = None
    timeout_seconds: float | None = None
    delay_seconds: float | None = None
    retry: RetryPolicy | None = None
    tags: tuple[str, ...] = ()
    concurrency_key: str | None = None

    def edges(self) -> tuple[Edge, ...]:
        """All of its parents, those its inputs name included."""
        given = tuple(Edge(parent) if isinstance(parent, str) else parent for parent in self.depends_on)
        named = {edge.node for edge in given}
        return given + tuple(Edge(name) for name in dict.fromkeys(self.inputs.values()) if name not in named)

    def draft(self, ids: Mapping[str, int], workflow_id: int, *, held_by: int | None) -> JobDraft:
        """The job, once all have ids. `held_by` stands for a parent as long as the workflow is open."""
        parents = tuple(
            Dependency(str(ids[edge.node]) if edge.node is not None else edge.job_id or "", edge.on_failure)
            for edge in self.edges()
        )
        if not parents and held_by is not None:
            parents = (Dependency(str(held_by)),)
        return JobDraft(
            self.queue_name,
            self.job_type,
            bytes(self.payload),
            self.priority,
            self.max_attempts,
            self.timeout_seconds,
            None,
            self.delay_seconds,
            self.retry,
            None,
            self.tags,
            None,
            JobTerms(concurrency_key=self.concurrency_key, depends_on=parents, batch_id=str(workflow_id)),
            {parameter: str(ids[node]) for parameter, node in self.inputs.items()} or None,
        )


class WorkflowDraft(Struct, frozen=True, forbid_unknown_fields=True):
    """A workflow to be made. An `open` one takes more nodes, and runs when it is started."""

    nodes: tuple[WorkflowNode, ...]
    name: str = ""
    open: bool = False
    callbacks: Callbacks = NO_CALLBACKS
    tags: tuple[str, ...] = ()


class WorkflowView(Struct, frozen=True):
    """A workflow as the API shows it. `progress` is the share of its jobs that have ended. `blocked`: a parent has
    failed and nothing else can run. `cancelled` counts the jobs that turned out not to be needed, too."""

    id: str
    name: str
    state: WorkflowState
    total: int
    succeeded: int
    failed: int
    cancelled: int
    progress: float
    tags: tuple[str, ...]
    created_at: datetime
    ended_at: datetime | None = None
    cancel_requested: bool = False


class NodeView(Struct, frozen=True):
    name: str
    job_id: str
    job_type: str
    queue_name: str
    state: JobState
    depends_on: tuple[str, ...]
    reason: str | None = None


class CancelPreview(Struct, frozen=True):
    """How many jobs of the workflow are in which state; those that have not ended would be cancelled."""

    would_cancel: int
    states: dict[JobState, int]


def check_nodes(
    nodes: Sequence[WorkflowNode],
    *,
    known: Mapping[str, int],
    now: datetime,
    max_payload_bytes: int,
) -> None:
    """Raise Invalid: `workflow.cycle` with the cycle's path, or `workflow.invalid` with one entry per wrong field.

    `known` are the nodes that the workflow has already.
    """
    wrong: list[FieldError] = []
    if not 1 <= len(nodes) <= MAX_NODES:
        raise _invalid(
            [FieldError("/nodes", "too_many", f"must have between 1 and {MAX_NODES} nodes at a time")]
        )
    names: dict[str, int] = {}
    for index, node in enumerate(nodes):
        if not NODE_NAME.fullmatch(node.name):
            wrong.append(FieldError(f"/nodes/{index}/name", "pattern", f"must match {NODE_NAME.pattern}"))
        elif node.name in names or node.name in known:
            wrong.append(
                FieldError(f"/nodes/{index}/name", "duplicate", f'there are two nodes "{node.name}"')
            )
        names.setdefault(node.name, index)
    if sum(len(node.depends_on) + len(node.inputs) for node in nodes) > MAX_EDGES:
        raise _invalid([FieldError("/nodes", "too_many_edges", f"at most {MAX_EDGES} edges at a time")])
    parents: dict[str, list[str]] = {}
    for index, node in enumerate(nodes):
        parents[node.name] = _check_edges(node, f"/nodes/{index}", names.keys() | known.keys(), wrong)
    if wrong:
        raise _invalid(wrong[:1_000])
    if (cycle := find_cycle(parents)) is not None:
        path = " -> ".join(cycle)
        detail = f"these nodes wait for each other: {path}"
        raise Invalid(
            "workflow.cycle",
            detail,
            fields=(FieldError(f"/nodes/{names[cycle[0]]}/depends_on", "workflow.cycle", path),),
        )
    ids = dict.fromkeys(names.keys() | known.keys(), 1)
    for index, node in enumerate(nodes):
        try:
            check_draft(
                node.draft(ids | {node.name: 2}, 1, held_by=None) if not node.edges() else _alone(node),
                now=now,
                max_payload_bytes=max_payload_bytes,
                pointer=f"/nodes/{index}",
            )
        except Invalid as error:
            wrong += error.fields
    if wrong:
        raise _invalid(wrong[:1_000])


def _alone(node: WorkflowNode) -> JobDraft:
    """The node without its edges, which were checked by their names."""
    bare = msgspec.structs.replace(node, depends_on=(), inputs={})
    return bare.draft({}, 1, held_by=None)


def _check_edges(
    node: WorkflowNode, pointer: str, names: set[str] | frozenset[str], wrong: list[FieldError]
) -> list[str]:
    """The parents of this node that are nodes."""
    found: list[str] = []
    seen: set[str] = set()
    for place, edge in enumerate(node.edges()):
        where = f"{pointer}/depends_on/{place}" if place < len(node.depends_on) else f"{pointer}/inputs"
        if (edge.node is None) == (edge.job_id is None):
            wrong.append(FieldError(where, "exclusive", "give either the name of a node or a job_id"))
        elif edge.node is not None and edge.node not in names:
            wrong.append(FieldError(where, "workflow.no_such_node", f'there is no node "{edge.node}"'))
        elif edge.job_id is not None and not JOB_ID.fullmatch(edge.job_id):
            wrong.append(FieldError(where, "pattern", "must be the id of a job"))
        elif (parent := edge.node or edge.job_id or "") in seen:
            wrong.append(FieldError(where, "duplicate", f'"{parent}" is named twice'))
        else:
            seen.add(parent)
            if edge.node is not None:
                found.append(edge.node)
    for parameter in node.inputs:
        if not PARAMETER.fullmatch(parameter):
            wrong.append(
                FieldError(f"{pointer}/inputs", "pattern", f'"{parameter}" is no name of a parameter')
            )
    if node.inputs and not bytes(node.payload).lstrip().startswith(b"{"):
        wrong.append(FieldError(f"{pointer}/payload", "not_an_object", "must be an object, to take inputs"))
    return found


def _invalid(wrong: Sequence[FieldError]) -> Invalid:
    return Invalid(
        "workflow.invalid", f"the workflow cannot be accepted: {wrong[0].detail}", fields=tuple(wrong)
    )
