"""One flush: many submitted jobs, of many callers and tenants, become durable in one transaction.

COPY into jobs, then one extent per contiguous run of one (queue, priority), or one parked row per job that must wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import IntEnum
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Struct

from taskforge.domain.jobs import JobDraft, JobGroup, JobOptions, JobState
from taskforge.errors import FieldError, Invalid
from taskforge.postgres import groups
from taskforge.postgres.copy import FLOAT8, INT2, INT4, LENGTH, NULL, ROW_START, field, stream
from taskforge.postgres.pool import Connection, Database
from taskforge.postgres.sql import queries

_SUBMIT = queries("submit")
_PLAIN_COLUMNS = ["id", "tenant_id", "queue_id", "priority", "job_type", "payload"]
_ALL_COLUMNS = [*_PLAIN_COLUMNS, "max_attempts", "timeout_seconds", "options"]
_FEW = 100
ON_FAILURE = {"cancel": 1, "block": 2, "run": 3, "only": 4}
SETTLED = {0: JobState.PENDING, 1: JobState.SCHEDULED, 3: JobState.CANCELLED}
_encode = msgspec.json.Encoder().encode


class Place(IntEnum):
    """Where a new job waits; those above READY are also the kinds of parked rows."""

    READY = 0
    SCHEDULED = 1
    BLOCKED = 3


class Lane(Struct, frozen=True):
    """Jobs that go to one place."""

    tenant_id: UUID
    queue_id: int
    priority: int
    place: Place
    key: str | None = None


class Run(Struct):
    """Jobs of one lane with the ids they were given, contiguous from `first`; parts of (draft, payloads)."""

    lane: Lane
    first: int
    parts: list[tuple[JobDraft, Sequence[bytes]]]
    size: int = 0
    settled: dict[int, JobState] = msgspec.field(default_factory=dict)
    """Jobs that turned out to be somewhere else than in the lane's place: children of parents that had ended."""

    @property
    def last(self) -> int:
        return self.first + self.size - 1


def lay_out(lane: Lane, groups: Iterable[JobGroup], ids: list[range]) -> tuple[list[Run], list[list[int]]]:
    """Give the groups ids from the front of `ids`, which it consumes; also the ids of each group, in order."""
    runs: list[Run] = []
    given: list[list[int]] = []
    for group in groups:
        mine: list[int] = []
        start = 0
        while start < len(group.payloads):
            part = ids[0][: len(group.payloads) - start]
            if not runs or runs[-1].last + 1 != part.start:
                runs.append(Run(lane, part.start, []))
            run = runs[-1]
            whole = len(part) == len(group.payloads)
            run.parts.append(
                (group.draft, group.payloads if whole else group.payloads[start : start + len(part)])
            )
            run.size += len(part)
            mine += part
            start += len(part)
            ids[0] = ids[0][len(part) :]
            if not ids[0]:
                del ids[0]
        given.append(mine)
    return runs, given


def is_few(runs: Sequence[Run]) -> bool:
    """True for runs that `store_few` takes."""
    return sum(run.size for run in runs) <= _FEW and all(
        run.lane.place is Place.READY and _has_no_options(draft) for run in runs for draft, _ in run.parts
    )


async def store_few(database: Database, runs: Sequence[Run]) -> datetime:
    """What `publish` does in a transaction, for a few plain jobs in a single round trip; durable when it returns."""
    jobs = [
        (job_id, number, draft.job_type, payload)
        for number, run in enumerate(runs, 1)
        for job_id, (draft, payload) in enumerate(
            ((draft, payload) for draft, payloads in run.parts for payload in payloads), run.first
        )
    ]
    submitted_at: datetime = await database.append(
        _SUBMIT["store_few"],
        [job_id for job_id, _, _, _ in jobs],
        [number for _, number, _, _ in jobs],
        [job_type for _, _, job_type, _ in jobs],
        [payload for _, _, _, payload in jobs],
        [run.lane.tenant_id for run in runs],
        [run.lane.queue_id for run in runs],
        [run.lane.priority for run in runs],
        [run.first for run in runs],
        [run.last for run in runs],
    )
    return submitted_at


async def publish(connection: Connection, runs: Sequence[Run]) -> datetime:
    """Store the runs and make them claimable; returns their submitted_at.

    Raises Conflict `queue.gone` when a queue was deleted meanwhile.
    """
    is_plain = all(_has_no_options(draft) for run in runs for draft, _ in run.parts)
    await connection.copy_to_table(
        "jobs",
        schema_name="taskforge",
        columns=_PLAIN_COLUMNS if is_plain else _ALL_COLUMNS,
        source=stream(encode_plain(runs) if is_plain else encode_full(runs)),
        format="binary",
    )
    keys = await _ensure_keys(runs, connection)
    submitted_at: datetime = await connection.fetchval(
        _SUBMIT["publish"],
        [run.lane.tenant_id for run in runs],
        [run.lane.queue_id for run in runs],
        [run.lane.priority for run in runs],
        [run.first for run in runs],
        [run.last for run in runs],
        [run.lane.place for run in runs],
        keys,
    )
    await _park(
        [(run, key) for run, key in zip(runs, keys, strict=True) if run.lane.place is not Place.READY],
        connection,
    )
    if any(run.lane.place is Place.BLOCKED for run in runs):
        await _await_parents(runs, connection)
    if not is_plain:
        if hanging := hanging_on(runs):
            await groups.hang(connection, hanging)
        await _note_expiries(runs, connection)
    if touched := sorted({key for key in keys if key is not None}):
        await connection.execute(_SUBMIT["touch_limits"], touched, [0] * len(touched))
    return submitted_at


async def _await_parents(runs: Sequence[Run], connection: Connection) -> None:
    """The edges of children; those whose parents have all ended wait no longer, which is noted on their runs.

    Raises Invalid `job.parent_not_found` when a parent was purged since it was looked up.
    """
    edges: list[tuple[UUID, int, int, int]] = []
    for run in runs:
        child = run.first
        for draft, payloads in run.parts:
            for child_id in range(child, child + len(payloads)):
                edges += [
                    (run.lane.tenant_id, child_id, int(parent.job_id), ON_FAILURE[parent.on_failure])
                    for parent in (draft.terms.depends_on if draft.terms is not None else ())
                ]
            child += len(payloads)
    try:
        rows = await connection.fetch(
            _SUBMIT["await_parents"], *(list(part) for part in zip(*edges, strict=True))
        )
    except asyncpg.PostgresError as error:
        if error.sqlstate != "TF004":
            raise
        raise parent_not_found(str(error.args[0])) from error
    settled = {row["child_id"]: SETTLED[row["state"]] for row in rows}
    for run in runs:
        if run.lane.place is Place.BLOCKED:
            run.settled = {
                job_id: settled[job_id] for job_id in range(run.first, run.last + 1) if job_id in settled
            }


def parent_not_found(job_id: str, pointer: str = "/depends_on") -> Invalid:
    detail = f'job "{job_id}" does not exist, so no job can depend on it'
    return Invalid(
        "job.parent_not_found", detail, fields=(FieldError(pointer, "job.parent_not_found", detail),)
    )


async def _note_expiries(runs: Sequence[Run], connection: Connection) -> None:
    """Jobs that may wait too long are looked at when they have."""
    rows: list[tuple[int, UUID, int, datetime | None, float | None]] = []
    for run in runs:
        job_id = run.first
        for draft, payloads in run.parts:
            ids = range(job_id, job_id + len(payloads))
            job_id += len(payloads)
            if (terms := draft.terms) is None:
                continue
            tenant_id = run.lane.tenant_id
            if terms.expires_at is not None or terms.expires_in_seconds is not None:
                rows += [(i, tenant_id, 1, terms.expires_at, terms.expires_in_seconds) for i in ids]
            if terms.deadline_at is not None or terms.deadline_in_seconds is not None:
                rows += [(i, tenant_id, 2, terms.deadline_at, terms.deadline_in_seconds) for i in ids]
    if rows:
        await connection.execute(_SUBMIT["note_expiries"], *(list(part) for part in zip(*rows, strict=True)))


async def _ensure_keys(runs: Sequence[Run], connection: Connection) -> list[int | None]:
    """For each run the row that counts its key; None for runs without one, which is all of them as a rule."""
    lanes = sorted({_key(run) for run in runs if run.lane.key is not None})
    if not lanes:
        return [None] * len(runs)
    tenants, queues, keys = zip(*lanes, strict=True)
    ids = await connection.fetchval(_SUBMIT["ensure_keys"], tenants, queues, keys)
    found = dict(zip(lanes, ids, strict=True))
    return [found.get(_key(run)) for run in runs]


def _key(run: Run) -> tuple[UUID, int, str]:
    return run.lane.tenant_id, run.lane.queue_id, run.lane.key or ""


def hanging_on(runs: Sequence[Run]) -> list[groups.Hanging]:
    """What hangs on the end of these jobs: the batches they belong to, and whoever wants to be told."""
    return [row for run in runs for row in groups.hangs_on(run.lane.tenant_id, run.first, run.parts)]


async def _park(runs: Sequence[tuple[Run, int | None]], connection: Connection) -> None:
    rows = []
    for run, key in runs:
        drafts = (draft for draft, payloads in run.parts for _ in payloads)
        rows += [(job_id, run.lane, draft, key) for job_id, draft in enumerate(drafts, run.first)]
    if rows:
        await connection.execute(
            _SUBMIT["park_new"],
            [job_id for job_id, *_ in rows],
            [lane.tenant_id for _, lane, _, _ in rows],
            [lane.queue_id for _, lane, _, _ in rows],
            [lane.priority for _, lane, _, _ in rows],
            [lane.place for _, lane, _, _ in rows],
            [draft.run_at for _, _, draft, _ in rows],
            [draft.delay_seconds for _, _, draft, _ in rows],
            [key for *_, key in rows],
        )


def encode_plain(runs: Sequence[Run]) -> list[bytes]:
    """COPY rows of jobs that have nothing but a type and a payload."""
    parts: list[bytes] = []
    add = parts.append
    for run in runs:
        middle = _middle(run.lane)
        job_id = run.first
        for draft, payloads in run.parts:
            head = middle + field(draft.job_type.encode())
            for payload in payloads:
                add(ROW_START(6, 8, job_id) + head + LENGTH(len(payload)))
                add(payload)
                job_id += 1
    return parts


def encode_full(runs: Sequence[Run]) -> list[bytes]:
    """COPY rows with every column."""
    parts: list[bytes] = []
    for run in runs:
        middle = _middle(run.lane)
        job_id = run.first
        for draft, payloads in run.parts:
            head = middle + field(draft.job_type.encode())
            tail = (
                (NULL if draft.max_attempts is None else INT2(2, draft.max_attempts))
                + (NULL if draft.timeout_seconds is None else FLOAT8(8, draft.timeout_seconds))
                + _options(draft)
            )
            for payload in payloads:
                parts += (ROW_START(9, 8, job_id), head, LENGTH(len(payload)), payload, tail)
                job_id += 1
    return parts


def _middle(lane: Lane) -> bytes:
    return field(lane.tenant_id.bytes) + INT4(4, lane.queue_id) + INT2(2, lane.priority)


def _options(draft: JobDraft) -> bytes:
    options = JobOptions(
        draft.retry, draft.idempotency_key, draft.tags, draft.trace, draft.terms, draft.inputs
    )
    if options == _NO_OPTIONS:
        return NULL
    return field(b"\x01" + _encode(options))  # jsonb's binary form: a version, then the text


_NO_OPTIONS = JobOptions()


def _has_no_options(draft: JobDraft) -> bool:
    return draft.max_attempts is None and draft.timeout_seconds is None and _options(draft) is NULL
