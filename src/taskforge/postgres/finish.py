"""Finish: what a worker reports becomes facts, if its leases still stand."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from msgspec import Struct

from taskforge.domain.fingerprints import fingerprint
from taskforge.domain.leases import (
    Cancelled,
    Expired,
    Failed,
    LeaseReport,
    Outcome,
    Released,
    Snoozed,
    Succeeded,
)
from taskforge.postgres.copy import (
    INT2,
    INT4,
    INT8,
    LENGTH,
    NULL,
    ROW_START,
    TWO_INT8,
    field,
    instant,
    stream,
)
from taskforge.postgres.pool import Connection, Database
from taskforge.postgres.sql import queries

_LEASES = queries("leases")
_COLUMNS = [
    "id", "tenant_id", "queue_id", "attempt", "fence", "worker_id", "state", "started_at", "finished_at", "result",
]  # fmt: skip

_SUCCEEDED, _FAILED, _CANCELLED = INT2(2, 1), INT2(2, 2), INT2(2, 3)
_KIND_FAILED, _KIND_SNOOZED, _KIND_RELEASED, _KIND_CANCELLED = 1, 4, 5, 6
_EXPIRED = 7  # leaves no attempt: there was none
_KINDS: Final[dict[type[Outcome], int]] = {
    Succeeded: 0,
    Failed: _KIND_FAILED,
    Snoozed: _KIND_SNOOZED,
    Released: _KIND_RELEASED,
    Cancelled: _KIND_CANCELLED,
    Expired: _EXPIRED,
}
_PARK_SCHEDULED, _PARK_RETRYING = 1, 2


async def finish(
    database: Database, worker_id: int, reports: Sequence[LeaseReport]
) -> tuple[list[tuple[int, int]], list[int]]:
    """Write the outcomes of all reports in one transaction.

    Returns the stale (fence, job_id) that were refused, and the queues in which jobs may start that had to wait for a
    slot.
    A report sent twice is accepted twice and written once. Cost: five round trips for any number of successes.
    """
    async with database.dispatch() as connection:
        stale: list[tuple[int, int]] = []
        accepted = await _settle(connection, worker_id, reports)
        valid = [report for report in reports if report.lease.fence in accepted]
        for report in reports:
            if report.lease.fence not in accepted:
                covered = await _sort_out(connection, worker_id, report, stale)
                if covered.outcomes:
                    accepted.update(await _settle(connection, worker_id, [covered]))
                    valid.append(covered)
        parts: list[bytes] = []
        told: list[bytes] = []
        for report in valid:
            rest = _encode_successes(report, worker_id, parts)
            if rest:
                await _write_rest(
                    connection, worker_id, report, rest, accepted[report.lease.fence], parts, told
                )
        for rows, columns in ((parts, _COLUMNS), (told, [*_COLUMNS, "reason"])):
            if rows:
                await connection.copy_to_table(
                    "outcomes", schema_name="taskforge", columns=columns, source=stream(rows), format="binary"
                )
        ready = await _follow_up(connection, valid, accepted)
        if stale:
            await connection.execute(
                _LEASES["record_stale"], worker_id, [fence for fence, _ in stale], [job for _, job in stale]
            )
        freed = await _give_slots_back(connection, list(accepted.values()))
    return stale, [*ready, *freed]


async def _give_slots_back(connection: Connection, settled: Sequence[_Settled]) -> list[int]:
    """Last, because it locks what claims of the same queues wait for; the queues that may start more now."""
    back: dict[int, int] = {}
    for lease in settled:
        for limit_id in lease.limit_ids or ():
            back[limit_id] = back.get(limit_id, 0) + lease.count
    if not back:
        return []
    queues: list[int] = await connection.fetchval(_LEASES["touch_limits"], list(back), list(back.values()))
    return queues


class _Settled(Struct):
    """A fence that still stands: the jobs somebody asked to cancel, and whether anything hangs on the end of any."""

    cancel_requested: frozenset[int]
    has_followups: bool
    key_id: int | None
    limit_ids: Sequence[int] | None
    count: int


async def _settle(
    connection: Connection, worker_id: int, reports: Sequence[LeaseReport]
) -> dict[int, _Settled]:
    """What settle says of each fence that still stands."""
    fences: list[int] = []
    los: list[int] = []
    his: list[int] = []
    succeeded: list[int] = []
    for report in reports:
        fence = report.lease.fence
        for lo, hi in runs_of([outcome.job_id for outcome in report.outcomes]):
            fences.append(fence)
            los.append(lo)
            his.append(hi)
            succeeded.append(0)
        succeeded[-1] = sum(type(outcome) is Succeeded for outcome in report.outcomes)
    rows = await connection.fetch(_LEASES["settle"], worker_id, fences, los, his, succeeded)
    return {row[0]: _Settled(frozenset(row[1] or ()), *row[2:]) for row in rows}


async def _follow_up(
    connection: Connection, reports: Sequence[LeaseReport], accepted: dict[int, _Settled]
) -> list[int]:
    """What hangs on the end of jobs, after their outcomes were written: one round trip, if there is any. Returns the
    queues in which jobs became ready by it."""
    ids: list[int] = []
    states: list[int] = []
    for report in reports:
        settled = accepted[report.lease.fence]
        if settled.has_followups:
            for outcome in report.outcomes:
                if (state := _end_state(outcome, outcome.job_id in settled.cancel_requested)) is not None:
                    ids.append(outcome.job_id)
                    states.append(state)
    if not ids:
        return []
    queues: list[int] = await connection.fetchval(_LEASES["follow_up"], ids, states)
    return queues


def _end_state(outcome: Outcome, is_cancelled: bool) -> int | None:
    """The state the job has ended in; None when it comes back. A cancellation asked for beats all but success."""
    match outcome:
        case Succeeded():
            return 1
        case Cancelled() | Expired():
            return 3
        case Failed() if not is_cancelled and outcome.retry_in is None:
            return 2
    return 3 if is_cancelled else None


def runs_of(ids: list[int]) -> list[tuple[int, int]]:
    """Contiguous runs (lo, hi) of distinct ids."""
    ids.sort()
    if ids[-1] - ids[0] + 1 == len(ids):
        return [(ids[0], ids[-1])]
    runs = []
    lo = hi = ids[0]
    for job_id in ids[1:]:
        if job_id > hi + 1:
            runs.append((lo, hi))
            lo = job_id
        hi = job_id
    runs.append((lo, hi))
    return runs


async def _sort_out(
    connection: Connection, worker_id: int, report: LeaseReport, stale: list[tuple[int, int]]
) -> LeaseReport:
    """The part of a refused report that its lease still covers. Repeats are dropped, the rest is stale."""
    fence = report.lease.fence
    rows = await connection.fetch(
        _LEASES["sort_out"],
        worker_id,
        fence,
        [outcome.job_id for outcome in report.outcomes],
        [_KINDS[type(outcome)] for outcome in report.outcomes],
    )
    covered = {row["job_id"] for row in rows if row["is_covered"]}
    stale += [(fence, row["job_id"]) for row in rows if not row["is_covered"] and not row["is_repeat"]]
    return LeaseReport(report.lease, [o for o in report.outcomes if o.job_id in covered])


def _encode_successes(report: LeaseReport, worker_id: int, parts: list[bytes]) -> list[Outcome]:
    """Append COPY rows for what succeeded; returns the other outcomes."""
    lease = report.lease
    middle = _middle(report, worker_id) + _SUCCEEDED
    claimed_us = lease.claimed_us
    rest: list[Outcome] = []
    add = parts.append
    for outcome in report.outcomes:
        if type(outcome) is Succeeded:
            add(
                ROW_START(10, 8, outcome.job_id)
                + middle
                + TWO_INT8(8, claimed_us + outcome.started_us, 8, claimed_us + outcome.finished_us)
            )
            result = outcome.result
            if result is None:
                add(NULL)
            else:
                add(LENGTH(len(result)))
                add(result)
        else:
            rest.append(outcome)
    return rest


def _middle(report: LeaseReport, worker_id: int, *, attempt: int | None = None) -> bytes:
    lease = report.lease
    return (
        field(lease.tenant_id.bytes)
        + INT4(4, lease.queue_id)
        + INT2(2, lease.attempt if attempt is None else attempt)
        + INT8(8, lease.fence)
        + INT8(8, worker_id)
    )


class _Attempt(Struct):
    job_id: int
    kind: int
    error_class: str | None
    message: str | None
    traceback: str | None
    started_at: datetime | None
    fingerprint: str | None = None


class _Parked(Struct):
    job_id: int
    attempt: int
    kind: int
    delay: float


async def _write_rest(
    connection: Connection,
    worker_id: int,
    report: LeaseReport,
    rest: list[Outcome],
    settled: _Settled,
    parts: list[bytes],
    told: list[bytes],
) -> None:
    """Everything that did not simply succeed. A job that was asked to be cancelled does not come back.

    Rows of outcomes go to `parts`, or to `told` when they have a reason of their own.
    """
    lease = report.lease
    middle = _middle(report, worker_id)
    attempts: list[_Attempt] = []
    parked: list[_Parked] = []
    returned: list[int] = []
    dead: list[int] = []
    cancelled = 0

    def end(outcome: Failed | Cancelled | Snoozed | Released, state: bytes) -> None:
        if isinstance(outcome, Released):
            started = finished = 0
        else:
            started, finished = outcome.started_us, outcome.finished_us
        reason = outcome.reason if isinstance(outcome, Failed) else None
        rows, columns = (parts, 10) if reason is None else (told, 11)
        rows += (
            ROW_START(columns, 8, outcome.job_id),
            middle,
            state,
            TWO_INT8(8, lease.claimed_us + started, 8, lease.claimed_us + finished),
            NULL,
        )
        if reason is not None:
            rows.append(field(reason.encode()))

    def attempt(
        outcome: Failed | Cancelled | Snoozed, kind: int, name: str | None, message: str | None
    ) -> None:
        trace = mark = None
        if isinstance(outcome, Failed):
            trace = outcome.traceback
            mark = fingerprint(outcome.error_class, outcome.message, trace)
        started_at = instant(lease.claimed_us + outcome.started_us)
        attempts.append(_Attempt(outcome.job_id, kind, name, message, trace, started_at, mark))

    for outcome in rest:
        is_cancelled = outcome.job_id in settled.cancel_requested
        match outcome:
            case Failed():
                attempt(outcome, _KIND_FAILED, outcome.error_class, outcome.message)
                if is_cancelled:
                    end(outcome, _CANCELLED)
                    cancelled += 1
                elif outcome.retry_in is None:
                    end(outcome, _FAILED)
                    dead.append(outcome.job_id)
                else:
                    parked.append(
                        _Parked(outcome.job_id, lease.attempt + 1, _PARK_RETRYING, outcome.retry_in)
                    )
            case Cancelled():
                attempt(outcome, _KIND_CANCELLED, None, outcome.reason or None)
                end(outcome, _CANCELLED)
                cancelled += 1
            case Expired():
                told += (
                    ROW_START(11, 8, outcome.job_id),
                    _middle(report, worker_id, attempt=lease.attempt - 1),
                    _CANCELLED,
                    NULL,
                    INT8(8, lease.claimed_us + outcome.noticed_us),
                    NULL,
                    field(outcome.reason.encode()),
                )
                cancelled += 1
            case Snoozed():
                attempt(outcome, _KIND_SNOOZED, None, None)
                if is_cancelled:
                    end(outcome, _CANCELLED)
                    cancelled += 1
                else:
                    parked.append(_Parked(outcome.job_id, lease.attempt, _PARK_SCHEDULED, outcome.delay))
            case Released():
                attempts.append(_Attempt(outcome.job_id, _KIND_RELEASED, None, None, None, None))
                if is_cancelled:
                    end(outcome, _CANCELLED)
                    cancelled += 1
                else:
                    returned.append(outcome.job_id)
            case Succeeded():
                raise AssertionError("successes are written before")

    await _store_attempts(connection, worker_id, report, attempts)
    await _store_parked(connection, report, parked, settled.key_id)
    if returned:
        n = len(returned)
        await connection.execute(
            _LEASES["give_back"],
            returned, [lease.tenant_id] * n, [lease.queue_id] * n, [lease.priority] * n, [lease.attempt] * n,
            [settled.key_id] * n,
        )  # fmt: skip
    retrying = sum(p.kind == _PARK_RETRYING for p in parked)
    await connection.execute(
        _LEASES["count_flow"],
        lease.tenant_id,
        lease.queue_id,
        lease.priority,
        len(returned),
        len(parked) - retrying,
        retrying,
        dead,
        cancelled,
        retrying,
    )


async def _store_attempts(
    connection: Connection, worker_id: int, report: LeaseReport, attempts: list[_Attempt]
) -> None:
    lease, n = report.lease, len(attempts)
    if attempts:
        await connection.execute(
            _LEASES["record_attempts"],
            [a.job_id for a in attempts],
            [lease.fence] * n,
            [lease.tenant_id] * n,
            [lease.attempt] * n,
            [a.kind for a in attempts],
            [a.error_class for a in attempts],
            [a.message for a in attempts],
            [a.traceback for a in attempts],
            [a.fingerprint for a in attempts],
            worker_id,
            [a.started_at for a in attempts],
        )


async def _store_parked(
    connection: Connection, report: LeaseReport, parked: list[_Parked], key_id: int | None
) -> None:
    lease, n = report.lease, len(parked)
    if parked:
        await connection.execute(
            _LEASES["park"],
            [p.job_id for p in parked],
            [lease.tenant_id] * n,
            [lease.queue_id] * n,
            [lease.priority] * n,
            [p.attempt for p in parked],
            [p.kind for p in parked],
            [p.delay for p in parked],
            [key_id] * n,
        )
