"""What only shows on the wire: sockets, headers, tokens, and addresses that are not there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import httpx2
import pytest

from taskforge.rest import protocol
from taskforge.rest.app import RestApp
from taskforge.rest.openapi import document
from taskforge.rest.routes.docs import PAGE
from taskforge.rest.server import HttpServer
from taskforge.rest.state import state_of

Exchange = Callable[[bytes], Awaitable[bytes]]
JOB = b'{"queue_name":"default","job_type":"t"}'


@pytest.fixture
def exchange(server: HttpServer, api: httpx2.AsyncClient) -> Exchange:
    """Send bytes, and read until the server closes the connection."""

    async def send(request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            writer.write(request)
            await writer.drain()
            return await asyncio.wait_for(reader.read(), 10)
        except ConnectionError:
            return b""
        finally:
            writer.close()

    return send


def head(token: str, *more: str) -> bytes:
    lines = [
        "POST /api/v1/jobs HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {token}",
        "Content-Type: application/json",
        *more,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


async def test_a_giant_declared_body_is_refused_at_once_and_the_connection_closed(
    exchange: Exchange, token: str
) -> None:
    answer = await exchange(head(token, "Content-Length: 10737418240"))
    assert status(answer) == 413 and b"connection: close" in answer


async def test_an_endless_chunked_body_is_refused_at_the_limit_and_the_connection_closed(
    exchange: Exchange, token: str
) -> None:
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    answer = await exchange(head(token, "Transfer-Encoding: chunked") + chunk * 5)
    assert answer == b"" or status(answer) == 413


async def test_a_body_that_never_comes_times_out(
    exchange: Exchange, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        __import__("taskforge.rest.bodies", fromlist=["x"]).read_body.__kwdefaults__, "timeout", 0.05
    )
    answer = await exchange(head(token, "Content-Length: 100") + b"{")
    assert status(answer) == 408 and b"connection: close" in answer


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"POST /api/v1/jobs HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_not_proper_http_is_refused_and_the_connection_closed(
    exchange: Exchange, request_bytes: bytes
) -> None:
    answer = await exchange(request_bytes)
    assert status(answer) in (400, 401, 404)


async def test_too_large_and_too_many_headers_are_refused(exchange: Exchange) -> None:
    large = b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 65_536 + b"\r\n\r\n"
    many = b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 1_000 + b"\r\n"
    endless = b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 65_536
    for request in (large, many, endless):
        answer = await exchange(request)
        assert answer == b"" or status(answer) == 431


async def test_headers_that_never_end_close_the_connection(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEADER_TIMEOUT_SECONDS", 0.05)
    assert await exchange(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: ") == b""
    assert await exchange(b"") == b""


async def test_pipelined_requests_are_answered_in_order(exchange: Exchange) -> None:
    one = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
    last = b"GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    answer = await exchange(one + one + last)
    assert answer.count(b"HTTP/1.1 200") == 2 and answer.rindex(b"HTTP/1.1 404") > answer.rindex(b"200 OK")


OPERATIONS = [
    (method.upper(), path, operation)
    for path, methods in document()["paths"].items()
    for method, operation in methods.items()
]


@pytest.mark.parametrize(
    ("method", "path", "operation"), OPERATIONS, ids=lambda v: v if isinstance(v, str) else ""
)
async def test_no_protected_operation_answers_without_a_token(
    api: httpx2.AsyncClient, method: str, path: str, operation: dict[str, object]
) -> None:
    address = path.replace("{job_id}", "1").replace("{name}", "default")
    for authorization in ("", "Basic abc", "Bearer", "Bearer x", "Bearer a.b.c"):
        answer = await api.request(method, address, headers={"Authorization": authorization})
        if operation["security"]:
            assert answer.status_code == 401, address
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert answer.headers["content-type"] == "application/problem+json"
        else:
            assert answer.status_code == 200, address


@pytest.mark.parametrize(
    ("method", "path", "operation"), OPERATIONS, ids=lambda v: v if isinstance(v, str) else ""
)
async def test_another_method_is_405_and_says_which_there_are(
    api: httpx2.AsyncClient, method: str, path: str, operation: object
) -> None:
    answer = await api.request("TRACE", path.replace("{job_id}", "1").replace("{name}", "default"))
    assert answer.status_code == 405
    assert method in answer.headers["allow"]
    assert answer.json()["code"] == "request.method_not_allowed"


@pytest.mark.parametrize(
    "path",
    ["/", "/nowhere", "/api/v1/nowhere", "/docs/assets/../app.py", "/docs/assets/%2e%2e%2fapp.py", "/%00"],
)
async def test_an_address_that_is_not_there_is_a_problem_document(api: httpx2.AsyncClient, path: str) -> None:
    answer = await api.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "route.not_found")
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_an_encoded_body_and_another_content_type_are_refused(api: httpx2.AsyncClient) -> None:
    for headers in ({"Content-Encoding": "gzip"}, {"Content-Type": "text/plain"}):
        merged = {"Content-Type": "application/json"} | headers
        answer = await api.post("/api/v1/jobs", content=JOB, headers=merged)
        assert answer.status_code == 415


async def test_a_body_at_the_limit_is_read_and_one_byte_more_is_not(
    api: httpx2.AsyncClient, app: RestApp
) -> None:
    limit = state_of(app).max_body_bytes
    headers = {"Content-Type": "application/json"}
    fits = await api.post("/api/v1/jobs", content=JOB + b" " * (limit - len(JOB)), headers=headers)
    over = await api.post("/api/v1/jobs", content=JOB + b" " * (limit + 1 - len(JOB)), headers=headers)
    assert (fits.status_code, over.status_code) == (201, 413)


async def test_the_contract_is_served_as_json_and_yaml(api: httpx2.AsyncClient) -> None:
    assert (await api.get("/openapi.json")).json()["openapi"] == "3.1.0"
    assert (await api.get("/openapi.yaml")).text.startswith("openapi: 3.1.0")


async def test_the_docs_load_nothing_from_elsewhere(api: httpx2.AsyncClient) -> None:
    page = await api.get("/docs")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert b"http" not in PAGE
    for name in ("swagger-ui-bundle.js", "swagger-ui.css", "docs.js", "favicon-32x32.png"):
        assert f"/docs/assets/{name}" in page.text
        assert (await api.get(f"/docs/assets/{name}")).status_code == 200
    assert (await api.get("/docs/assets/LICENSE")).status_code == 404


async def test_metrics_count_requests_by_route_and_never_by_id(api: httpx2.AsyncClient) -> None:
    await api.get("/api/v1/jobs/4711")
    text = (await api.get("/metrics")).text
    assert (
        'taskforge_http_requests_total{method="GET",route="/api/v1/jobs/{job_id}",status="404"} 1.0' in text
    )
    assert "4711" not in text


async def test_a_database_that_is_away_is_a_503_that_says_when_to_come_back(
    api: httpx2.AsyncClient, app: RestApp
) -> None:
    await state_of(app).core.database.close()
    for answer in (
        await api.get("/readyz"),
        await api.get("/api/v1/queues"),
        await api.post("/api/v1/jobs", content=JOB, headers={"Content-Type": "application/json"}),
    ):
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["retry-after"]) >= 1
    assert (await api.get("/healthz")).status_code == 200


async def test_a_problem_carries_the_trace_of_its_request(api: httpx2.AsyncClient) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    answer = await api.get("/api/v1/jobs/1", headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
    assert json.loads(answer.content)["trace_id"] == trace
