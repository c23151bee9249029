from __future__ import annotations

from typing import Any

import httpx2
import pytest

from taskforge.runtime.bulk_runner import BulkRunner
from taskforge.services.core import Core

SEED: dict[str, Any] = {"queue_name": "default", "job_type": "send_email", "payload": {"to": "a@b.c"}}
DEAD = "/api/v1/queues/default/dead-letters"


async def submit(api: httpx2.AsyncClient, count: int = 1, **change: Any) -> list[str]:
    answer = await api.post("/api/v1/jobs/batch", json=[SEED | change] * count)
    assert answer.status_code == 201, answer.text
    return [item["id"] for item in answer.json()["data"]]


async def fail(api: httpx2.AsyncClient, worker: Any, error: str, count: int = 1) -> list[str]:
    ids = await submit(api, count)
    await worker.finish(await worker.claim(), error=error)
    return ids


async def test_a_preview_counts_and_does_nothing(api: httpx2.AsyncClient) -> None:
    ids = await submit(api, 3)
    wish = {"verb": "cancel", "filter": {"queue_name": "default"}, "preview": True}
    answer = await api.post("/api/v1/bulk", json=wish)
    assert (answer.status_code, answer.json()) == (200, {"count": 3, "is_exact": True, "sample": ids})
    assert (await api.get("/api/v1/bulk")).json()["data"] == []


async def test_an_operation_is_accepted_followed_and_ends(api: httpx2.AsyncClient, core: Core) -> None:
    ids = await submit(api, 3)
    answer = await api.post("/api/v1/bulk", json={"verb": "cancel", "filter": {"job_type": "send_email"}})
    assert answer.status_code == 202, answer.text
    begun = answer.json()
    assert answer.headers["location"] == f"/api/v1/bulk/{begun['id']}"
    assert (begun["state"], begun["total"], begun["done"]) == ("running", 3, 0)
    assert begun["filter"] == {"job_type": "send_email"}
    await BulkRunner(core).run_once()
    ended = (await api.get(answer.headers["location"])).json()
    assert (ended["state"], ended["done"], ended["failed"]) == ("completed", 3, 0)
    [made] = (await api.get(f"/api/v1/jobs/{ids[0]}/changes")).json()["data"]
    assert (made["verb"], made["operation_id"]) == ("cancel", begun["id"])
    again = await api.post(answer.headers["location"] + "/stop")
    assert (again.status_code, again.json()["code"]) == (409, "bulk.already_ended")


async def test_an_operation_is_stopped(api: httpx2.AsyncClient, core: Core) -> None:
    ids = await submit(api, 3)
    wish = {"verb": "cancel", "filter": {"queue_name": "default"}, "rate_per_second": 1}
    begun = (await api.post("/api/v1/bulk", json=wish)).json()
    stopped = await api.post(f"/api/v1/bulk/{begun['id']}/stop")
    assert (stopped.status_code, stopped.json()["state"], stopped.json()["reason"]) == (
        200,
        "stopped",
        "asked",
    )
    await BulkRunner(core).run_once()
    assert (await api.get(f"/api/v1/jobs/{ids[0]}")).json()["state"] == "pending"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"verb": "cancel"}, "/filter"),
        ({"verb": "explode", "filter": {"tag": "a"}}, "/verb"),
        ({"verb": "cancel", "filter": {}}, "/filter"),
        ({"verb": "cancel", "filter": {"queue_name": "nowhere"}}, "/filter/queue_name"),
        ({"verb": "cancel", "filter": {"where": "1=1"}}, "/filter/where"),
        ({"verb": "cancel", "filter": {"job_ids": ["1"] * 10_001}}, "/filter/job_ids"),
        ({"verb": "move", "filter": {"tag": "a"}, "arguments": {"queue_name": "nowhere"}}, "/queue_name"),
        ({"verb": "cancel", "filter": {"tag": "a"}, "rate_per_second": 1e9}, "/rate_per_second"),
    ],
)
async def test_what_cannot_be_is_refused_at_its_place(
    api: httpx2.AsyncClient, body: dict[str, Any], pointer: str
) -> None:
    answer = await api.post("/api/v1/bulk", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["pointer"] == pointer
    assert (await api.get("/api/v1/bulk")).json()["data"] == []


@pytest.mark.parametrize("path", ["4711", "0", "x", "9" * 30])
async def test_an_operation_that_is_not_there_is_not_found(api: httpx2.AsyncClient, path: str) -> None:
    assert (await api.get(f"/api/v1/bulk/{path}")).status_code == 404
    assert (await api.post(f"/api/v1/bulk/{path}/stop")).status_code == 404


async def test_pages_of_operations_are_bound_to_their_list_and_tenant(
    api: httpx2.AsyncClient, stranger_token: str
) -> None:
    for _ in range(3):
        await api.post("/api/v1/bulk", json={"verb": "cancel", "filter": {"queue_name": "default"}})
    first = (await api.get("/api/v1/bulk?limit=2")).json()
    cursor = first["next_cursor"]
    rest = (await api.get(f"/api/v1/bulk?limit=2&cursor={cursor}")).json()
    assert [len(first["data"]), len(rest["data"])] == [2, 1]
    strange = {"Authorization": f"Bearer {stranger_token}"}
    assert (await api.get(f"/api/v1/bulk?cursor={cursor}", headers=strange)).status_code == 400
    assert (await api.get(f"/api/v1/jobs?cursor={cursor}")).status_code == 400
    assert (await api.get("/api/v1/bulk?limit=0")).status_code == 422
    assert (await api.get("/api/v1/bulk", headers=strange)).json()["data"] == []
    number = first["data"][0]["id"]
    assert (await api.get(f"/api/v1/bulk/{number}", headers=strange)).status_code == 404


async def test_dead_letters_are_grouped_filtered_and_redriven_as_a_canary(
    api: httpx2.AsyncClient, worker: Any, core: Core
) -> None:
    good = await fail(api, worker, "no answer after 5 s", 3)
    odd = await fail(api, worker, "disk is 100% full")
    groups = (await api.get(f"{DEAD}/groups")).json()
    assert [group["count"] for group in groups["data"]] == [3, 1]
    assert (groups["dead_letters"], groups["is_complete"]) == (4, True)
    mark = groups["data"][0]["fingerprint"]
    listed = (await api.get(f"{DEAD}?fingerprint={mark}")).json()["data"]
    assert [job["id"] for job in listed] == good[::-1]
    assert listed[0]["error"]["fingerprint"] == mark
    assert [job["id"] for job in (await api.get(f"{DEAD}?error_text=100%25")).json()["data"]] == odd
    wish = {"filter": {"fingerprint": mark}, "canary": {"count": 1, "watch_seconds": 60}}
    looked = await api.post(f"{DEAD}/redrive", json=wish | {"preview": True})
    assert (looked.status_code, looked.json()["count"]) == (200, 3)
    begun = await api.post(f"{DEAD}/redrive", json=wish | {"rate_per_second": 1_000})
    assert (begun.status_code, begun.json()["state"]) == (202, "canary")
    await BulkRunner(core).run_once()
    shown = (await api.get(begun.headers["location"])).json()
    assert (shown["state"], shown["canary_job_ids"]) == ("watching", good[:1])
    purged = await api.post(f"{DEAD}/purge", json={"filter": {"error_text": "DISK IS"}})
    assert purged.status_code == 202
    await BulkRunner(core).run_once()
    assert (await api.get(f"/api/v1/jobs/{odd[0]}")).status_code == 404
    assert (await api.get(f"/api/v1/jobs/{odd[0]}/changes")).json()["data"][0]["verb"] == "purge"


@pytest.mark.parametrize(
    "query",
    [
        "fingerprint=xyz",
        "error_text=",
        "error_text=" + "x" * 201,
        "job_type=a%00b",
        "tag=%25",
        "failed_after=yesterday",
        "sort=pg_sleep",
        "limit=1000000000",
        "limit=-1",
        "queue_name=other",
    ],
)
async def test_a_filter_that_cannot_be_is_refused(api: httpx2.AsyncClient, query: str) -> None:
    assert (await api.get(f"{DEAD}?{query}")).status_code == 422


async def test_a_cursor_is_good_for_its_own_filter_only(api: httpx2.AsyncClient, worker: Any) -> None:
    await fail(api, worker, "no", 3)
    cursor = (await api.get(f"{DEAD}?limit=1&error_text=no")).json()["next_cursor"]
    assert (await api.get(f"{DEAD}?limit=1&error_text=no&cursor={cursor}")).status_code == 200
    assert (await api.get(f"{DEAD}?limit=1&error_text=on&cursor={cursor}")).status_code == 400
    assert (await api.get(f"{DEAD}?limit=1&cursor={cursor}")).status_code == 400


async def test_an_unknown_queue_has_no_dead_letters(api: httpx2.AsyncClient) -> None:
    for path in ("", "/groups"):
        assert (await api.get(f"/api/v1/queues/nowhere/dead-letters{path}")).status_code == 404
    for verb in ("redrive", "purge"):
        for body in ({}, {"filter": {}}, {"preview": True}):
            answer = await api.post(f"/api/v1/queues/nowhere/dead-letters/{verb}", json=body)
            assert answer.status_code == 404, answer.text
