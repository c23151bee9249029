"""The queue against a dictionary: Hypothesis drives every verb, in any order, and after each step both must agree.

Checked throughout: no job is lost (E1), an outcome never changes (E2), each job is in exactly one place (E3), stale
reports change nothing (E4), attempts stay within the limit (E5), counts equal the truth, another tenant sees nothing
(E10). At the end: every transition of the table below was really taken, for a machine that never gets there proves
nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec import Struct

from taskforge.domain.bulk import BulkArguments, BulkFilter, BulkOperation, BulkRequest, states_of
from taskforge.domain.control import JobChange
from taskforge.domain.jobs import JobDraft, JobFilter, JobState
from taskforge.domain.leases import Lease, LeaseReport, Outcome
from taskforge.errors import Conflict, NotFound
from taskforge.postgres import jobs as job_rows
from taskforge.postgres import maintenance
from taskforge.runtime.bulk_runner import BulkRunner
from taskforge.services import bulk, control, dead_letters, jobs, leases, queues
from taskforge.services import health as healths
from tests.support.engine import (
    NEVER,
    Engine,
    Worker,
    failed,
    open_engine,
    released,
    report,
    retrying,
    snoozed,
    stopped,
    succeeded,
)

T = TypeVar("T")
QUEUE = "q"
ELSEWHERE = "elsewhere"
QUEUES = (QUEUE, ELSEWHERE)
PRIORITIES = (2, 5, 9)
PICK = st.integers(0, 99)
TAKE = st.integers(1, 3)
# Shrinking a failure takes minutes, so it is asked for.
PHASES = (Phase.generate, Phase.shrink) if os.environ.get("TASKFORGE_SHRINK") else (Phase.generate,)

TRANSITIONS = {
    ("none", "submit", "pending"),
    ("none", "submit", "scheduled"),
    ("scheduled", "promote", "pending"),
    ("retrying", "promote", "pending"),
    ("pending", "claim", "processing"),
    ("processing", "succeed", "succeeded"),
    ("processing", "fail", "retrying"),
    ("processing", "fail", "failed"),
    ("processing", "fail", "cancelled"),
    ("processing", "snooze", "scheduled"),
    ("processing", "snooze", "cancelled"),
    ("processing", "release", "pending"),
    ("processing", "release", "cancelled"),
    ("processing", "stop", "cancelled"),
    ("processing", "die", "pending"),
    ("processing", "die", "failed"),
    ("processing", "die", "cancelled"),
    ("processing", "cancel", "processing"),
    ("pending", "cancel", "cancelled"),
    ("scheduled", "cancel", "cancelled"),
    ("retrying", "cancel", "cancelled"),
    ("scheduled", "retry", "pending"),
    ("retrying", "retry", "pending"),
    ("failed", "retry", "pending"),
    ("cancelled", "retry", "pending"),
    ("failed", "redrive", "pending"),
    ("failed", "purge", "none"),
    ("pending", "change", "scheduled"),
    ("scheduled", "change", "pending"),
    ("retrying", "change", "pending"),
}


class Job(Struct):
    """What the model knows: `attempt` is the one that runs or is waited for, or the last one of an ended job."""

    state: str
    attempt: int
    limit: int
    priority: int
    queue: str = QUEUE
    lease: Lease | None = None
    holder: int | None = None
    is_cancel_asked: bool = False


class QueueMachine(RuleBasedStateMachine):
    run: ClassVar[Callable[[Awaitable[Any]], Any]]
    home: ClassVar[Engine]
    reached: ClassVar[set[tuple[str, str, str]]] = set()

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[int, Job] = {}
        self.keys: dict[str, int] = {}
        self.workers: dict[int, Worker] = {}
        self.spent: list[tuple[int, Worker, LeaseReport, bool]] = []
        self.purged: set[int] = set()
        self.engine: Engine = self.run(self.home.stranger(*QUEUES))
        self.other: Engine = self.run(self.home.stranger(QUEUE))
        self.numbers = itertools.count()
        for _ in range(2):
            self._hire()

    def teardown(self) -> None:
        for worker in self.workers.values():
            self.run(leases.deregister(self.engine.core, worker[0]))

    # -- the verbs

    @initialize(limit=st.integers(1, 3), want=st.integers(2, 6))
    def begin_in_the_middle(self, limit: int, want: int) -> None:
        """Most steps would otherwise go into getting anything to run at all."""
        self.submit(count=6, priority=5, limit=limit, delay=None)
        self.claim(which=0, want=want)
        self.fail(pick=0, take=1, is_hopeless=False)

    @rule(
        count=st.integers(1, 6),
        priority=st.sampled_from(PRIORITIES),
        limit=st.integers(1, 3),
        delay=st.sampled_from([None, 0.0, 3_600.0]),
    )
    def submit(self, count: int, priority: int, limit: int, delay: float | None) -> None:
        draft = JobDraft(QUEUE, "noop", b"{}", priority=priority, max_attempts=limit, delay_seconds=delay)
        verdicts = self.run(jobs.submit(self.engine.core, self.engine.ctx, [draft] * count))
        for verdict in verdicts:
            assert verdict.created and verdict.job_id not in self.model
            self._appear(verdict.job_id, "scheduled" if delay else "pending", limit, priority)

    @rule(key=st.sampled_from("abc"))
    def submit_with_key(self, key: str) -> None:
        draft = JobDraft(QUEUE, "noop", b"{}", priority=5, idempotency_key=key)
        [verdict] = self.run(jobs.submit(self.engine.core, self.engine.ctx, [draft]))
        assert verdict.job_id is not None
        if key in self.keys:
            assert (verdict.job_id, verdict.created) == (self.keys[key], False)
        else:
            assert verdict.created
            self.keys[key] = verdict.job_id
            self._appear(verdict.job_id, "pending", 5, 5)

    @rule(which=st.integers(0, 9), want=st.integers(1, 9))
    def claim(self, which: int, want: int) -> None:
        number, worker = self._worker(which)
        taken = self.run(self.engine.claim(worker, want))
        waiting = self._in("pending")
        ids = [job_id for lease in taken for job_id in lease.ids]
        assert len(set(ids)) == len(ids) == min(want, len(waiting))
        best = sorted((self.model[i].priority for i in waiting), reverse=True)[: len(ids)]
        assert sorted((self.model[i].priority for i in ids), reverse=True) == best
        for lease in taken:
            for job_id in lease.ids:
                job = self.model[job_id]
                assert (lease.attempt, lease.priority) == (job.attempt, job.priority)
                assert lease.queue_name == job.queue
                assert lease.attempt <= job.limit
                self._move(job_id, "claim", "processing")
                job.lease, job.holder = lease, number

    @precondition(lambda self: self._in("processing"))
    @rule(pick=PICK, take=TAKE)
    def succeed(self, pick: int, take: int) -> None:
        self._finish(pick, take, "succeed", succeeded, "succeeded")

    @precondition(lambda self: self._in("processing"))
    @rule(pick=PICK, take=TAKE, is_hopeless=st.booleans())
    def fail(self, pick: int, take: int, is_hopeless: bool) -> None:
        lead = self.model[self._pick("processing", pick)]
        limit = min(job.limit for job in self.model.values() if job.lease is lead.lease)
        if is_hopeless or lead.attempt >= limit:
            self._finish(pick, take, "fail", failed, "failed")
        else:
            self._finish(pick, take, "fail", retrying, "retrying")

    @precondition(lambda self: self._in("processing"))
    @rule(pick=PICK, take=TAKE)
    def snooze(self, pick: int, take: int) -> None:
        self._finish(pick, take, "snooze", snoozed, "scheduled")

    @precondition(lambda self: self._in("processing"))
    @rule(pick=PICK, take=TAKE)
    def release(self, pick: int, take: int) -> None:
        self._finish(pick, take, "release", released, "pending")

    @precondition(lambda self: self._in("processing"))
    @rule(pick=PICK, take=TAKE)
    def stop(self, pick: int, take: int) -> None:
        self._finish(pick, take, "stop", stopped, "cancelled")

    def _finish(self, pick: int, take: int, verb: str, outcome: Callable[[int], Outcome], state: str) -> None:
        lead = self.model[self._pick("processing", pick)]
        mine = [i for i, job in self.model.items() if job.lease is lead.lease][:take]
        assert lead.lease is not None and lead.holder is not None
        sent = report(lead.lease, outcome, mine)
        worker = self.workers[lead.holder]
        assert self.run(self.engine.finish(worker, sent)) == []
        self.spent.append((lead.holder, worker, sent, True))
        for job_id in mine:
            job = self.model[job_id]
            asked = job.is_cancel_asked and verb not in ("succeed", "stop")
            self._leave(job_id, verb, "cancelled" if asked else state)
            if not asked and verb == "fail" and state == "retrying":
                job.attempt += 1

    @precondition(lambda self: self.spent)
    @rule(pick=PICK)
    def report_once_more(self, pick: int) -> None:
        """What was accepted is accepted again; what was refused, or is not the holder's, is stale."""
        _, worker, sent, was_accepted = self.spent[pick % len(self.spent)]
        ids = {outcome.job_id for outcome in sent.outcomes}
        if was_accepted and ids & self.purged:
            return  # the attempts of a purged job are gone, and with them the memory of what was said
        stale = self.run(self.engine.finish(worker, sent))
        refused = [] if was_accepted else [(sent.lease.fence, outcome.job_id) for outcome in sent.outcomes]
        assert sorted(stale) == sorted(refused)

    @precondition(lambda self: self.spent)
    @rule(pick=PICK)
    def contradict_a_report(self, pick: int) -> None:
        _, worker, sent, was_accepted = self.spent[pick % len(self.spent)]
        if was_accepted and type(sent.outcomes[0]) is type(succeeded(1)):
            said: Callable[[int], Outcome] = failed
        else:
            said = succeeded
        other = report(sent.lease, said, [outcome.job_id for outcome in sent.outcomes])
        stale = self.run(self.engine.finish(worker, other))
        assert sorted(job_id for _, job_id in stale) == sorted(o.job_id for o in other.outcomes)

    @precondition(lambda self: self.model)
    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        self._cancel(self._any(pick))

    @precondition(lambda self: self._in("retrying"))
    @rule(pick=PICK)
    def cancel_a_retrying_job(self, pick: int) -> None:
        self._cancel(self._pick("retrying", pick))

    @precondition(lambda self: self._in("processing"))
    @rule(pick=PICK)
    def cancel_a_running_job(self, pick: int) -> None:
        self._cancel(self._pick("processing", pick))

    def _cancel(self, job_id: int) -> None:
        job = self.model[job_id]
        try:
            self.run(jobs.cancel(self.engine.core, self.engine.ctx, job_id))
        except Conflict as error:
            assert error.code == "job.already_ended" and JobState(job.state).is_final
            return
        self._is_cancelled(job_id)

    def _is_cancelled(self, job_id: int) -> None:
        job = self.model[job_id]
        if job.state == "processing":
            self._move(job_id, "cancel", "processing")
            job.is_cancel_asked = True
        else:
            self._leave(job_id, "cancel", "cancelled")
            job.attempt -= 1

    @precondition(lambda self: self.model)
    @rule(
        pick=PICK,
        delay=st.sampled_from([None, 0.0, 3_600.0]),
        priority=st.sampled_from([None, *PRIORITIES]),
        queue=st.sampled_from([None, *QUEUES]),
    )
    def change(self, pick: int, delay: float | None, priority: int | None, queue: str | None) -> None:
        self._change(self._any(pick), delay, priority, queue)

    @precondition(lambda self: self._in("pending"))
    @rule(pick=PICK, queue=st.sampled_from([None, *QUEUES]))
    def put_off_a_pending_job(self, pick: int, queue: str | None) -> None:
        self._change(self._pick("pending", pick), 3_600.0, None, queue)

    @precondition(lambda self: self._in("retrying"))
    @rule(pick=PICK, queue=st.sampled_from([None, *QUEUES]))
    def call_back_a_retrying_job(self, pick: int, queue: str | None) -> None:
        self._change(self._pick("retrying", pick), 0.0, None, queue)

    def _change(self, job_id: int, delay: float | None, priority: int | None, queue: str | None) -> None:
        job = self.model[job_id]
        given = {"delay_seconds": delay, "priority": priority, "queue_name": queue}
        wanted = JobChange(**{name: value for name, value in given.items() if value is not None})
        if delay is priority is queue is None:
            return
        try:
            self.run(control.change(self.engine.core, self.engine.ctx, job_id, wanted))
        except Conflict as error:
            assert (
                error.code
                == {
                    "processing": "job.running",
                    "succeeded": "job.already_succeeded",
                    "failed": "job.already_ended",
                    "cancelled": "job.already_ended",
                }[job.state]
            )
            return
        assert job.state not in ("processing", "succeeded")
        job.priority = job.priority if priority is None else priority
        job.queue = queue or job.queue
        if delay and job.state == "pending":
            self._move(job_id, "change", "scheduled")
        elif delay == 0 and job.state in ("scheduled", "retrying"):
            self._move(job_id, "change", "pending")

    @rule(
        verb=st.sampled_from(["cancel", "redrive", "change_priority", "move", "reschedule"]),
        queue=st.sampled_from(QUEUES),
        piece=st.integers(1, 4),
    )
    def do_it_to_all(self, verb: Any, queue: str, piece: int) -> None:
        arguments = {
            "change_priority": BulkArguments(priority=9),
            "move": BulkArguments(queue_name=ELSEWHERE),
            "reschedule": BulkArguments(delay_seconds=0.0),
        }.get(verb, BulkArguments())
        request = BulkRequest(verb, BulkFilter(queue_name=queue), arguments)
        states = states_of(request)
        hit = [i for i, job in self.model.items() if job.queue == queue and job.state in states]
        done = self.run(self._work_off(request, piece))
        assert (done.done, done.failed, done.total) == (len(hit), 0, len(hit))
        for job_id in hit:
            job = self.model[job_id]
            match verb:
                case "cancel":
                    self._is_cancelled(job_id)
                case "redrive":
                    job.attempt = 1
                    self._move(job_id, "redrive", "pending")
                case "change_priority":
                    job.priority = 9
                case "move":
                    job.queue = ELSEWHERE
                case _ if job.state != "pending":
                    self._move(job_id, "change", "pending")

    async def _work_off(self, request: BulkRequest, piece: int) -> BulkOperation:
        core, ctx = self.engine.core, self.engine.ctx
        operation = await bulk.start(core, ctx, request)
        runner = BulkRunner(core, piece=piece)
        while not operation.state.is_final:
            assert await runner.run_piece(ctx.tenant_id, int(operation.id))
            operation = await bulk.get(core, ctx, int(operation.id))
        return operation

    @precondition(lambda self: self.model)
    @rule(pick=PICK)
    def retry(self, pick: int) -> None:
        self._retry(self._any(pick))

    @precondition(lambda self: self._in("failed"))
    @rule(pick=PICK)
    def retry_a_dead_letter(self, pick: int) -> None:
        self._retry(self._pick("failed", pick))

    @precondition(lambda self: self._in("retrying"))
    @rule(pick=PICK)
    def retry_at_once(self, pick: int) -> None:
        self._retry(self._pick("retrying", pick))

    def _retry(self, job_id: int) -> None:
        job = self.model[job_id]
        try:
            self.run(jobs.retry(self.engine.core, self.engine.ctx, job_id))
        except Conflict:
            assert job.state in ("pending", "processing", "succeeded")
            return
        if job.state in ("failed", "cancelled"):
            job.attempt = 1
        self._move(job_id, "retry", "pending")

    @precondition(lambda self: self._in("failed"))
    @rule(pick=PICK, everything=st.booleans())
    def redrive(self, pick: int, everything: bool) -> None:
        ids = [self._pick("failed", pick)]
        queue = self.model[ids[0]].queue
        named = None if everything else ids
        if everything:
            ids = [i for i in self._in("failed") if self.model[i].queue == queue]
        assert self.run(dead_letters.redrive(self.engine.core, self.engine.ctx, queue, named)) == len(ids)
        for job_id in ids:
            self.model[job_id].attempt = 1
            self._move(job_id, "redrive", "pending")

    @precondition(lambda self: self._in("failed"))
    @rule(pick=PICK)
    def purge(self, pick: int) -> None:
        job_id = self._pick("failed", pick)
        queue = self.model[job_id].queue
        assert self.run(dead_letters.purge(self.engine.core, self.engine.ctx, queue, [job_id])) == 1
        self.reached.add(("failed", "purge", "none"))
        del self.model[job_id]
        self.purged.add(job_id)

    @precondition(lambda self: self._in("scheduled") or self._in("retrying"))
    @rule(take=st.integers(1, 3))
    def promote(self, take: int) -> None:
        due = (self._in("scheduled") + self._in("retrying"))[:take]
        self.run(self.engine.make_due(due))
        self.run(self.engine.promote())
        for job_id in due:
            self._move(job_id, "promote", "pending")

    @rule(which=st.integers(0, 9), how=st.sampled_from(["known", "reaped", "left"]), pick=PICK)
    def die(self, which: int, how: str, pick: int) -> None:
        number, worker = self._worker(which)
        held = [i for i, job in self.model.items() if job.holder == number]
        core = self.engine.core
        if how == "reaped":
            self.run(self.engine.expire(worker))
            assert self.run(maintenance.reap(core.database, ttl=NEVER, limit=100)).keys() == {worker[0]}
            ran = set(held)
        elif how == "known":
            ran = {job_id for place, job_id in enumerate(held) if (place + pick) % 2}
            self.run(leases.bury(core, worker[0], sorted(ran)))
        else:
            ran = set()
            self.run(leases.deregister(core, worker[0]))
        for job_id in held:
            job = self.model[job_id]
            assert job.lease is not None
            self.spent.append((number, worker, LeaseReport(job.lease, [succeeded(job_id)]), False))
            if job.is_cancel_asked:
                self._leave(job_id, "die", "cancelled")
            elif job_id in ran and job.attempt >= job.limit:
                self._leave(job_id, "die", "failed")
            else:
                job.attempt += job_id in ran
                self._leave(job_id, "die", "pending")
        del self.workers[number]
        self._hire()

    @rule(which=st.integers(0, 9))
    def heartbeat(self, which: int) -> None:
        number, worker = self._worker(which)
        beat = self.run(leases.heartbeat(self.engine.core, worker[0]))
        asked = {i for i, job in self.model.items() if job.holder == number and job.is_cancel_asked}
        assert beat.alive and set(beat.cancel) == asked

    @rule(which=st.integers(0, 9))
    def pause_claim_and_resume(self, which: int) -> None:
        _, worker = self._worker(which)
        for queue in QUEUES:
            self.run(queues.pause(self.engine.core, self.engine.ctx, queue))
        assert self.run(self.engine.claim(worker, 5)) == []
        for queue in QUEUES:
            self.run(queues.resume(self.engine.core, self.engine.ctx, queue))

    @rule()
    def maintain(self) -> None:
        """Floors rise as far as they may, and counts are rolled up."""
        self.run(self.engine.admin.execute("select setval('ready_seq', nextval('ready_seq') + 5000)"))
        self.run(self.engine.raise_floors())
        database = self.engine.core.database
        first = self.run(maintenance.look(database))
        self.run(maintenance.roll_up(database, first, age=NEVER))
        assert self.run(maintenance.count_below_floors(database)) == 0

    @precondition(lambda self: self.model)
    @rule(pick=PICK)
    def a_stranger_reaches_for_a_job(self, pick: int) -> None:
        for verb in (jobs.get, jobs.cancel, jobs.retry):
            try:
                self.run(verb(self.other.core, self.other.ctx, self._any(pick)))
            except NotFound:
                continue
            raise AssertionError(f"{verb.__name__} crossed the tenant")

    # -- what must hold after every step

    @invariant()
    def agrees(self) -> None:
        self.run(self._agrees())

    async def _agrees(self) -> None:
        engine, ids = self.engine, list(self.model)
        places = await engine.places(ids)
        for job_id, job in self.model.items():
            assert places[job_id] == [_PLACE[job.state]], f"{job_id} is {job.state} and in {places[job_id]}"
        async with engine.core.database.tenant(engine.ctx.tenant_id) as connection:
            views = await job_rows.views(connection, engine.ctx.tenant_id, ids)
        for view in views:
            job = self.model[int(view.id)]
            begun = job.attempt - (job.state in ("pending", "scheduled", "retrying"))
            assert (view.state.value, view.attempt) == (job.state, begun), f"job {view.id}"
            assert view.attempt <= view.max_attempts == job.limit
            assert view.cancel_requested == job.is_cancel_asked
            assert (view.queue_name, view.priority) == (job.queue, job.priority)
        for queue in QUEUES:
            health = await healths.of_queue(engine.core, engine.ctx, queue)
            counted = Counter(job.state for job in self.model.values() if job.queue == queue)
            told = {
                "pending": health.pending,
                "scheduled": health.scheduled,
                "retrying": health.retrying,
                "processing": health.processing,
                "failed": health.dead_letters,
            }
            assert told == {state: counted[state] for state in told}
            assert min(health.finished_per_second, health.failed_per_second, health.submitted_per_second) >= 0
            page = await jobs.list_jobs(engine.core, engine.ctx, JobFilter(queue), limit=1_000)
            mine = sorted((i for i, job in self.model.items() if job.queue == queue), reverse=True)
            assert [int(view.id) for view in page.data] == mine

    # -- the model's own small steps

    def _hire(self) -> None:
        self.workers[next(self.numbers)] = self.run(self.engine.register(*QUEUES))

    def _worker(self, which: int) -> tuple[int, Worker]:
        number = sorted(self.workers)[which % len(self.workers)]
        return number, self.workers[number]

    def _in(self, state: str) -> list[int]:
        return [i for i, job in self.model.items() if job.state == state]

    def _pick(self, state: str, pick: int) -> int:
        found = self._in(state)
        return found[pick % len(found)]

    def _any(self, pick: int) -> int:
        ids: Sequence[int] = list(self.model)
        return ids[pick % len(ids)]

    def _appear(self, job_id: int, state: str, limit: int, priority: int) -> None:
        self.reached.add(("none", "submit", state))
        self.model[job_id] = Job(state, 1, limit, priority)

    def _move(self, job_id: int, verb: str, state: str) -> None:
        job = self.model[job_id]
        self.reached.add((job.state, verb, state))
        job.state = state

    def _leave(self, job_id: int, verb: str, state: str) -> None:
        self._move(job_id, verb, state)
        job = self.model[job_id]
        job.lease, job.holder, job.is_cancel_asked = None, None, False


_PLACE = {
    "pending": "ready",
    "processing": "lease",
    "scheduled": "parked",
    "retrying": "parked",
    "succeeded": "ended",
    "failed": "ended",
    "cancelled": "ended",
}


_ROUNDS = 5


@pytest.mark.timeout(400)
def test_the_queue_agrees_with_its_model_and_every_transition_is_reached(database_url: str) -> None:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            QueueMachine.run = staticmethod(lambda awaitable: runner.run(_await(awaitable)))
            QueueMachine.home = runner.run(stack.enter_async_context(open_engine(database_url)))
            # Which queue's turn it is in a claim is chance, so that no seed is sure to reach every transition.
            for number in range(_ROUNDS):
                if number == 0 or TRANSITIONS - QueueMachine.reached:
                    _play(seed(number)(QueueMachine))
        finally:
            runner.run(stack.aclose())
    assert sorted(TRANSITIONS - QueueMachine.reached) == []
    assert sorted(QueueMachine.reached - TRANSITIONS) == []


def _play(machine: type[QueueMachine]) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=90,
            stateful_step_count=50,
            phases=PHASES,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


async def _await(awaitable: Awaitable[T]) -> T:
    return await awaitable
