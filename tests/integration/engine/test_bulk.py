"""Bulk operations: what they hit and leave alone, that a killed runner repeats and omits nothing, stop, rates (L9)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from taskforge.domain.bulk import BulkOperation, BulkRequest
from taskforge.domain.leases import Failed, Outcome
from taskforge.errors import Conflict, Invalid, NotFound
from taskforge.postgres import bulk as rows
from taskforge.runtime.bulk_runner import BulkRunner, DeadLetterRetention
from taskforge.services import bulk, control, health, jobs, queues
from taskforge.services import dead_letters as service
from tests.support.engine import Engine, dead_letters, failed, report, retrying, succeeded
from tests.support.waiting import until

FAR = 3_600.0


@pytest.fixture
async def engine(engine: Engine) -> Engine:
    await engine.core.directory.ensure(engine.ctx.tenant_id, ["other"])
    return engine


def request(verb: str, **fields: Any) -> BulkRequest:
    return msgspec.convert({"verb": verb, "filter": {"queue_name": "default"}} | fields, BulkRequest)


async def start(engine: Engine, verb: str, **fields: Any) -> BulkOperation:
    return await bulk.start(engine.core, engine.ctx, request(verb, **fields))


async def run(engine: Engine, operation: BulkOperation, *, piece: int = 250) -> BulkOperation:
    """To its end."""
    runner = BulkRunner(engine.core, piece=piece)
    async with asyncio.timeout(30):
        while not (found := await show(engine, operation)).state.is_final:
            await runner.run_once()
    return found


async def show(engine: Engine, operation: BulkOperation) -> BulkOperation:
    return await bulk.get(engine.core, engine.ctx, int(operation.id))


async def states(engine: Engine, ids: list[int]) -> list[str]:
    return [await engine.state(job_id) for job_id in ids]


async def furnish(engine: Engine) -> dict[str, list[int]]:
    """Two jobs in every state."""
    made: dict[str, list[int]] = {}
    worker = await engine.register()
    for state, outcome in (("succeeded", succeeded), ("failed", failed), ("retrying", retrying)):
        made[state] = await engine.submit(2)
        for lease in await engine.claim(worker, 2):
            await engine.finish(worker, report(lease, outcome))
    made["processing"] = await engine.submit(2)
    await engine.claim(worker, 2)
    made["cancelled"] = await engine.submit(2)
    for job_id in made["cancelled"]:
        await engine.cancel(job_id)
    made["scheduled"] = await engine.submit(2, delay_seconds=FAR)
    made["pending"] = await engine.submit(2)
    return made


HITS = {
    "cancel": {"pending": "cancelled", "scheduled": "cancelled", "retrying": "cancelled"},
    "retry": {"failed": "pending"},
    "redrive": {"failed": "pending"},
    "purge": {"failed": "gone"},
    "move": {},
    "change_priority": {},
    "reschedule": {"pending": "scheduled"},
}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "move": {"queue_name": "other"},
    "change_priority": {"priority": 9},
    "reschedule": {"delay_seconds": 7_200},
}


@pytest.mark.parametrize("verb", HITS)
async def test_a_verb_hits_the_states_it_is_for_and_no_other(engine: Engine, verb: str) -> None:
    made = await furnish(engine)
    fields = {"arguments": ARGUMENTS[verb]} if verb in ARGUMENTS else {}
    looked = await bulk.preview(engine.core, engine.ctx, request(verb, **fields))
    operation = await run(engine, await start(engine, verb, **fields))
    assert (operation.state, operation.failed) == ("completed", 0)
    assert looked.is_exact and looked.count == operation.total == operation.done
    for state, ids in made.items():
        for job_id in ids:
            try:
                view = await engine.view(job_id)
            except NotFound:
                assert HITS[verb][state] == "gone"
                continue
            assert view.state == HITS[verb].get(state, state)
            is_waiting = state in ("pending", "scheduled", "retrying")
            assert view.queue_name == ("other" if verb == "move" and is_waiting else "default")
            assert view.priority == (9 if verb == "change_priority" and is_waiting else 5)
            assert view.cancel_requested == (verb == "cancel" and state == "processing")
    await engine.assert_one_place(
        [i for s, ids in made.items() for i in ids if (verb, s) != ("purge", "failed")]
    )


async def test_all_conditions_of_a_filter_hold_at_once(engine: Engine) -> None:
    early = await engine.submit(2, job_type="mail", tags=("a",))
    instant = await engine.admin.fetchval("select clock_timestamp()")
    [wanted] = await engine.submit(1, job_type="mail", tags=("a", "b"))
    rest = [
        *await engine.submit(1, job_type="mail", tags=("b",)),
        *await engine.submit(1, job_type="sms", tags=("a",)),
        *await engine.submit(1, job_type="mail", tags=("a",), queue_name="other"),
    ]
    wish = {"queue_name": "default", "job_type": "mail", "tag": "a", "submitted_after": instant}
    operation = await run(engine, await start(engine, "cancel", filter=wish))
    assert operation.done == 1
    assert await engine.state(wanted) == "cancelled"
    assert set(await states(engine, early + rest)) == {"pending"}


async def test_jobs_can_be_named_one_by_one(engine: Engine) -> None:
    ids = await engine.submit(5)
    [dead] = await dead_letters_of(engine, "other", 1)
    named = [str(i) for i in (ids[0], ids[3], dead, 4_711_000)]
    operation = await run(engine, await start(engine, "cancel", filter={"job_ids": named}))
    assert (operation.total, operation.done, operation.failed) == (2, 2, 0)
    assert await states(engine, [ids[0], ids[3]]) == ["cancelled"] * 2
    assert await states(engine, [ids[1], ids[2], ids[4]]) == ["pending"] * 3


async def dead_letters_of(engine: Engine, queue: str, count: int) -> list[int]:
    ids = await engine.submit(count, queue_name=queue)
    worker = await engine.register(queue)
    for lease in await engine.claim(worker, count):
        await engine.finish(worker, report(lease, failed))
    return ids


async def test_what_is_submitted_after_it_began_is_left_alone(engine: Engine) -> None:
    before = await engine.submit(5)
    operation = await start(engine, "cancel")
    after = await engine.submit(5)
    # As numbers of another process's block would be: lower than those that are there already.
    await engine.admin.execute("update spans set submitted_at = now() where lo = $1", after[0])
    found = await run(engine, operation, piece=2)
    assert found.done == 5
    assert set(await states(engine, before)) == {"cancelled"}
    assert set(await states(engine, after)) == {"pending"}


async def test_lower_ids_that_are_submitted_later_are_left_alone(engine: Engine, other: Engine) -> None:
    await other.submit(1)  # its block of ids is the lower one
    ids = await engine.submit(3)
    operation = await start(engine, "cancel")
    [late] = await other.submit(1)
    assert late < ids[0]
    assert (await run(engine, operation)).done == 4
    assert await engine.state(late) == "pending"


async def test_a_dead_letter_that_fails_again_is_not_redriven_again(engine: Engine) -> None:
    ids = await dead_letters(engine, 4)
    operation = await start(engine, "redrive")
    runner = BulkRunner(engine.core, piece=2)
    await runner.run_piece(engine.ctx.tenant_id, int(operation.id))
    worker = await engine.register()
    for lease in await engine.claim(worker, 4):
        await engine.finish(worker, report(lease, failed))
    found = await run(engine, operation, piece=2)
    assert found.done == 4
    assert await states(engine, ids) == ["failed", "failed", "pending", "pending"]


async def test_a_runner_killed_in_the_middle_of_a_piece_repeats_and_omits_nothing(
    engine: Engine, other: Engine
) -> None:
    ids = await dead_letters(engine, 30)
    operation = await start(engine, "redrive")
    runner = BulkRunner(engine.core, piece=7)
    await runner.run_piece(engine.ctx.tenant_id, int(operation.id))
    async with engine.gate("redrives"):
        dying = asyncio.create_task(runner.run_piece(engine.ctx.tenant_id, int(operation.id)))
        await engine.blocked(1)
        pid = await engine.admin.fetchval(
            "select pid from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        )
        await engine.admin.execute("select pg_terminate_backend($1::integer)", pid)
        await asyncio.gather(dying, return_exceptions=True)
    assert (await show(engine, operation)).done == 7
    found = await run(other, operation, piece=7)
    assert (found.state, found.done, found.failed) == ("completed", 30, 0)
    assert await engine.admin.fetchval("select count(*) from redrives") == 30
    assert await engine.places(ids) == {i: ["ready"] for i in ids}


async def test_two_runners_never_hold_the_same_operation(engine: Engine, other: Engine) -> None:
    await dead_letters(engine, 10)
    operation = await start(engine, "redrive")
    number = int(operation.id)
    async with engine.gate("redrives"):
        first = asyncio.create_task(BulkRunner(engine.core, piece=4).run_piece(engine.ctx.tenant_id, number))
        await engine.blocked(1)
        assert await BulkRunner(other.core).run_piece(engine.ctx.tenant_id, number) is False
    assert await first is True
    assert (await run(engine, operation)).done == 10


async def test_a_redrive_of_ten_thousand_asked_for_twice_at_once_in_both_ways_brings_each_back_once(
    engine: Engine, other: Engine
) -> None:
    count = 10_000
    ids = await dead_letters(engine, count)
    one, two = await start(engine, "redrive"), await start(other, "redrive")
    now, first, second = await asyncio.gather(
        service.redrive(engine.core, engine.ctx, "default"), run(engine, one), run(other, two)
    )
    assert now + first.done + second.done == count
    assert await engine.admin.fetchval("select count(*) from redrives") == count
    assert await engine.admin.fetchval("select count(distinct job_id) from redrives") == count
    assert (await health.of_queue(engine.core, engine.ctx, "default")).pending == count
    await engine.assert_one_place(ids)


async def test_once_a_stop_has_answered_nothing_more_is_touched(engine: Engine, other: Engine) -> None:
    ids = await engine.submit(20)
    operation = await start(engine, "cancel")
    runner = BulkRunner(engine.core, piece=5)
    async with engine.gate("outcomes"):
        piece = asyncio.create_task(runner.run_piece(engine.ctx.tenant_id, int(operation.id)))
        await engine.blocked(1)
        stopping = asyncio.create_task(bulk.stop(other.core, other.ctx, int(operation.id)))
        await engine.blocked(2)
    await piece
    stopped = await stopping
    assert (stopped.state, stopped.done, stopped.stopped_by) == ("stopped", 5, other.ctx.actor)
    await runner.run_once()
    assert (await states(engine, ids)).count("pending") == 15
    with pytest.raises(Conflict) as refused:
        await bulk.stop(engine.core, engine.ctx, int(operation.id))
    assert refused.value.code == "bulk.already_ended"


async def test_a_rate_holds_over_pieces_and_restarts(engine: Engine) -> None:
    await engine.submit(30)
    operation = await start(engine, "cancel", rate_per_second=0.02)
    runner = BulkRunner(engine.core)
    await runner.run_once()
    assert (await show(engine, operation)).done == 1
    await BulkRunner(engine.core).run_once()
    assert (await show(engine, operation)).done == 1
    wait = await engine.admin.fetchval("select extract(epoch from next_at - now()) from bulk_operations")
    assert 40 < wait <= 50


async def test_a_rate_of_a_hundred_is_no_more_than_that_on_the_way(engine: Engine) -> None:
    await engine.submit(300)
    operation = await start(engine, "cancel", rate_per_second=100)
    loop = asyncio.get_running_loop()
    began = loop.time()
    found = await run(engine, operation)
    took = loop.time() - began
    assert found.done == 300
    assert took > 1.5, (
        "a second's worth may be made up for, the first piece comes at once; the rest takes its time"
    )


async def test_jobs_that_refuse_are_told_and_the_rest_is_done(engine: Engine) -> None:
    ids = await engine.submit(3)
    operation = await start(engine, "reschedule", arguments={"delay_seconds": 60})
    held = engine.core.database.tenant(engine.ctx.tenant_id)
    async with held as connection:
        worker = await engine.register()
        [lease] = await engine.claim(worker, 1)
        verdicts = await rows.apply(connection, engine.ctx.tenant_id, operation, ids, queue_id=None)
    assert [(v.job_id, v.verdict) for v in verdicts] == [
        (ids[0], "running"),
        (ids[1], "done"),
        (ids[2], "done"),
    ]
    assert lease.ids == [ids[0]]


async def test_a_canary_that_succeeds_is_followed_by_the_rest(engine: Engine) -> None:
    ids = await dead_letters(engine, 12)
    wish = {"canary": {"count": 3, "watch_seconds": 3_600}, "filter": {"queue_name": "default"}}
    operation = await start(engine, "redrive", **wish)
    assert operation.state == "canary"
    runner = BulkRunner(engine.core)
    await runner.run_once()
    found = await show(engine, operation)
    assert (found.state, found.done, found.canary_job_ids) == ("watching", 3, tuple(map(str, ids[:3])))
    await finish_all(engine, succeeded)
    await let_it_look(engine)
    await runner.run_once()
    found = await run(engine, operation)
    assert (found.state, found.done) == ("completed", 12)
    assert await states(engine, ids[3:]) == ["pending"] * 9


@pytest.mark.parametrize("way", ["one fails", "time is over"])
async def test_a_canary_that_fails_stops_the_rest(engine: Engine, way: str) -> None:
    ids = await dead_letters(engine, 6)
    watch = 3_600 if way == "one fails" else 0
    operation = await start(engine, "redrive", canary={"count": 2, "watch_seconds": watch})
    runner = BulkRunner(engine.core)
    await runner.run_once()
    if way == "one fails":
        await finish_all(engine, failed)
    await let_it_look(engine)
    await runner.run_once()
    found = await show(engine, operation)
    assert (found.state, found.reason, found.done) == ("stopped", "canary_failed", 2)
    assert await states(engine, ids[2:]) == ["failed"] * 4


async def finish_all(engine: Engine, outcome: Callable[[int], Outcome]) -> None:
    worker = await engine.register()
    for lease in await engine.claim(worker, 100):
        await engine.finish(worker, report(lease, outcome))


async def let_it_look(engine: Engine) -> None:
    await engine.admin.execute("update bulk_operations set next_at = now()")


async def test_a_target_queue_that_is_deleted_stops_the_operation_and_says_so(
    engine: Engine, other: Engine
) -> None:
    ids = await engine.submit(3)
    operation = await start(engine, "move", arguments={"queue_name": "other"})
    await queues.delete(other.core, other.ctx, "other")
    found = await run(engine, operation)
    assert (found.state, found.reason, found.done) == ("stopped", "queue.gone", 0)
    assert await states(engine, ids) == ["pending"] * 3


async def test_a_piece_that_meets_a_lock_gives_way_and_is_tried_smaller(engine: Engine) -> None:
    ids = await engine.submit(8)
    await engine.admin.execute("delete from ready")
    await engine.admin.execute(
        "insert into ready (queue_id, priority, stream, tenant_id, attempt, lo, hi)"
        " select queue_id, 5, 1, tenant_id, 1, id, id from jobs"
    )
    operation = await start(engine, "cancel")
    runner = BulkRunner(engine.core, piece=8)
    async with engine.holding(f"select from ready where lo = {ids[6]} for update"):
        assert await runner.run_piece(engine.ctx.tenant_id, int(operation.id)) is False
        assert await runner.run_piece(engine.ctx.tenant_id, int(operation.id)) is True
        assert (await show(engine, operation)).done == 2
    assert (await run(engine, operation)).done == 8


async def test_many_states_places_and_extents_are_walked_in_pieces_without_a_gap(engine: Engine) -> None:
    ids = [*await engine.submit(2_500), *await engine.submit(700, delay_seconds=FAR)]
    ids += await engine.submit(1_300, priority=1)
    found = await run(engine, await start(engine, "cancel"), piece=999)
    assert (found.done, found.failed, found.total) == (4_500, 0, 4_500)
    assert await engine.admin.fetchval("select count(*) from outcomes where state = 3") == len(ids)


async def test_an_operation_is_its_tenants_own(engine: Engine) -> None:
    ids = await engine.submit(2)
    stranger = await engine.stranger("default")
    theirs = await stranger.submit(2)
    operation = await start(stranger, "cancel")
    with pytest.raises(NotFound):
        await bulk.get(engine.core, engine.ctx, int(operation.id))
    with pytest.raises(NotFound):
        await bulk.stop(engine.core, engine.ctx, int(operation.id))
    assert (await bulk.list_operations(engine.core, engine.ctx, limit=10)).data == []
    assert (await run(stranger, operation)).done == 2
    assert set(await states(engine, ids)) == {"pending"}
    assert set(await states(stranger, theirs)) == {"cancelled"}
    with pytest.raises(NotFound):
        await control.changes(engine.core, engine.ctx, theirs[0])


async def test_an_unknown_queue_is_refused_before_anything_begins(engine: Engine) -> None:
    for fields in (
        {"verb": "cancel", "filter": {"queue_name": "nowhere"}},
        {"verb": "move", "filter": {"queue_name": "default"}, "arguments": {"queue_name": "nowhere"}},
    ):
        with pytest.raises(Invalid) as refused:
            await bulk.start(engine.core, engine.ctx, msgspec.convert(fields, BulkRequest))
        assert refused.value.code == "queue.not_found"
    assert await engine.admin.fetchval("select count(*) from bulk_operations") == 0


async def test_operations_are_listed_newest_first_in_pages(engine: Engine) -> None:
    made = [(await start(engine, "cancel")).id for _ in range(5)]
    first = await bulk.list_operations(engine.core, engine.ctx, limit=3)
    second = await bulk.list_operations(engine.core, engine.ctx, limit=3, cursor=first.next_cursor)
    assert [o.id for o in first.data + second.data] == made[::-1]
    assert second.next_cursor is None


async def test_the_maintenance_loop_starts_it_by_itself(engine: Engine) -> None:
    from taskforge.runtime.maintenance import Maintenance

    await engine.submit(3)
    maintenance = Maintenance(engine.core)
    maintenance.set_active(True)
    maintenance.start()
    try:
        operation = await start(engine, "cancel")
        await until(lambda: is_final(engine, operation))
    finally:
        await maintenance.stop()
    assert (await show(engine, operation)).done == 3


async def is_final(engine: Engine, operation: BulkOperation) -> bool:
    return (await show(engine, operation)).state.is_final


# -- dead letters


def failing(error_class: str, message: str) -> Callable[[int], Outcome]:
    def fail(job_id: int) -> Outcome:
        return Failed(job_id, 10, 20, error_class, message.format(job_id), 'File "a/b.py", line 1, in f')

    return fail


async def fail_like(engine: Engine, count: int, error_class: str, message: str, **fields: Any) -> list[int]:
    ids = await engine.submit(count, **fields)
    await finish_all(engine, failing(error_class, message))
    return ids


async def test_dead_letters_are_grouped_by_what_went_wrong(engine: Engine) -> None:
    mails = await fail_like(engine, 3, "Timeout", "no answer for job {}", job_type="mail")
    texts = await fail_like(engine, 2, "Timeout", "no answer for job {}", job_type="sms")
    odd = await fail_like(engine, 1, "KeyError", "'name'")
    found = await service.groups(engine.core, engine.ctx, "default", limit=10)
    assert (found.dead_letters, found.is_complete) == (6, True)
    timeout, key = found.data
    assert (timeout.count, timeout.error_class, timeout.job_types) == (5, "Timeout", ("mail", "sms"))
    assert timeout.message == f"no answer for job {texts[-1]}"
    assert timeout.sample_job_ids == (str(texts[-1]), str(mails[-1]))
    assert timeout.first_failed_at <= timeout.last_failed_at
    assert (key.count, key.sample_job_ids) == (1, (str(odd[0]),))
    view = await engine.view(odd[0])
    assert view.error is not None and view.error.fingerprint == key.fingerprint
    assert [
        int(view.id)
        for view in (
            await service.list_dead_letters(
                engine.core,
                engine.ctx,
                "default",
                limit=10,
                wanted=jobs.JobFilter(fingerprint=key.fingerprint),
            )
        ).data
    ] == odd


@pytest.mark.parametrize(
    ("text", "hits"),
    [
        ("100%", 1),
        ("%", 1),
        ("_", 1),
        ("A_B", 1),
        ("a.b", 0),
        (".*", 0),
        ("refused", 2),
        ("REFUSED", 2),
        ("valueerror: disk", 1),
        ("' or true --", 0),
        ("\\", 0),
    ],
)
async def test_text_is_looked_for_as_it_is(engine: Engine, text: str, hits: int) -> None:
    await fail_like(engine, 1, "ValueError", "disk is 100% full")
    await fail_like(engine, 2, "ConnectionError", "refused")
    await fail_like(engine, 1, "ValueError", "no a_b here")
    page = await service.list_dead_letters(
        engine.core, engine.ctx, "default", limit=10, wanted=jobs.JobFilter(error_text=text)
    )
    assert len(page.data) == hits


async def test_dead_letters_of_a_fingerprint_are_redriven_and_no_others(engine: Engine) -> None:
    good = await fail_like(engine, 3, "Timeout", "no answer for job {}")
    bad = await fail_like(engine, 2, "KeyError", "'name'")
    groups = await service.groups(engine.core, engine.ctx, "default", limit=10)
    wish = {"queue_name": "default", "fingerprint": groups.data[0].fingerprint}
    assert (await run(engine, await start(engine, "redrive", filter=wish))).done == 3
    assert await states(engine, good + bad) == ["pending"] * 3 + ["failed"] * 2


async def test_old_dead_letters_go_by_the_retention_of_their_queue(engine: Engine) -> None:
    old, fresh = await dead_letters(engine, 3), await dead_letters_of(engine, "default", 2)
    kept = await dead_letters_of(engine, "other", 1)
    await engine.admin.execute(
        "update outcomes set finished_at = now() - interval '2 h' where id = any ($1)", old + kept
    )
    retention = DeadLetterRetention(engine.core)
    await retention.run_once()
    assert await states(engine, old) == ["failed"] * 3
    await engine.admin.execute(
        """
        update queues set settings = case name when 'default' then '{"dead_letter_retention_seconds": 3600}'
          else '{"dead_letter_retention_seconds": null}' end::jsonb
        """
    )
    await retention.run_once()
    for job_id in old:
        with pytest.raises(NotFound):
            await engine.view(job_id)
        [last] = await control.changes(engine.core, engine.ctx, job_id)
        assert (last.verb, last.actor) == ("purge", "taskforge")
    assert await states(engine, fresh + kept) == ["failed"] * 3
    wait = await engine.admin.fetchval(
        "select extract(epoch from due_at - now()) from duty_times where duty = 'dead_letter_retention'"
    )
    assert 20 < wait <= 30


async def test_a_dead_letter_leaves_a_copy_in_the_dead_letter_queue_of_its_queue(engine: Engine) -> None:
    await engine.admin.execute(
        """update queues set settings = '{"dead_letter_queue": "other"}' where name = 'default'"""
    )
    await engine.admin.execute(
        """update queues set settings = '{"dead_letter_queue": "default"}' where name = 'other'"""
    )
    [job_id] = await fail_like(engine, 1, "KeyError", "'name'", job_type="mail", payload=b'{"to":  1}')
    worker = await engine.register("other")
    [lease] = await engine.claim(worker)
    assert lease.job_types == ["dead_letter"]
    assert lease.payloads[0] is not None
    told = msgspec.json.decode(lease.payloads[0])
    assert (told["job_id"], told["queue_name"], told["job_type"], told["payload"]) == (
        str(job_id),
        "default",
        "mail",
        {"to": 1},
    )
    assert (told["error_class"], told["message"], told["attempt"]) == ("KeyError", "'name'", 1)
    assert await engine.state(job_id) == "failed"
    await engine.finish(worker, report(lease, failed))
    assert await engine.admin.fetchval("select count(*) from jobs") == 2, "copies of copies are not made"
    seen = await health.of_queue(engine.core, engine.ctx, "other")
    assert (seen.pending, seen.dead_letters) == (0, 1)


async def test_a_lost_workers_dead_letter_is_copied_too_and_a_queue_that_is_gone_harms_nobody(
    engine: Engine,
) -> None:
    await engine.admin.execute(
        """update queues set settings = '{"dead_letter_queue": "other"}' where name = 'default'"""
    )
    await engine.submit(1, max_attempts=1)
    worker = await engine.register()
    await engine.claim(worker)
    await engine.expire(worker)
    await engine.reap()
    assert (await health.of_queue(engine.core, engine.ctx, "other")).pending == 1
    await engine.admin.execute(
        """update queues set settings = '{"dead_letter_queue": "nowhere"}' where name = 'default'"""
    )
    await fail_like(engine, 1, "KeyError", "'name'")
    assert (await health.of_queue(engine.core, engine.ctx, "default")).dead_letters == 2


async def test_a_filter_by_the_time_of_failure(engine: Engine) -> None:
    old, fresh = await dead_letters(engine, 1), await dead_letters(engine, 1)
    await engine.admin.execute(
        "update outcomes set finished_at = now() - interval '2 h' where id = $1", old[0]
    )
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    for wish, ids in (({"failed_before": hour_ago}, old), ({"failed_after": hour_ago}, fresh)):
        page = await service.list_dead_letters(
            engine.core, engine.ctx, "default", limit=10, wanted=jobs.JobFilter(**wish)
        )
        assert [int(view.id) for view in page.data] == ids
