from __future__ import annotations

import httpx2

SEED = (
    b'{"queue_name": "default", "job_type": "send_email", "payload": {"to": "user@example.com", '
    b'"subject": "Hello", "body": "This is a test email"}, "priority": 5}'
)
JSON = {"Content-Type": "application/json"}


async def test_the_seeds_curl_answers_201_with_the_job_and_its_location(api: httpx2.AsyncClient) -> None:
    answer = await api.post("/api/v1/jobs", content=SEED, headers=JSON)
    assert answer.status_code == 201, answer.text
    job = answer.json()
    assert answer.headers["location"] == f"/api/v1/jobs/{job['id']}"
    assert (job["state"], job["queue_name"], job["priority"]) == ("pending", "default", 5)
    assert isinstance(job["id"], str)
    shown = await api.get(answer.headers["location"])
    assert shown.status_code == 200
    assert shown.json()["payload"] == job["payload"]
