from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from msgspec import Struct

from taskforge.errors import (
    Conflict,
    FieldError,
    Invalid,
    Malformed,
    NotFound,
    TaskForgeError,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnsupportedMedia,
)
from taskforge.rest.app import HANDLERS
from taskforge.rest.bodies import ClientGone, check_content_type, read_body
from taskforge.rest.cursors import Cursors
from taskforge.rest.openapi import document
from taskforge.rest.parameters import parse_job_id, read_idempotency_key, read_job_id, read_query
from taskforge.rest.problems import RequestTimeout, problem_reply
from taskforge.rest.tracing import request_id_of, trace_id_of, traceparent_of


def scope(*headers: tuple[str, str], query: str = "", path: str = "/api/v1/jobs") -> Any:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return {"headers": raw, "query_string": query.encode(), "path": path, "state": {}}


class Receiver:
    """Hands out a body in pieces; None stands for a client that went away."""

    def __init__(self, *parts: bytes | None) -> None:
        self.parts = list(parts)
        self.taken = 0

    async def __call__(self) -> Any:
        part = self.parts[self.taken]
        self.taken += 1
        if part is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": part, "more_body": self.taken < len(self.parts)}


async def test_a_body_in_pieces_is_put_together() -> None:
    assert await read_body(scope(), Receiver(b"ab", b"", b"c"), limit=3) == b"abc"


@pytest.mark.parametrize("declared", ["4", "10000000000", "9" * 30, "-1", "x"])
async def test_a_declared_length_over_the_limit_is_refused_before_anything_is_read(declared: str) -> None:
    receiver = Receiver(b"")
    with pytest.raises(TooLarge):
        await read_body(scope(("content-length", declared), ("expect", "100-continue")), receiver, limit=3)
    assert receiver.taken == 0


async def test_an_endless_body_is_refused_when_it_passes_the_limit() -> None:
    receiver = Receiver(*[b"xx"] * 100)
    with pytest.raises(TooLarge):
        await read_body(scope(), receiver, limit=3)
    assert receiver.taken <= 4, "no more is taken in than lets the answer arrive"


async def test_a_client_that_goes_away_gets_no_answer() -> None:
    with pytest.raises(ClientGone):
        await read_body(scope(), Receiver(b"x", None), limit=3)


async def test_a_body_that_does_not_arrive_times_out() -> None:
    import asyncio

    async def silence() -> Any:
        await asyncio.Event().wait()

    with pytest.raises(RequestTimeout):
        await read_body(scope(), silence, limit=3, timeout=0.01)


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
        " application/json ; charset = utf-8 ",
    ],
)
def test_json_is_read_under_each_of_its_names(kind: str) -> None:
    assert check_content_type(scope(("content-type", kind))) is False


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("content-type", ""),),
        (("content-type", "text/plain"),),
        (("content-type", "application/jsonx"),),
        (("content-type", "application/json, text/plain"),),
        (("content-type", "application/json; charset=utf-16"),),
        (("content-type", "application/json; charset=utf-7"),),
        (("content-type", "application/json; boundary=x"),),
        (("content-type", "multipart/form-data; boundary=x"),),
        (("content-type", "application/x-www-form-urlencoded"),),
        (("content-type", "application/x-ndjson"),),
        (("content-type", "application/json"), ("content-type", "application/json")),
        (("content-type", "application/json"), ("content-encoding", "gzip")),
        (("content-type", "application/json"), ("content-encoding", "identity")),
        (("content-type", "application/json"), ("content-encoding", "br, gzip")),
    ],
)
def test_any_other_content_type_or_encoding_is_refused(headers: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(UnsupportedMedia):
        check_content_type(scope(*headers))


def test_ndjson_is_read_where_it_is_allowed() -> None:
    assert check_content_type(scope(("content-type", "application/x-ndjson")), allow_ndjson=True) is True


@pytest.mark.parametrize(
    ("given", "key"),
    [("abc", "abc"), ('"abc"', "abc"), ('"a\\"b\\\\c"', 'a"b\\c'), (" abc ", "abc"), ("x" * 255, "x" * 255)],
)
def test_an_idempotency_key_is_bare_or_quoted(given: str, key: str) -> None:
    assert read_idempotency_key(scope(("idempotency-key", given))) == key


@pytest.mark.parametrize("given", ["", '""', "a b", "é", "x" * 256, "x" * 10_000, "a\tb"])
def test_an_odd_idempotency_key_is_refused(given: str) -> None:
    with pytest.raises(Invalid):
        read_idempotency_key(scope(("idempotency-key", given)))


class Query(Struct, frozen=True):
    limit: int = 5
    wait: float = 0.0
    atomic: bool = True


def test_a_query_is_read_into_its_types() -> None:
    assert read_query(scope(query="limit=7&wait=1.5&atomic=false"), Query) == Query(7, 1.5, False)


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("limit=x", "/limit"),
        ("limit=1.5", "/limit"),
        ("limit=", "/limit"),
        ("limit=" + "9" * 5_000, "/limit"),
        ("sort=pg_sleep(9)", "/sort"),
        ("limit=1&limit=2", ""),
        ("limit=%00", "/limit"),
        ("limit=%ff", ""),
        ("&".join(f"a{i}=1" for i in range(100)), ""),
        ("atomic=maybe", "/atomic"),
    ],
)
def test_an_odd_query_is_refused(query: str, pointer: str) -> None:
    with pytest.raises(Invalid) as refused:
        read_query(scope(query=query), Query)
    assert refused.value.fields[0].pointer == pointer


@pytest.mark.parametrize("text", ["", "0", "-1", "01", "1.5", "9" * 19, "1" * 5_000, "x", "\u0661", "1 "])
def test_what_cannot_be_an_id_does_not_exist(text: str) -> None:
    assert parse_job_id(text) is None
    with pytest.raises(NotFound):
        read_job_id(text)


TENANT = uuid4()


def test_a_cursor_opens_for_the_list_it_was_made_for() -> None:
    cursors = Cursors(b"k" * 32)
    sealed = cursors.seal("123", tenant_id=TENANT, query=["jobs", {"state": "failed"}])
    assert cursors.open(sealed, tenant_id=TENANT, query=["jobs", {"state": "failed"}]) == "123"


@pytest.mark.parametrize(
    ("key", "tenant", "query", "mangle"),
    [
        (b"o", TENANT, "a", lambda c: c),
        (b"k", uuid4(), "a", lambda c: c),
        (b"k", TENANT, "b", lambda c: c),
        (b"k", TENANT, "a", lambda c: c[:-1]),
        (b"k", TENANT, "a", lambda c: "A" + c[1:] if c[0] != "A" else "B" + c[1:]),
        (b"k", TENANT, "a", lambda c: ""),
        (b"k", TENANT, "a", lambda c: "12345"),
        (b"k", TENANT, "a", lambda c: "\u0661" + c),
        (b"k", TENANT, "a", lambda c: c * 100),
        (b"k", TENANT, "a", lambda c: c + "!"),
    ],
)
def test_a_forged_moved_or_mangled_cursor_is_refused(
    key: bytes, tenant: UUID, query: str, mangle: Any
) -> None:
    sealed = Cursors(b"k" * 32).seal("123", tenant_id=TENANT, query="a")
    with pytest.raises(Malformed):
        Cursors(key * 32).open(mangle(sealed), tenant_id=tenant, query=query)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Malformed("x", "y"), 400),
        (Unauthorized("x", "y"), 401),
        (NotFound("x", "y"), 404),
        (RequestTimeout("x", "y"), 408),
        (Conflict("x", "y"), 409),
        (TooLarge("x", "y"), 413),
        (UnsupportedMedia("x", "y"), 415),
        (Invalid("x", "y", fields=(FieldError("/a", "b", "c"),)), 422),
        (Unavailable("x", "y"), 503),
        (TaskForgeError("x", "y"), 500),
        (ValueError("hunter2"), 500),
    ],
)
def test_an_error_becomes_a_problem_with_its_status(error: Exception, status: int) -> None:
    reply = problem_reply(error, scope())
    headers = dict(reply.headers)
    problem = msgspec.json.decode(reply.body)
    assert reply.status == problem["status"] == status
    assert headers[b"content-type"] == b"application/problem+json"
    assert problem["type"].endswith(problem["code"])
    assert {"title", "detail", "instance", "trace_id"} <= problem.keys()
    assert (b"retry-after" in headers) == (status == 503)
    assert (b"www-authenticate" in headers) == (status == 401)
    assert (headers.get(b"connection") == b"close") == (status in (408, 413))
    assert b"hunter2" not in reply.body


@pytest.mark.parametrize(("given", "shown"), [(None, b"1"), (0.0, b"1"), (0.2, b"1"), (2.1, b"3")])
def test_retry_after_is_rounded_up(given: float | None, shown: bytes) -> None:
    reply = problem_reply(Unavailable("x", "y", retry_after=given), scope())
    assert dict(reply.headers)[b"retry-after"] == shown


def test_the_instance_is_safe_to_show_whatever_was_asked_for() -> None:
    reply = problem_reply(NotFound("x", "y"), scope(path='/a"\n<b>\ud800é' + "x" * 9_999))
    instance = msgspec.json.decode(reply.body)["instance"]
    assert instance.startswith("/a%22%0A%3Cb%3E") and len(instance) < 1_700


def test_a_trace_is_taken_over_only_when_it_is_sound() -> None:
    sound = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    assert traceparent_of(scope(("traceparent", sound))) == sound
    assert trace_id_of(scope(("traceparent", sound))) == sound[3:35]
    for odd in ("", sound.upper(), "00-" + "0" * 32 + sound[35:], sound + "-x", "ff" + sound[2:]):
        assert traceparent_of(scope(("traceparent", odd))) is None
        assert len(trace_id_of(scope(("traceparent", odd)))) == 32


def test_a_request_id_is_echoed_only_when_it_is_sane() -> None:
    assert request_id_of(scope(("x-request-id", "a-1"))) == b"a-1"
    for odd in ("", "a b", "a\r\nset-cookie: x", "x" * 200, "<b>"):
        assert request_id_of(scope(("x-request-id", odd))) is None


def test_the_contract_and_the_routes_are_the_same() -> None:
    served = set()
    for handler in HANDLERS:
        for path in handler.paths:
            # A raw handler answers for itself; what it takes is named here.
            raw = {"/api/v1/jobs": ("GET", "POST"), "/api/v1/jobs/batch": ("POST",)}
            for method in getattr(handler, "http_methods", None) or raw[path]:
                served.add((method.lower(), path.replace(":str}", "}").replace(":path}", "}")))
    described = {(method, path) for path, methods in document()["paths"].items() for method in methods}
    assert served - {("get", "/docs/assets/{name}")} == described


def test_every_reference_of_the_contract_leads_somewhere_and_every_operation_names_its_problems() -> None:
    contract = document()
    pending: list[Any] = [contract]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if "$ref" in value:
                kind, name = value["$ref"].removeprefix("#/components/").split("/")
                assert name in contract["components"][kind]
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
    names = [op["operationId"] for methods in contract["paths"].values() for op in methods.values()]
    assert len(names) == len(set(names))
    for methods in contract["paths"].values():
        for operation in methods.values():
            assert any("$ref" in answer for answer in operation["responses"].values())
            assert ("401" in operation["responses"]) == bool(operation["security"])
