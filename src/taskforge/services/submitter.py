"""Group commit of submits: whatever arrives while a flush is under way becomes the next one.

No timer: an idle system flushes at once, a busy one shares one commit among all who wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from uuid import UUID

from msgspec import Struct

from taskforge.domain.batches import Piece
from taskforge.domain.idempotency import body_hash
from taskforge.domain.jobs import GroupAnswer, JobDraft, JobGroup, JobState
from taskforge.errors import Conflict, Unavailable
from taskforge.postgres import groups
from taskforge.postgres.groups import Entry
from taskforge.postgres.ids import JobIds
from taskforge.postgres.pool import Database
from taskforge.postgres.submit import (
    KeyedDraft,
    Lane,
    Place,
    Run,
    hanging_on,
    is_few,
    lay_out,
    publish,
    store_few,
    take_keys,
)

_JOBS_PER_FLUSH = 10_000
_JOBS_WAITING = 100_000
_KEEP_KEYS = timedelta(hours=24)
_PATIENCE_SECONDS = 10.0
_SLOWEST_JOBS_PER_SECOND = 10_000
_STATES = {
    Place.READY: JobState.PENDING,
    Place.SCHEDULED: JobState.SCHEDULED,
    Place.BLOCKED: JobState.BLOCKED,
}


class Submission(Struct, eq=False):
    """One caller's groups, checked, with the queue id of each queue name they use.

    An all-or-nothing batch with idempotency keys flushes alone: a key that stands for another job rolls all of it back.
    So does a piece of a numbered stream, which may turn out not to be the next one.
    """

    tenant_id: UUID
    groups: Sequence[JobGroup]
    queue_ids: dict[str, int]
    size: int
    is_alone: bool
    future: asyncio.Future[list[GroupAnswer]]
    piece: Piece | None = None


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
        is_keyed = any(group.draft.idempotency_key is not None for group in groups)
        future: asyncio.Future[list[GroupAnswer]] = asyncio.get_running_loop().create_future()
        submission = Submission(
            tenant_id,
            groups,
            queue_ids,
            size,
            (is_atomic and is_keyed and size > 1) or piece is not None,
            future,
            piece,
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
        if not batch[0].is_alone:
            for submission in self._waiting[1:]:
                size += submission.size
                if submission.is_alone or size > _JOBS_PER_FLUSH:
                    break
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
        plan = _Plan(batch)
        ids = await self._ids.take(sum(submission.size for submission in batch))
        plan.assign(ids)
        entries = _entries(batch)
        if not plan.offers and not entries and is_few(plan.runs):
            await store_few(self._database, plan.runs)
        else:
            async with self._database.ingest() as connection:
                if entries:
                    await groups.enter(connection, entries)
                if plan.offers:
                    await take_keys(connection, plan.offers, keep=_KEEP_KEYS)
                    plan.settle_keys()
                if plan.runs:
                    await publish(connection, plan.runs)
                if entries:
                    await groups.join(connection, entries, hanging_on(plan.runs))
        settled = {job_id: state for run in plan.runs for job_id, state in run.settled.items()}
        if settled:
            plan.settle(settled)
        if ready := {run.lane.queue_id for run in plan.runs if run.lane.place is Place.READY}:
            self._on_ready(ready)
        if any(run.lane.place is not Place.READY for run in plan.runs):
            self._on_parked()
        if settled:
            self._on_ready({run.lane.queue_id for run in plan.runs if run.settled})
        return plan.answers


class _Plan:
    """Lays the groups of a flush out in lanes. Keyed ones join only once their key is theirs."""

    def __init__(self, batch: list[Submission]) -> None:
        self.runs: list[Run] = []
        self.answers = [[GroupAnswer([]) for _ in submission.groups] for submission in batch]
        self.offers: list[KeyedDraft] = []
        self._is_atomic = batch[0].is_alone and batch[0].piece is None
        self._plain: dict[Lane, list[tuple[JobGroup, GroupAnswer]]] = {}
        self._keyed: list[tuple[Lane, JobGroup, GroupAnswer, KeyedDraft]] = []
        for submission, answers in zip(batch, self.answers, strict=True):
            for group, answer in zip(submission.groups, answers, strict=True):
                lane = lane_of(
                    submission.tenant_id, submission.queue_ids[group.draft.queue_name], group.draft
                )
                if group.draft.idempotency_key is None:
                    self._plain.setdefault(lane, []).append((group, answer))
                else:
                    self._keyed.append((lane, group, answer, _offer(submission.tenant_id, group)))

    def assign(self, ids: list[range]) -> None:
        for lane, entries in self._plain.items():
            runs, given = lay_out(lane, (group for group, _ in entries), ids)
            self.runs += runs
            for (_, answer), mine in zip(entries, given, strict=True):
                answer.ids = mine
                answer.state = _state(lane)
        seen: dict[tuple[UUID, str], KeyedDraft] = {}
        self._keyed.sort(
            key=lambda entry: (entry[0].queue_id, entry[0].priority, entry[0].place, entry[0].key or "")
        )
        for lane, group, answer, offer in self._keyed:
            runs, [mine] = lay_out(lane, [group], ids)
            offer.job_id = mine[0]
            answer.ids = mine
            seen.setdefault((offer.tenant_id, offer.key), offer)
        # A key that a flush brings twice is offered once; the others are its replays.
        self.offers = list(seen.values())

    def settle(self, states: dict[int, JobState]) -> None:
        """Children whose parents had ended do not wait. Jobs of one group have the same parents, so the same fate."""
        for answers in self.answers:
            for answer in answers:
                if answer.ids and answer.created and answer.ids[0] in states:
                    answer.state = states[answer.ids[0]]

    def settle_keys(self) -> None:
        """After `take_keys`: new jobs join the runs, replays answer with the earlier job, the rest are refused."""
        by_key = {(offer.tenant_id, offer.key): offer for offer in self.offers}
        for lane, group, answer, mine in self._keyed:
            offer = by_key[mine.tenant_id, mine.key]
            if offer.is_mismatch or offer.body_hash != mine.body_hash:
                answer.ids = []
                answer.error = Conflict(
                    "idempotency_key_reused",
                    f'the idempotency key "{mine.key}" was used for a job with another content',
                )
                if self._is_atomic:
                    raise answer.error
            elif offer is mine and offer.is_new:
                answer.state = _state(lane)
                self._join(lane, mine.job_id, group)
            else:
                assert offer.owner is not None
                answer.ids = [offer.owner]
                answer.created = False

    def _join(self, lane: Lane, job_id: int, group: JobGroup) -> None:
        part = (group.draft, group.payloads)
        if self.runs and self.runs[-1].lane == lane and self.runs[-1].last + 1 == job_id:
            self.runs[-1].parts.append(part)
            self.runs[-1].size += 1
        else:
            self.runs.append(Run(lane, job_id, [part], 1))


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


def lane_of(tenant_id: UUID, queue_id: int, draft: JobDraft) -> Lane:
    """Where a new job like this goes."""
    return Lane(
        tenant_id,
        queue_id,
        draft.priority,
        _place(draft),
        None if draft.terms is None else draft.terms.concurrency_key,
    )


def _place(draft: JobDraft) -> Place:
    if draft.terms is not None and draft.terms.depends_on:
        return Place.BLOCKED
    if draft.run_at is not None or draft.delay_seconds:
        return Place.SCHEDULED
    return Place.READY


def _state(lane: Lane) -> JobState:
    return _STATES[lane.place]


def _offer(tenant_id: UUID, group: JobGroup) -> KeyedDraft:
    assert group.draft.idempotency_key is not None
    return KeyedDraft(tenant_id, group.draft.idempotency_key, body_hash(group.draft, group.payloads[0]), 0)
