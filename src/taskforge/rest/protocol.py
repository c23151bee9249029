"""uvicorn's HTTP/1.1 protocol with limits it lacks: size and number of headers, and time to send them."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from taskforge.rest.problems import TYPE_URL
from taskforge.rest.replies import encode

MAX_HEADER_BYTES = 32 * 1024
MAX_HEADERS = 100
HEADER_TIMEOUT_SECONDS = 15.0


def _answer(status: HTTPStatus, code: str, detail: str) -> bytes:
    problem = {
        "type": TYPE_URL + code,
        "title": status.phrase,
        "status": status,
        "detail": detail,
        "code": code,
    }
    body = encode(problem)
    head = f"HTTP/1.1 {status:d} {status.phrase}\r\ncontent-type: application/problem+json\r\n"
    return head.encode() + b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


_OVER_LIMIT = _answer(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "request.headers_too_large",
    f"headers have at most {MAX_HEADER_BYTES} bytes and {MAX_HEADERS} lines",
)
_NOT_HTTP = _answer(HTTPStatus.BAD_REQUEST, "request.malformed", "this is not a valid HTTP request")


class LimitedProtocol(HttpToolsProtocol):
    """A connection that has sent no complete header in time is closed; an idle one after the keep-alive time."""

    _header_bytes = 0
    _is_reading_headers = True
    _is_over_limit = False
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_reading_headers and not self.transport.is_closing():
            # The parser keeps an incomplete header to itself, so what it was fed counts too.
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES:
                self._is_over_limit = True
                self.send_400_response("")
            elif self._deadline is None:
                self._start_deadline()

    def on_message_begin(self) -> None:
        self._header_bytes = 0
        self._is_reading_headers = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MAX_HEADER_BYTES or len(self.headers) >= MAX_HEADERS:
            self._is_over_limit = True
            raise ValueError("the headers pass a limit")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._is_reading_headers = False
        self._stop_deadline()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Also the way out when a callback raised, which the parser reports like bad syntax."""
        self.transport.write(_OVER_LIMIT if self._is_over_limit else _NOT_HTTP)
        self.transport.close()

    def _start_deadline(self) -> None:
        self._deadline = self.loop.call_later(HEADER_TIMEOUT_SECONDS, self._on_deadline)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _on_deadline(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.close()
