"""Slots of schedules become jobs: exactly once, whoever tries and whenever somebody is killed.

What is due is read, planned in Python (time zones), and written down in one transaction that also stores the jobs. It
changes nothing when the plan is out of date by then. So any number of processes may do it at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from msgspec import structs

from taskforge.domain import schedules as rules
from taskforge.domain.jobs import JobGroup
from taskforge.domain.schedules import Overlap, Schedule, Verdict
from taskforge.domain.tenants import Context
from taskforge.errors import TaskForgeError, Unavailable
from taskforge.postgres import schedules, submit
from taskforge.postgres.pool import Connection
from taskforge.postgres.schedules import Decided, Due, Planned
from taskforge.postgres.submit import Run
from taskforge.services import jobs
from taskforge.services.core import Core
from taskforge.services.flushes import lane_of

_log = structlog.get_logger(__name__)

_SCHEDULES_AT_ONCE = 100


async def decide_due(core: Core) -> int:
    """Decide the slots of up to a hundred due schedules; for how many schedules this process did it.

    A schedule that cannot be decided is logged, and is not in the way of the others.
    """
    due = await schedules.due(core.database, limit=_SCHEDULES_AT_ONCE)
    planned = [plan for one in due if (plan := await _plan(core, one)) is not None]
    try:
        return await _decide(core, planned)
    except Unavailable:
        raise
    except Exception:
        if len(planned) == 1:
            raise
    decided = 0
    for one in planned:
        try:
            decided += await _decide(core, [one])
        except Unavailable:
            raise
        except Exception:
            _log.exception("schedule.failed", schedule_id=one.schedule.schedule_id)
    return decided


async def fire_waiting(core: Core) -> int:
    """Fire slots that waited for the job before them, where it has ended; how many."""
    freed = await schedules.freed(core.database, limit=_SCHEDULES_AT_ONCE)
    if not freed:
        return 0
    ids = await _ids(core, len(freed))
    async with core.database.ingest() as connection:
        decided = await schedules.fire_waiting(connection, freed, ids)
        queue_ids = await _store(connection, {one.schedule_id: one for one in freed}, decided)
    core.wakeups.jobs_ready(queue_ids)
    return len(decided)


async def fire_now(core: Core, schedule: Schedule) -> Decided | None:
    """A job beside the slots; None when the schedule is not as it was read any more."""
    [job_id] = await _ids(core, 1)
    async with core.database.ingest() as connection:
        decided = await schedules.fire_now(connection, schedule, job_id)
        queue_ids = await _store(
            connection, {schedule.schedule_id: schedule}, [] if decided is None else [decided]
        )
    core.wakeups.jobs_ready(queue_ids)
    return decided


async def _plan(core: Core, due: Due) -> Planned | None:
    schedule = due.schedule
    try:
        plan = rules.plan(schedule, due.now)
    except Exception:
        _log.exception("schedule.failed", schedule_id=schedule.schedule_id)
        return None
    timing = schedule.definition.timing
    next_slot = plan.next_slot
    due_at = None if next_slot is None else timing.due(schedule.schedule_id, next_slot)
    if schedule.definition.overlap is Overlap.CANCEL_RUNNING and plan.fires:
        # The plan holds only while this is the schedule's last job, so a job that just fired is never meant.
        await _cancel_last(core, schedule)
    return Planned(schedule, plan, await _ids(core, len(plan.fires)), due_at)


async def _cancel_last(core: Core, schedule: Schedule) -> None:
    if schedule.last_job_id is None:
        return
    ctx = Context(schedule.tenant_id, f"schedule {schedule.definition.name}")
    try:
        await jobs.cancel(core, ctx, schedule.last_job_id)
    except Unavailable:
        raise
    except TaskForgeError:
        return  # it has ended, or is not kept any more


async def _decide(core: Core, planned: Sequence[Planned]) -> int:
    if not planned:
        return 0
    by_id = {one.schedule.schedule_id: one.schedule for one in planned}
    async with core.database.ingest() as connection:
        decided = await schedules.decide(connection, planned)
        queue_ids = await _store(connection, by_id, decided)
    core.wakeups.jobs_ready(queue_ids)
    return len({one.schedule_id for one in decided})


async def _store(connection: Connection, by_id: dict[int, Schedule], decided: Sequence[Decided]) -> set[int]:
    """The jobs of the slots that fire; the ids of the queues that received one."""
    runs: list[Run] = []
    for one in decided:
        if one.verdict is Verdict.FIRED and one.job_id is not None and one.queue_id is not None:
            schedule = by_id[one.schedule_id]
            draft = schedule.definition.job
            lane = lane_of(schedule.tenant_id, one.queue_id, draft)
            group = JobGroup(structs.replace(draft, payload=b""), [draft.payload])
            runs += submit.lay_out(lane, [group], [range(one.job_id, one.job_id + 1)])[0]
    if runs:
        await submit.publish(connection, runs)
    return {run.lane.queue_id for run in runs}


async def _ids(core: Core, count: int) -> list[int]:
    return [i for part in await core.submitter.take_ids(count) for i in part] if count else []
