"""Idempotency keys and unique keys over HTTP."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import pytest

JOB: dict[str, Any] = {
    "queue_name": "default",
    "job_type": "report",
    "payload": {"month": "2030-01", "n": 1.0},
}


def unique(key: str = "k", **fields: Any) -> dict[str, Any]:
    return JOB | {"unique": {"key": key, **fields}}


async def post(api: httpx2.AsyncClient, job: dict[str, Any], key: str | None = None) -> httpx2.Response:
    return await api.post("/api/v1/jobs", json=job, headers={} if key is None else {"Idempotency-Key": key})


async def count(api: httpx2.AsyncClient) -> int:
    return len((await api.get("/api/v1/jobs?limit=1000")).json()["data"])


async def test_a_key_with_another_content_is_refused_and_names_the_job_it_stands_for(
    api: httpx2.AsyncClient,
) -> None:
    first = (await post(api, JOB, "k")).json()["id"]
    for change in (
        {"payload": {}},
        {"priority": 1},
        {"job_type": "other"},
        {"tags": ["x"]},
        {"unique": {"key": "u"}},
    ):
        refused = await post(api, JOB | change, "k")
        assert (refused.status_code, refused.json()["code"]) == (409, "idempotency_key_reused"), change
        assert refused.json()["job_id"] == first
    assert await count(api) == 1


async def test_spacing_and_order_of_the_payload_are_no_other_content(api: httpx2.AsyncClient) -> None:
    first = (await post(api, JOB, "k")).json()["id"]
    text = json.dumps(JOB | {"payload": {"n": 1.0, "month": "2030-01"}}, indent=3)
    headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
    again = await api.post("/api/v1/jobs", content=text, headers=headers)
    assert (again.status_code, again.json()["id"]) == (200, first)
    number = await post(api, JOB | {"payload": {"month": "2030-01", "n": "1.0"}}, "k")
    assert number.status_code == 409, "a text is no number"


@pytest.mark.parametrize("key", ["", "x" * 256, "x" * 60_000, "schl\u00fcssel", "two words", "\U0001f600"])
async def test_a_key_that_is_none_is_refused_whichever_way_it_comes(
    api: httpx2.AsyncClient, key: str
) -> None:
    inside = await post(api, JOB | {"idempotency_key": key})
    assert (inside.status_code, inside.json()["errors"][0]["pointer"]) == (422, "/idempotency_key")
    raw = await api.post("/api/v1/jobs", json=JOB, headers=[(b"Idempotency-Key", key.encode())])
    assert 400 <= raw.status_code < 500
    wrong = await post(api, unique(key))
    assert (wrong.status_code, wrong.json()["errors"][0]["pointer"]) == (422, "/unique/key")
    assert await count(api) == 0


async def test_a_megabyte_of_key_is_refused_and_not_shown_again(api: httpx2.AsyncClient) -> None:
    refused = await post(api, JOB | {"idempotency_key": "x" * 2**20})
    assert 400 <= refused.status_code < 500
    assert len(refused.content) < 10_000


async def test_a_key_still_stands_for_its_job_after_that_was_cancelled(api: httpx2.AsyncClient) -> None:
    first = (await post(api, JOB, "k")).json()["id"]
    await api.post(f"/api/v1/jobs/{first}/cancel")
    again = await post(api, JOB, "k")
    assert (again.status_code, again.json()["id"], again.json()["state"]) == (200, first, "cancelled")


async def test_copies_inside_a_batch_are_one_job(api: httpx2.AsyncClient) -> None:
    keyed = JOB | {"idempotency_key": "k"}
    answer = await api.post("/api/v1/jobs/batch", json=[keyed, JOB, keyed, keyed])
    assert answer.status_code == 201, answer.text
    ids = [item["id"] for item in answer.json()["data"]]
    assert ids[0] == ids[2] == ids[3] != ids[1]
    assert [item.get("created", True) for item in answer.json()["data"]] == [True, True, False, False]
    assert await count(api) == 2


async def test_a_batch_with_a_used_key_is_refused_whole_or_item_by_item(api: httpx2.AsyncClient) -> None:
    first = (await post(api, JOB, "k")).json()["id"]
    items = [JOB, JOB | {"priority": 1, "idempotency_key": "k"}]
    whole = await api.post("/api/v1/jobs/batch", json=items)
    assert (whole.status_code, whole.json()["code"], whole.json()["job_id"]) == (
        409,
        "idempotency_key_reused",
        first,
    )
    assert await count(api) == 1
    each = await api.post("/api/v1/jobs/batch?atomic=false", json=items)
    assert each.status_code == 207
    stored, refused = each.json()["data"]
    assert stored["id"] and refused["error"]["job_id"] == first


async def test_a_unique_key_that_is_held_is_a_conflict_with_the_job_that_holds_it(
    api: httpx2.AsyncClient,
) -> None:
    first = (await post(api, unique())).json()["id"]
    refused = await post(api, unique())
    assert (refused.status_code, refused.json()["code"]) == (409, "job.not_unique")
    assert refused.json()["job_id"] == first
    await api.post(f"/api/v1/jobs/{first}/cancel")
    assert (await post(api, unique())).status_code == 201


async def test_keep_answers_200_with_the_job_that_is_there(api: httpx2.AsyncClient) -> None:
    first = await post(api, unique())
    kept = await post(api, unique(on_conflict="keep") | {"payload": {"month": "2030-02"}})
    assert (kept.status_code, kept.json()["id"]) == (200, first.json()["id"])
    assert kept.json()["payload"] == JOB["payload"]
    assert kept.headers["location"] == first.headers["location"]
    assert kept.headers["unique-kept"] == "true" and "idempotency-replayed" not in kept.headers


async def test_replace_names_the_job_that_gave_way(api: httpx2.AsyncClient) -> None:
    first = (await post(api, unique())).json()["id"]
    made = await post(api, unique(on_conflict="replace"))
    assert (made.status_code, made.json()["replaced"]) == (201, first)
    ended = (await api.get(f"/api/v1/jobs/{first}")).json()
    assert (ended["state"], ended["reason"]) == ("cancelled", f"replaced by job {made.json()['id']}")


async def test_fifty_at_once_with_one_unique_key_make_one_job(api: httpx2.AsyncClient) -> None:
    answers = await asyncio.gather(*(post(api, unique(on_conflict="keep")) for _ in range(50)))
    assert sorted(answer.status_code for answer in answers) == [200] * 49 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert await count(api) == 1


async def test_a_batch_gives_verdicts_on_unique_keys(api: httpx2.AsyncClient) -> None:
    first = (await post(api, unique())).json()["id"]
    items = [unique(), unique(on_conflict="keep"), unique("new"), unique(on_conflict="replace")]
    each = await api.post("/api/v1/jobs/batch?atomic=false", json=items)
    assert each.status_code == 207, each.text
    refused, kept, made, replacing = each.json()["data"]
    assert (refused["error"]["code"], refused["error"]["job_id"]) == ("job.not_unique", first)
    assert (kept["id"], kept["created"]) == (first, False)
    assert "created" not in made and replacing["replaced"] == first


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"scope": "period"}, "/unique/period_seconds"),
        ({"scope": "period", "period_seconds": 0}, "/unique/period_seconds"),
        ({"period_seconds": 5}, "/unique/period_seconds"),
        ({"scope": "for ever"}, "/unique/scope"),
        ({"on_conflict": "explode"}, "/unique/on_conflict"),
    ],
)
async def test_a_rule_that_makes_no_sense_is_refused_with_its_place(
    api: httpx2.AsyncClient, fields: dict[str, Any], pointer: str
) -> None:
    refused = await post(api, unique(**fields))
    assert refused.status_code in (400, 422), refused.text
    assert refused.json()["errors"][0]["pointer"] == pointer
