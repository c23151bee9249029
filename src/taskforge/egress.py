"""The one way out: HTTP requests to places that tenants name, so that they reach nothing they should not.

A name is resolved once, all its addresses are vetted, and the connection goes to one of those: nobody resolves again.
No redirects, no proxies from the environment, no decompression; limits on time and bytes hold for the whole exchange.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from ipaddress import ip_address

import httpcore2
from msgspec import Struct

from taskforge.domain import egress as rules
from taskforge.domain.egress import EgressPolicy, Ip
from taskforge.domain.webhooks import Address, read_url

CONNECT_SECONDS = 5.0
IDLE_SECONDS = 10.0
TOTAL_SECONDS = 15.0
MAX_RESPONSE_BYTES = 64 * 1024
_MOST_ADDRESSES = 32
_TRIED_ADDRESSES = 3

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""All addresses of a host name. Raises OSError."""


class EgressDenied(Exception):
    """The request must not be made; nothing was connected to. The text says why."""


class EgressFailed(Exception):
    """No acceptable answer. `reason` is one of: dns, connect, tls, timeout, protocol, too_large."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Answer(Struct, frozen=True):
    """`retry_after` in seconds, when the answer asks for it. The body has been read, and thrown away."""

    status: int
    retry_after: float | None = None


async def resolve(host: str, port: int) -> Sequence[str]:
    """As the system does."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Egress:
    """Holds no connections between requests, so that each is vetted afresh."""

    def __init__(
        self,
        policy: EgressPolicy,
        *,
        resolver: Resolver = resolve,
        tls: ssl.SSLContext | None = None,
        total_seconds: float = TOTAL_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._policy = policy
        self._resolver = resolver
        self._tls = tls or ssl.create_default_context()
        self._total_seconds = total_seconds
        self._timeouts = {
            "connect": min(CONNECT_SECONDS, total_seconds),
            "read": idle_seconds,
            "write": idle_seconds,
            "pool": total_seconds,
        }

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Raises EgressDenied before anything is connected to, or EgressFailed."""
        address = read_url(url)
        if isinstance(address, str):
            raise EgressDenied(f"the URL {address}")
        try:
            async with asyncio.timeout(self._total_seconds):
                return await self._exchange(address, await self._vetted(address), body, headers)
        except TimeoutError:
            raise EgressFailed("timeout") from None

    async def _vetted(self, address: Address) -> list[Ip]:
        """The addresses to connect to. One that is denied denies them all: the name may be meant to slip through."""
        if (why := rules.why_not_request(address, self._policy)) is not None:
            raise EgressDenied(f"the URL {why}")
        ip = rules.literal(address)
        if ip is not None:
            ips = [ip]
        else:
            try:
                ips = [ip_address(text) for text in await self._resolver(address.host, address.port)]
            except (OSError, ValueError):
                raise EgressFailed("dns") from None
            if not ips or len(ips) > _MOST_ADDRESSES:
                raise EgressFailed("dns")
        if not rules.is_trusted_host(address, self._policy):
            for ip in ips:
                if (why := rules.why_not_address(ip, self._policy)) is not None:
                    raise EgressDenied(f"the host has an address that {why}")
        if (why := rules.why_not_channel(address, self._policy, ips)) is not None:
            raise EgressDenied(f"the URL {why}")
        return ips

    async def _exchange(
        self, address: Address, ips: Sequence[Ip], body: bytes, headers: Mapping[str, str]
    ) -> Answer:
        sent = {"Host": address.authority, "Content-Length": str(len(body)), "Connection": "close", **headers}
        request = httpcore2.Request(
            "POST",
            httpcore2.URL(
                scheme=address.scheme.encode(),
                host=address.host.encode(),
                port=address.port,
                target=address.target.encode(),
            ),
            headers=[(name.encode(), value.encode()) for name, value in sent.items()],
            content=body,
            extensions={"timeout": self._timeouts},
        )
        pool = httpcore2.AsyncConnectionPool(
            ssl_context=self._tls,
            max_connections=1,
            max_keepalive_connections=0,
            network_backend=_Pinned(ips[:_TRIED_ADDRESSES]),
        )
        try:
            async with pool:
                response = await pool.handle_async_request(request)
                try:
                    await _read_away(response)
                finally:
                    await response.aclose()
                return Answer(response.status, _retry_after(response))
        except httpcore2.TimeoutException:
            raise EgressFailed("timeout") from None
        except httpcore2.ConnectError as error:
            is_tls = isinstance(error.__cause__, ssl.SSLError) or "SSL" in str(error)
            raise EgressFailed("tls" if is_tls else "connect") from None
        except (httpcore2.ProtocolError, httpcore2.NetworkError):
            raise EgressFailed("protocol") from None


class _Pinned(httpcore2.AsyncNetworkBackend):
    """Connects to the vetted addresses, whatever name is asked for; the name goes into TLS and the Host header only."""

    def __init__(self, ips: Sequence[Ip]) -> None:
        self._ips = ips
        self._real = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        for number, ip in enumerate(self._ips, 1):
            try:
                return await self._real.connect_tcp(str(ip), port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if number == len(self._ips):
                    raise
        raise AssertionError("there is always an address")

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        raise AssertionError("nobody asks for a socket in the file system")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def _read_away(response: httpcore2.Response) -> None:
    size = 0
    async for part in response.aiter_stream():
        size += len(part)
        if size > MAX_RESPONSE_BYTES:
            raise EgressFailed("too_large")


def _retry_after(response: httpcore2.Response) -> float | None:
    for name, value in response.headers:
        if name.lower() == b"retry-after" and value.isdigit() and len(value) < 10:
            return float(value)
    return None
