from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx2
import pytest

from taskforge.rest.server import HttpServer

SEED: dict[str, Any] = {"queue_name": "default", "job_type": "send_email", "payload": {"to": "a@b.c"}}


async def submit(api: httpx2.AsyncClient, **change: Any) -> str:
    answer = await api.post("/api/v1/jobs", json=SEED | change)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def test_a_job_shows_its_result_when_it_has_succeeded(api: httpx2.AsyncClient, worker: Any) -> None:
    job_id = await submit(api)
    lease = await worker.claim()
    assert (await api.get(f"/api/v1/jobs/{job_id}")).json()["state"] == "processing"
    await worker.finish(lease, result=b'{"sent":  1}')
    answer = await api.get(f"/api/v1/jobs/{job_id}")
    assert answer.json()["state"] == "succeeded"
    assert b'"result":{"sent":  1}' in answer.content
    assert answer.json()["finished_at"].endswith("Z")


async def test_a_job_shows_how_far_it_is_to_its_own_tenant_only(
    api: httpx2.AsyncClient, worker: Any, stranger_token: str
) -> None:
    job_id = await submit(api)
    lease = await worker.claim()
    assert (await api.get(f"/api/v1/jobs/{job_id}")).json()["progress"] is None
    await worker.say(lease, 0.25, "a quarter")
    running = (await api.get(f"/api/v1/jobs/{job_id}")).json()
    await worker.finish(lease)
    ended = (await api.get(f"/api/v1/jobs/{job_id}")).json()
    assert (running["state"], ended["state"]) == ("processing", "succeeded")
    assert (running["progress"]["fraction"], running["progress"]["message"]) == (0.25, "a quarter")
    assert running["progress"]["reported_at"].endswith("Z")
    assert ended["progress"] == running["progress"]
    strange = {"Authorization": f"Bearer {stranger_token}"}
    assert (await api.get(f"/api/v1/jobs/{job_id}", headers=strange)).status_code == 404


async def test_a_wait_ends_with_the_job(api: httpx2.AsyncClient, worker: Any) -> None:
    job_id = await submit(api)
    lease = await worker.claim()
    waiting = asyncio.create_task(api.get(f"/api/v1/jobs/{job_id}?wait=30"))
    await worker.finish(lease)
    answer = await asyncio.wait_for(waiting, 10)
    assert answer.json()["state"] == "succeeded"


async def test_a_wait_gives_the_job_as_it_is_when_the_time_is_over(api: httpx2.AsyncClient) -> None:
    job_id = await submit(api)
    started = time.monotonic()
    answer = await api.get(f"/api/v1/jobs/{job_id}?wait=0.1")
    assert (answer.status_code, answer.json()["state"]) == (200, "pending")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("wait", ["-1", "61", "nan", "inf", "x", "1e400"])
async def test_an_odd_wait_is_refused(api: httpx2.AsyncClient, wait: str) -> None:
    assert (await api.get(f"/api/v1/jobs/1?wait={wait}")).status_code == 422


async def test_a_cancelled_job_is_cancelled_once(api: httpx2.AsyncClient) -> None:
    job_id = await submit(api)
    first = await api.post(f"/api/v1/jobs/{job_id}/cancel")
    assert (first.status_code, first.json()["state"]) == (200, "cancelled")
    again = await api.post(f"/api/v1/jobs/{job_id}/cancel")
    assert (again.status_code, again.json()["code"]) == (409, "job.already_ended")


async def test_a_running_job_is_asked_to_stop(api: httpx2.AsyncClient, worker: Any) -> None:
    job_id = await submit(api)
    await worker.claim()
    answer = await api.post(f"/api/v1/jobs/{job_id}/cancel")
    assert (answer.status_code, answer.json()["cancel_requested"]) == (202, True)


async def test_a_failed_job_is_a_dead_letter_until_it_is_retried(
    api: httpx2.AsyncClient, worker: Any
) -> None:
    job_id = await submit(api)
    await worker.finish(await worker.claim(), error="no route to host")
    dead = (await api.get("/api/v1/queues/default/dead-letters")).json()["data"]
    assert [(job["id"], job["state"], job["error"]["message"]) for job in dead] == [
        (job_id, "failed", "no route to host")
    ]
    assert (await api.post(f"/api/v1/jobs/{job_id}/retry")).json()["state"] == "pending"
    assert (await api.get("/api/v1/queues/default/dead-letters")).json()["data"] == []
    again = await api.post(f"/api/v1/jobs/{job_id}/retry")
    assert (again.status_code, again.json()["code"]) == (409, "job.active")


@pytest.mark.parametrize("verb", ["redrive", "purge"])
@pytest.mark.parametrize("chosen", [True, False])
async def test_dead_letters_are_redriven_or_purged_by_id_or_all(
    api: httpx2.AsyncClient, worker: Any, verb: str, chosen: bool
) -> None:
    ids = [await submit(api) for _ in range(3)]
    for _ in ids:
        try:
            await worker.finish(await worker.claim(), error="x")
        except AssertionError:
            break
    path = f"/api/v1/queues/default/dead-letters/{verb}"
    body = {"job_ids": [ids[0], "999999999", "nonsense"]} if chosen else {}
    answer = await api.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert list(answer.json().values()) == [1 if chosen else 3]
    left = (await api.get("/api/v1/queues/default/dead-letters")).json()["data"]
    assert len(left) == (2 if chosen else 0)


async def test_pages_follow_one_another_to_the_end(api: httpx2.AsyncClient) -> None:
    ids = [await submit(api, payload={"i": i}) for i in range(5)]
    seen: list[str] = []
    address: str | None = "/api/v1/jobs?limit=2&queue_name=default"
    while address:
        answer = await api.get(address)
        seen += [job["id"] for job in answer.json()["data"]]
        address = answer.links["next"]["url"] if "next" in answer.links else None
        assert bool(address) == bool(answer.json()["next_cursor"])
    assert seen == ids[::-1]


async def test_jobs_are_found_by_queue_state_type_tag_and_time(api: httpx2.AsyncClient) -> None:
    wanted = await submit(api, job_type="rare", tags=["red"], delay_seconds=100)
    await submit(api)
    for query in (
        "job_type=rare",
        "tag=red",
        "state=scheduled",
        "queue_name=default&state=scheduled",
        "job_type=rare&submitted_after=2020-01-01T00:00:00Z&submitted_before=2100-01-01T00:00:00Z",
    ):
        found = (await api.get(f"/api/v1/jobs?{query}")).json()["data"]
        assert [job["id"] for job in found] == [wanted], query


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=-1", "limit=1000000000", "state=lost", "sort=x", "submitted_after=yesterday"]
)
async def test_an_odd_filter_is_refused(api: httpx2.AsyncClient, query: str) -> None:
    assert (await api.get(f"/api/v1/jobs?{query}")).status_code == 422


async def test_a_cursor_is_good_for_its_own_list_only(api: httpx2.AsyncClient, stranger_token: str) -> None:
    for _ in range(2):
        await submit(api)
    cursor = (await api.get("/api/v1/jobs?limit=1")).json()["next_cursor"]
    assert (await api.get(f"/api/v1/jobs?limit=5&cursor={cursor}")).status_code == 200
    other = {"Authorization": f"Bearer {stranger_token}"}
    for answer in (
        await api.get(f"/api/v1/jobs?limit=1&state=pending&cursor={cursor}"),
        await api.get(f"/api/v1/jobs?limit=1&cursor={cursor}", headers=other),
        await api.get(f"/api/v1/jobs?limit=1&cursor=A{cursor[1:]}x"),
        await api.get(f"/api/v1/queues/default/dead-letters?limit=1&cursor={cursor}"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (400, "cursor.invalid")


@pytest.mark.parametrize("verb", ["", "/cancel", "/retry"])
async def test_another_tenants_job_is_a_job_that_does_not_exist(
    api: httpx2.AsyncClient, stranger_token: str, verb: str
) -> None:
    job_id = await submit(api)
    other = {"Authorization": f"Bearer {stranger_token}"}
    method = "POST" if verb else "GET"
    foreign = await api.request(method, f"/api/v1/jobs/{job_id}{verb}", headers=other)
    missing = await api.request(method, f"/api/v1/jobs/{int(job_id) + 5000}{verb}", headers=other)
    assert foreign.status_code == missing.status_code == 404
    shown = []
    for answer, asked_for in ((foreign, job_id), (missing, str(int(job_id) + 5000))):
        problem = {**answer.json(), "trace_id": ""}
        shown.append(json.dumps(problem).replace(f"jobs/{asked_for}", "").replace(f'job \\"{asked_for}', ""))
    assert shown[0] == shown[1]


async def test_queues_are_made_changed_paused_and_removed(api: httpx2.AsyncClient) -> None:
    made = await api.post("/api/v1/queues", json={"name": "email", "max_attempts": 3})
    assert (made.status_code, made.headers["location"]) == (201, "/api/v1/queues/email")
    assert (await api.get("/api/v1/queues/email")).json() == made.json()
    assert made.json()["retry"]["kind"] == "exponential"
    again = await api.post("/api/v1/queues", json={"name": "email"})
    assert again.status_code == 409
    changed = await api.patch("/api/v1/queues/email", json={"timeout_seconds": 9, "retry": {"kind": "fixed"}})
    assert (changed.json()["timeout_seconds"], changed.json()["max_attempts"]) == (9, 3)
    assert (await api.post("/api/v1/queues/email/pause")).json()["paused"] is True
    assert (await api.post("/api/v1/queues/email/resume")).json()["paused"] is False
    health = (await api.get("/api/v1/queues/email/health")).json()
    assert (health["pending"], health["oldest_wait_seconds"]) == (0, None)
    names = [queue["name"] for queue in (await api.get("/api/v1/queues")).json()["data"]]
    assert names == sorted(names) and "email" in names
    assert (await api.delete("/api/v1/queues/email")).status_code == 204
    assert (await api.get("/api/v1/queues/email")).status_code == 404


async def test_a_queue_with_jobs_is_not_removed(api: httpx2.AsyncClient) -> None:
    await submit(api)
    answer = await api.delete("/api/v1/queues/default")
    assert (answer.status_code, answer.json()["code"]) == (409, "queue.not_empty")


@pytest.mark.parametrize(
    "body",
    [
        {"name": "Email"},
        {"name": "e", "max_attempts": 0},
        {"name": "e", "timeout_seconds": -1},
        {"name": "e", "priority": "5"},
        {"name": "e", "priority": 10**30},
        {"name": "e", "retry": {"kind": "custom", "delays": []}},
        {"name": "e", "paused": True},
        {},
    ],
)
async def test_an_odd_queue_is_refused(api: httpx2.AsyncClient, body: dict[str, Any]) -> None:
    assert (await api.post("/api/v1/queues", json=body)).status_code == 422


async def test_a_draining_server_takes_no_jobs_and_ends_waits(
    api: httpx2.AsyncClient, server: HttpServer
) -> None:
    job_id = await submit(api)
    waiting = asyncio.create_task(api.get(f"/api/v1/jobs/{job_id}?wait=60"))
    await api.get("/healthz")
    server.drain()
    assert (await asyncio.wait_for(waiting, 10)).json()["state"] == "pending"
    for path, body in (("/api/v1/jobs", SEED), ("/api/v1/jobs/batch", [SEED])):
        answer = await api.post(path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (503, "server.draining")
        assert int(answer.headers["retry-after"]) >= 1
    assert (await api.get("/readyz")).status_code == 503
    assert (await api.get("/healthz")).status_code == 200
    assert (await api.get(f"/api/v1/jobs/{job_id}")).status_code == 200
