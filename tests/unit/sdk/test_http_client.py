from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import httpx2
import msgspec
import pytest

from taskforge.domain.jobs import JobDraft
from taskforge.domain.retry import RetryPolicy
from taskforge.errors import Invalid, NotFound, Unauthorized, Unavailable
from taskforge.http_client import HttpClient

VIEW = {
    "id": "7",
    "queue_name": "default",
    "job_type": "send",
    "state": "succeeded",
    "priority": 5,
    "payload": {},
    "attempt": 1,
    "max_attempts": 5,
    "timeout_seconds": 300.0,
    "tags": [],
    "submitted_at": "2030-01-01T00:00:00Z",
    "result": 3,
}
DRAFT = JobDraft("default", "send", b"")


class Server:
    def __init__(self) -> None:
        self.requests: list[httpx2.Request] = []
        self.answers: list[httpx2.Response | Exception] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def body(self, index: int = -1) -> object:
        return msgspec.json.decode(self.requests[index].content)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
async def client(server: Callable[[httpx2.Request], httpx2.Response]):
    made = HttpClient("http://example.com/", "secret", transport=httpx2.MockTransport(server))
    yield made
    await made.close()


async def test_one_job_is_posted_as_the_api_wants_it(client: HttpClient, server: Server) -> None:
    server.answers = [httpx2.Response(201, json={"id": "7", "state": "pending"})]
    draft = JobDraft(
        "mail", "send", b"", 9, 3, 1.5, datetime(2030, 1, 1, tzinfo=UTC), None, RetryPolicy(), "key", ("vip",)
    )
    assert await client.submit(draft, [b'{"to":"ann"}']) == ["7"]
    request = server.requests[0]
    assert (request.method, request.url.path) == ("POST", "/api/v1/jobs")
    assert request.headers["authorization"] == "Bearer secret"
    assert server.body() == {
        "queue_name": "mail",
        "job_type": "send",
        "payload": {"to": "ann"},
        "priority": 9,
        "max_attempts": 3,
        "timeout_seconds": 1.5,
        "run_at": "2030-01-01T00:00:00Z",
        "retry": {},
        "idempotency_key": "key",
        "tags": ["vip"],
    }


async def test_many_jobs_go_in_batches_of_ten_thousand(client: HttpClient, server: Server) -> None:
    server.answers = [
        httpx2.Response(201, json={"data": [{"id": str(i)} for i in range(10_000)], "created": 10_000}),
        httpx2.Response(201, json={"data": [{"id": "x"}], "created": 1}),
    ]
    ids = await client.submit(DRAFT, [b"{}"] * 10_001)
    assert (len(ids), ids[-1]) == (10_001, "x")
    assert [len(server.body(i)) for i in (0, 1)] == [10_000, 1]


async def test_problems_become_the_project_s_errors(client: HttpClient, server: Server) -> None:
    problem = {
        "code": "queue.not_found",
        "detail": "no such queue",
        "errors": [{"pointer": "/queue_name", "code": "queue.not_found", "detail": "no queue"}],
    }
    server.answers = [
        httpx2.Response(422, json=problem),
        httpx2.Response(401, json={"code": "token.expired", "detail": "expired"}),
        httpx2.Response(404, text="not even json"),
        httpx2.Response(503, json={"code": "draining"}, headers={"Retry-After": "3"}),
    ]
    with pytest.raises(Invalid) as invalid:
        await client.submit(DRAFT, [b"{}"])
    assert (invalid.value.code, invalid.value.fields[0].pointer) == ("queue.not_found", "/queue_name")
    with pytest.raises(Unauthorized):
        await client.submit(DRAFT, [b"{}"])
    with pytest.raises(NotFound):
        await client.cancel("7")
    with pytest.raises(Unavailable) as unavailable:
        await client.submit(DRAFT, [b"{}"])
    assert unavailable.value.retry_after == 3.0


async def test_only_what_may_be_repeated_is_repeated(
    client: HttpClient, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_rng", type("Rng", (), {"random": lambda self: -0.5})())
    reset = httpx2.ConnectError("reset")
    server.answers = [reset, httpx2.Response(200, json=VIEW)]
    assert (await client.get("7")).state == "succeeded"
    server.answers = [reset]
    with pytest.raises(Unavailable):
        await client.submit(DRAFT, [b"{}"])
    keyed = msgspec.structs.replace(DRAFT, idempotency_key="key")
    server.answers = [reset, httpx2.Response(201, json={"id": "7"})]
    assert await client.submit(keyed, [b"{}"]) == ["7"]


async def test_waiting_asks_the_server_to_wait(client: HttpClient, server: Server) -> None:
    server.answers = [httpx2.Response(200, json=VIEW)]
    view = await client.wait("7", timeout=500)
    assert server.requests[0].url.query == b"wait=30.000"
    assert bytes(view.result) == b"3"
