from __future__ import annotations

from typing import Any

import httpx2
import pytest

QUEUES = "/api/v1/queues"


async def test_a_queue_shows_its_version_and_who_paused_it(api: httpx2.AsyncClient) -> None:
    answer = await api.get(f"{QUEUES}/default")
    assert (answer.json()["version"], answer.headers["etag"]) == (1, '"1"')
    paused = (await api.post(f"{QUEUES}/default/pause", json={"reason": "upgrade"})).json()
    assert (paused["paused_by"], paused["pause_reason"], paused["version"]) == ("ada", "upgrade", 2)
    resumed = (await api.post(f"{QUEUES}/default/resume")).json()
    assert (resumed["paused_by"], resumed["version"]) == (None, 3)
    assert (await api.post(f"{QUEUES}/default/pause")).json()["pause_reason"] is None


@pytest.mark.parametrize("way", ["header", "body"])
async def test_a_change_of_an_older_version_is_a_412(api: httpx2.AsyncClient, way: str) -> None:
    def send(version: int) -> Any:
        if way == "header":
            return api.patch(
                f"{QUEUES}/default", json={"priority": version}, headers={"If-Match": f'"{version}"'}
            )
        return api.patch(f"{QUEUES}/default", json={"priority": version, "if_version": version})

    assert (await send(1)).headers["etag"] == '"2"'
    late = await send(1)
    assert (late.status_code, late.json()["code"]) == (412, "queue.version_changed")
    assert (await send(2)).status_code == 200


@pytest.mark.parametrize("etag", ["1", '"x"', 'W/"1"', '""', '"' + "1" * 12 + '"'])
async def test_what_is_no_etag_of_a_queue_is_refused(api: httpx2.AsyncClient, etag: str) -> None:
    answer = await api.patch(f"{QUEUES}/default", json={"priority": 1}, headers={"If-Match": etag})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/if_match"


async def test_versions_can_be_listed_read_and_gone_back_to(api: httpx2.AsyncClient) -> None:
    await api.patch(f"{QUEUES}/default", json={"max_attempts": 9, "comment": "flaky"})
    await api.patch(f"{QUEUES}/default", json={"max_attempts": 2, "max_concurrency": 3})
    page = (await api.get(f"{QUEUES}/default/versions?limit=2")).json()
    assert [version["version"] for version in page["data"]] == [3, 2]
    rest = await api.get(f"{QUEUES}/default/versions?limit=2&cursor={page['next_cursor']}")
    assert [version["action"] for version in rest.json()["data"]] == ["created"]
    second = (await api.get(f"{QUEUES}/default/versions/2")).json()
    assert (second["before"]["max_attempts"], second["after"]["max_attempts"]) == (5, 9)
    assert (second["changed_by"], second["comment"]) == ("ada", "flaky")
    back = await api.post(f"{QUEUES}/default/versions/2/revert", json={"comment": "worse", "if_version": 3})
    assert (back.json()["max_attempts"], back.json()["max_concurrency"]) == (9, None)
    late = await api.post(f"{QUEUES}/default/versions/2/revert", json={"if_version": 3})
    assert late.status_code == 412


@pytest.mark.parametrize("version", ["0", "7", "x", "-1", "²", "99999999999"])
async def test_a_version_that_is_not_there_is_a_404(api: httpx2.AsyncClient, version: str) -> None:
    for method, suffix in (("GET", ""), ("POST", "/revert")):
        answer = await api.request(method, f"{QUEUES}/default/versions/{version}{suffix}")
        assert (answer.status_code, answer.json()["code"]) == (404, "queue.version_not_found")


async def test_health_comes_for_one_queue_and_for_all(api: httpx2.AsyncClient, stranger_token: str) -> None:
    await api.post("/api/v1/jobs", json={"queue_name": "default", "job_type": "x", "payload": {}})
    one = (await api.get(f"{QUEUES}/default/health")).json()
    assert (one["pending"], one["score"], one["status"]) == (1, 40, "unhealthy")
    assert [reason["code"] for reason in one["reasons"]] == ["no_workers"]
    every = (await api.get("/api/v1/health")).json()
    assert (every["score"], [queue["queue_name"] for queue in every["queues"]]) == (40, ["default"])
    assert "reasons" in every["queues"][0]
    theirs = await api.get("/api/v1/health", headers={"Authorization": f"Bearer {stranger_token}"})
    assert theirs.json()["queues"] == []


async def test_the_overview_is_paged(api: httpx2.AsyncClient) -> None:
    for name in ("a", "b"):
        await api.post(QUEUES, json={"name": name})
    first = (await api.get("/api/v1/health?limit=2")).json()
    assert [queue["queue_name"] for queue in first["queues"]] == ["a", "b"]
    answer = await api.get(f"/api/v1/health?limit=2&cursor={first['next_cursor']}")
    assert [queue["queue_name"] for queue in answer.json()["queues"]] == ["default"]
    assert (await api.get("/api/v1/health?cursor=x")).status_code == 400
    assert (await api.get("/api/v1/health?limit=0")).status_code == 422
