"""Sample handlers, something to run from the first minute: `taskforge worker taskforge.samples:forge`."""

from __future__ import annotations

import asyncio
import functools
import os
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from random import random
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from msgspec import Meta

from taskforge.forge import TaskForge
from taskforge.retries import exponential
from taskforge.settings import load
from taskforge.worker.answers import Discard
from taskforge.worker.context import current_job

forge = TaskForge()

OneLine = Annotated[str, Meta(pattern=r"\A[^\r\n]*\Z")]
"""A mail header must not contain a line break: it would begin another header."""

LARGEST_ANSWER = 64 * 1024


@forge.job(max_attempts=5, timeout=30)
def send_email(to: OneLine, subject: OneLine, body: str) -> dict[str, str]:
    """Write the mail into the outbox folder, one `.eml` file for each job. Running twice writes the same file."""
    job = current_job()
    message = EmailMessage(policy=SMTP)
    message["To"] = to
    message["From"] = "taskforge@localhost"
    message["Subject"] = subject
    message["Date"] = datetime.now(UTC)
    message["X-Job-Id"] = job.job_id
    message.set_content(body)
    outbox = _outbox()
    outbox.mkdir(parents=True, exist_ok=True)
    path = outbox / f"{job.job_id}.eml"
    # Whoever looks into the folder must not see half a mail.
    unfinished = path.with_suffix(f".{job.fence}.part")
    unfinished.write_bytes(message.as_bytes())
    os.replace(unfinished, path)
    job.logger.info("email.sent", to=to, path=str(path))
    return {"path": str(path)}


@forge.job(max_attempts=3, timeout=60, retry=exponential(1, longest=60))
async def http_request(
    url: str,
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] = "GET",
    headers: dict[str, str] | None = None,
    body: str | None = None,
) -> dict[str, Any]:
    """Send a request; the result is the status and the first 64 KiB of the answer. A 5xx answer is tried again."""
    import httpx2  # takes a while, and other handlers never need it

    if urlsplit(url).scheme not in ("http", "https"):
        raise Discard(f"{url!r} is no http or https address")
    async with (
        httpx2.AsyncClient(follow_redirects=False) as client,
        client.stream(method, url, headers=headers, content=body) as response,
    ):
        content = b""
        async for chunk in response.aiter_bytes():
            content += chunk
            if len(content) >= LARGEST_ANSWER:
                break
    if response.status_code >= 500:
        raise RuntimeError(f"{method} {url} answered {response.status_code}")
    return {
        "status": response.status_code,
        "content_type": response.headers.get("content-type"),
        "body": content[:LARGEST_ANSWER].decode("utf-8", "replace"),
    }


@forge.job
async def sleep(seconds: Annotated[float, Meta(ge=0, le=86_400)] = 1.0) -> float:
    """Sleep without holding up anybody."""
    await asyncio.sleep(seconds)
    return seconds


@forge.job(max_attempts=10, retry=exponential(0.5, longest=10))
async def flaky(failure_rate: Annotated[float, Meta(ge=0, le=1)] = 0.5) -> dict[str, int]:
    """Fail at random, to see retries at work."""
    if random() < failure_rate:
        raise RuntimeError("flaky failed, as it does")
    return {"attempt": current_job().attempt}


@functools.cache
def _outbox() -> Path:
    return load().outbox_dir
