"""A batch ends once, whoever ends its last members, and its callbacks go off once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from msgspec import Raw

from taskforge.domain.batches import BatchDraft, Callback, CallbackJob, Callbacks, Piece
from taskforge.domain.jobs import JobDraft, JobState
from taskforge.domain.leases import Lease
from taskforge.domain.terms import JobTerms
from taskforge.errors import Conflict, Invalid, TaskForgeError
from taskforge.postgres import maintenance
from taskforge.runtime.batch_canceller import BatchCanceller
from taskforge.services import batches, dead_letters, jobs, leases
from tests.support.engine import Engine, Worker, failed, report, retrying, stopped, succeeded, together

EVERY = Callbacks(
    **{
        name: Callback(CallbackJob("default", name, Raw(b'{"of": 1}')), None, "batch")
        for name in ("on_success", "on_failure", "on_complete")
    }
)


class Batch:
    """An open batch with all three callbacks."""

    def __init__(self, engine: Engine, batch_id: int) -> None:
        self.engine = engine
        self.id = batch_id

    @classmethod
    async def make(cls, engine: Engine, callbacks: Callbacks = EVERY) -> Batch:
        made = await batches.create(engine.core, engine.ctx, BatchDraft("b", callbacks))
        return cls(engine, int(made.id))

    async def add(self, count: int, **fields: Any) -> list[int]:
        return await self.engine.submit(count, terms=JobTerms(batch_id=str(self.id)), **fields)

    async def seal(self, engine: Engine | None = None) -> None:
        e = engine or self.engine
        await batches.seal(e.core, e.ctx, self.id)

    async def counts(self) -> tuple[str, int, int, int, int]:
        view = await batches.get(self.engine.core, self.engine.ctx, self.id)
        return view.state.value, view.total, view.succeeded, view.failed, view.cancelled

    async def state(self) -> str:
        return (await self.counts())[0]

    async def went_off(self) -> list[str]:
        """The job types of callbacks that were made, sorted, repetitions and all."""
        rows = await self.engine.admin.fetch(
            "select job_type from jobs where job_type like 'on_%' order by 1"
        )
        return [row["job_type"] for row in rows]


async def held(engine: Engine, count: int) -> tuple[Worker, list[Lease]]:
    worker = await engine.register()
    taken: list[Lease] = []
    while sum(len(lease.ids) for lease in taken) < count:
        taken += await engine.claim(worker, 1)
    return worker, taken


async def test_a_batch_counts_its_members_and_ends_when_the_last_one_does(engine: Engine) -> None:
    batch = await Batch.make(engine)
    await batch.add(3)
    await engine.submit(1)
    assert await batch.counts() == ("open", 3, 0, 0, 0)
    await batch.seal()
    worker = await engine.register()
    [lease] = [lease for lease in await engine.claim(worker, 3)]
    await engine.finish(worker, report(lease, succeeded, lease.ids[:2]))
    assert await batch.counts() == ("running", 3, 2, 0, 0)
    assert await batch.went_off() == []
    await engine.finish(worker, report(lease, succeeded, lease.ids[2:]))
    assert await batch.counts() == ("succeeded", 3, 3, 0, 0)
    assert await batch.went_off() == ["on_complete", "on_success"]


async def test_a_batch_without_members_succeeds_when_it_is_sealed(engine: Engine) -> None:
    batch = await Batch.make(engine)
    await batch.seal()
    await batch.seal()
    assert await batch.counts() == ("succeeded", 0, 0, 0, 0)
    assert await batch.went_off() == ["on_complete", "on_success"]


async def test_an_open_batch_does_not_end_with_its_members(engine: Engine) -> None:
    batch = await Batch.make(engine)
    await batch.add(1)
    worker, [lease] = await held(engine, 1)
    await engine.finish(worker, report(lease, succeeded))
    assert await batch.state() == "open"
    await batch.seal()
    assert await batch.state() == "succeeded"


async def test_the_first_failure_is_told_at_once_and_the_next_is_not(engine: Engine) -> None:
    batch = await Batch.make(engine)
    await batch.add(3)
    await batch.seal()
    worker, taken = await held(engine, 3)
    await engine.finish(worker, report(taken[0], failed))
    assert await batch.went_off() == ["on_failure"]
    await engine.finish(worker, report(taken[1], failed))
    assert await batch.went_off() == ["on_failure"]
    await engine.finish(worker, report(taken[2], succeeded))
    assert await batch.went_off() == ["on_complete", "on_failure"]
    assert await batch.counts() == ("failed", 3, 1, 2, 0)


async def test_an_attempt_that_will_be_repeated_is_no_failure(engine: Engine) -> None:
    batch = await Batch.make(engine)
    ids = await batch.add(1)
    await batch.seal()
    worker, [lease] = await held(engine, 1)
    await engine.finish(worker, report(lease, retrying))
    assert (await batch.went_off(), await batch.state()) == ([], "running")
    await engine.make_due(ids)
    await engine.promote()
    [again] = await engine.claim(worker)
    await engine.finish(worker, report(again, succeeded))
    assert await batch.went_off() == ["on_complete", "on_success"]


@pytest.mark.parametrize("first", [0, 1])
async def test_two_last_members_that_end_at_once_end_the_batch_once(
    engine: Engine, other: Engine, first: int
) -> None:
    batch = await Batch.make(engine)
    await batch.add(2)
    await batch.seal()
    worker, taken = await held(engine, 2)
    one, two = taken[first], taken[1 - first]
    async with engine.holding("select from groups for update"):
        ending = asyncio.create_task(engine.finish(worker, report(one, succeeded)))
        await engine.blocked(1)
        ending_too = asyncio.create_task(other.finish(worker, report(two, succeeded)))
        await engine.blocked(2)
    assert await ending == await ending_too == []
    assert await batch.counts() == ("succeeded", 2, 2, 0, 0)
    assert await batch.went_off() == ["on_complete", "on_success"]


@pytest.mark.parametrize("seals_first", [True, False])
async def test_a_seal_that_meets_the_last_end_ends_the_batch_once(
    engine: Engine, other: Engine, seals_first: bool
) -> None:
    batch = await Batch.make(engine)
    await batch.add(1)
    worker, [lease] = await held(engine, 1)
    steps = [lambda: batch.seal(other), lambda: engine.finish(worker, report(lease, succeeded))]
    async with engine.holding("select from groups for update"):
        one = asyncio.create_task(steps[not seals_first]())  # type: ignore[arg-type]
        await engine.blocked(1)
        two = asyncio.create_task(steps[seals_first]())  # type: ignore[arg-type]
        await engine.blocked(2)
    await asyncio.gather(one, two)
    assert await batch.state() == "succeeded"
    assert await batch.went_off() == ["on_complete", "on_success"]


@pytest.mark.parametrize("seals_first", [True, False])
async def test_a_job_that_meets_the_seal_joins_or_is_refused(
    engine: Engine, other: Engine, seals_first: bool
) -> None:
    batch = await Batch.make(engine)
    steps = [lambda: batch.seal(other), lambda: batch.add(1)]
    async with engine.holding("select from groups for update"):
        one = asyncio.create_task(steps[not seals_first]())  # type: ignore[arg-type]
        await engine.blocked(1)
        two = asyncio.create_task(steps[seals_first]())  # type: ignore[arg-type]
        await engine.blocked(2)
    said = [answer for answer in await together(one, two) if isinstance(answer, TaskForgeError)]
    if seals_first:
        assert [error.code for error in said] == ["batch.sealed"]
        assert await batch.counts() == ("succeeded", 0, 0, 0, 0)
    else:
        assert said == []
        assert await batch.counts() == ("running", 1, 0, 0, 0)
    assert await engine.admin.fetchval("select count(*) from jobs where job_type = 'noop'") == 1 - seals_first


async def test_a_finish_that_is_rolled_back_counts_nobody_and_sets_nothing_off(engine: Engine) -> None:
    batch = await Batch.make(engine)
    await batch.add(1)
    await batch.seal()
    worker, [lease] = await held(engine, 1)
    async with engine.holding("select from groups for update"):
        ending = asyncio.create_task(engine.finish(worker, report(lease, succeeded)))
        await engine.blocked(1)
        await engine.admin.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and wait_event_type = 'Lock'"
        )
        with pytest.raises(TaskForgeError):
            await ending
    assert (await batch.state(), await batch.went_off()) == ("running", [])
    assert await engine.finish(worker, report(lease, succeeded)) == []
    assert (await batch.state(), await batch.went_off()) == ("succeeded", ["on_complete", "on_success"])


async def test_a_member_lost_with_its_worker_for_good_ends_the_batch(engine: Engine) -> None:
    batch = await Batch.make(engine)
    await batch.add(1, max_attempts=1)
    await batch.seal()
    worker, _ = await held(engine, 1)
    await engine.expire(worker)
    await engine.reap()
    assert await batch.counts() == ("failed", 1, 0, 1, 0)
    assert await batch.went_off() == ["on_complete", "on_failure"]


async def test_a_cancelled_member_ends_without_being_a_failure(engine: Engine) -> None:
    batch = await Batch.make(engine)
    [job_id] = await batch.add(1)
    await batch.seal()
    await engine.cancel(job_id)
    assert await batch.counts() == ("cancelled", 1, 0, 0, 1)
    assert await batch.went_off() == ["on_complete"]


async def test_a_redriven_member_reopens_its_batch_and_no_callback_goes_off_twice(engine: Engine) -> None:
    batch = await Batch.make(engine)
    await batch.add(2)
    await batch.seal()
    worker, taken = await held(engine, 2)
    await engine.finish(worker, report(taken[0], failed))
    await engine.finish(worker, report(taken[1], succeeded))
    assert await batch.state() == "failed"
    await dead_letters.redrive(engine.core, engine.ctx, "default")
    assert await batch.counts() == ("running", 2, 1, 0, 0)
    while await batch.state() == "running":
        for lease in await engine.claim(worker, 10):
            await engine.finish(worker, report(lease, succeeded))
    assert await batch.state() == "succeeded"
    assert await batch.went_off() == ["on_complete", "on_failure", "on_success"]


async def test_a_callback_whose_queue_is_gone_does_not_keep_the_last_member_from_ending(
    engine: Engine,
) -> None:
    await engine.core.directory.ensure(engine.ctx.tenant_id, ["doomed"])
    batch = await Batch.make(
        engine, Callbacks(on_complete=Callback(CallbackJob("doomed", "on_complete", Raw(b"{}"))))
    )
    await engine.admin.execute("update queues set deleted_at = now() where name = 'doomed'")
    await batch.seal()
    view = await batches.get(engine.core, engine.ctx, batch.id)
    assert view.state.value == "succeeded"
    assert view.fired["on_complete"].error == 'queue "doomed" does not exist any more'


async def test_a_callback_carries_how_the_batch_went(engine: Engine) -> None:
    batch = await Batch.make(engine)
    await batch.add(1)
    await batch.seal()
    worker, [lease] = await held(engine, 1)
    await engine.finish(worker, report(lease, failed))
    view = await batches.get(engine.core, engine.ctx, batch.id)
    made = await engine.view(int(view.fired["on_complete"].job_id or 0))
    assert b'"failed": 1' in bytes(made.payload) and b'"of": 1' in bytes(made.payload)


async def test_pieces_of_a_stream_are_taken_once_each_and_in_their_order(engine: Engine) -> None:
    batch = await Batch.make(engine)
    draft = JobDraft("default", "noop", b"{}")

    async def send(before: int, after: int) -> int:
        sent = await batches.add(
            engine.core,
            engine.ctx,
            batch.id,
            [draft] * (after - before),
            piece=Piece(batch.id, before, after),
        )
        return len(sent)

    assert await send(0, 3) == 3
    for before, after in ((0, 3), (5, 6)):
        with pytest.raises(Conflict, match="go on with item 4"):
            await send(before, after)
    at_once = await together(*(send(3, 5) for _ in range(5)))
    assert sorted(isinstance(answer, Conflict) for answer in at_once) == [False, True, True, True, True]
    view = await batches.get(engine.core, engine.ctx, batch.id)
    assert (view.total, view.received) == (5, 5)


async def test_a_piece_of_wrong_items_alone_is_settled_too(engine: Engine) -> None:
    batch = await Batch.make(engine)
    [verdict] = await batches.add(
        engine.core,
        engine.ctx,
        batch.id,
        [JobDraft("default", "no type!", b"{}")],
        piece=Piece(batch.id, 0, 1),
    )
    assert verdict.error is not None
    view = await batches.get(engine.core, engine.ctx, batch.id)
    assert (view.total, view.received) == (0, 1)


async def test_an_idempotency_key_that_leads_to_an_earlier_job_makes_no_member(engine: Engine) -> None:
    await engine.submit(1, idempotency_key="k")
    batch = await Batch.make(engine)
    draft = JobDraft("default", "noop", b"{}", idempotency_key="j")
    for _ in range(2):
        await batches.add(engine.core, engine.ctx, batch.id, [draft])
    assert await batch.counts() == ("open", 1, 0, 0, 0)


async def test_a_batch_of_another_tenant_cannot_be_joined(engine: Engine) -> None:
    stranger = await engine.stranger("default")
    batch = await Batch.make(stranger, Callbacks())
    with pytest.raises(Invalid, match="does not exist"):
        await engine.submit(1, terms=JobTerms(batch_id=str(batch.id)))
    [verdict] = await batches.add(engine.core, engine.ctx, batch.id, [JobDraft("default", "noop", b"{}")])
    assert verdict.error is not None and verdict.error.code == "batch.not_found"
    assert await batch.counts() == ("open", 0, 0, 0, 0)


async def test_members_are_held_as_ranges_not_one_by_one(engine: Engine) -> None:
    batch = await Batch.make(engine)
    terms = JobTerms(batch_id=str(batch.id))
    mixed = [JobDraft("default", "noop", b"{}", tags=(f"t{n}",), terms=terms) for n in range(2_500)]
    await jobs.submit(engine.core, engine.ctx, mixed)
    rows = await engine.admin.fetch("select lo, hi from followups where kind = 2")
    assert sum(row["hi"] - row["lo"] + 1 for row in rows) == 2_500
    assert len(rows) <= 6


async def test_a_plain_job_leaves_no_trace_in_what_batches_need(engine: Engine) -> None:
    await engine.submit(10, tags=("t",))
    assert await engine.admin.fetchval("select count(*) from followups") == 0


async def test_cancelling_a_batch_ends_what_waits_and_tells_what_runs(engine: Engine) -> None:
    batch = await Batch.make(engine)
    ids = await batch.add(1_500) + await batch.add(5, delay_seconds=60)
    outside = await engine.submit(1)
    worker = await engine.register()
    [lease] = await engine.claim(worker, 3)
    view = await batches.cancel(engine.core, engine.ctx, batch.id)
    assert (view.state.value, view.cancelled, view.pending) == ("running", 1_502, 3)
    assert (await leases.heartbeat(engine.core, worker[0])).cancel == tuple(lease.ids)
    await engine.finish(worker, report(lease, stopped))
    assert await batch.counts() == ("cancelled", 1_505, 0, 0, 1_505)
    assert await batch.went_off() == ["on_complete"]
    await engine.assert_one_place(ids + outside)
    assert await engine.state(outside[0]) == "pending"
    with pytest.raises(Conflict, match="ended already"):
        await batches.cancel(engine.core, engine.ctx, batch.id)


async def test_a_claim_under_way_and_a_batch_being_cancelled_lose_no_job(engine: Engine) -> None:
    batch = await Batch.make(engine)
    ids = await batch.add(10)
    worker = await engine.register()
    async with engine.gate("leases"):
        claiming = asyncio.create_task(engine.claim(worker, 4))
        await engine.blocked(1)
        cancelling = asyncio.create_task(batches.cancel(engine.core, engine.ctx, batch.id))
        await engine.blocked(2)
    [lease] = await claiming
    assert (await cancelling).cancelled == 6
    assert (await leases.heartbeat(engine.core, worker[0])).cancel == tuple(lease.ids)
    await engine.assert_one_place(ids)


async def test_a_cancellation_that_was_interrupted_goes_on_where_it_stood(engine: Engine) -> None:
    batch = await Batch.make(engine)
    await batch.add(3_000)
    await engine.admin.execute("select ask_to_cancel_group($1, $2, 'me')", engine.ctx.tenant_id, batch.id)
    assert await batches.cancel_members(engine.core, None, steps=1) == 1
    assert 0 < (await batch.counts())[4] < 3_000
    assert (await maintenance.survey(engine.core.database)).duties["batches"] <= 0
    await BatchCanceller(engine.core).run_once()
    assert await batch.counts() == ("cancelled", 3_000, 0, 0, 3_000)
    assert "batches" not in (await maintenance.survey(engine.core.database)).duties


async def test_the_members_of_a_batch_are_listed_by_state(engine: Engine) -> None:
    batch = await Batch.make(engine)
    await engine.submit(2)
    ids = await batch.add(3)
    await engine.submit(2)
    ids += await batch.add(2)
    await engine.cancel(ids[3])
    seen: list[str] = []
    cursor = None
    while True:
        page = await batches.list_members(
            engine.core, engine.ctx, batch.id, state=None, limit=2, cursor=cursor
        )
        seen += [view.id for view in page.data]
        if (cursor := page.next_cursor) is None:
            break
    assert seen == [str(i) for i in ids]
    page = await batches.list_members(engine.core, engine.ctx, batch.id, state=JobState.CANCELLED, limit=10)
    assert [view.id for view in page.data] == [str(ids[3])]


async def test_what_ended_long_ago_is_swept_away_with_its_memberships(engine: Engine) -> None:
    batch = await Batch.make(engine)
    [job_id] = await batch.add(1)
    await batch.seal()
    await engine.cancel(job_id)
    await maintenance.sweep(engine.core.database, keep=timedelta(days=1), limit=100)
    assert await batch.state() == "cancelled"
    await engine.admin.execute("update groups set ended_at = now() - interval '2 days'")
    await maintenance.sweep(engine.core.database, keep=timedelta(days=1), limit=100)
    assert await engine.admin.fetchval("select count(*) from groups") == 0
    assert await engine.admin.fetchval("select count(*) from followups") == 0
