"""Numbers and cursors from outside the range of the database are answered, not passed on."""

from __future__ import annotations

import pytest

from taskforge.domain.jobs import JobFilter
from taskforge.errors import Invalid, NotFound
from taskforge.services import dead_letters, jobs
from tests.support.engine import Engine
from tests.support.engine import dead_letters as make_dead_letters

BEYOND = [0, -1, -(2**63) - 1, 2**63, 2**200]


@pytest.mark.parametrize("job_id", BEYOND)
async def test_an_id_no_job_can_have_is_not_found(engine: Engine, job_id: int) -> None:
    for verb in (jobs.get, jobs.cancel, jobs.retry):
        with pytest.raises(NotFound):
            await verb(engine.core, engine.ctx, job_id)


@pytest.mark.parametrize("job_id", BEYOND)
async def test_a_dead_letter_that_cannot_be_is_none_of_those_redriven_or_purged(
    engine: Engine, job_id: int
) -> None:
    [dead] = await make_dead_letters(engine, 1)
    assert await dead_letters.redrive(engine.core, engine.ctx, "default", [job_id, dead]) == 1
    assert await dead_letters.purge(engine.core, engine.ctx, "default", [job_id]) == 0


@pytest.mark.parametrize("cursor", ["", "-1", "x", "²", "٣", "9" * 20, "9" * 5_000])
async def test_a_cursor_that_is_not_ours_is_refused(engine: Engine, cursor: str) -> None:
    with pytest.raises(Invalid) as refused:
        await jobs.list_jobs(engine.core, engine.ctx, JobFilter(), limit=10, cursor=cursor)
    assert refused.value.code == "cursor.invalid"


async def test_pages_put_end_to_end_are_every_job_once_newest_first(engine: Engine) -> None:
    ids = [i for n in range(7) for i in await engine.submit(3, priority=n)]
    found: list[int] = []
    cursor = None
    while True:
        page = await jobs.list_jobs(engine.core, engine.ctx, JobFilter(), limit=4, cursor=cursor)
        found += [int(view.id) for view in page.data]
        assert len(page.data) <= 4
        if (cursor := page.next_cursor) is None:
            break
    assert found == sorted(ids, reverse=True)
