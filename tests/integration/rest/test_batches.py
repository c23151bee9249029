"""Batches and webhooks over the wire."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterable
from typing import Any

import httpx2
import pytest

from taskforge.rest import lines
from taskforge.rest.server import HttpServer
from taskforge.services.core import Core

LINES = {"Content-Type": "application/x-ndjson"}


def text(items: Iterable[Any]) -> bytes:
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)


def job(n: int, **fields: Any) -> dict[str, Any]:
    return {"queue_name": "default", "job_type": "noop", "payload": {"n": n}} | fields


@pytest.fixture
async def batch(api: httpx2.AsyncClient) -> str:
    answer = await api.post("/api/v1/batches", json={"name": "b"})
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"/api/v1/batches/{answer.json()['id']}"
    return str(answer.json()["id"])


async def view(api: httpx2.AsyncClient, batch: str) -> dict[str, Any]:
    answer = await api.get(f"/api/v1/batches/{batch}")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


async def test_a_batch_is_made_filled_sealed_and_seen_to_its_end(
    api: httpx2.AsyncClient, worker: Any
) -> None:
    draft = {
        "name": "n",
        "tags": ["t"],
        "callbacks": {
            "on_complete": {
                "job": {"queue_name": "default", "job_type": "report", "payload": {"a": 1}, "tags": ["c"]},
                "webhook": {"url": "https://example.com/"},
                "batch_as": "batch",
            }
        },
    }
    made = (await api.post("/api/v1/batches", json=draft)).json()
    assert made["state"] == "open" and made["callbacks"]["on_complete"]["job"]["payload"] == {"a": 1}
    assert (await api.post("/api/v1/jobs", json=job(1, batch_id=made["id"]))).status_code == 201
    answer = await api.post("/api/v1/jobs/batch", json=[job(2, batch_id=made["id"]), job(3)])
    assert answer.status_code == 201
    sealed = (await api.post(f"/api/v1/batches/{made['id']}/seal")).json()
    assert (sealed["state"], sealed["total"], sealed["pending"]) == ("running", 2, 2)
    for _ in range(2):
        await worker.finish(await worker.claim())
    ended = await view(api, made["id"])
    assert (ended["state"], ended["progress"]) == ("succeeded", 1.0)
    fired = ended["fired"]["on_complete"]
    report = (await api.get(f"/api/v1/jobs/{fired['job_id']}")).json()
    assert report["payload"]["batch"]["succeeded"] == 2 and report["payload"]["a"] == 1
    [delivery] = (await api.get("/api/v1/webhooks/deliveries")).json()["data"]
    assert (delivery["id"], delivery["event"]) == (fired["delivery_id"], "batch.complete")
    [listed] = (await api.get("/api/v1/batches?state=succeeded")).json()["data"]
    assert listed == ended
    members = (await api.get(f"/api/v1/batches/{made['id']}/jobs?state=succeeded")).json()["data"]
    assert [member["payload"]["n"] for member in members] == [1, 2]


def on_success(**callback: Any) -> dict[str, Any]:
    return {"callbacks": {"on_success": callback}}


@pytest.mark.parametrize(
    ("draft", "pointer"),
    [
        ({"name": "x" * 201}, "/name"),
        ({"tags": ["no tag!"]}, "/tags"),
        ({"callbacks": {"on_complete": {}}}, "/callbacks/on_complete"),
        ({"callbacks": {"on_end": {}}}, "/callbacks/on_end"),
        (on_success(webhook={"url": "ftp://x"}), "/callbacks/on_success/webhook/url"),
        (on_success(job=job(1) | {"queue_name": "nope"}), "/callbacks/on_success/job/queue_name"),
        (on_success(job=job(1, payload=[1]), batch_as="b"), "/callbacks/on_success/batch_as"),
        (on_success(job=job(1, job_type="a b")), "/callbacks/on_success/job/job_type"),
        (on_success(job=job(1, batch_id="1")), "/callbacks/on_success/job/batch_id"),
    ],
)
async def test_a_batch_that_cannot_be_is_refused_with_the_place(
    api: httpx2.AsyncClient, draft: dict[str, Any], pointer: str
) -> None:
    answer = await api.post("/api/v1/batches", json=draft)
    assert answer.status_code == 422, answer.text
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


async def test_a_number_that_nobody_can_keep_is_refused(api: httpx2.AsyncClient) -> None:
    body = b'{"callbacks":{"on_success":{"job":{"queue_name":"default","job_type":"a","payload":{"n":%b}}}}}'
    for number in (b"1e999", b"9" * 150_000):
        answer = await api.post(
            "/api/v1/batches", content=body % number, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 422, answer.text


async def test_a_stream_is_stored_piece_by_piece_and_sealed_at_its_end(
    api: httpx2.AsyncClient, batch: str
) -> None:
    async def body() -> AsyncIterator[bytes]:
        whole = text(job(n) for n in range(2_500))
        for start in range(0, len(whole), 1_777):
            yield whole[start : start + 1_777]

    answer = await api.post(f"/api/v1/batches/{batch}/jobs?first=1&seal=true", content=body(), headers=LINES)
    assert answer.status_code == 200, answer.text
    done = answer.json()
    assert (done["stored"], done["refused"], done["batch"]["total"]) == (2_500, 0, 2_500)
    assert (done["batch"]["received"], done["batch"]["state"]) == (2_500, "running")
    late = await api.post(f"/api/v1/batches/{batch}/jobs", content=text([job(1)]), headers=LINES)
    assert (late.status_code, late.json()["code"]) == (409, "batch.sealed")


async def test_a_stream_sent_again_adds_nothing_and_one_with_a_gap_is_refused(
    api: httpx2.AsyncClient, batch: str
) -> None:
    path = f"/api/v1/batches/{batch}/jobs"
    await api.post(f"{path}?first=1", content=text(job(n) for n in range(10)), headers=LINES)
    again = await api.post(f"{path}?first=6", content=text(job(n) for n in range(5, 15)), headers=LINES)
    assert (again.json()["skipped"], again.json()["stored"]) == (5, 5)
    gap = await api.post(f"{path}?first=17", content=text([job(1)]), headers=LINES)
    assert (gap.status_code, gap.json()["code"]) == (409, "batch.out_of_order")
    assert "go on with item 16" in gap.json()["detail"]
    assert (await view(api, batch))["total"] == 15


@pytest.mark.parametrize(
    "wrong", [{"queue_name": "default"}, job(0, priority=12), job(0) | {"queue_name": "nope"}]
)
async def test_the_first_wrong_item_ends_a_stream_and_says_how_far_it_came(
    api: httpx2.AsyncClient, batch: str, wrong: dict[str, Any]
) -> None:
    items = [job(n) for n in range(1_200)]
    items[1_100] = wrong
    path = f"/api/v1/batches/{batch}/jobs"
    answer = await api.post(f"{path}?first=1&seal=true", content=text(items), headers=LINES)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["pointer"].startswith("/1100/")
    state = await view(api, batch)
    assert (state["total"], state["received"], state["state"]) == (1_100, 1_100, "open")
    items[1_100] = job(0)
    rest = await api.post(f"{path}?first=1&seal=true", content=text(items), headers=LINES)
    assert (rest.json()["stored"], rest.json()["skipped"]) == (100, 1_100)


async def test_wrong_items_can_be_left_out_and_are_named(api: httpx2.AsyncClient, batch: str) -> None:
    items: list[Any] = [job(1), {"x": 1}, job(3, priority=99), job(4) | {"queue_name": "nope"}, job(5)]
    path = f"/api/v1/batches/{batch}/jobs?first=1&skip_invalid=true"
    answer = (await api.post(path, content=text(items), headers=LINES)).json()
    assert (answer["stored"], answer["refused"], answer["batch"]["received"]) == (2, 3, 5)
    assert [(error["item"], error["error"]["code"]) for error in answer["errors"]] == [
        (2, "request.invalid"), (3, "job.invalid"), (4, "queue.not_found"),
    ]  # fmt: skip


async def test_verdicts_come_line_by_line_while_items_are_still_being_sent(
    server: HttpServer, token: str, batch: str
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = (
        f"POST /api/v1/batches/{batch}/jobs?first=1&verdicts=all HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {token}\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    writer.write(head.encode())
    piece = text(job(n) for n in range(1_000))
    writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
    await writer.drain()
    async with asyncio.timeout(10):
        assert b"200" in await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b'"item":1000')
    piece = text([{"x": 1}])
    writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(piece), piece))
    async with asyncio.timeout(10):
        last = await reader.readuntil(b"\r\n0\r\n\r\n")
    assert b'"code":"request.invalid"' in last and b"item 1001" in last
    writer.close()


async def test_a_connection_that_breaks_leaves_what_had_arrived_in_pieces_and_can_be_gone_on_with(
    api: httpx2.AsyncClient, server: HttpServer, token: str, batch: str, eventually: Any
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    whole = text(job(n) for n in range(2_600))
    head = (
        f"POST /api/v1/batches/{batch}/jobs?first=1&seal=true HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/x-ndjson\r\nContent-Length: {len(whole) + 1_000}\r\n\r\n"
    )
    writer.write(head.encode() + whole)
    await writer.drain()

    async def has_pieces() -> bool:
        return bool((await view(api, batch))["received"] == 2_000)

    await eventually(has_pieces)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    writer.close()
    state = await view(api, batch)
    assert (state["total"], state["state"]) == (2_000, "open")
    answer = await api.post(f"/api/v1/batches/{batch}/jobs?first=1&seal=true", content=whole, headers=LINES)
    assert answer.json()["batch"]["total"] == 2_600


async def test_a_stream_that_falls_silent_is_ended(
    api: httpx2.AsyncClient, batch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "IDLE_SECONDS", 0.2)

    async def body() -> AsyncIterator[bytes]:
        yield text([job(1)])
        await asyncio.sleep(5)

    answer = await api.post(f"/api/v1/batches/{batch}/jobs", content=body(), headers=LINES)
    assert answer.status_code == 408


async def test_a_line_without_end_is_refused(api: httpx2.AsyncClient, batch: str) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"x" * 1_000_000

    try:
        answer = await api.post(f"/api/v1/batches/{batch}/jobs", content=body(), headers=LINES)
    except httpx2.TransportError:
        return  # it was told while it was still sending
    assert answer.status_code == 413


@pytest.mark.parametrize("path", ["", "/seal", "/cancel", "/jobs"])
@pytest.mark.parametrize("other", ["1", "0", "x", "99999999999999999999", "-1"])
async def test_a_batch_that_does_not_exist_or_is_anothers_is_not_found(
    api: httpx2.AsyncClient, batch: str, stranger_token: str, path: str, other: str
) -> None:
    mine = other == "1"
    headers = {"Authorization": f"Bearer {stranger_token}"} if mine else {}
    url = f"/api/v1/batches/{batch if mine else other}{path}"
    if path == "/jobs":
        answer = await api.post(url, content=text([job(1)]), headers=headers | LINES)
    elif path:
        answer = await api.post(url, headers=headers)
    else:
        answer = await api.get(url, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (404, "batch.not_found")


async def test_a_job_that_names_a_sealed_or_missing_batch_is_refused(
    api: httpx2.AsyncClient, batch: str
) -> None:
    missing = await api.post("/api/v1/jobs", json=job(1, batch_id="424242"))
    assert (missing.status_code, missing.json()["errors"][0]["pointer"]) == (422, "/batch_id")
    await api.post(f"/api/v1/batches/{batch}/seal")
    sealed = await api.post("/api/v1/jobs", json=job(1, batch_id=batch))
    assert (sealed.status_code, sealed.json()["code"]) == (409, "batch.sealed")
    mixed = await api.post("/api/v1/jobs/batch?atomic=false", json=[job(1, batch_id=batch), job(2)])
    assert mixed.status_code == 207
    assert [item.get("error", {}).get("code") for item in mixed.json()["data"]] == ["batch.sealed", None]


async def test_a_cancelled_batch_says_so(api: httpx2.AsyncClient, batch: str) -> None:
    await api.post(f"/api/v1/batches/{batch}/jobs", content=text(job(n) for n in range(20)), headers=LINES)
    answer = await api.post(f"/api/v1/batches/{batch}/cancel")
    assert (answer.status_code, answer.json()["state"], answer.json()["cancelled"]) == (200, "cancelled", 20)
    assert (await api.post(f"/api/v1/batches/{batch}/cancel")).status_code == 409


async def test_secrets_are_told_once_and_two_at_most_are_active(api: httpx2.AsyncClient) -> None:
    one = await api.post("/api/v1/webhooks/secrets")
    assert one.status_code == 201 and one.json()["secret"].startswith("whsec_")
    assert (await api.post("/api/v1/webhooks/secrets")).status_code == 201
    assert (await api.post("/api/v1/webhooks/secrets")).json()["code"] == "webhook.too_many_secrets"
    retired = await api.post(f"/api/v1/webhooks/secrets/{one.json()['id']}/retire")
    assert retired.status_code == 200 and retired.json()["retired_at"] is not None
    listed = (await api.get("/api/v1/webhooks/secrets")).json()["data"]
    assert [secret["retired_at"] is None for secret in listed] == [True, False]
    assert one.json()["secret"] not in json.dumps(listed)


async def test_a_webhook_whose_url_is_none_is_refused_wherever_it_is_given(
    api: httpx2.AsyncClient, core: Core
) -> None:
    for url in ("http://2130706433/", "file:///etc/passwd", "https://a@b.com/"):
        answer = await api.post("/api/v1/jobs", json=job(1, webhook={"url": url}))
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/webhook/url")
        answer = await api.patch("/api/v1/queues/default", json={"webhook": {"url": url}})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/webhook/url")


async def test_deliveries_can_be_looked_at_and_sent_again(api: httpx2.AsyncClient, worker: Any) -> None:
    await api.post("/api/v1/jobs", json=job(1, webhook={"url": "https://example.com/x"}))
    await worker.finish(await worker.claim())
    [delivery] = (await api.get("/api/v1/webhooks/deliveries?state=waiting")).json()["data"]
    assert delivery["event"] == "job.succeeded"
    assert (await api.get(f"/api/v1/webhooks/deliveries/{delivery['id']}")).json() == delivery
    again = await api.post(f"/api/v1/webhooks/deliveries/{delivery['id']}/redeliver")
    assert (again.status_code, again.json()["state"]) == (202, "waiting")
    for path in ("deliveries/999", "deliveries/x"):
        assert (await api.get(f"/api/v1/webhooks/{path}")).status_code == 404
