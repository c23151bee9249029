"""Every change of a queue is a version: who, what, when, in the same transaction; and it takes effect at once."""

from __future__ import annotations

import msgspec
import pytest

from taskforge.domain.queues import Pause, QueueChange, QueueDraft, QueueVersion, RateLimit, Revert
from taskforge.errors import Invalid, NotFound, Outdated
from taskforge.services import queues
from tests.support.engine import Engine, together
from tests.support.waiting import until


async def history(engine: Engine, name: str = "default") -> list[QueueVersion]:
    return (await queues.list_versions(engine.core, engine.ctx, name, limit=100)).data


async def change(engine: Engine, **fields: object) -> int:
    wanted = msgspec.convert(fields, QueueChange)
    return (await queues.update(engine.core, engine.ctx, "default", wanted)).version


async def test_each_change_is_kept_with_who_made_it_and_why(engine: Engine) -> None:
    await queues.create(engine.core, engine.ctx, QueueDraft(name="mail", max_concurrency=3))
    await queues.update(engine.core, engine.ctx, "mail", QueueChange(priority=7, comment="urgent"))
    await queues.pause(engine.core, engine.ctx, "mail", Pause("no mail server"))
    await queues.resume(engine.core, engine.ctx, "mail")

    resumed, paused, changed, created = await history(engine, "mail")
    assert [v.action for v in (created, changed, paused, resumed)] == [
        "created",
        "changed",
        "paused",
        "resumed",
    ]
    assert [v.version for v in (created, changed, paused, resumed)] == [1, 2, 3, 4]
    assert {v.changed_by for v in (created, changed, paused, resumed)} == {engine.ctx.actor}
    assert created.before is None and bytes(created.after["max_concurrency"]) == b"3"
    assert changed.comment == "urgent"
    assert changed.before is not None and bytes(changed.before["priority"]) == b"0"
    assert bytes(changed.after["priority"]) == b"7"
    assert paused.comment == "no mail server" and bytes(paused.after["pause_reason"]) == b'"no mail server"'


async def test_a_change_that_changes_nothing_is_no_version(engine: Engine) -> None:
    assert await change(engine, max_attempts=5) == 1
    assert len(await history(engine)) == 1


async def test_a_change_made_behind_the_services_is_a_version_too(engine: Engine) -> None:
    await engine.admin.execute("update queues set priority = 3 where name = 'default'")
    newest = (await history(engine))[0]
    assert newest.version == 2 and newest.changed_by


async def test_who_paused_it_and_since_when_is_shown_until_it_is_resumed(engine: Engine) -> None:
    paused = await queues.pause(engine.core, engine.ctx, "default", Pause("why not"))
    assert (paused.paused_by, paused.pause_reason) == (engine.ctx.actor, "why not")
    again = await queues.pause(engine.core, engine.ctx, "default", Pause("another reason"))
    assert again.paused_at == paused.paused_at and again.pause_reason == "another reason"
    resumed = await queues.resume(engine.core, engine.ctx, "default")
    assert (resumed.paused_by, resumed.paused_at, resumed.pause_reason) == (None, None, None)


async def test_a_change_for_another_version_is_refused_and_changes_nothing(engine: Engine) -> None:
    await change(engine, priority=1)
    with pytest.raises(Outdated, match="at version 2, not 1"):
        await change(engine, priority=2, if_version=1)
    assert (await queues.get(engine.core, engine.ctx, "default")).priority == 1
    assert await change(engine, priority=2, if_version=2) == 3


async def test_of_two_changes_for_the_same_version_one_is_made(engine: Engine) -> None:
    answers = await together(*(change(engine, priority=i + 1, if_version=1) for i in range(2)))
    assert sorted(isinstance(answer, Outdated) for answer in answers) == [False, True]
    assert len(await history(engine)) == 2


async def test_reverting_brings_every_setting_back_and_leaves_the_pause(engine: Engine) -> None:
    await change(engine, max_attempts=9, rate_limits=[{"limit": 5, "per_seconds": 1.0}], ageing_seconds=None)
    await change(engine, max_attempts=2, rate_limits=[], max_concurrency=1, ageing_seconds=60.0)
    await queues.pause(engine.core, engine.ctx, "default")

    queue = await queues.revert(engine.core, engine.ctx, "default", 2, Revert())

    assert queue.max_attempts == 9
    assert queue.settings.rate_limits == (RateLimit(5, 1.0),)
    assert queue.settings.max_concurrency is None and queue.settings.ageing_seconds is None
    assert queue.paused and queue.version == 5
    newest = (await history(engine))[0]
    assert (newest.action, newest.comment) == ("reverted", "back to version 2")


async def test_a_setting_that_goes_back_to_its_default_is_no_longer_stored(engine: Engine) -> None:
    await change(engine, max_concurrency=3, crash_policy="at_most_once")
    await change(engine, max_concurrency=None, crash_policy="retry")
    assert await engine.admin.fetchval("select settings::text from queues where name = 'default'") == "{}"


@pytest.mark.parametrize("version", [0, 2, 999_999_999])
async def test_there_is_no_going_back_to_a_version_that_never_was(engine: Engine, version: int) -> None:
    with pytest.raises(NotFound):
        await queues.revert(engine.core, engine.ctx, "default", version, Revert())


async def test_a_comment_has_a_length(engine: Engine) -> None:
    for comment in ("", "x" * 501):
        with pytest.raises(Invalid):
            await change(engine, priority=1, comment=comment)
        with pytest.raises(Invalid):
            await queues.pause(engine.core, engine.ctx, "default", Pause(comment))


async def test_pages_of_versions_follow_each_other(engine: Engine) -> None:
    for priority in range(1, 6):
        await change(engine, priority=priority)
    seen: list[int] = []
    cursor: str | None = None
    while True:
        page = await queues.list_versions(engine.core, engine.ctx, "default", limit=2, cursor=cursor)
        seen += [version.version for version in page.data]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == [6, 5, 4, 3, 2, 1]


async def test_only_the_last_thousand_versions_are_kept(engine: Engine) -> None:
    await engine.admin.execute(
        "do $$ begin for i in 1 .. 1005 loop update queues set priority = i where name = 'default'; end loop; end $$"
    )
    assert await engine.admin.fetchrow("select min(version), max(version) from queue_versions") == (7, 1006)


async def test_the_versions_of_a_stranger_do_not_exist(engine: Engine) -> None:
    stranger = await engine.stranger("theirs")
    assert len(await history(stranger, "theirs")) == 1
    with pytest.raises(NotFound):
        await history(engine, "theirs")
    with pytest.raises(NotFound):
        await queues.revert(engine.core, engine.ctx, "theirs", 1, Revert())


async def test_a_change_in_one_process_is_what_the_next_claim_of_another_goes_by(
    engine: Engine, other: Engine
) -> None:
    worker = await other.register()
    await engine.submit(3)
    [lease] = await other.claim(worker)
    assert lease.queue_max_attempts == 5
    await change(engine, max_attempts=9, timeout_seconds=7.0)
    [lease] = await other.claim(worker)
    assert (lease.queue_max_attempts, lease.queue_timeout) == (9, 7.0)
    await queues.pause(engine.core, engine.ctx, "default")
    assert await other.claim(worker) == []


async def test_a_change_wakes_the_workers_of_the_queue(engine: Engine) -> None:
    heard: list[frozenset[int]] = []
    engine.core.wakeups.subscribe(heard.append)
    queue = await queues.get(engine.core, engine.ctx, "default")
    await change(engine, max_concurrency=5)
    await until(lambda: any(queue.queue_id in numbers for numbers in heard))
