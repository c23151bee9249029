"""Changes of one job by hand: what each does in each state, and what it leaves alone (E3)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import Raw

from taskforge.domain.control import JobChange
from taskforge.domain.jobs import JobFilter, JobState, JobView
from taskforge.errors import Conflict, Invalid, NotFound
from taskforge.postgres import maintenance
from taskforge.services import control, health, jobs, queues
from taskforge.services import dead_letters as service
from tests.support.engine import Engine, dead_letters, failed, report, retrying, succeeded

FAR = 3_600.0


@pytest.fixture
async def engine(engine: Engine) -> Engine:
    await engine.core.directory.ensure(engine.ctx.tenant_id, ["other"])
    return engine


async def change(engine: Engine, job_id: int, **wanted: Any) -> JobView:
    return await control.change(engine.core, engine.ctx, job_id, JobChange(**wanted))


async def counts(engine: Engine, queue: str) -> dict[str, int]:
    found = await health.of_queue(engine.core, engine.ctx, queue)
    names = ("pending", "scheduled", "retrying", "blocked", "processing", "dead_letters")
    return {name: count for name in names if (count := getattr(found, name))}


async def listed(engine: Engine, queue_name: str | None = None, state: str | None = None) -> list[int]:
    wanted = JobFilter(queue_name, None if state is None else JobState(state))
    page = await jobs.list_jobs(engine.core, engine.ctx, wanted, limit=100)
    return [int(view.id) for view in page.data]


async def test_a_pending_job_can_be_put_off_and_called_back(engine: Engine) -> None:
    ids = await engine.submit(3)
    view = await change(engine, ids[1], delay_seconds=FAR)
    assert view.state == "scheduled" and view.run_at is not None
    assert await counts(engine, "default") == {"pending": 2, "scheduled": 1}
    assert (await change(engine, ids[1], delay_seconds=0)).state == "pending"
    assert await counts(engine, "default") == {"pending": 3}
    await engine.assert_one_place(ids)


async def test_a_time_in_the_past_means_at_once_and_a_pending_job_stays_where_it_is(engine: Engine) -> None:
    [job_id] = await engine.submit()
    seq = await engine.admin.fetchval("select seq from ready")
    assert (await change(engine, job_id, run_at=datetime(2001, 1, 1, tzinfo=UTC))).state == "pending"
    assert await engine.admin.fetchval("select seq from ready") == seq
    assert await control.changes(engine.core, engine.ctx, job_id) == []


async def test_a_retrying_job_keeps_its_attempt_when_its_time_is_changed(engine: Engine) -> None:
    [job_id] = await engine.submit()
    worker = await engine.register()
    [lease] = await engine.claim(worker)
    await engine.finish(worker, report(lease, retrying))
    later = datetime.now(UTC) + timedelta(days=3)
    view = await change(engine, job_id, run_at=later)
    assert (view.state, view.attempt, view.run_at) == ("retrying", 1, later)
    view = await change(engine, job_id, delay_seconds=0)
    assert (view.state, view.attempt) == ("pending", 1)
    [lease] = await engine.claim(worker)
    assert lease.attempt == 2


async def test_the_priority_of_a_waiting_job_decides_at_the_next_claim(engine: Engine) -> None:
    ids = await engine.submit(3, priority=2)
    assert (await change(engine, ids[2], priority=8)).priority == 8
    worker = await engine.register()
    [lease] = await engine.claim(worker)
    assert (lease.ids, lease.priority) == ([ids[2]], 8)


@pytest.mark.parametrize("delay", [None, FAR])
async def test_a_moved_job_is_in_the_other_queue_for_every_purpose(
    engine: Engine, delay: float | None
) -> None:
    ids = await engine.submit(3, delay_seconds=delay)
    state = "pending" if delay is None else "scheduled"
    assert (await change(engine, ids[1], queue_name="other")).queue_name == "other"
    assert await counts(engine, "default") == {state: 2}
    assert await counts(engine, "other") == {state: 1}
    rest = [ids[2], ids[0]]
    for wanted in (None, state):
        assert await listed(engine, state=wanted) == [ids[2], ids[1], ids[0]]
        assert await listed(engine, "default", wanted) == rest
        assert await listed(engine, "other", wanted) == [ids[1]]
    await change(engine, ids[1], queue_name="other", delay_seconds=0)
    worker = await engine.register("other")
    [lease] = await engine.claim(worker, 5)
    assert (lease.ids, lease.queue_name) == ([ids[1]], "other")
    assert await engine.state(ids[1]) == "processing"
    await engine.finish(worker, report(lease, succeeded))
    assert await listed(engine, "other", "succeeded") == [ids[1]]


async def test_a_job_moved_there_and_back_is_listed_once(engine: Engine) -> None:
    ids = await engine.submit(3)
    for queue in ("other", "default", "other", "default"):
        await change(engine, ids[1], queue_name=queue)
    assert await listed(engine, "default") == [ids[2], ids[1], ids[0]]
    assert await listed(engine, "other") == []
    assert await engine.admin.fetchval("select count(*) from moved_jobs") == 0


async def test_a_dead_letter_moves_with_its_outcome_and_is_redriven_where_it_is(engine: Engine) -> None:
    [job_id] = await dead_letters(engine, 1)
    view = await change(engine, job_id, queue_name="other", priority=9, payload=Raw(b'{"fixed": true}'))
    assert (view.state, view.queue_name) == ("failed", "other")
    assert await counts(engine, "other") == {"dead_letters": 1}
    assert await counts(engine, "default") == {}
    await jobs.retry(engine.core, engine.ctx, job_id)
    worker = await engine.register("other")
    [lease] = await engine.claim(worker)
    assert (lease.ids, lease.priority, lease.payloads) == ([job_id], 9, [b'{"fixed": true}'])


async def test_a_lost_worker_hands_a_moved_job_back_to_the_queue_it_was_moved_to(engine: Engine) -> None:
    [job_id] = await engine.submit()
    await change(engine, job_id, queue_name="other")
    worker = await engine.register("other")
    await engine.claim(worker)
    await engine.expire(worker)
    await engine.reap()
    assert await counts(engine, "other") == {"pending": 1}
    await engine.cancel(job_id)
    assert await counts(engine, "other") == {}


async def test_a_running_job_is_refused_and_so_is_one_that_has_succeeded(engine: Engine) -> None:
    [job_id] = await engine.submit()
    worker = await engine.register()
    [lease] = await engine.claim(worker)
    for wanted in ({"priority": 1}, {"queue_name": "other"}, {"delay_seconds": 5.0}, {"payload": Raw(b"1")}):
        with pytest.raises(Conflict) as refused:
            await change(engine, job_id, **wanted)
        assert refused.value.code == "job.running"
    await engine.finish(worker, report(lease, succeeded))
    with pytest.raises(Conflict) as refused:
        await change(engine, job_id, priority=1)
    assert refused.value.code == "job.already_succeeded"


async def test_an_ended_job_has_no_next_run_to_be_moved(engine: Engine) -> None:
    [job_id] = await engine.submit()
    await engine.cancel(job_id)
    with pytest.raises(Conflict) as refused:
        await change(engine, job_id, delay_seconds=5.0)
    assert refused.value.code == "job.already_ended"
    assert (await change(engine, job_id, queue_name="other")).queue_name == "other"


async def test_a_patch_merges_and_a_payload_replaces(engine: Engine) -> None:
    [job_id] = await engine.submit(payload=b'{"to": "a@b", "n": 1.10}')
    view = await change(engine, job_id, payload_patch=Raw(b'{"to": "c@d", "cc": null}'))
    assert bytes(view.payload) == b'{"to":"c@d","n":1.10}'
    view = await change(engine, job_id, payload=Raw(b"[]"))
    assert bytes(view.payload) == b"[]"


async def test_a_patch_must_not_make_the_payload_too_large(engine: Engine) -> None:
    [job_id] = await engine.submit(payload=b'{"a": "' + b"x" * 800_000 + b'"}')
    with pytest.raises(Invalid) as refused:
        await change(engine, job_id, payload_patch=Raw(b'{"b": "' + b"x" * 800_000 + b'"}'))
    assert refused.value.fields[0].pointer == "/payload_patch"


async def test_every_change_says_who_what_before_and_after(engine: Engine) -> None:
    [job_id] = await engine.submit(payload=b'{"n":1}')
    await change(engine, job_id, priority=9, queue_name="other", payload_patch=Raw(b'{"n":2}'))
    await change(engine, job_id, delay_seconds=FAR)
    await jobs.retry(engine.core, engine.ctx, job_id)
    await engine.cancel(job_id)
    await jobs.retry(engine.core, engine.ctx, job_id)
    made = await control.changes(engine.core, engine.ctx, job_id)
    assert [entry.verb for entry in made] == ["change", "change", "retry", "cancel", "redrive"]
    assert {entry.actor for entry in made} == {engine.ctx.actor}
    assert {name: bytes(raw) for name, raw in made[0].before.items()} == {
        "priority": b"5",
        "queue_name": b'"default"',
        "payload": b'{"n":1}',
    }
    assert bytes(made[0].after["payload"]) == b'{"n":2}'
    assert set(made[1].after) == {"state", "run_at"}
    assert bytes(made[3].before["state"]) == b'"pending"'


async def test_a_blocked_job_can_be_moved_and_cancelled_but_not_rescheduled(engine: Engine) -> None:
    [job_id] = await engine.submit(delay_seconds=FAR)
    await engine.admin.execute("update parked set kind = 3, run_at = 'infinity'")
    await engine.admin.execute(
        "insert into flow (tenant_id, queue_id, scheduled, blocked) select tenant_id, queue_id, -1, 1 from parked"
    )
    with pytest.raises(Conflict) as refused:
        await change(engine, job_id, delay_seconds=0)
    assert refused.value.code == "job.blocked"
    assert (await change(engine, job_id, queue_name="other", priority=1)).state == "blocked"
    assert (await counts(engine, "default"), await counts(engine, "other")) == ({}, {"blocked": 1})
    assert (await engine.cancel(job_id)).state == "cancelled"
    assert await counts(engine, "other") == {}


async def test_a_queue_that_is_not_there_is_refused(engine: Engine) -> None:
    [job_id] = await engine.submit()
    with pytest.raises(Invalid) as refused:
        await change(engine, job_id, queue_name="nowhere")
    assert refused.value.code == "queue.not_found"


async def test_a_queue_deleted_behind_its_back_receives_nothing(engine: Engine, other: Engine) -> None:
    [job_id] = await engine.submit()
    await engine.core.directory.find(engine.ctx.tenant_id, ["other"])
    await queues.delete(other.core, other.ctx, "other")
    with pytest.raises(Conflict) as refused:
        await change(engine, job_id, queue_name="other")
    assert refused.value.code == "queue.gone"
    with pytest.raises(Invalid):
        await change(engine, job_id, queue_name="other")
    assert await counts(engine, "default") == {"pending": 1}


async def test_another_tenants_job_cannot_be_changed_nor_its_changes_read(engine: Engine) -> None:
    [job_id] = await engine.submit()
    await change(engine, job_id, priority=1)
    stranger = await engine.stranger("default")
    with pytest.raises(NotFound):
        await change(stranger, job_id, priority=2)
    with pytest.raises(NotFound):
        await control.changes(stranger.core, stranger.ctx, job_id)


async def test_a_purged_job_says_who_purged_it(engine: Engine) -> None:
    [job_id] = await dead_letters(engine, 1)
    await change(engine, job_id, priority=1)
    await service.purge(engine.core, engine.ctx, "default")
    [last] = await control.changes(engine.core, engine.ctx, job_id)
    assert (last.verb, last.actor) == ("purge", engine.ctx.actor)


async def test_moved_jobs_survive_the_partition_they_were_submitted_in(engine: Engine) -> None:
    [job_id] = await engine.submit()
    await change(engine, job_id, queue_name="other")
    worker = await engine.register("other")
    [lease] = await engine.claim(worker)
    await engine.finish(worker, report(lease, failed))
    await engine.admin.execute("select setval('taskforge.job_ids', 8000000)")
    await maintenance.ensure_partitions(engine.core.database, ahead=1)
    await engine.admin.execute("update partitions set sealed_at = now() - interval '8 days' where number = 0")
    assert await maintenance.prune(engine.core.database, keep=timedelta(days=7)) == 0
    assert await listed(engine, "other") == [job_id]
    assert await listed(engine) == [job_id]
    assert len(await control.changes(engine.core, engine.ctx, job_id)) == 1
