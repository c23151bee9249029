"""Workflows: rows in, values out."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import asyncpg

from taskforge.domain.batches import Callbacks, stored
from taskforge.domain.jobs import JobState
from taskforge.domain.workflows import WorkflowDraft, WorkflowState, WorkflowView
from taskforge.postgres.pool import Connection, Database
from taskforge.postgres.sql import queries

_WORKFLOWS = queries("workflows")


async def open_workflow(connection: Connection, tenant_id: UUID, draft: WorkflowDraft) -> int:
    """Its id; in the transaction that stores its first nodes."""
    workflow_id: int = await connection.fetchval(
        _WORKFLOWS["open"], tenant_id, draft.name, list(draft.tags), _text(draft.callbacks), draft.open
    )
    return workflow_id


async def enter(connection: Connection, tenant_id: UUID, workflow_id: int) -> str:
    """`ok` with the workflow locked, `not_found` or `started`."""
    return str(await connection.fetchval(_WORKFLOWS["enter"], tenant_id, workflow_id))


async def name_nodes(
    connection: Connection, tenant_id: UUID, workflow_id: int, *, names: Sequence[str], ids: Sequence[int]
) -> None:
    await connection.execute(_WORKFLOWS["name_nodes"], tenant_id, workflow_id, names, ids)


async def node_ids(
    connection: Connection, tenant_id: UUID, workflow_id: int, names: Sequence[str]
) -> dict[str, int]:
    """The jobs of those names that are nodes."""
    rows = await connection.fetch(_WORKFLOWS["node_ids"], tenant_id, workflow_id, names)
    return {row["name"]: row["job_id"] for row in rows}


async def start(database: Database, tenant_id: UUID, workflow_id: int) -> tuple[str, list[int]]:
    """`ok`, `not_found` or `started`; and the queues in which jobs became ready."""
    [row] = await database.call(_WORKFLOWS["start"], tenant_id, workflow_id)
    return row["answer"], list(row["queues"])


async def retry(
    connection: Connection, tenant_id: UUID, workflow_id: int, actor: str
) -> tuple[str, int, list[int]]:
    """`retried`, `nothing` or `not_found`; how many jobs run again; the queues in which jobs became ready."""
    row = await connection.fetchrow(_WORKFLOWS["retry"], tenant_id, workflow_id, actor)
    assert row is not None
    return row["answer"], row["retried"], list(row["queues"])


async def get(connection: Connection, tenant_id: UUID, workflow_id: int) -> WorkflowView | None:
    row = await connection.fetchrow(_WORKFLOWS["get"], tenant_id, workflow_id)
    return None if row is None else _view(row)


async def list_workflows(
    connection: Connection, tenant_id: UUID, *, below: int, limit: int
) -> list[WorkflowView]:
    return [_view(row) for row in await connection.fetch(_WORKFLOWS["list"], tenant_id, below, limit)]


async def nodes(
    connection: Connection, tenant_id: UUID, workflow_id: int, *, above: int, limit: int
) -> list[tuple[str, int, tuple[str, ...]]]:
    """Name, job and parents of each, by job id."""
    rows = await connection.fetch(_WORKFLOWS["nodes"], tenant_id, workflow_id, above, limit)
    return [(row["name"], row["job_id"], tuple(row["parents"])) for row in rows]


async def states(connection: Connection, tenant_id: UUID, workflow_id: int) -> dict[JobState, int]:
    """How many of its jobs are in which state, as of one snapshot."""
    rows = await connection.fetch(_WORKFLOWS["states"], tenant_id, workflow_id)
    return {JobState(row["state"]): row["jobs"] for row in rows}


def _text(callbacks: Callbacks) -> str:
    return stored(callbacks).decode()


def _view(row: asyncpg.Record) -> WorkflowView:
    ended = row["succeeded"] + row["failed"] + row["cancelled"]
    return WorkflowView(
        id=str(row["id"]),
        name=row["name"],
        state=WorkflowState.BLOCKED if row["has_only_blocked"] else WorkflowState(row["state"]),
        total=row["total"],
        succeeded=row["succeeded"],
        failed=row["failed"],
        cancelled=row["cancelled"],
        progress=round(ended / row["total"], 4) if row["total"] else 0.0,
        tags=tuple(row["tags"]),
        created_at=row["created_at"],
        ended_at=row["ended_at"],
        cancel_requested=row["cancel_requested_at"] is not None,
    )
