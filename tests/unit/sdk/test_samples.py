from __future__ import annotations

import asyncio
import email
import email.policy
from pathlib import Path

import pytest

from taskforge import JobFailed, samples
from taskforge.testing import capture


@pytest.fixture
def outbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(samples, "_outbox", lambda: tmp_path / "outbox")
    return tmp_path / "outbox"


async def test_send_email_writes_a_mail_that_mail_programs_read(outbox: Path) -> None:
    with capture(samples.forge):
        handle = await samples.send_email.submit(to="user@example.com", subject="Grüße", body="Hello\n")
        path = Path((await handle.result())["path"])
    assert path.parent == outbox
    mail = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
    assert (mail["To"], mail["Subject"]) == ("user@example.com", "Grüße")
    assert mail.get_content().strip() == "Hello"
    assert [p.suffix for p in outbox.iterdir()] == [".eml"]


async def test_a_header_cannot_be_smuggled_into_a_mail(outbox: Path) -> None:
    with capture(samples.forge):
        handle = await samples.send_email.submit(to="a@example.com\nBcc: b@example.com", subject="", body="")
        with pytest.raises(JobFailed, match=r"payload\.invalid"):
            await handle.result()


async def test_http_request_reports_status_and_body() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        status = b"500 No" if b"/broken" in request else b"200 OK"
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        with capture(samples.forge):
            answer = await (await samples.http_request.submit(url)).result()
            assert (answer["status"], answer["body"]) == (200, "hi")
            broken = await samples.http_request.submit(f"{url}/broken")
            with pytest.raises(JobFailed, match="answered 500"):
                await broken.result()
            with pytest.raises(JobFailed, match="no http or https address"):
                await (await samples.http_request.submit("file:///etc/passwd")).result()


async def test_sleep_and_flaky_do_as_they_say() -> None:
    with capture(samples.forge):
        assert await (await samples.sleep.submit(0.0)).result() == 0.0
        assert await (await samples.flaky.submit(0.0)).result() == {"attempt": 1}
        with pytest.raises(JobFailed, match="flaky failed"):
            await (await samples.flaky.submit(1.0)).result()
