"""Group commit of submits: whatever arrives while a flush is under way becomes the next one.

No timer: an idle system flushes at once, a busy one shares one commit among all who wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from msgspec import Struct

from taskforge.domain.batches import Piece
from taskforge.domain.jobs import GroupAnswer, JobGroup, names_one_job
from taskforge.errors import Unavailable
from taskforge.postgres import groups
from taskforge.postgres.groups import Entry
from taskforge.postgres.ids import JobIds
from taskforge.postgres.keys import repoint_keys, take_keys, take_uniques
from taskforge.postgres.pool import Connection, Database
from taskforge.postgres.submit import (
    Place,
    hanging_on,
    is_few,
    publish,
    store_few,
)
from taskforge.services.flushes import Part, Plan, unique_of

_JOBS_PER_FLUSH = 10_000
_JOBS_WAITING = 100_000
_KEEP_KEYS = timedelta(hours=24)
_PATIENCE_SECONDS = 10.0
_SLOWEST_JOBS_PER_SECOND = 10_000


class Submission(Struct, eq=False):
    """One caller's groups, checked, with the queue id of each queue name they use.

    An all-or-nothing batch with keys flushes alone: a key that stands for another job rolls all of it back. So does a
    piece of a numbered stream, which may turn out not to be the next one. `uniques` are the unique keys it wants: of
    submissions that want the same, the later one waits for the next flush, as it may have to replace the earlier one.
    """

    tenant_id: UUID
    groups: Sequence[JobGroup]
    queue_ids: dict[str, int]
    size: int
    is_alone: bool
    future: asyncio.Future[list[GroupAnswer]]
    piece: Piece | None = None
    uniques: frozenset[tuple[UUID, str, str]] = frozenset()


class Submitter:
    """Owned by one process. `on_ready` hears the ids of queues that received claimable jobs, after the commit;
    `on_parked` hears that something was parked."""

    def __init__(
        self,
        database: Database,
        *,
        on_ready: Callable[[Iterable[int]], None],
        on_parked: Callable[[], None],
    ) -> None:
        self._database = database
        self._ids = JobIds(database)
        self._on_ready = on_ready
        self._on_parked = on_parked
        self._waiting: list[Submission] = []
        self._jobs_waiting = 0
        self._flushing: asyncio.Task[None] | None = None

    async def submit(
        self,
        tenant_id: UUID,
        groups: Sequence[JobGroup],
        queue_ids: dict[str, int],
        *,
        is_atomic: bool,
        piece: Piece | None = None,
    ) -> list[GroupAnswer]:
        """Returns when the jobs are durable, one answer per group. With a piece its items are settled with them.

        Raises Unavailable when the database is away or silent or too much is waiting, Conflict when an
        all-or-nothing batch uses a key that stands for another job.
        """
        size = sum(len(group.payloads) for group in groups)
        if self._jobs_waiting and self._jobs_waiting + size > _JOBS_WAITING:
            raise Unavailable(
                "submit.overloaded", f"{self._jobs_waiting} jobs wait to be stored; try again", retry_after=1
            )
        is_keyed = any(names_one_job(group.draft) for group in groups)
        future: asyncio.Future[list[GroupAnswer]] = asyncio.get_running_loop().create_future()
        submission = Submission(
            tenant_id,
            groups,
            queue_ids,
            size,
            (is_atomic and is_keyed and size > 1) or piece is not None,
            future,
            piece,
            _uniques(tenant_id, groups) if is_keyed else frozenset(),
        )
        self._waiting.append(submission)
        self._jobs_waiting += size
        self._start()
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS + size / _SLOWEST_JOBS_PER_SECOND):
                # A caller that goes away must not take its neighbours' flush along.
                return await asyncio.shield(future)
        except TimeoutError:
            raise self._given_up(submission) from None

    async def take_ids(self, count: int) -> list[range]:
        """Ids for jobs that are stored in a transaction of the caller's own."""
        return await self._ids.take(count)

    async def close(self) -> None:
        """Returns when everything accepted so far has been answered."""
        while self._flushing is not None:
            await asyncio.wait({self._flushing})

    def _given_up(self, submission: Submission) -> Unavailable:
        """What to tell a caller who has waited long enough. What no flush has taken yet is never stored."""
        if submission in self._waiting:
            self._waiting.remove(submission)
            self._jobs_waiting -= submission.size
            return Unavailable(
                "database.unavailable", "the database does not answer; nothing was stored", retry_after=5
            )
        return Unavailable(
            "database.commit_unknown",
            "the database has not answered in time; the work may or may not have been stored",
            retry_after=5,
        )

    def _start(self) -> None:
        # One at a time: two would each be smaller, and a COPY has a fixed price.
        if self._waiting and self._flushing is None:
            self._flushing = asyncio.create_task(self._flush(self._take()), name="submit-flush")
            self._flushing.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._flushing = None
        self._start()

    def _take(self) -> list[Submission]:
        batch = [self._waiting[0]]
        size = batch[0].size
        uniques = batch[0].uniques
        if not batch[0].is_alone:
            for submission in self._waiting[1:]:
                size += submission.size
                if submission.is_alone or size > _JOBS_PER_FLUSH:
                    break
                if submission.uniques:
                    if not uniques.isdisjoint(submission.uniques):
                        break
                    uniques = uniques | submission.uniques
                batch.append(submission)
        del self._waiting[: len(batch)]
        return batch

    async def _flush(self, batch: list[Submission]) -> None:
        try:
            answers = await self._store(batch)
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, Unavailable):
                # One of them is bad for a reason no check foresaw: each gets its own transaction.
                for submission in batch:
                    await self._flush([submission])
                return
            for submission in batch:
                self._jobs_waiting -= submission.size
                if not submission.future.done():
                    submission.future.set_exception(error)
                    submission.future.exception()  # counts as seen, even if the caller has gone
        else:
            for submission, answer in zip(batch, answers, strict=True):
                self._jobs_waiting -= submission.size
                if not submission.future.done():
                    submission.future.set_result(answer)

    async def _store(self, batch: list[Submission]) -> list[list[GroupAnswer]]:
        plan = Plan(
            [Part(one.tenant_id, one.groups, one.queue_ids) for one in batch],
            is_atomic=batch[0].is_alone and batch[0].piece is None,
        )
        ids = await self._ids.take(sum(submission.size for submission in batch))
        plan.assign(ids)
        entries = _entries(batch)
        submitted_at: datetime | None = None
        if not plan.has_keys and not entries and is_few(plan.runs):
            submitted_at = await store_few(self._database, plan.runs)
        else:
            async with self._database.ingest() as connection:
                if entries:
                    await groups.enter(connection, entries)
                if plan.has_keys:
                    await self._take_keys(plan, connection)
                if plan.runs:
                    submitted_at = await publish(connection, plan.runs)
                if entries:
                    await groups.join(connection, entries, hanging_on(plan.runs))
        settled = {job_id: state for run in plan.runs for job_id, state in run.settled.items()}
        if settled:
            plan.settle_parents(settled)
        if ready := {run.lane.queue_id for run in plan.runs if run.lane.place is Place.READY}:
            self._on_ready(ready)
        if any(run.lane.place is not Place.READY for run in plan.runs):
            self._on_parked()
        if settled:
            self._on_ready({run.lane.queue_id for run in plan.runs if run.settled})
        for submission, answers in zip(batch, plan.answers, strict=True):
            if submission.size == 1:
                answers[0].submitted_at = submitted_at
        return plan.answers

    async def _take_keys(self, plan: Plan, connection: Connection) -> None:
        if plan.offers:
            await take_keys(connection, plan.offers, keep=_KEEP_KEYS)
        if uniques := plan.settle_keys():
            await take_uniques(connection, uniques)
        if repointed := plan.settle_uniques():
            await repoint_keys(connection, repointed)


def _entries(batch: Sequence[Submission]) -> list[Entry]:
    """The batches that somebody joins, each once."""
    found: dict[tuple[UUID, int], Entry] = {}
    for submission in batch:
        tenant_id, piece = submission.tenant_id, submission.piece
        if piece is not None:
            found[tenant_id, piece.batch_id] = Entry(tenant_id, piece.batch_id, piece)
        for group in submission.groups:
            if group.draft.terms is not None and (batch_id := groups.batch_of(group.draft)) is not None:
                found.setdefault((tenant_id, batch_id), Entry(tenant_id, batch_id))
    return list(found.values())


def _uniques(tenant_id: UUID, groups: Sequence[JobGroup]) -> frozenset[tuple[UUID, str, str]]:
    found = ((group.draft.job_type, unique_of(group.draft)) for group in groups)
    return frozenset((tenant_id, job_type, unique.key) for job_type, unique in found if unique is not None)
