"""Schedules over HTTP: the whole life of one, and everything that is refused."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import httpx2
import pytest

from tests.integration.rest.conftest import TinyWorker

PATH = "/api/v1/schedules"
GOOD = {"name": "report", "expression": "30 2 * * MON-FRI", "timezone": "Asia/Jakarta", "job_type": "report"}


async def test_a_schedule_is_made_read_changed_paused_resumed_and_deleted(api: httpx2.AsyncClient) -> None:
    made = await api.post(PATH, json={**GOOD, "payload": {"n": 1}, "retry": {"kind": "fixed"}, "tags": ["a"]})
    assert made.status_code == 201, made.text
    assert made.headers["location"] == f"{PATH}/report"
    view = made.json()
    assert (view["source"], view["edited"], view["version"], view["paused"]) == ("api", False, 1, False)
    assert view["payload"] == {"n": 1} and view["retry"]["kind"] == "fixed" and view["tags"] == ["a"]
    at = datetime.fromisoformat(view["next_at"])
    assert (at.hour, at.minute) == (19, 30)
    assert (await api.get(f"{PATH}/report")).json() == view

    changed = await api.patch(f"{PATH}/report", json={"expression": "0 3 * * *", "tags": [], "retry": None})
    assert changed.status_code == 200, changed.text
    assert (changed.json()["expression"], changed.json()["version"]) == ("0 3 * * *", 2)
    assert changed.json()["retry"] is None and changed.json()["payload"] == {"n": 1}

    assert (await api.post(f"{PATH}/report/pause")).json()["next_at"] is None
    assert (await api.post(f"{PATH}/report/resume")).json()["next_at"] is not None
    assert [s["name"] for s in (await api.get(PATH)).json()["data"]] == ["report"]
    assert (await api.delete(f"{PATH}/report")).status_code == 204
    for answer in (await api.get(f"{PATH}/report"), await api.delete(f"{PATH}/report")):
        assert (answer.status_code, answer.json()["code"]) == (404, "schedule.not_found")


async def test_run_now_submits_a_job_and_the_record_names_it(
    api: httpx2.AsyncClient, worker: TinyWorker
) -> None:
    await api.post(PATH, json={**GOOD, "job_type": "noop"})
    ran = await api.post(f"{PATH}/report/run")
    assert ran.status_code == 201, ran.text
    job = (await api.get(ran.headers["location"])).json()
    assert (job["id"], job["job_type"], job["state"]) == (ran.json()["job_id"], "noop", "pending")
    await worker.finish(await worker.claim(), result=b"1")
    [tick] = (await api.get(f"{PATH}/report/ticks")).json()["data"]
    assert (tick["verdict"], tick["reason"], tick["job_id"]) == ("fired", "run_now", job["id"])


async def test_pages_of_schedules_and_ticks_go_on_where_they_stopped(api: httpx2.AsyncClient) -> None:
    for number in range(5):
        await api.post(PATH, json={**GOOD, "name": f"s{number}"})
        await api.post(f"{PATH}/s0/run")
    for path, key in ((PATH, "name"), (f"{PATH}/s0/ticks", "job_id")):
        found: list[str] = []
        query = f"{path}?limit=2"
        while True:
            page = (await api.get(query)).json()
            found += [entry[key] for entry in page["data"]]
            if page["next_cursor"] is None:
                break
            query = f"{path}?limit=2&cursor={page['next_cursor']}"
        assert len(found) == len(set(found)) == 5


async def test_the_next_times_are_shown_in_the_time_zone_of_the_schedule(api: httpx2.AsyncClient) -> None:
    await api.post(PATH, json=GOOD)
    answer = await api.get(f"{PATH}/report/preview?count=3&after=2026-01-02T00:00:00Z")
    assert answer.json()["data"] == [
        {"at": "2026-01-04T19:30:00Z", "local": "2026-01-05T02:30:00+07:00"},
        {"at": "2026-01-05T19:30:00Z", "local": "2026-01-06T02:30:00+07:00"},
        {"at": "2026-01-06T19:30:00Z", "local": "2026-01-07T02:30:00+07:00"},
    ]
    unsaved = await api.post(
        f"{PATH}/preview",
        json={
            "expression": "30 2 * * *",
            "timezone": "Europe/Berlin",
            "after": "2026-03-28T12:00:00Z",
            "count": 2,
        },
    )
    assert [firing["local"] for firing in unsaved.json()["data"]] == [
        "2026-03-29T03:00:00+02:00",
        "2026-03-30T02:30:00+02:00",
    ]


@pytest.mark.parametrize(
    ("wrong", "pointer", "words"),
    [
        ({"expression": "61 * * * *"}, "/expression", "minute 61 is out of 0-59"),
        ({"expression": "*/0 * * * *"}, "/expression", "step"),
        ({"expression": "0-1000000000 * * * *"}, "/expression", "out of 0-59"),
        ({"expression": "@reboot"}, "/expression", "@reboot"),
        ({"expression": "* * * *"}, "/expression", "4 fields"),
        ({"expression": "x" * 10_000}, "/expression", "10000 characters"),
        ({"expression": "* * *\u0007* *"}, "/expression", "ASCII"),
        ({"expression": "0 0 30 2 *"}, "/expression", "day 30 does not exist in FEB"),
        ({"expression": "0 0 31 4 *"}, "/expression", "never fires"),
        ({"timezone": "Asia/Jakata"}, "/timezone", "did you mean Asia/Jakarta"),
        ({"timezone": "../../etc/passwd"}, "/timezone", "no time zone"),
        ({"timezone": "x" * 10_000}, "/timezone", "no time zone"),
        ({"jitter_seconds": -1}, "/jitter_seconds", "between 0"),
        ({"expression": "* * * * *", "jitter_seconds": 60}, "/jitter_seconds", "less than the 60 seconds"),
        ({"missed": "all"}, "/missed", ""),
        ({"missed_limit": 0}, "/missed_limit", "between 1"),
        ({"name": "preview"}, "/name", "path of the API"),
        ({"name": "Not A Name"}, "/name", "1 to 128"),
        ({"start_at": "2030-01-01T00:00:00"}, "/start_at", "time zone"),
        (
            {"start_at": "2030-01-02T00:00:00Z", "end_at": "2030-01-01T00:00:00Z"},
            "/end_at",
            "before start_at",
        ),
        ({"end_at": "2001-01-01T00:00:00Z"}, "/expression", "not between start_at and end_at"),
        ({"end_at": "9999-12-31T00:00:00Z"}, "/end_at", "2200"),
        ({"job_type": "no spaces"}, "/job_type", "match"),
        ({"queue_name": "nowhere"}, "/queue_name", "nowhere"),
        ({"priority": 10}, "/priority", "between 0"),
        ({"max_attempts": 0}, "/max_attempts", "between 1"),
        ({"depends_on": []}, "/depends_on", ""),
    ],
)
async def test_what_cannot_be_is_refused_at_once_and_pointed_at(
    api: httpx2.AsyncClient, wrong: dict[str, Any], pointer: str, words: str
) -> None:
    started = time.perf_counter()
    answer = await api.post(PATH, json={**GOOD, **wrong})
    assert answer.status_code == 422, answer.text
    assert time.perf_counter() - started < 2
    assert pointer in [error["pointer"] for error in answer.json()["errors"]]
    assert words in str(answer.json()["errors"])
    assert len(answer.text) < 4_000
    assert (await api.get(PATH)).json()["data"] == []


@pytest.mark.parametrize(
    "query", ["count=0", "count=101", "count=x", "after=yesterday", "after=9999-01-01T00:00:00Z"]
)
async def test_a_preview_out_of_bounds_is_refused(api: httpx2.AsyncClient, query: str) -> None:
    await api.post(PATH, json=GOOD)
    assert (await api.get(f"{PATH}/report/preview?{query}")).status_code == 422


async def test_a_change_is_checked_like_a_new_one_and_then_nothing_has_changed(
    api: httpx2.AsyncClient,
) -> None:
    before = (await api.post(PATH, json=GOOD)).json()
    for change in (
        {"expression": "0 0 30 2 *"},
        {"queue_name": "nowhere"},
        {"timezone": "x"},
        {"name": "other"},
    ):
        answer = await api.patch(f"{PATH}/report", json=change)
        assert answer.status_code == 422, answer.text
    assert (await api.get(f"{PATH}/report")).json() == before


async def test_a_name_that_is_taken_is_a_conflict(api: httpx2.AsyncClient) -> None:
    await api.post(PATH, json=GOOD)
    answer = await api.post(PATH, json=GOOD)
    assert (answer.status_code, answer.json()["code"]) == (409, "schedule.exists")


async def test_another_tenant_sees_nothing_of_it(api: httpx2.AsyncClient, stranger_token: str) -> None:
    await api.post(PATH, json=GOOD)
    headers = {"Authorization": f"Bearer {stranger_token}"}
    assert (await api.get(PATH, headers=headers)).json()["data"] == []
    for method, path in (
        ("GET", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("POST", "/run"),
        ("POST", "/pause"),
        ("POST", "/resume"),
        ("GET", "/ticks"),
        ("GET", "/preview"),
    ):
        body = {"json": {"priority": 1}} if method == "PATCH" else {}
        answer = await api.request(method, f"{PATH}/report{path}", headers=headers, **body)
        assert answer.status_code == 404, (method, path)
