"""Workers and servers that are halted or killed at the worst moment."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator

import httpx2
import pytest

from tests.chaos.proxy import COMMITTED, proxied
from tests.chaos.rig import Rig, open_rig, send_to_all
from tests.support.waiting import until

TTL = 2.0


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with open_rig(ttl=TTL, is_durable=False) as rig:
        yield rig


async def _hold(rig: Rig, http: httpx2.AsyncClient, n: int) -> int:
    payload = {"n": n, "path": str(rig.folder / f"go-{n}")}
    answer = await http.post(
        "/api/v1/jobs", json={"queue_name": "quiet", "job_type": "hold", "payload": payload}
    )
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


async def test_a_worker_halted_for_long_is_refused_its_report_and_works_on_under_a_new_registration(
    rig,
) -> None:
    await rig.start_server()
    await rig.create_queues()
    admin = await rig.connect()
    async with rig.http() as http:
        halted = rig.start_worker()
        job_id = await _hold(rig, http, 1)

        async def fences() -> list[int]:
            rows = await admin.fetch("select fence from leases where ranges @> $1::bigint", job_id)
            return [row["fence"] for row in rows]

        await until((rig.diaries / f"{halted.pid}.diary").exists, timeout=20.0)
        [old] = await fences()
        heartbeat = halted.children()
        halted.send(signal.SIGSTOP)
        send_to_all(heartbeat, signal.SIGSTOP)
        other = rig.start_worker()
        await until((rig.diaries / f"{other.pid}.diary").exists, timeout=3 * TTL + 20.0)
        [new] = await fences()
        assert new > old
        (rig.folder / "go-1").touch()
        await until(lambda: admin.fetchval("select count(*) from outcomes where id = $1", job_id))
        halted.send(signal.SIGCONT)
        await until(lambda: admin.fetchval("select count(*) from stale_reports where fence = $1", old))
        send_to_all(heartbeat, signal.SIGCONT)
        await until(
            lambda: admin.fetchval("select count(*) from workers where pid = $1 and state = 1", halted.pid)
        )
        outcome = await admin.fetchrow("select fence, attempt, state from outcomes where id = $1", job_id)
        assert tuple(outcome) == (new, 2, 1)
        other.send(signal.SIGTERM)
        assert await other.ended() == 0
        (rig.folder / "go-2").touch()
        again = await _hold(rig, http, 2)
        await until(lambda: admin.fetchval("select count(*) from outcomes where id = $1", again))
    await admin.close()


async def test_a_server_killed_after_the_commit_and_before_its_reply_answers_the_retry_with_the_same_job(
    rig,
) -> None:
    async with proxied(rig.dsn) as proxy:
        server = await rig.start_server(dsn=proxy.dsn)
        await rig.create_queues()
        admin = await rig.connect()
        body = {"queue_name": "busy", "job_type": "work", "payload": {"n": 1}, "idempotency_key": "once"}
        async with rig.http() as http:
            # Whatever a first submit looks up is known afterwards, so that the next commit is that of the job.
            await http.post("/api/v1/jobs", json=body | {"idempotency_key": "before"})
            proxy.hold_answer(COMMITTED)
            asking = asyncio.create_task(http.post("/api/v1/jobs", json=body))
            await until(lambda: admin.fetchval("select count(*) = 2 from jobs"))
            await asyncio.wait_for(proxy.held.wait(), 5)
            await server.kill()
            with pytest.raises(httpx2.TransportError):
                await asking
            await rig.start_server()
            answer = await http.post("/api/v1/jobs", json=body)
            assert answer.status_code == 200
            assert answer.headers["idempotency-replayed"] == "true"
            assert int(answer.json()["id"]) == await admin.fetchval("select max(id) from jobs")
            assert await admin.fetchval("select count(*) from jobs") == 2
        await admin.close()


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.1])
async def test_a_batch_whose_server_is_killed_meanwhile_is_stored_whole_or_not_at_all(rig, delay) -> None:
    server = await rig.start_server()
    await rig.create_queues()
    admin, gate = await rig.connect(), await rig.connect()
    size = 5_000
    item = {"queue_name": "busy", "job_type": "work", "payload": {"n": 1}}
    body = json.dumps([item] * size).encode()
    async with rig.http() as http:
        # The transaction is under way and waits; then it is let go and the server killed.
        async with gate.transaction():
            await gate.execute("lock table ready in share row exclusive mode")
            asking = asyncio.create_task(
                http.post("/api/v1/jobs/batch", content=body, headers={"Content-Type": "application/json"})
            )
            await until(
                lambda: admin.fetchval("select count(*) from pg_stat_activity where wait_event_type = 'Lock'")
            )
        await asyncio.sleep(delay)  # how far it gets is what differs
        await server.kill()
        stored_before_reply = await asyncio.gather(asking, return_exceptions=True)
    await until(lambda: _nobody_writes(admin))
    stored = await admin.fetchval("select count(*) from jobs")
    assert stored in (0, size)
    if isinstance(stored_before_reply[0], httpx2.Response):
        assert stored == size
    extents = await admin.fetchval("select coalesce(sum(hi - lo + 1), 0) from ready")
    assert extents == stored
    await gate.close()
    await admin.close()


async def _nobody_writes(admin) -> bool:
    return not await admin.fetchval(
        "select count(*) from pg_stat_activity where usename = 'taskforge' and backend_xid is not null"
    )
