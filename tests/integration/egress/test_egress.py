"""Requests of tenants go to the vetted address or nowhere, and no answer can hold on to us."""

from __future__ import annotations

import asyncio
import gzip
import os
import ssl
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from taskforge.domain.egress import STRICT, EgressPolicy, policy
from taskforge.egress import MAX_RESPONSE_BYTES, Answer, Egress, EgressDenied, EgressFailed
from tests.support.endpoint import Endpoint, endpoint, status

LOOPBACK = policy(["127.0.0.1"], ports=["80", "443"], allows_http=False)

_connects: list[tuple[str, int]] = []
_is_hooked = False


def _observe(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        _connects.append((str(arguments[1][0]), int(arguments[1][1])))


@pytest.fixture
def connects() -> Iterator[list[tuple[str, int]]]:
    """Every address that any socket of this process is connected to from now on."""
    global _is_hooked
    if not _is_hooked:
        sys.addaudithook(_observe)  # for the life of the process; there is no way to take one out
        _is_hooked = True
    _connects.clear()
    yield _connects


@pytest.fixture
async def server() -> AsyncIterator[Endpoint]:
    async with endpoint() as made:
        yield made


class Names:
    """A name server that answers differently each time it is asked: what a rebinding attack needs."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return self._answers[min(len(self.asked), len(self._answers)) - 1]


async def post(url: str, rules: EgressPolicy = LOOPBACK, **options: object) -> Answer:
    return await Egress(rules, **options).post(url, b"{}", {"X-Test": "1"})  # type: ignore[arg-type]


async def test_a_request_arrives_as_it_was_meant(server: Endpoint) -> None:
    assert (await post(server.url + "?a=b")).status == 200
    [received] = server.received
    assert received.line == "POST /hook?a=b HTTP/1.1"
    assert received.body == b"{}"
    assert received.headers["host"] == f"127.0.0.1:{server.port}"
    assert received.headers["x-test"] == "1"


@pytest.mark.parametrize(
    "answer",
    [
        ["127.0.0.1"], ["169.254.169.254"], ["10.0.0.1"], ["::1"], ["::ffff:127.0.0.1"], ["64:ff9b::7f00:1"],
        ["fd00::1"], ["8.8.8.8", "127.0.0.1"], ["2600::1", "::1"], ["100.64.1.1"], ["0.0.0.0"], ["fe80::1%1"],
    ],
)  # fmt: skip
async def test_nothing_is_connected_to_when_any_address_of_a_name_is_closed(
    connects: list[tuple[str, int]], answer: list[str]
) -> None:
    with pytest.raises(EgressDenied):
        await post("https://innocent.example.com/", STRICT, resolver=Names(answer))
    assert connects == []


async def test_a_name_is_resolved_once_and_the_connection_goes_to_what_was_vetted(
    connects: list[tuple[str, int]], server: Endpoint
) -> None:
    names = Names(["127.0.0.1"], ["169.254.169.254"])
    assert (await post(f"http://rebinding.example.com:{server.port}/", resolver=names)).status == 200
    assert names.asked == ["rebinding.example.com"]
    assert connects == [("127.0.0.1", server.port)]
    assert server.received[0].headers["host"] == f"rebinding.example.com:{server.port}"
    with pytest.raises(EgressDenied):
        await Egress(LOOPBACK, resolver=names).post("https://rebinding.example.com/", b"", {})
    assert connects == [("127.0.0.1", server.port)]


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/", "http://127.0.0.1:5432/", "https://[::1]/", "https://[::ffff:169.254.169.254]/",
        "https://0.0.0.0/", "https://2130706433/", "https://0x7f.1/", "https://localhost/", "file:///etc/passwd",
        "https://metadata.google.internal/", "https://user@example.com/", "https://8.8.8.8:22/", "http://8.8.8.8/",
    ],
)  # fmt: skip
async def test_a_url_that_is_closed_connects_to_nothing(connects: list[tuple[str, int]], url: str) -> None:
    with pytest.raises(EgressDenied):
        await post(url, STRICT)
    assert connects == []


async def test_a_redirect_is_an_answer_and_nobody_follows_it(connects: list[tuple[str, int]]) -> None:
    async with endpoint(status(200)) as inner:
        extra = f"Location: {inner.url}\r\n"
        async with endpoint(status(302, extra=extra)) as outer:
            assert (await post(outer.url)).status == 302
            assert connects == [("127.0.0.1", outer.port)]
        assert inner.connections == 0


async def test_proxies_of_the_environment_are_not_used(
    connects: list[tuple[str, int]], server: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://10.9.9.9:3128")
    assert (await post(server.url)).status == 200
    assert connects == [("127.0.0.1", server.port)]


async def endless(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"2000\r\n" + b"x" * 8_192 + b"\r\n")
        await writer.drain()


async def endless_headers(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-Filler: " + b"y" * 8_192 + b"\r\n")
        await writer.drain()


async def silent(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def trickle(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


async def informational(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (endless, "too_large"),
        (endless_headers, "protocol"),
        (silent, "timeout"),
        (trickle, "timeout"),
        (informational, "timeout"),
        (b"SSH-2.0-OpenSSH\r\n", "protocol"),
        (b"", "protocol"),
    ],
)
async def test_an_answer_that_does_not_end_well_is_a_failure_soon(answer: object, reason: str) -> None:
    async with endpoint(answer) as bad:  # type: ignore[arg-type]
        started = time.monotonic()
        with pytest.raises(EgressFailed, match=reason):
            await post(bad.url, total_seconds=1.0, idle_seconds=0.5)
        assert time.monotonic() - started < 5


async def test_a_compressed_answer_is_not_unpacked() -> None:
    bomb = gzip.compress(b"0" * 50_000_000)
    assert len(bomb) < MAX_RESPONSE_BYTES
    async with endpoint(status(200, extra="Content-Encoding: gzip\r\n", body=bomb)) as server:
        assert (await post(server.url)).status == 200


async def test_an_upgrade_is_no_success() -> None:
    async with endpoint(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n") as server:
        with pytest.raises(EgressFailed, match="protocol"):
            await post(server.url)


async def test_how_long_an_endpoint_asks_us_to_wait_is_read() -> None:
    async with endpoint(status(503, extra="Retry-After: 120\r\n")) as server:
        assert await post(server.url) == Answer(503, 120.0)


async def test_nobody_there_and_no_such_name_are_told_apart() -> None:
    async with endpoint() as gone:
        port = gone.port
    with pytest.raises(EgressFailed, match="connect"):
        await post(f"http://127.0.0.1:{port}/")

    async def nobody(host: str, port: int) -> Sequence[str]:
        raise OSError("no such name")

    with pytest.raises(EgressFailed, match="dns"):
        await post("https://nowhere.example.com/", resolver=nobody)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for hooks.example.com that signs itself, with its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hooks.example.com")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("hooks.example.com")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    public = made.public_bytes(Encoding.PEM)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "cert.pem").write_bytes(public)
    (folder / "both.pem").write_bytes(private + public)
    return folder


async def test_tls_is_checked_against_the_name_although_the_address_is_connected_to(
    certificate: Path,
) -> None:
    mine = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    mine.load_cert_chain(certificate / "both.pem")
    names: list[str | None] = []
    mine.sni_callback = lambda _, name, __: names.append(name)
    made = Endpoint(status(200))
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=mine)
    port = server.sockets[0].getsockname()[1]
    trusting = ssl.create_default_context(cafile=os.fspath(certificate / "cert.pem"))
    resolver = Names(["127.0.0.1"])
    try:
        url = f"https://hooks.example.com:{port}/"
        assert (await post(url, resolver=resolver, tls=trusting)).status == 200
        assert names == ["hooks.example.com"]
        with pytest.raises(EgressFailed, match="tls"):
            await post(f"https://other.example.com:{port}/", resolver=resolver, tls=trusting)
        with pytest.raises(EgressFailed, match="tls"):
            await post(url, resolver=resolver)
    finally:
        server.close()
