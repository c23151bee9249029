"""Reads of jobs, and the changes a tenant asks for one by one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Raw, Struct

from taskforge.domain.control import ChangeView
from taskforge.domain.jobs import AttemptView, JobFilter, JobOptions, JobState, JobView, ProgressView
from taskforge.domain.terms import NO_TERMS, OnFailure
from taskforge.postgres.pool import Connection
from taskforge.postgres.sql import queries

_JOBS = queries("jobs")
_decode_options = msgspec.json.Decoder(JobOptions).decode
_NO_OPTIONS: Final = JobOptions()


class Changed(Struct, frozen=True):
    """What became of a change; `ready_in` is the queue whose workers have something new, `is_parked` that it waits."""

    verdict: str
    ready_in: int | None
    is_parked: bool


OUTCOMES: Final = {1: JobState.SUCCEEDED, 2: JobState.FAILED, 3: JobState.CANCELLED}
PARKED: Final = {1: JobState.SCHEDULED, 2: JobState.RETRYING, 3: JobState.BLOCKED}
ATTEMPT_KINDS: Final = {1: "failed", 2: "lost", 3: "returned", 4: "snoozed", 5: "released", 6: "cancelled"}
SUCCEEDED_ATTEMPT: Final = "succeeded"


async def views(connection: Connection, tenant_id: UUID, ids: Sequence[int]) -> list[JobView]:
    """Those of the jobs that exist, in the order asked for. Two round trips."""
    rows = await connection.fetch(_JOBS["views"], tenant_id, ids)
    attempts: dict[int, list[AttemptView]] = {}
    for row in await connection.fetch(_JOBS["attempts"], tenant_id, [row["id"] for row in rows]):
        attempts.setdefault(row["job_id"], []).append(_attempt(row))
    return [_view(row, tuple(attempts.get(row["id"], ()))) for row in rows]


async def ended(connection: Connection, tenant_id: UUID, ids: Sequence[int]) -> set[int]:
    """Those of the jobs that have ended or do not exist."""
    return {row["id"] for row in await connection.fetch(_JOBS["ended"], tenant_id, ids)}


async def spans(
    connection: Connection,
    tenant_id: UUID,
    job_filter: JobFilter,
    *,
    queue_id: int | None,
    below: int,
    limit: int,
) -> list[tuple[int, int]]:
    """Runs lo..hi of ids that may hold matches, newest first, all below `below`; fewer than `limit`: the last ones."""
    match job_filter.state:
        case JobState.PENDING:
            rows = await connection.fetch(_JOBS["spans_ready"], tenant_id, below, queue_id, limit)
        case JobState.PROCESSING:
            rows = await connection.fetch(_JOBS["spans_leased"], tenant_id, below, queue_id, limit)
        case JobState.SCHEDULED | JobState.RETRYING | JobState.BLOCKED as state:
            kind = next(kind for kind, parked in PARKED.items() if parked is state)
            rows = await connection.fetch(_JOBS["spans_parked"], tenant_id, below, queue_id, limit, kind)
        case JobState.FAILED:
            rows = await connection.fetch(_JOBS["spans_failed"], tenant_id, below, queue_id, limit)
        case None | JobState.SUCCEEDED | JobState.CANCELLED:
            after, before = job_filter.submitted_after, job_filter.submitted_before
            rows = await connection.fetch(_JOBS["spans"], tenant_id, below, queue_id, after, before, limit)
    return [(row["lo"], row["hi"]) for row in rows]


async def match(
    connection: Connection,
    tenant_id: UUID,
    job_filter: JobFilter,
    *,
    queue_id: int | None,
    ids: Sequence[int],
    submitted_until: datetime | None = None,
) -> list[int]:
    """Those of `ids` that pass the filter, in the same order. State is checked only where it is an outcome."""
    outcome = next((code for code, state in OUTCOMES.items() if state is job_filter.state), None)
    rows = await connection.fetch(
        _JOBS["match"],
        tenant_id,
        ids,
        queue_id,
        job_filter.job_type,
        job_filter.tag,
        job_filter.submitted_after,
        job_filter.submitted_before,
        outcome,
        job_filter.fingerprint,
        None if job_filter.error_text is None else job_filter.error_text.lower(),
        job_filter.failed_after,
        job_filter.failed_before,
        submitted_until,
    )
    return [row["id"] for row in rows]


async def cancel(connection: Connection, tenant_id: UUID, job_id: int, actor: str) -> str:
    """`cancelled`, `requested`, `ended`, `not_found` or `busy`."""
    return str(await connection.fetchval(_JOBS["cancel"], tenant_id, job_id, actor))


async def existing(connection: Connection, tenant_id: UUID, ids: Sequence[int]) -> set[int]:
    """Those of the ids that are jobs of the tenant."""
    return {row["id"] for row in await connection.fetch(_JOBS["existing"], tenant_id, ids)}


async def parents(
    connection: Connection, tenant_id: UUID, job_id: int, *, after: int, limit: int
) -> list[tuple[int, OnFailure, bool]]:
    """Parents of a job by id, what their failure means, and whether the job still waits for them."""
    rows = await connection.fetch(_JOBS["parents"], tenant_id, job_id, after, limit)
    return [(row["parent_id"], _ON_FAILURE[row["on_failure"]], row["state"] in (0, 2)) for row in rows]


async def retry(connection: Connection, tenant_id: UUID, job_id: int, actor: str) -> str:
    """`retried`, `succeeded`, `active`, `not_found`, `busy`, or `not_unique N`: its unique key is job N's now."""
    return str(await connection.fetchval(_JOBS["retry"], tenant_id, job_id, actor))


async def change(
    connection: Connection,
    tenant_id: UUID,
    job_id: int,
    actor: str,
    *,
    queue_id: int | None,
    priority: int | None,
    run_at: datetime | None,
    delay: float | None,
    payload: bytes | None,
    expected: bytes | None,
) -> Changed:
    row = await connection.fetchrow(
        _JOBS["change"],
        tenant_id, job_id, actor, queue_id, priority, run_at, delay, payload, expected,
    )  # fmt: skip
    assert row is not None
    return Changed(row["verdict"], row["ready_in"], row["is_parked"])


async def payload_of(connection: Connection, tenant_id: UUID, job_id: int) -> bytes | None:
    """None when there is no such job."""
    payload: bytes | None = await connection.fetchval(_JOBS["payload"], tenant_id, job_id)
    return payload


async def changes(connection: Connection, tenant_id: UUID, job_id: int) -> list[ChangeView]:
    """Who changed what of the job after its submission, oldest first. Index: job_changes_pkey."""
    rows = await connection.fetch(_JOBS["changes"], tenant_id, job_id)
    return [_change(row) for row in rows]


def _change(row: asyncpg.Record) -> ChangeView:
    return ChangeView(
        changed_at=row["changed_at"],
        actor=row["actor"],
        verb=row["verb"],
        before=_with_payload(row["before"], row["payload_before"]),
        after=_with_payload(row["after"], row["payload_after"]),
        operation_id=None if row["operation_id"] is None else str(row["operation_id"]),
    )


def _with_payload(document: str, payload: bytes | None) -> dict[str, Raw]:
    found = msgspec.json.decode(document, type=dict[str, Raw])
    return found if payload is None else found | {"payload": Raw(payload)}


_ON_FAILURE: Final[dict[int, OnFailure]] = {1: "cancel", 2: "block", 3: "run", 4: "only"}


def _attempt(row: asyncpg.Record) -> AttemptView:
    return AttemptView(
        attempt=row["attempt"],
        outcome=ATTEMPT_KINDS[row["kind"]],
        worker=row["worker"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        error_class=row["error_class"],
        message=row["message"],
        traceback=row["traceback"],
        fingerprint=row["fingerprint"],
    )


def _success(row: asyncpg.Record) -> AttemptView:
    """The attempt that succeeded. Its outcome is its record: a success writes no row of attempts."""
    return AttemptView(
        attempt=row["outcome_attempt"],
        outcome=SUCCEEDED_ATTEMPT,
        worker=row["worker"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        error_class=None,
        message=None,
        traceback=None,
    )


def _view(row: asyncpg.Record, attempts: tuple[AttemptView, ...]) -> JobView:
    options = _NO_OPTIONS if row["options"] is None else _decode_options(row["options"])
    terms = options.terms or NO_TERMS
    state, attempt = _place(row)
    errors = [a for a in attempts if a.outcome in ("failed", "lost")]
    if state is JobState.SUCCEEDED:
        attempts = (*attempts, _success(row))
    started_at: datetime | None = row["started_at"] if row["outcome"] is not None else row["leased_at"]
    return JobView(
        id=str(row["id"]),
        queue_name=row["queue_name"],
        job_type=row["job_type"],
        state=state,
        priority=row["priority"],
        payload=Raw(row["payload"]),
        attempt=attempt,
        max_attempts=row["max_attempts"],
        timeout_seconds=row["timeout_seconds"],
        tags=options.tags,
        submitted_at=row["submitted_at"],
        reason=row["reason"],
        run_at=None if state is JobState.BLOCKED else row["run_at"],
        started_at=started_at,
        finished_at=row["finished_at"],
        result=None if row["result"] is None else Raw(row["result"]),
        error=errors[-1] if errors and state is not JobState.SUCCEEDED else None,
        attempts=attempts,
        worker=row["worker"],
        progress=None
        if row["fraction"] is None
        else ProgressView(round(row["fraction"], 6), row["progress_message"], row["reported_at"]),
        cancel_requested=row["cancel_requested"],
        idempotency_key=options.idempotency_key,
        unique_key=None if terms.unique is None else terms.unique.key,
        expires_at=_instant(row["submitted_at"], terms.expires_at, terms.expires_in_seconds),
        deadline_at=_instant(row["submitted_at"], terms.deadline_at, terms.deadline_in_seconds),
        parent_id=terms.parent_id,
    )


def _instant(since: datetime, at: datetime | None, seconds: float | None) -> datetime | None:
    return at if seconds is None else since + timedelta(seconds=seconds)


def _place(row: asyncpg.Record) -> tuple[JobState, int]:
    """The job's state and the number of attempts begun."""
    if row["outcome"] is not None:
        return OUTCOMES[row["outcome"]], row["outcome_attempt"]
    if row["parked_kind"] is not None:
        return PARKED[row["parked_kind"]], row["parked_attempt"] - 1
    if row["ready_attempt"] is not None:
        return JobState.PENDING, row["ready_attempt"] - 1
    if row["lease_attempt"] is not None:
        return JobState.PROCESSING, row["lease_attempt"]
    # Between two places for one instant of another transaction's commit order: it is being handed over.
    return JobState.PENDING, 0
