"""Connections that are cut between any two messages, and answers that are never heard."""

from __future__ import annotations

import asyncpg
import pytest
from msgspec import structs

from taskforge.app import open_core
from taskforge.domain.jobs import JobDraft
from taskforge.domain.leases import LeaseReport, RegisterWorker, Succeeded
from taskforge.domain.tenants import Context
from taskforge.errors import Unavailable
from taskforge.services import jobs, leases
from tests.chaos.proxy import COMMITTED

CTX = Context()
DRAFT = JobDraft("default", "job", b'{"marker": "find-me"}')
KEYED = structs.replace(DRAFT, idempotency_key="once")


async def _job_count(admin: asyncpg.Connection) -> int:
    return await admin.fetchval("select count(*) from jobs")


async def test_a_lost_answer_to_a_commit_says_so_and_the_key_finds_the_job(core, proxy, admin) -> None:
    await jobs.submit(core, CTX, [DRAFT])
    proxy.lose_answer(COMMITTED)
    with pytest.raises(Unavailable) as raised:
        await jobs.submit(core, CTX, [KEYED])
    assert raised.value.code == "database.commit_unknown"
    assert raised.value.retry_after
    [verdict] = await jobs.submit(core, CTX, [KEYED])
    assert not verdict.created
    assert await _job_count(admin) == 2


@pytest.mark.parametrize("is_warm", [False, True])
async def test_a_submit_cut_after_any_message_is_a_clear_error_and_stored_whole_or_not_at_all(
    database_url: str, proxy, admin, is_warm
) -> None:
    codes = set()
    for pieces in range(1, 40):
        drafts = [structs.replace(DRAFT, idempotency_key=f"{pieces}-{i}") for i in range(3)]
        before = await _job_count(admin)
        async with open_core(proxy.dsn) as core:
            if is_warm:
                await core.directory.find(CTX.tenant_id, ["default"])
                async with core.database.ingest():
                    pass
            proxy.cuts = 0
            proxy.cut_after(pieces)
            try:
                await jobs.submit(core, CTX, drafts)
            except Unavailable as error:
                codes.add(error.code)
            assert await _job_count(admin) - before in (0, 3)
            if not proxy.cuts:
                break
            proxy.cut_after(0)
            await jobs.submit(core, CTX, drafts)
            assert await _job_count(admin) - before == 3
    assert codes == {"database.unavailable", "database.commit_unknown"}


async def test_a_report_cut_after_any_message_is_stored_once_when_it_is_sent_again(
    core, proxy, admin
) -> None:
    registration = await leases.register(core, CTX, RegisterWorker("w", ("default",)))
    for pieces in range(1, 40):
        await jobs.submit(core, CTX, [DRAFT] * 2)
        [lease] = await leases.claim(core, registration.worker_id, registration.queue_ids, want=2)
        report = LeaseReport(lease, [Succeeded(job_id, 1, 2) for job_id in lease.ids])
        proxy.cuts = 0
        proxy.cut_after(pieces)
        try:
            await leases.finish(core, registration.worker_id, [report])
        except Unavailable:
            pass
        cuts = proxy.cuts
        proxy.cut_after(0)
        again = await leases.finish(core, registration.worker_id, [report])
        assert again.stale == []
        if not cuts:
            break
    assert await admin.fetchval("select count(*) from outcomes") == await _job_count(admin)
