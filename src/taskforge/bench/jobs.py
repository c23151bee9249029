"""The jobs that are measured: no-op handlers, so that what is left is the queue."""

from __future__ import annotations

import sys
import time

from taskforge import TaskForge

QUEUE = "bench"
CALL = {"to": "user@example.com", "subject": "Hello", "body": "This is a test mail"}
"""80 bytes as JSON, the size of the example in the README."""

forge = TaskForge()


@forge.job(queue=QUEUE)
async def noop(to: str, subject: str, body: str) -> None:
    pass


@forge.job(queue=QUEUE)
async def stamp(sent_ns: int) -> None:
    """Says how long ago it was submitted, on the clock that all processes of a machine share."""
    sys.stdout.write(f"{time.monotonic_ns() - sent_ns}\n")
    sys.stdout.flush()
