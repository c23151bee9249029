"""Each slot of a schedule fires exactly once, or is recorded as skipped by its policy (E9)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import msgspec
import pytest
from msgspec import Raw, structs

from taskforge.domain.schedules import (
    Missed,
    Overlap,
    Schedule,
    ScheduleChange,
    ScheduleDraft,
    Source,
    Tick,
)
from taskforge.domain.terms import Webhook
from taskforge.errors import Conflict, NotFound
from taskforge.postgres import schedules as memory
from taskforge.postgres.schedules import Due
from taskforge.runtime.scheduler import DueSlots, WaitingSlots
from taskforge.services import queues, schedules, slots
from tests.support.engine import Engine, report, succeeded, together

SECOND = timedelta(seconds=1)


def draft(**fields: Any) -> ScheduleDraft:
    made = ScheduleDraft(name="every-minute", expression="* * * * *", job_type="noop")
    return structs.replace(made, **fields)


async def create(engine: Engine, **fields: Any) -> Schedule:
    return await schedules.create(engine.core, engine.ctx, draft(**fields))


async def late(engine: Engine, schedule: Schedule, ago: timedelta) -> Schedule:
    """The schedule as it is when nobody has looked at it for that long."""
    name = schedule.definition.name
    async with engine.core.database.tenant(engine.ctx.tenant_id) as connection:
        now = await memory.now(connection)
        slot = schedule.definition.timing.slot_after(now - ago)
        await memory.aim(connection, schedule, slot, slot)
    return await schedules.get(engine.core, engine.ctx, name)


def next_of(schedule: Schedule) -> datetime:
    assert schedule.next_slot is not None
    return schedule.next_slot


async def ticks(engine: Engine, name: str = "every-minute") -> list[Tick]:
    """Oldest first."""
    page = await schedules.list_ticks(engine.core, engine.ctx, name, limit=1000)
    return page.data[::-1]


async def verdicts(engine: Engine, name: str = "every-minute") -> list[tuple[str, str | None]]:
    return [(tick.verdict.value, tick.reason) for tick in await ticks(engine, name)]


async def jobs_of(engine: Engine) -> list[int]:
    return [row["id"] for row in await engine.admin.fetch("select id from jobs order by id")]


async def finish_last(engine: Engine) -> None:
    worker = await engine.register()
    for lease in await engine.claim(worker, 100):
        await engine.finish(worker, report(lease, succeeded))


async def test_a_due_slot_becomes_a_job_and_the_schedule_moves_on(engine: Engine) -> None:
    made = await create(engine, payload=Raw(b'{"n": 1.50}'), priority=8, tags=("cron",), max_attempts=2)
    due = await late(engine, made, timedelta(seconds=60))
    assert await slots.decide_due(engine.core) == 1

    [job_id] = await jobs_of(engine)
    view = await engine.view(job_id)
    assert (view.state.value, view.payload, view.priority, view.tags, view.max_attempts) == (
        "pending",
        Raw(b'{"n": 1.50}'),
        8,
        ("cron",),
        2,
    )
    after = await schedules.get(engine.core, engine.ctx, "every-minute")
    assert due.next_slot is not None and after.next_slot == due.next_slot + timedelta(minutes=1)
    assert (after.last_slot, after.last_job_id) == (due.next_slot, job_id)
    assert await verdicts(engine) == [("fired", None)]
    assert await slots.decide_due(engine.core) == 0
    await finish_last(engine)
    assert await engine.state(job_id) == "succeeded"


async def test_a_schedules_job_keeps_the_terms_of_its_template(engine: Engine) -> None:
    made = await create(
        engine,
        concurrency_key="customer-7",
        result_retention_seconds=60.0,
        webhook=Webhook("https://example.com/"),
    )
    await decide_at(engine, made.next_slot)
    row = await engine.admin.fetchrow("select options -> 'terms' as terms from jobs")
    terms = msgspec.json.decode(row["terms"])
    assert (terms["concurrency_key"], terms["result_retention_seconds"]) == ("customer-7", 60.0)
    assert terms["webhook"]["url"] == "https://example.com/"
    assert await engine.admin.fetchval("select count(*) from followups where kind = 4") == 1


async def test_a_schedule_written_by_a_newer_version_is_still_read(engine: Engine) -> None:
    await late(engine, await create(engine), timedelta(seconds=60))
    await engine.admin.execute("""update schedules set definition = definition || '{"later": 1}'""")
    assert await slots.decide_due(engine.core) == 1


async def test_two_schedulers_with_the_same_plan_fire_a_slot_once(engine: Engine, other: Engine) -> None:
    """Both have read and planned before either writes; then one after the other, in both orders."""
    await late(engine, await create(engine), timedelta(seconds=60))
    for first, second in ((engine, other), (other, engine)):
        [one] = await memory.due(first.core.database, limit=10)
        [two] = await memory.due(second.core.database, limit=10)
        plans = [await slots._plan(e.core, due) for e, due in ((first, one), (second, two))]
        assert await slots._decide(first.core, [plans[0]]) == 1  # type: ignore[list-item]
        assert await slots._decide(second.core, [plans[1]]) == 0  # type: ignore[list-item]
        await late(
            engine, await schedules.get(engine.core, engine.ctx, "every-minute"), timedelta(seconds=115)
        )
        await engine.admin.execute("delete from ticks")
    assert len(await jobs_of(engine)) == 2


async def test_a_scheduler_never_waits_for_another_one_and_fires_nothing_behind_it(
    engine: Engine, other: Engine
) -> None:
    await late(engine, await create(engine), timedelta(seconds=60))
    async with engine.gate("jobs"):
        first = asyncio.create_task(slots.decide_due(engine.core))
        await engine.blocked(1)
        async with asyncio.timeout(3):
            assert await slots.decide_due(other.core) == 0
    assert await first == 1
    assert await slots.decide_due(other.core) == 0
    assert await verdicts(engine) == [("fired", None)]
    assert len(await jobs_of(engine)) == 1


async def test_many_schedulers_at_once_fire_every_slot_once(engine: Engine, other: Engine) -> None:
    for number in range(30):
        made = await create(engine, name=f"s{number}", missed=Missed.RUN_ALL, missed_limit=20)
        await late(engine, made, timedelta(seconds=60 * 5))

    async def scheduler(one: Engine) -> int:
        return sum([await slots.decide_due(one.core) for _ in range(4)])

    counts = await together(*(scheduler(one) for one in (engine, other) * 4))
    assert sum(counts) >= 30
    rows = await engine.admin.fetch("select slot, job_id from ticks where verdict = 1")
    assert len(rows) == len({row["job_id"] for row in rows}) == len(await jobs_of(engine))
    assert await engine.admin.fetchval("select count(*) from ticks where verdict <> 1") == 0


async def test_a_scheduler_killed_before_its_commit_has_fired_nothing(engine: Engine, other: Engine) -> None:
    due = await late(engine, await create(engine), timedelta(seconds=60))
    async with engine.gate("jobs"):
        doomed = asyncio.create_task(slots.decide_due(engine.core))
        await engine.blocked(1)
        await engine.admin.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and wait_event_type = 'Lock'"
        )
        [outcome] = await together(doomed)
        assert isinstance(outcome, Exception)
    assert await ticks(engine) == [] and await jobs_of(engine) == []

    assert await slots.decide_due(other.core) == 1
    assert [tick.slot for tick in await ticks(engine)] == [due.next_slot]
    assert len(await jobs_of(engine)) == 1


async def test_a_slot_that_was_decided_before_is_refused_by_its_key(engine: Engine) -> None:
    due = await late(engine, await create(engine), timedelta(seconds=60))
    await slots.decide_due(engine.core)
    await late(engine, await schedules.get(engine.core, engine.ctx, "every-minute"), timedelta(seconds=60))
    with pytest.raises(asyncpg.UniqueViolationError):
        await slots.decide_due(engine.core)
    assert [tick.slot for tick in await ticks(engine)] == [due.next_slot]
    assert len(await jobs_of(engine)) == 1


async def test_a_plan_for_a_slot_that_is_decided_does_nothing_even_if_another_one_is_due(
    engine: Engine,
) -> None:
    """And even if nothing fired, so that the schedule's last job is the same."""
    made = await create(engine, expression="@every 1h", missed=Missed.SKIP)
    await late(engine, made, timedelta(hours=5))
    [due] = await memory.due(engine.core.database, limit=10)
    stale = await slots._plan(engine.core, due)
    assert stale is not None
    assert await slots.decide_due(engine.core) == 1
    await engine.admin.execute("update schedules set due_at = now(), last_job_id = null")
    assert await slots._decide(engine.core, [stale]) == 0
    assert len({tick.slot for tick in await ticks(engine)}) == len(await ticks(engine))


async def test_a_slot_that_waited_and_has_fired_does_not_fire_for_whoever_read_it_before(
    engine: Engine,
) -> None:
    made = await create(engine, expression="@every 10s", overlap=Overlap.QUEUE)
    for number in (1, 2):
        await decide_at(engine, next_of(made) + number * 10 * SECOND)
    await finish_last(engine)
    before = await memory.freed(engine.core.database, limit=10)
    assert await slots.fire_waiting(engine.core) == 1
    await finish_last(engine)
    [job_id] = [i for part in await engine.core.submitter.take_ids(1) for i in part]
    async with engine.core.database.ingest() as connection:
        assert await memory.fire_waiting(connection, before, [job_id]) == []
    assert await verdicts(engine) == [("fired", None), ("fired", "waited")]


async def test_a_plan_made_before_a_change_is_not_carried_out(engine: Engine) -> None:
    await late(engine, await create(engine), timedelta(seconds=60))
    [due] = await memory.due(engine.core.database, limit=10)
    planned = await slots._plan(engine.core, due)
    assert planned is not None
    await schedules.update(engine.core, engine.ctx, "every-minute", ScheduleChange(priority=9))
    assert await slots._decide(engine.core, [planned]) == 0
    assert await slots.decide_due(engine.core) == 1
    [job_id] = await jobs_of(engine)
    assert (await engine.view(job_id)).priority == 9


async def test_the_databases_clock_decides_when_a_slot_is_due(engine: Engine) -> None:
    made = await create(engine)
    assert await slots.decide_due(engine.core) == 0
    [fake] = [Due(made, datetime(2100, 1, 1, tzinfo=UTC))]
    planned = await slots._plan(engine.core, fake)
    assert planned is not None and planned.plan.fires
    assert await slots._decide(engine.core, [planned]) == 0
    assert await jobs_of(engine) == []


@pytest.mark.parametrize(
    ("policy", "limit", "fired"), [(Missed.SKIP, 10, 1), (Missed.RUN_ONCE, 10, 1), (Missed.RUN_ALL, 3, 4)]
)
async def test_missed_slots_are_treated_as_the_policy_says_and_every_one_is_recorded(
    engine: Engine, policy: Missed, limit: int, fired: int
) -> None:
    made = await create(engine, expression="@every 60s", missed=policy, missed_limit=limit)
    await late(engine, made, timedelta(seconds=60 * 10))
    assert await slots.decide_due(engine.core) == 1
    found = await ticks(engine)
    assert [tick.verdict.value for tick in found] == ["skipped", *["fired"] * fired]
    assert found[0].reason == "missed" and found[0].slots == 10 - fired
    covered = [found[0].slot + n * timedelta(seconds=60) for n in range(10 - fired)]
    assert covered[-1] == found[0].through
    assert [*covered, *(tick.slot for tick in found[1:])] == [
        covered[0] + n * timedelta(seconds=60) for n in range(10)
    ]
    assert len(await jobs_of(engine)) == fired


async def test_a_schedule_missed_for_long_with_skip_fires_nothing_late(engine: Engine) -> None:
    made = await create(engine, expression="0 0 1 1 *", missed=Missed.SKIP)
    slot = made.definition.timing.slot_after(datetime(2020, 1, 2, tzinfo=UTC))
    async with engine.core.database.tenant(engine.ctx.tenant_id) as connection:
        await memory.aim(connection, made, slot, slot)
    assert await slots.decide_due(engine.core) == 1
    assert await jobs_of(engine) == []
    assert await verdicts(engine) == [("skipped", "missed")]


async def test_overlap_skip_fires_again_only_when_the_job_before_has_ended(engine: Engine) -> None:
    made = await create(engine, expression="@every 10s", overlap=Overlap.SKIP)
    for number in (1, 2):
        await decide_at(engine, next_of(made) + number * 10 * SECOND)
    assert await verdicts(engine) == [("fired", None), ("skipped", "overlap")]
    await finish_last(engine)
    await decide_at(engine, next_of(made) + 30 * SECOND)
    assert (await verdicts(engine))[-1] == ("fired", None)


async def test_overlap_queue_lets_one_slot_wait_behind_the_running_job(engine: Engine) -> None:
    made = await create(engine, expression="@every 10s", overlap=Overlap.QUEUE)
    for number in (1, 2, 3):
        await decide_at(engine, next_of(made) + number * 10 * SECOND)
    assert await verdicts(engine) == [("fired", None), ("queued", "overlap"), ("skipped", "overlap")]
    assert len(await jobs_of(engine)) == 1
    assert await slots.fire_waiting(engine.core) == 0

    await finish_last(engine)
    assert sum(await together(slots.fire_waiting(engine.core), slots.fire_waiting(engine.core))) == 1
    assert await verdicts(engine) == [("fired", None), ("fired", "waited"), ("skipped", "overlap")]
    assert len(await jobs_of(engine)) == 2
    assert (await schedules.get(engine.core, engine.ctx, "every-minute")).waiting_slot is None


async def test_overlap_cancel_running_cancels_the_job_before_it_fires(engine: Engine) -> None:
    made = await create(engine, expression="@every 10s", overlap=Overlap.CANCEL_RUNNING)
    await decide_at(engine, next_of(made) + 10 * SECOND)
    worker = await engine.register()
    await engine.claim(worker)
    await decide_at(engine, next_of(made) + 20 * SECOND)
    first, second = await jobs_of(engine)
    assert (await engine.view(first)).cancel_requested
    assert await engine.state(second) == "pending"
    await decide_at(engine, next_of(made) + 30 * SECOND)
    assert await engine.state(second) == "cancelled"
    assert await verdicts(engine) == [("fired", None)] * 3


async def test_overlap_cancel_running_makes_up_for_missed_slots_one_after_another(engine: Engine) -> None:
    made = await create(
        engine, expression="@every 10s", overlap=Overlap.CANCEL_RUNNING, missed=Missed.RUN_ALL
    )
    await late(engine, made, timedelta(seconds=30))
    await DueSlots(engine.core).run_once()
    ids = await jobs_of(engine)
    assert [await engine.state(i) for i in ids] == ["cancelled", "cancelled", "pending"]


async def test_run_now_submits_beside_the_slots_whatever_pause_and_overlap_say(engine: Engine) -> None:
    made = await create(engine, paused=True, overlap=Overlap.SKIP)
    first = await schedules.run(engine.core, engine.ctx, "every-minute")
    second = await schedules.run(engine.core, engine.ctx, "every-minute")
    assert await jobs_of(engine) == [first, second]
    assert await verdicts(engine) == [("fired", "run_now")] * 2
    after = await schedules.get(engine.core, engine.ctx, "every-minute")
    assert (after.next_slot, after.last_job_id) == (made.next_slot, second)


async def test_a_paused_schedule_records_nothing_and_goes_on_with_the_next_slot(engine: Engine) -> None:
    await late(engine, await create(engine), timedelta(minutes=3))
    paused = await schedules.pause(engine.core, engine.ctx, "every-minute")
    assert paused.next_slot is None
    assert await slots.decide_due(engine.core) == 0
    assert await verdicts(engine) == [("skipped", "paused")]  # the slot that was due when it was paused
    resumed = await schedules.resume(engine.core, engine.ctx, "every-minute")
    assert resumed.next_slot is not None and resumed.next_slot > resumed.updated_at
    assert await jobs_of(engine) == []


async def test_a_change_of_times_is_in_force_at_once_and_a_slot_that_was_due_is_recorded(
    engine: Engine,
) -> None:
    due = await late(engine, await create(engine), timedelta(seconds=60))
    change = ScheduleChange(expression="0 0 1 1 *", timezone="Asia/Jakarta")
    changed = await schedules.update(engine.core, engine.ctx, "every-minute", change)
    assert changed.next_slot is not None and changed.next_slot.hour == 17 and changed.next_slot.day == 31
    assert [(tick.slot, tick.reason) for tick in await ticks(engine)] == [(due.next_slot, "changed")]
    assert changed.edited and changed.version == due.version + 1


async def test_another_change_keeps_a_slot_that_is_due(engine: Engine) -> None:
    due = await late(engine, await create(engine), timedelta(seconds=60))
    changed = await schedules.update(engine.core, engine.ctx, "every-minute", ScheduleChange(priority=1))
    assert changed.next_slot == due.next_slot
    assert await slots.decide_due(engine.core) == 1


async def test_a_slot_whose_queue_is_gone_is_skipped_and_the_schedule_lives_on(engine: Engine) -> None:
    await engine.core.directory.ensure(engine.ctx.tenant_id, ["short-lived"])
    made = await create(engine, queue_name="short-lived")
    await queues.delete(engine.core, engine.ctx, "short-lived")
    await decide_at(engine, made.next_slot)
    assert await verdicts(engine) == [("skipped", "queue_gone")]
    with pytest.raises(Conflict, match="does not exist any more"):
        await schedules.run(engine.core, engine.ctx, "every-minute")
    await engine.core.directory.ensure(engine.ctx.tenant_id, ["short-lived"])
    await schedules.run(engine.core, engine.ctx, "every-minute")


async def test_a_schedule_ends_with_its_last_slot(engine: Engine) -> None:
    made = await create(engine)
    assert made.next_slot is not None
    await schedules.update(engine.core, engine.ctx, "every-minute", ScheduleChange(end_at=made.next_slot))
    await decide_at(engine, made.next_slot)
    after = await schedules.get(engine.core, engine.ctx, "every-minute")
    assert (after.next_slot, after.due_at, len(await jobs_of(engine))) == (None, None, 1)


async def test_jitter_delays_a_slot_by_the_same_part_in_every_process(engine: Engine, other: Engine) -> None:
    made = await create(engine, jitter_seconds=59.0)
    seen = await schedules.get(other.core, other.ctx, "every-minute")
    assert made.due_at is not None and made.next_slot is not None
    assert seen.due_at == made.due_at == made.definition.timing.due(made.schedule_id, made.next_slot)
    assert timedelta(0) <= made.due_at - made.next_slot < timedelta(seconds=59)


async def test_a_tenant_has_a_limit_of_schedules_that_two_at_once_cannot_pass(
    engine: Engine, other: Engine
) -> None:
    engine.core.max_schedules = other.core.max_schedules = 3
    made = await together(
        *(create(one, name=f"s{n}-{place}") for n in range(4) for place, one in enumerate((engine, other)))
    )
    refused = [one for one in made if isinstance(one, Conflict)]
    assert [one.code for one in refused] == ["schedule.too_many"] * 5
    assert await engine.admin.fetchval("select count(*) from schedules") == 3


async def test_ticks_are_kept_in_a_bounded_number(engine: Engine) -> None:
    made = await create(engine, expression="@every 10s")
    await engine.admin.execute(
        "insert into ticks (schedule_id, slot, tenant_id, verdict, through)"
        " select $1, now() - make_interval(days => 1, secs => n), $2, 1, now() from generate_series(1, 1098) as n",
        made.schedule_id,
        engine.ctx.tenant_id,
    )
    await engine.admin.execute("update schedules set ticks = 1098")
    for number in range(2):
        await decide_at(engine, next_of(made) + number * 10 * SECOND)
    assert await engine.admin.fetchval("select count(*) from ticks") == 1000


async def test_a_name_is_taken_once(engine: Engine, other: Engine) -> None:
    made = await together(create(engine), create(other))
    [error] = [one for one in made if isinstance(one, Conflict)]
    assert error.code == "schedule.exists"


async def test_another_tenants_schedule_does_not_exist(engine: Engine) -> None:
    await create(engine)
    stranger = await engine.stranger("default")
    for act in (schedules.get, schedules.pause, schedules.resume, schedules.delete, schedules.run):
        with pytest.raises(NotFound):
            await act(stranger.core, stranger.ctx, "every-minute")
    await create(stranger)  # its own of the same name


async def test_schedules_of_code_are_made_once_by_many_workers_and_follow_the_code(
    engine: Engine, other: Engine
) -> None:
    declared = [draft(queue_name="from-code"), draft(name="nightly", expression="0 3 * * *")]
    await together(*(schedules.declare(one.core, one.ctx, declared) for one in (engine, other) * 4))
    assert await engine.admin.fetchval("select count(*) from schedules") == 2
    made = await schedules.get(engine.core, engine.ctx, "nightly")
    assert (made.source, made.version) == (Source.CODE, 1)

    await schedules.pause(engine.core, engine.ctx, "nightly")
    await schedules.declare(engine.core, engine.ctx, [draft(name="nightly", expression="0 4 * * *")])
    followed = await schedules.get(engine.core, engine.ctx, "nightly")
    assert (followed.definition.expression, followed.definition.paused) == ("0 4 * * *", True)


async def test_what_a_person_changed_or_made_is_not_overwritten_by_code(engine: Engine) -> None:
    code = draft(name="nightly", expression="0 3 * * *")
    await schedules.declare(engine.core, engine.ctx, [code])
    await schedules.update(engine.core, engine.ctx, "nightly", ScheduleChange(expression="0 5 * * *"))
    await schedules.declare(engine.core, engine.ctx, [code])
    await schedules.declare(engine.core, engine.ctx, [structs.replace(code, expression="0 4 * * *")])
    assert (await schedules.get(engine.core, engine.ctx, "nightly")).definition.expression == "0 5 * * *"

    await create(engine, name="by-hand")
    await schedules.declare(engine.core, engine.ctx, [draft(name="by-hand", expression="0 4 * * *")])
    assert (await schedules.get(engine.core, engine.ctx, "by-hand")).definition.expression == "* * * * *"

    await schedules.delete(engine.core, engine.ctx, "nightly")
    await schedules.declare(engine.core, engine.ctx, [code])
    assert (await schedules.get(engine.core, engine.ctx, "nightly")).definition.expression == "0 3 * * *"


async def test_the_duties_decide_what_is_due_and_what_waited(engine: Engine) -> None:
    for number in range(5):
        await late(engine, await create(engine, name=f"s{number}"), timedelta(seconds=60))
    made = await create(engine, name="queued", overlap=Overlap.QUEUE, expression="@every 10s")
    for number in (1, 2):
        await decide_at(engine, next_of(made) + number * 10 * SECOND, "queued")
    due, waiting = DueSlots(engine.core), WaitingSlots(engine.core)
    await due.run_once()
    await waiting.run_once()
    assert len(await jobs_of(engine)) == 6
    await finish_last(engine)
    await waiting.run_once()
    assert len(await jobs_of(engine)) == 6  # it looks once a second
    await WaitingSlots(engine.core).run_once()
    assert len(await jobs_of(engine)) == 7


async def test_a_schedule_that_cannot_be_decided_is_not_in_the_way_of_others(engine: Engine) -> None:
    for name in ("bad", "good"):
        await late(engine, await create(engine, name=name), timedelta(seconds=60))
    bad = await schedules.get(engine.core, engine.ctx, "bad")
    await engine.admin.execute(
        "insert into ticks (schedule_id, slot, tenant_id, verdict, through) values ($1, $2, $3, 1, $2)",
        bad.schedule_id,
        bad.next_slot,
        engine.ctx.tenant_id,
    )
    assert await slots.decide_due(engine.core) == 1
    assert await verdicts(engine, "good") == [("fired", None)]


async def decide_at(engine: Engine, slot: datetime | None, name: str = "every-minute") -> None:
    """The slot is decided as if it were due now."""
    schedule = await schedules.get(engine.core, engine.ctx, name)
    assert slot is not None
    await engine.admin.execute(
        "update schedules set next_slot = $2, due_at = now() where schedule_id = $1",
        schedule.schedule_id,
        slot,
    )
    due = Due(await schedules.get(engine.core, engine.ctx, name), slot + SECOND)
    planned = await slots._plan(engine.core, due)
    assert planned is not None
    assert await slots._decide(engine.core, [planned]) == 1
