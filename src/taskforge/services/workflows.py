"""Workflows: make, grow, start, look at, cancel, retry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from taskforge.domain import batches as batch_rules
from taskforge.domain import workflows as rules
from taskforge.domain.batches import BatchDraft
from taskforge.domain.tenants import Context
from taskforge.domain.workflows import CancelPreview, NodeView, WorkflowDraft, WorkflowNode, WorkflowView
from taskforge.errors import Conflict, FieldError, Invalid, NotFound
from taskforge.postgres import groups, jobs, workflows
from taskforge.postgres.pool import Connection
from taskforge.postgres.submit import Place, Run, publish
from taskforge.services import batches
from taskforge.services.core import Core
from taskforge.services.flushes import lane_of
from taskforge.services.pages import Page

MAX_ID = 2**63 - 1


async def create(core: Core, ctx: Context, draft: WorkflowDraft) -> WorkflowView:
    """A workflow whose first jobs are ready when this returns, or which is open for more nodes. All of it or nothing.

    Raises Invalid: `workflow.cycle` naming the path, `workflow.invalid`, `queue.not_found`, `job.parent_not_found`.
    """
    batch_rules.check_batch(
        BatchDraft(draft.name, draft.callbacks, draft.tags),
        now=core.clock.now(),
        max_payload_bytes=core.max_payload_bytes,
    )
    queue_ids = await _check(core, ctx, draft.nodes, {}, callbacks=draft)
    runs: list[Run] = []
    async with core.database.ingest() as connection:
        workflow_id = await workflows.open_workflow(connection, ctx.tenant_id, draft)
        runs = await _store(
            core, ctx, connection, workflow_id, draft.nodes, {}, queue_ids=queue_ids, is_open=draft.open
        )
    _wake(core, runs)
    return await get(core, ctx, workflow_id)


async def grow(core: Core, ctx: Context, workflow_id: int, nodes: Sequence[WorkflowNode]) -> WorkflowView:
    """More nodes for an open workflow; they may depend on those it has. Raises as `create`, NotFound, or Conflict
    `workflow.started`."""
    await get(core, ctx, workflow_id)
    wanted = {edge.node for node in nodes for edge in node.edges() if edge.node is not None}
    wanted |= {node.name for node in nodes}
    async with core.database.tenant(ctx.tenant_id) as connection:
        known = await workflows.node_ids(connection, ctx.tenant_id, workflow_id, sorted(wanted))
    queue_ids = await _check(core, ctx, nodes, known)
    async with core.database.ingest() as connection:
        answer = await workflows.enter(connection, ctx.tenant_id, workflow_id)
        if answer != "ok":
            raise _refused(answer, workflow_id)
        runs = await _store(
            core, ctx, connection, workflow_id, nodes, known, queue_ids=queue_ids, is_open=True
        )
    _wake(core, runs)
    return await get(core, ctx, workflow_id)


async def start(core: Core, ctx: Context, workflow_id: int) -> WorkflowView:
    """It takes no more nodes, and runs. Raises NotFound, or Conflict `workflow.started`."""
    await get(core, ctx, workflow_id)
    answer, queue_ids = await workflows.start(core.database, ctx.tenant_id, workflow_id)
    if answer != "ok":
        raise _refused(answer, workflow_id)
    core.wakeups.jobs_ready(queue_ids)
    return await get(core, ctx, workflow_id)


async def get(core: Core, ctx: Context, workflow_id: int) -> WorkflowView:
    """Raises NotFound; another tenant's workflow does not exist."""
    async with core.database.tenant(ctx.tenant_id) as connection:
        found = (
            await workflows.get(connection, ctx.tenant_id, workflow_id) if 0 < workflow_id <= MAX_ID else None
        )
    if found is None:
        raise _refused("not_found", workflow_id)
    return found


async def list_workflows(
    core: Core, ctx: Context, *, limit: int, cursor: str | None = None
) -> Page[WorkflowView]:
    """Newest first."""
    below = MAX_ID if cursor is None else _position(cursor)
    async with core.database.tenant(ctx.tenant_id) as connection:
        found = await workflows.list_workflows(connection, ctx.tenant_id, below=below, limit=limit + 1)
    return Page(found[:limit], found[limit - 1].id if len(found) > limit else None)


async def list_nodes(
    core: Core, ctx: Context, workflow_id: int, *, limit: int, cursor: str | None = None
) -> Page[NodeView]:
    """In the order in which they were given."""
    await get(core, ctx, workflow_id)
    above = 0 if cursor is None else _position(cursor)
    async with core.database.tenant(ctx.tenant_id) as connection:
        found = await workflows.nodes(connection, ctx.tenant_id, workflow_id, above=above, limit=limit + 1)
        views = await jobs.views(connection, ctx.tenant_id, [job_id for _, job_id, _ in found[:limit]])
    by_id = {view.id: view for view in views}
    nodes = [
        NodeView(name, view.id, view.job_type, view.queue_name, view.state, parents, view.reason)
        for name, job_id, parents in found[:limit]
        if (view := by_id.get(str(job_id))) is not None
    ]
    return Page(nodes, str(found[limit - 1][1]) if len(found) > limit else None)


async def preview_cancel(core: Core, ctx: Context, workflow_id: int) -> CancelPreview:
    """What `cancel` would hit now."""
    await get(core, ctx, workflow_id)
    async with core.database.tenant(ctx.tenant_id) as connection:
        states = await workflows.states(connection, ctx.tenant_id, workflow_id)
    return CancelPreview(sum(count for state, count in states.items() if not state.is_final), states)


async def cancel(core: Core, ctx: Context, workflow_id: int) -> WorkflowView:
    """Cancel all that has not ended: the first jobs before this returns, the rest by the elected process.

    Raises NotFound, or Conflict `workflow.already_ended`.
    """
    await get(core, ctx, workflow_id)
    async with core.database.tenant(ctx.tenant_id) as connection:
        answer = await groups.ask_to_cancel(connection, ctx.tenant_id, workflow_id, ctx.actor)
    if answer == "ended":
        raise Conflict(
            "workflow.already_ended", f"workflow {workflow_id} has ended already and cannot be cancelled"
        )
    await batches.cancel_members(core, workflow_id, steps=batches.STEPS_AT_ONCE)
    core.wakeups.jobs_parked()
    return await get(core, ctx, workflow_id)


async def retry(core: Core, ctx: Context, workflow_id: int) -> WorkflowView:
    """Run again what failed, and what was cancelled for it or by hand; what succeeded stays as it is.

    Raises NotFound, or Conflict `workflow.nothing_to_retry`.
    """
    await get(core, ctx, workflow_id)
    async with core.database.tenant(ctx.tenant_id) as connection:
        answer, _, queue_ids = await workflows.retry(connection, ctx.tenant_id, workflow_id, ctx.actor)
    if answer == "nothing":
        raise Conflict(
            "workflow.nothing_to_retry", f"no job of workflow {workflow_id} has failed or was cancelled"
        )
    if answer != "retried":
        raise _refused(answer, workflow_id)
    core.wakeups.jobs_ready(queue_ids)
    return await get(core, ctx, workflow_id)


async def _check(
    core: Core,
    ctx: Context,
    nodes: Sequence[WorkflowNode],
    known: Mapping[str, int],
    *,
    callbacks: WorkflowDraft | None = None,
) -> dict[str, int]:
    """The ids of the queues that the nodes name."""
    rules.check_nodes(nodes, known=known, now=core.clock.now(), max_payload_bytes=core.max_payload_bytes)
    named = {f"/nodes/{index}/queue_name": node.queue_name for index, node in enumerate(nodes)}
    if callbacks is not None:
        named |= batch_rules.callback_queues(callbacks.callbacks)
    queue_ids = await core.directory.known(ctx.tenant_id, list(set(named.values())))
    if wrong := [(pointer, name) for pointer, name in named.items() if name not in queue_ids]:
        raise Invalid(
            "queue.not_found",
            f'queue "{wrong[0][1]}" does not exist; create it first with POST /api/v1/queues',
            fields=tuple(FieldError(p, "queue.not_found", f'no queue "{name}"') for p, name in wrong[:1_000]),
        )
    return queue_ids


async def _store(
    core: Core,
    ctx: Context,
    connection: Connection,
    workflow_id: int,
    nodes: Sequence[WorkflowNode],
    known: Mapping[str, int],
    *,
    queue_ids: Mapping[str, int],
    is_open: bool,
) -> list[Run]:
    """Nodes get their ids first, so that they can name each other; then they are stored like any other jobs."""
    taken = [job_id for run in await core.submitter.take_ids(len(nodes)) for job_id in run]
    ids = dict(zip((node.name for node in nodes), taken, strict=True))
    named = {**known, **ids}
    runs: list[Run] = []
    for node, job_id in zip(nodes, taken, strict=True):
        draft = node.draft(named, workflow_id, held_by=-workflow_id if is_open else None)
        lane = lane_of(ctx.tenant_id, queue_ids[node.queue_name], draft)
        if runs and runs[-1].lane == lane and runs[-1].last + 1 == job_id:
            runs[-1].parts.append((draft, [draft.payload]))
            runs[-1].size += 1
        else:
            runs.append(Run(lane, job_id, [(draft, [draft.payload])], 1))
    await publish(connection, runs)
    await workflows.name_nodes(connection, ctx.tenant_id, workflow_id, names=list(ids), ids=taken)
    return runs


def _wake(core: Core, runs: Sequence[Run]) -> None:
    core.wakeups.jobs_ready(
        {run.lane.queue_id for run in runs if run.lane.place is Place.READY or run.settled}
    )
    core.wakeups.jobs_parked()


def _refused(answer: str, workflow_id: int) -> Conflict | NotFound:
    if answer == "started":
        return Conflict("workflow.started", f"workflow {workflow_id} runs already and takes no more nodes")
    return NotFound("workflow.not_found", f'workflow "{workflow_id}" does not exist')


def _position(cursor: str) -> int:
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 19 or int(cursor) > MAX_ID:
        raise Invalid("cursor.invalid", "the cursor is not one of ours; start again without it")
    return int(cursor)
