"""Keys of queues and the limit of a tenant, over the wire."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx2
import pytest

KEYS = "/api/v1/queues/q/keys"


async def furnish(api: httpx2.AsyncClient, *keys: str, **settings: Any) -> None:
    answer = await api.post("/api/v1/queues", json={"name": "q", **settings})
    assert answer.status_code == 201, answer.text
    for key in keys:
        body = {"queue_name": "q", "job_type": "noop", "concurrency_key": key}
        answer = await api.post("/api/v1/jobs", json=body)
        assert answer.status_code == 201, answer.text


async def test_keys_are_listed_with_what_waits_of_each_page_by_page(api: httpx2.AsyncClient) -> None:
    await furnish(api, "b", "a", "b", "c")
    page = (await api.get(KEYS, params={"limit": 2})).json()
    assert [(k["key"], k["waiting"], k["processing"]) for k in page["data"]] == [("a", 1, 0), ("b", 2, 0)]
    rest = (await api.get(KEYS, params={"limit": 2, "cursor": page["next_cursor"]})).json()
    assert ([k["key"] for k in rest["data"]], rest["next_cursor"]) == (["c"], None)


@pytest.mark.parametrize("key", ["customer-7", "a/b", "/a", "a//b", "50%", "ä"[:0] + "~!?#&"])
async def test_a_key_is_set_apart_whatever_its_characters(api: httpx2.AsyncClient, key: str) -> None:
    await furnish(api, key)
    path = f"{KEYS}/{quote(key, safe='')}"
    answer = await api.put(path, json={"weight": 2.5, "max_concurrency": 3})
    assert answer.status_code == 200, answer.text
    made = answer.json()
    assert (made["key"], made["weight"], made["max_concurrency"], made["waiting"]) == (key, 2.5, 3, 1)
    assert (await api.get(path)).json() == made
    back = (await api.put(path, json={})).json()
    assert (back["weight"], back["max_concurrency"]) == (1, None)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b'{"weight": 0}', "/weight"),
        (b'{"weight": 1001}', "/weight"),
        (b'{"weight": "2"}', "/weight"),
        (b'{"max_concurrency": -1}', "/max_concurrency"),
        (b'{"max_concurrency": 1000001}', "/max_concurrency"),
        (b'{"max_concurrency": 1.5}', "/max_concurrency"),
        (b'{"limit": 1}', "/limit"),
    ],
)
async def test_a_policy_that_cannot_be_is_refused_at_its_place(
    api: httpx2.AsyncClient, body: bytes, pointer: str
) -> None:
    await furnish(api)
    headers = {"content-type": "application/json"}
    answer = await api.put(KEYS + "/k", content=body, headers=headers)
    assert answer.status_code == 422, answer.text
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


@pytest.mark.parametrize("key", ["a%20b", "%C3%A4", "%00", "a" * 256])
async def test_what_cannot_be_a_key_is_refused(api: httpx2.AsyncClient, key: str) -> None:
    await furnish(api)
    assert (await api.put(f"{KEYS}/{key}", json={})).status_code == 422
    assert (await api.get(f"{KEYS}/{key}")).status_code in (404, 422)


async def test_keys_of_queues_that_do_not_exist_are_not_found(api: httpx2.AsyncClient) -> None:
    assert (await api.get("/api/v1/queues/nowhere/keys")).status_code == 404
    assert (await api.put("/api/v1/queues/nowhere/keys/k", json={})).status_code == 404
    await furnish(api)
    answer = await api.get(KEYS + "/k")
    assert (answer.status_code, answer.json()["code"]) == (404, "key.not_found")


async def test_a_tenant_is_limited_and_the_limit_taken_away(api: httpx2.AsyncClient) -> None:
    before = (await api.get("/api/v1/tenant")).json()
    assert (before["max_concurrency"], before["weight"], before["processing"]) == (None, 1, None)
    limited = await api.patch("/api/v1/tenant", json={"max_concurrency": 5})
    assert (limited.status_code, limited.json()["max_concurrency"]) == (200, 5)
    assert (await api.get("/api/v1/tenant")).json() == limited.json()
    assert (await api.patch("/api/v1/tenant", json={"max_concurrency": None})).json() == before
    for body in ({}, {"max_concurrency": 0}, {"max_concurrency": "5"}, {"weight": 2}):
        assert (await api.patch("/api/v1/tenant", json=body)).status_code == 422
