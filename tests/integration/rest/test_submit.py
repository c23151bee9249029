from __future__ import annotations

import asyncio
import json
from datetime import datetime
from typing import Any

import httpx2
import pytest

SEED: dict[str, Any] = {
    "queue_name": "default",
    "job_type": "send_email",
    "payload": {"to": "user@example.com", "subject": "Hello", "body": "This is a test email"},
    "priority": 5,
}
JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}


def pointers(answer: httpx2.Response) -> list[str]:
    return [error["pointer"] for error in answer.json()["errors"]]


async def submitted(api: httpx2.AsyncClient) -> int:
    return len((await api.get("/api/v1/jobs?limit=1000")).json()["data"])


def seconds_between(one: str, other: str) -> float:
    return (datetime.fromisoformat(one) - datetime.fromisoformat(other)).total_seconds()


async def test_the_seeds_curl_answers_201_with_the_job_and_its_location(api: httpx2.AsyncClient) -> None:
    answer = await api.post("/api/v1/jobs", json=SEED)
    assert answer.status_code == 201, answer.text
    job = answer.json()
    assert answer.headers["location"] == f"/api/v1/jobs/{job['id']}"
    assert (job["state"], job["queue_name"], job["priority"]) == ("pending", "default", 5)
    assert isinstance(job["id"], str)
    shown = await api.get(answer.headers["location"])
    assert (shown.status_code, shown.json()["payload"]) == (200, SEED["payload"])


async def test_every_answer_about_a_tenant_is_kept_out_of_caches(api: httpx2.AsyncClient) -> None:
    answer = await api.post("/api/v1/jobs", json=SEED, headers={"X-Request-Id": "r-1"})
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-request-id"] == "r-1"
    assert "server" not in answer.headers


async def test_a_payload_comes_back_byte_for_byte(api: httpx2.AsyncClient) -> None:
    payload = b'{"n": 123456789012345678901234567890, "z": -0.0,   "e": 1E2, "u": "\\u00e9\xf0\x9f\x98\x80"}'
    body = b'{"queue_name": "default", "job_type": "t", "payload": %b}' % payload
    location = (await api.post("/api/v1/jobs", content=body, headers=JSON)).headers["location"]
    assert payload in (await api.get(location)).content


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"priority": -1}, "/priority"),
        ({"priority": 10}, "/priority"),
        ({"priority": 2**31}, "/priority"),
        ({"priority": 2**80}, "/priority"),
        ({"priority": 1.5}, "/priority"),
        ({"max_attempts": 0}, "/max_attempts"),
        ({"max_attempts": -1}, "/max_attempts"),
        ({"max_attempts": 10**9}, "/max_attempts"),
        ({"timeout_seconds": 0}, "/timeout_seconds"),
        ({"timeout_seconds": -5}, "/timeout_seconds"),
        ({"timeout_seconds": 3.2e8}, "/timeout_seconds"),
        ({"delay_seconds": -1}, "/delay_seconds"),
        ({"delay_seconds": 1e300}, "/delay_seconds"),
        ({"run_at": "0001-01-01T00:00:00Z"}, "/run_at"),
        ({"run_at": "0001-01-01T00:00:00+14:00"}, "/run_at"),
        ({"run_at": "9999-12-31T23:59:59Z"}, "/run_at"),
        ({"run_at": "9999-12-31T23:59:59-14:00"}, "/run_at"),
        ({"run_at": "2030-01-01T00:00:00"}, "/run_at"),
        ({"run_at": "infinity"}, "/run_at"),
        ({"run_at": "2030-01-01T00:00:00Z", "delay_seconds": 5}, "/delay_seconds"),
        ({"queue_name": "Default"}, "/queue_name"),
        ({"queue_name": ""}, "/queue_name"),
        ({"queue_name": "../etc"}, "/queue_name"),
        ({"queue_name": "a\u202eb"}, "/queue_name"),
        ({"queue_name": "x" * 129}, "/queue_name"),
        ({"queue_name": "nobody-made-this"}, "/queue_name"),
        ({"job_type": "a b"}, "/job_type"),
        ({"job_type": "a\n"}, "/job_type"),
        ({"tags": ["ok", "not ok"]}, "/tags"),
        ({"tags": ["t"] * 21}, "/tags"),
        ({"idempotency_key": ""}, "/idempotency_key"),
        ({"idempotency_key": "x" * 256}, "/idempotency_key"),
        ({"idempotency_key": "schl\u00fcssel"}, "/idempotency_key"),
        ({"retry": {"factor": 0}}, "/retry/factor"),
        ({"retry": {"kind": "custom"}}, "/retry/delays"),
        ({"tenant_id": "x"}, "/tenant_id"),
        ({"state": "succeeded"}, "/state"),
    ],
)
async def test_what_is_out_of_bounds_is_refused_with_its_place(
    api: httpx2.AsyncClient, change: dict[str, Any], pointer: str
) -> None:
    answer = await api.post("/api/v1/jobs", json=SEED | change)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert pointers(answer)[0] == pointer


async def test_all_fields_are_taken_and_shown(api: httpx2.AsyncClient) -> None:
    job = SEED | {
        "max_attempts": 7,
        "timeout_seconds": 1.5,
        "delay_seconds": 3600,
        "retry": {"kind": "custom", "delays": [1, 2.5]},
        "idempotency_key": "k-1",
        "tags": ["Red", "blue.1"],
    }
    answer = await api.post("/api/v1/jobs", json=job)
    assert answer.status_code == 201, answer.text
    assert answer.json()["state"] == "scheduled"
    shown = (await api.get(answer.headers["location"])).json()
    assert (shown["max_attempts"], shown["timeout_seconds"], shown["tags"]) == (7, 1.5, ["Red", "blue.1"])
    assert shown["state"] == "scheduled" and shown["run_at"] is not None


@pytest.mark.parametrize("header", ["k-1", '"k-1"'])
async def test_the_same_key_and_job_give_the_same_job_again(api: httpx2.AsyncClient, header: str) -> None:
    first = await api.post("/api/v1/jobs", json=SEED, headers={"Idempotency-Key": header})
    again = await api.post("/api/v1/jobs", json=SEED | {"idempotency_key": "k-1"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["idempotency-replayed"] == "true" and "idempotency-replayed" not in first.headers
    assert again.headers["location"] == first.headers["location"]


async def test_the_same_key_with_another_job_is_a_conflict(api: httpx2.AsyncClient) -> None:
    await api.post("/api/v1/jobs", json=SEED, headers={"Idempotency-Key": "k"})
    other = await api.post("/api/v1/jobs", json=SEED | {"priority": 6}, headers={"Idempotency-Key": "k"})
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")
    first = await api.post("/api/v1/jobs", json=SEED, headers={"Idempotency-Key": "k"})
    assert other.json()["job_id"] == first.json()["id"]
    verdicts = await api.post(
        "/api/v1/jobs/batch?atomic=false", json=[SEED | {"idempotency_key": "k", "priority": 6}]
    )
    assert verdicts.json()["data"][0]["error"]["job_id"] == first.json()["id"]


@pytest.mark.parametrize(
    "key", ["", " ", "a b", "\u00e9", "\U0001f600", "\ud800", "x" * 256, "x" * 1_000_000]
)
async def test_a_key_that_is_none_is_refused(api: httpx2.AsyncClient, key: str) -> None:
    body = json.dumps(SEED | {"idempotency_key": key})
    answer = await api.post("/api/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert len(answer.content) < 1_000, "the key is not repeated"
    unique = json.dumps(SEED | {"unique": {"key": key}})
    answer = await api.post("/api/v1/jobs", content=unique, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert await submitted(api) == 0


@pytest.mark.parametrize("key", ["", '""', "a b", "\u00e9", "x" * 256])
async def test_a_key_in_the_header_that_is_none_is_refused(api: httpx2.AsyncClient, key: str) -> None:
    answer = await api.post("/api/v1/jobs", json=SEED, headers={"Idempotency-Key": key.encode("latin-1")})
    assert answer.status_code == 422, answer.text


async def test_a_job_that_ended_badly_still_answers_for_its_key(api: httpx2.AsyncClient) -> None:
    first = (await api.post("/api/v1/jobs", json=SEED, headers={"Idempotency-Key": "k"})).json()["id"]
    await api.post(f"/api/v1/jobs/{first}/cancel")
    again = await api.post("/api/v1/jobs", json=SEED, headers={"Idempotency-Key": "k"})
    assert (again.status_code, again.json()["id"], again.json()["state"]) == (200, first, "cancelled")


async def test_the_answer_to_a_submit_says_what_holds_for_the_job(api: httpx2.AsyncClient) -> None:
    await api.post("/api/v1/queues", json={"name": "own", "max_attempts": 3, "timeout_seconds": 7})
    job = SEED | {"queue_name": "own", "delay_seconds": 60}
    made = (await api.post("/api/v1/jobs", json=job)).json()
    shown = (await api.get(f"/api/v1/jobs/{made['id']}")).json()
    for name in ("max_attempts", "timeout_seconds", "submitted_at", "state", "priority", "attempt"):
        assert made[name] == shown[name], name
    assert (made["max_attempts"], made["timeout_seconds"]) == (3, 7)
    assert abs(seconds_between(made["run_at"], shown["run_at"])) < 1


async def test_a_held_unique_key_is_a_conflict_that_names_its_holder(api: httpx2.AsyncClient) -> None:
    unique = {"key": "customer-7"}
    first = (await api.post("/api/v1/jobs", json=SEED | {"unique": unique})).json()["id"]
    refused = await api.post("/api/v1/jobs", json=SEED | {"unique": unique})
    assert (refused.status_code, refused.json()["code"], refused.json()["job_id"]) == (
        409,
        "job.not_unique",
        first,
    )
    kept = await api.post("/api/v1/jobs", json=SEED | {"unique": unique | {"on_conflict": "keep"}})
    assert (kept.status_code, kept.json()["id"], kept.headers["unique-kept"]) == (200, first, "true")
    made = await api.post("/api/v1/jobs", json=SEED | {"unique": unique | {"on_conflict": "replace"}})
    assert (made.status_code, made.json()["replaced"]) == (201, first)
    replaced = (await api.get(f"/api/v1/jobs/{first}")).json()
    assert (replaced["state"], replaced["reason"]) == ("cancelled", f"replaced by job {made.json()['id']}")


async def test_a_key_belongs_to_its_tenant_and_a_unique_key_too(
    api: httpx2.AsyncClient, stranger_token: str
) -> None:
    job = SEED | {"unique": {"key": "k"}}
    await api.post("/api/v1/jobs", json=job)
    other = {"Authorization": f"Bearer {stranger_token}"}
    await api.post("/api/v1/queues", json={"name": "default"}, headers=other)
    assert (await api.post("/api/v1/jobs", json=job, headers=other)).status_code == 201


async def test_two_different_keys_for_one_job_are_refused(api: httpx2.AsyncClient) -> None:
    answer = await api.post(
        "/api/v1/jobs", json=SEED | {"idempotency_key": "a"}, headers={"Idempotency-Key": "b"}
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency.two_keys")


async def test_fifty_at_once_with_one_key_make_one_job(api: httpx2.AsyncClient) -> None:
    answers = await asyncio.gather(
        *(api.post("/api/v1/jobs", json=SEED, headers={"Idempotency-Key": "k"}) for _ in range(50))
    )
    assert sorted(answer.status_code for answer in answers) == [200] * 49 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1


async def test_a_key_belongs_to_its_tenant(api: httpx2.AsyncClient, stranger_token: str) -> None:
    await api.post("/api/v1/jobs", json=SEED, headers={"Idempotency-Key": "k"})
    other = {"Authorization": f"Bearer {stranger_token}"}
    await api.post("/api/v1/queues", json={"name": "default"}, headers=other)
    answer = await api.post("/api/v1/jobs", json=SEED, headers={"Idempotency-Key": "k", **other})
    assert answer.status_code == 201, answer.text


@pytest.mark.parametrize("wrap", [False, True])
async def test_a_batch_is_stored_and_answered_in_its_order(api: httpx2.AsyncClient, wrap: bool) -> None:
    jobs = [SEED | {"priority": i % 10, "payload": {"i": i}} for i in range(50)]
    answer = await api.post("/api/v1/jobs/batch", json={"jobs": jobs} if wrap else jobs)
    assert answer.status_code == 201, answer.text
    verdicts = answer.json()
    assert verdicts["created"] == 50 and len(verdicts["data"]) == 50
    for index in (0, 7, 49):
        shown = (await api.get(f"/api/v1/jobs/{verdicts['data'][index]['id']}")).json()
        assert shown["payload"] == {"i": index}


async def test_lines_in_and_lines_out(api: httpx2.AsyncClient) -> None:
    body = "\n".join(json.dumps(SEED) for _ in range(3))
    answer = await api.post(
        "/api/v1/jobs/batch", content=body, headers=NDJSON | {"Accept": "application/x-ndjson"}
    )
    assert answer.status_code == 201
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line)["state"] for line in answer.text.splitlines()] == ["pending"] * 3


@pytest.mark.parametrize(
    ("bad", "pointer"),
    [
        ({"priority": 10}, "/priority"),
        ({"priority": "5"}, "/priority"),
        ({"queue_name": "nobody-made-this"}, "/queue_name"),
    ],
)
@pytest.mark.parametrize("base", ["", "/jobs"])
@pytest.mark.parametrize("neighbours", [0, 2])
async def test_one_bad_job_keeps_an_atomic_batch_out(
    api: httpx2.AsyncClient, bad: dict[str, Any], pointer: str, base: str, neighbours: int
) -> None:
    jobs = [*[SEED] * neighbours, SEED | bad]
    answer = await api.post("/api/v1/jobs/batch", json={"jobs": jobs} if base else jobs)
    assert answer.status_code == 422, answer.text
    assert pointers(answer) == [f"{base}/{neighbours}{pointer}"]
    assert await submitted(api) == 0


@pytest.mark.parametrize("base", ["", "/jobs"])
async def test_a_batch_that_is_not_atomic_stores_what_it_can(api: httpx2.AsyncClient, base: str) -> None:
    jobs = [SEED, SEED | {"priority": "5"}, SEED | {"priority": 11}, SEED, SEED | {"queue_name": "missing"}]
    answer = await api.post(
        "/api/v1/jobs/batch", params={"atomic": "false"}, json={"jobs": jobs} if base else jobs
    )
    assert answer.status_code == 207, answer.text
    verdicts = answer.json()
    assert (verdicts["created"], verdicts["failed"]) == (2, 3)
    found = [item["error"]["errors"][0]["pointer"] if "error" in item else "" for item in verdicts["data"]]
    assert found == ["", f"{base}/1/priority", f"{base}/2/priority", "", f"{base}/4/queue_name"]
    assert await submitted(api) == 2


async def test_one_bad_job_of_ten_thousand_is_named(api: httpx2.AsyncClient) -> None:
    jobs = [SEED] * 10_000
    jobs[4_321] = SEED | {"priority": 99}
    answer = await api.post("/api/v1/jobs/batch", json=jobs)
    assert (answer.status_code, pointers(answer)) == (422, ["/4321/priority"])
    answer = await api.post("/api/v1/jobs/batch?atomic=false", json=jobs)
    assert (answer.status_code, answer.json()["created"]) == (207, 9_999)


async def test_one_key_twice_in_a_batch_is_one_job(api: httpx2.AsyncClient) -> None:
    keyed = SEED | {"idempotency_key": "k"}
    answer = await api.post("/api/v1/jobs/batch", json=[keyed, SEED, keyed])
    assert answer.status_code == 201, answer.text
    data = answer.json()["data"]
    assert data[0]["id"] == data[2]["id"] != data[1]["id"]
    assert (answer.json()["created"], answer.json()["replayed"]) == (2, 1)


@pytest.mark.parametrize(
    ("jobs", "code"),
    [([], "batch.empty"), ([SEED] * 10_001, "batch.too_many"), ({"jobs": []}, "batch.empty")],
)
async def test_a_batch_has_one_to_ten_thousand_jobs(api: httpx2.AsyncClient, jobs: Any, code: str) -> None:
    answer = await api.post("/api/v1/jobs/batch", json=jobs)
    assert (answer.status_code, answer.json()["code"]) == (422, code)


async def test_a_retried_request_with_another_trace_is_still_the_same_job(api: httpx2.AsyncClient) -> None:
    answers = [
        await api.post(
            "/api/v1/jobs",
            json=SEED,
            headers={"Idempotency-Key": "k", "traceparent": f"00-{trace * 32}-{trace * 16}-01"},
        )
        for trace in "ab"
    ]
    assert [answer.status_code for answer in answers] == [201, 200]
