from __future__ import annotations

from typing import Any

import httpx2
import pytest

SEED: dict[str, Any] = {"queue_name": "default", "job_type": "send_email", "payload": {"to": "a@b.c"}}


async def submit(api: httpx2.AsyncClient, **change: Any) -> str:
    answer = await api.post("/api/v1/jobs", json=SEED | change)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def test_a_job_that_waits_is_changed_and_the_change_can_be_read(api: httpx2.AsyncClient) -> None:
    await api.post("/api/v1/queues", json={"name": "urgent"})
    job_id = await submit(api)
    answer = await api.patch(
        f"/api/v1/jobs/{job_id}",
        json={"queue_name": "urgent", "priority": 9, "delay_seconds": 60, "payload_patch": {"cc": "d@e.f"}},
    )
    assert answer.status_code == 200, answer.text
    job = answer.json()
    assert (job["queue_name"], job["priority"], job["state"]) == ("urgent", 9, "scheduled")
    assert job["payload"] == {"to": "a@b.c", "cc": "d@e.f"}
    [made] = (await api.get(f"/api/v1/jobs/{job_id}/changes")).json()["data"]
    assert (made["verb"], made["before"]["queue_name"], made["after"]["queue_name"]) == (
        "change",
        "default",
        "urgent",
    )


@pytest.mark.parametrize("payload", [None, 0, [], {"a": None}])
async def test_a_payload_can_become_any_value(api: httpx2.AsyncClient, payload: Any) -> None:
    job_id = await submit(api)
    answer = await api.patch(f"/api/v1/jobs/{job_id}", json={"payload": payload})
    assert (answer.status_code, answer.json()["payload"]) == (200, payload)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b"{}", "/"),
        (b'{"priority": 10}', "/priority"),
        (b'{"priority": null}', "/priority"),
        (b'{"queue_name": "%"}', "/queue_name"),
        (b'{"queue_name": "nowhere"}', "/queue_name"),
        (b'{"delay_seconds": -1}', "/delay_seconds"),
        (b'{"delay_seconds": 1, "run_at": "2030-01-01T00:00:00Z"}', "/delay_seconds"),
        (b'{"run_at": "2030-01-01T00:00:00"}', "/run_at"),
        (b'{"run_at": "9999-01-01T00:00:00Z"}', "/run_at"),
        (b'{"payload": 1, "payload_patch": 2}', "/payload_patch"),
        (b'{"payload": {"a": 1e999}}', "/payload"),
        (b'{"payload_patch": {"a": "\\u0000"}}', "/payload_patch/a"),
        (b'{"payload": {"a": 1, "a": 2}}', "/payload/a"),
        (b'{"payload": ' + b"[" * 100 + b"]" * 100 + b"}", "/payload"),
        (b'{"state": "succeeded"}', "/state"),
    ],
)
async def test_a_change_that_cannot_be_is_refused_with_its_place(
    api: httpx2.AsyncClient, body: bytes, pointer: str
) -> None:
    job_id = await submit(api)
    answer = await api.patch(
        f"/api/v1/jobs/{job_id}", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["pointer"] == pointer
    assert (await api.get(f"/api/v1/jobs/{job_id}/changes")).json()["data"] == []


async def test_a_running_job_is_refused_with_its_own_code(api: httpx2.AsyncClient, worker: Any) -> None:
    job_id = await submit(api)
    await worker.claim()
    answer = await api.patch(f"/api/v1/jobs/{job_id}", json={"priority": 1})
    assert (answer.status_code, answer.json()["code"]) == (409, "job.running")


@pytest.mark.parametrize("job_id", ["4711", "0", "x", "9" * 30])
async def test_a_job_that_is_not_there_is_not_found(api: httpx2.AsyncClient, job_id: str) -> None:
    assert (await api.patch(f"/api/v1/jobs/{job_id}", json={"priority": 1})).status_code == 404
    assert (await api.get(f"/api/v1/jobs/{job_id}/changes")).status_code == 404


async def test_another_tenants_job_is_not_found(api: httpx2.AsyncClient, stranger_token: str) -> None:
    job_id = await submit(api)
    strange = {"Authorization": f"Bearer {stranger_token}"}
    answer = await api.patch(f"/api/v1/jobs/{job_id}", json={"priority": 1}, headers=strange)
    assert answer.status_code == 404
    assert (await api.get(f"/api/v1/jobs/{job_id}/changes", headers=strange)).status_code == 404
