"""Schedules: make, change, pause, look after, remove, run; and declare those that code brings along."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import structlog
from msgspec import structs

from taskforge.domain import schedules as rules
from taskforge.domain.queues import NAME
from taskforge.domain.schedules import Firing, Schedule, ScheduleChange, ScheduleDraft, Source, Tick
from taskforge.domain.tenants import Context
from taskforge.errors import Conflict, Invalid, NotFound, TaskForgeError, Unavailable
from taskforge.postgres import schedules
from taskforge.postgres.pool import Connection
from taskforge.services import slots
from taskforge.services.core import Core
from taskforge.services.pages import Page

_log = structlog.get_logger(__name__)

_NEWEST = datetime(9999, 1, 1, tzinfo=UTC)


async def create(core: Core, ctx: Context, draft: ScheduleDraft) -> Schedule:
    """Raises Invalid, also when it never fires; Conflict `schedule.exists` or `schedule.too_many`."""
    timing = rules.check(draft, now=core.clock.now(), max_payload_bytes=core.max_payload_bytes)
    await core.directory.find(ctx.tenant_id, [draft.queue_name])
    async with core.database.tenant(ctx.tenant_id) as connection:
        await _check_room(core, ctx, connection)
        made = await schedules.create_schedule(connection, ctx.tenant_id, draft, source=Source.API)
        made = await _aim(connection, made, timing)
    core.wakeups.jobs_parked()
    return made


async def get(core: Core, ctx: Context, name: str) -> Schedule:
    """Raises NotFound; another tenant's schedule does not exist."""
    async with core.database.tenant(ctx.tenant_id) as connection:
        return _found(await schedules.get_schedule(connection, ctx.tenant_id, name), name)


async def list_schedules(
    core: Core, ctx: Context, *, limit: int, cursor: str | None = None
) -> Page[Schedule]:
    """By name."""
    if cursor is not None and not NAME.fullmatch(cursor):
        raise _bad_cursor()
    async with core.database.tenant(ctx.tenant_id) as connection:
        found = await schedules.list_schedules(connection, ctx.tenant_id, after=cursor or "", limit=limit + 1)
    more = len(found) > limit
    return Page(found[:limit], found[limit - 1].definition.name if more else None)


async def update(core: Core, ctx: Context, name: str, change: ScheduleChange) -> Schedule:
    """In force at once. When its times change, a slot that is due but not decided yet is recorded as skipped."""
    async with core.database.tenant(ctx.tenant_id) as connection:
        known = _found(await schedules.get_schedule(connection, ctx.tenant_id, name), name)
    await core.directory.find(ctx.tenant_id, [rules.changed(known.definition, change).queue_name])
    async with core.database.tenant(ctx.tenant_id) as connection:
        schedule = _found(await schedules.get_schedule(connection, ctx.tenant_id, name, locked=True), name)
        changed = await _define(
            core, connection, schedule, rules.changed(schedule.definition, change), by_hand=True
        )
    core.wakeups.jobs_parked()
    return changed


async def pause(core: Core, ctx: Context, name: str) -> Schedule:
    """Afterwards no slot fires, and none is recorded: those that pass meanwhile are not missed ones."""
    return await _set_paused(core, ctx, name, True)


async def resume(core: Core, ctx: Context, name: str) -> Schedule:
    """It goes on with the next slot from now. Raises Invalid `schedule.never_fires` when there is none left."""
    return await _set_paused(core, ctx, name, False)


async def delete(core: Core, ctx: Context, name: str) -> None:
    """With its record of slots. Jobs that it has submitted stay."""
    async with core.database.tenant(ctx.tenant_id) as connection:
        if not await schedules.delete_schedule(connection, ctx.tenant_id, name):
            raise _not_found(name)


async def run(core: Core, ctx: Context, name: str) -> int:
    """Submit its job now, whatever its times, its pause and its overlap policy say; the id of the job."""
    for _ in range(_TRIES):
        schedule = await get(core, ctx, name)
        decided = await slots.fire_now(core, schedule)
        if decided is None:
            continue
        if decided.queue_id is None or decided.job_id is None:
            raise Conflict(
                "queue.gone",
                f'the queue "{schedule.definition.queue_name}" of schedule "{name}" does not exist any more; '
                "make it, or change the schedule",
            )
        return decided.job_id
    raise Unavailable("database.busy", f'schedule "{name}" is being changed; try again', retry_after=1)


async def preview(
    core: Core, ctx: Context, name: str, *, after: datetime | None, count: int
) -> tuple[Firing, ...]:
    """The next times after `after`, by default from now, as if it were not paused."""
    schedule = await get(core, ctx, name)
    return rules.preview(schedule.definition.timing, after or core.clock.now(), count)


def preview_expression(
    core: Core,
    expression: str,
    timezone: str,
    *,
    start_at: datetime | None,
    end_at: datetime | None,
    after: datetime | None,
    count: int,
) -> tuple[Firing, ...]:
    """The times of a schedule that need not exist. Raises Invalid, also when there are none."""
    draft = ScheduleDraft(
        name="a", job_type="a", expression=expression, timezone=timezone, start_at=start_at, end_at=end_at
    )
    now = core.clock.now()
    timing = rules.check(draft, now=now, max_payload_bytes=core.max_payload_bytes)
    return rules.preview(timing, after or now, count)


async def list_ticks(
    core: Core, ctx: Context, name: str, *, limit: int, cursor: str | None = None
) -> Page[Tick]:
    """What became of its slots, newest first. The last thousand or so are kept."""
    try:
        before = _NEWEST if cursor is None else datetime.fromisoformat(cursor)
    except ValueError:
        raise _bad_cursor() from None
    async with core.database.tenant(ctx.tenant_id) as connection:
        schedule = _found(await schedules.get_schedule(connection, ctx.tenant_id, name), name)
        found = await schedules.list_ticks(connection, schedule, before=before, limit=limit + 1)
    more = len(found) > limit
    return Page(found[:limit], found[limit - 1].slot.isoformat() if more else None)


async def declare(core: Core, ctx: Context, drafts: Sequence[ScheduleDraft]) -> None:
    """Make the schedules that code declares, or bring them up to date.

    Any number of workers may do it at once. A schedule that was changed by hand, or was made by hand under the same
    name, stays as it is, and a warning says so; whether it is paused is never touched. One that cannot be made, because
    its time is over or there are too many, is no reason not to work: a warning, too.
    """
    queues = sorted({draft.queue_name for draft in drafts})
    if queues:
        await core.directory.ensure(ctx.tenant_id, queues)
    for draft in sorted(drafts, key=lambda draft: draft.name):
        try:
            try:
                await _declare(core, ctx, draft)
            except Conflict as error:
                if error.code != "schedule.exists":
                    raise
                await _declare(core, ctx, draft)  # another worker has made it at this moment
        except (Conflict, Invalid) as error:
            _log.warning("schedule.refused", schedule=draft.name, error=error.code, detail=error.detail)
    if drafts:
        core.wakeups.jobs_parked()


_TRIES = 5


async def _declare(core: Core, ctx: Context, draft: ScheduleDraft) -> None:
    timing = rules.check(draft, now=core.clock.now(), max_payload_bytes=core.max_payload_bytes)
    fingerprint = rules.fingerprint(draft)
    async with core.database.tenant(ctx.tenant_id) as connection:
        known = await schedules.get_declared(connection, ctx.tenant_id, draft.name)
        if known is None:
            await _check_room(core, ctx, connection)
            made = await schedules.create_schedule(
                connection, ctx.tenant_id, draft, source=Source.CODE, declared=fingerprint
            )
            await _aim(connection, made, timing)
            return
        schedule, declared = known
        if declared == fingerprint:
            return
        if schedule.source is not Source.CODE or schedule.edited:
            _log.warning("schedule.kept", schedule=draft.name, changed_by="hand")
            return
        draft = structs.replace(draft, paused=schedule.definition.paused)
        await _define(core, connection, schedule, draft, by_hand=False, declared=fingerprint)


async def _define(
    core: Core,
    connection: Connection,
    schedule: Schedule,
    draft: ScheduleDraft,
    *,
    by_hand: bool,
    declared: bytes | None = None,
) -> Schedule:
    timing = rules.check(draft, now=core.clock.now(), max_payload_bytes=core.max_payload_bytes)
    if draft == schedule.definition and declared is None:
        return schedule
    changed = await schedules.define(connection, schedule, draft, by_hand=by_hand, declared=declared)
    if draft.overlap is not rules.Overlap.QUEUE:
        await schedules.drop_waiting(connection, schedule, reason="changed")
    if all(getattr(draft, name) == getattr(schedule.definition, name) for name in rules.TIMING_NAMES):
        return changed
    await _drop_due_slot(connection, schedule, reason="changed")
    return await _aim(connection, changed, timing)


async def _set_paused(core: Core, ctx: Context, name: str, paused: bool) -> Schedule:
    async with core.database.tenant(ctx.tenant_id) as connection:
        schedule = _found(await schedules.get_schedule(connection, ctx.tenant_id, name, locked=True), name)
        if schedule.definition.paused == paused:
            return schedule
        if paused:
            await _drop_due_slot(connection, schedule, reason="paused")
            await schedules.drop_waiting(connection, schedule, reason="paused")
        else:
            rules.check(schedule.definition, now=core.clock.now(), max_payload_bytes=core.max_payload_bytes)
        changed = await schedules.set_paused(connection, schedule, paused)
        changed = await _aim(connection, changed, changed.definition.timing)
    core.wakeups.jobs_parked()
    return changed


async def _drop_due_slot(connection: Connection, schedule: Schedule, *, reason: str) -> None:
    """A slot is decided exactly once, also when a person is faster than the scheduler."""
    if schedule.next_slot is not None and schedule.next_slot <= await schedules.now(connection):
        await schedules.drop_slot(connection, schedule, reason=reason)


async def _aim(connection: Connection, schedule: Schedule, timing: rules.Timing) -> Schedule:
    """At the next slot by the database's clock."""
    if schedule.definition.paused:
        return await schedules.aim(connection, schedule, None, None)
    slot = timing.slot_after(await schedules.now(connection))
    due_at = None if slot is None else timing.due(schedule.schedule_id, slot)
    return await schedules.aim(connection, schedule, slot, due_at)


async def _check_room(core: Core, ctx: Context, connection: Connection) -> None:
    if await schedules.count_for_creation(connection, ctx.tenant_id) >= core.max_schedules:
        raise Conflict(
            "schedule.too_many",
            f"the tenant has {core.max_schedules} schedules, which is the limit; delete one first",
        )


def _found(schedule: Schedule | None, name: str) -> Schedule:
    if schedule is None:
        raise _not_found(name)
    return schedule


def _not_found(name: str) -> NotFound:
    return NotFound("schedule.not_found", f'schedule "{name}" does not exist')


def _bad_cursor() -> TaskForgeError:
    return Invalid("cursor.invalid", "the cursor is not one of ours; start again without it")
