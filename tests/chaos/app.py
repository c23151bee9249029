"""The jobs of the fault tests, for `taskforge worker tests.chaos.app:forge`. Every handler keeps a diary."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from taskforge import TaskForge
from taskforge.domain.retry import RetryKind, RetryPolicy
from taskforge.worker.context import current_job
from tests.support.ledger import Diary

DIARIES = "TASKFORGE_TEST_DIARIES"
QUEUES = ("busy", "naps", "quiet")
SOON = RetryPolicy(RetryKind.FIXED, base_seconds=0.2, jitter=0.0)

forge = TaskForge()
_diary: Diary | None = None


def note(phase: str) -> None:
    global _diary
    if _diary is None:
        _diary = Diary(Path(os.environ[DIARIES]))
    job = current_job()
    _diary.note(phase, job.job_id, job.fence)


@forge.job(queue="busy", max_attempts=100, retry=SOON)
async def work(n: int, seconds: float, fails: int) -> int:
    """Fails the first `fails` attempts."""
    note("start")
    await asyncio.sleep(seconds)
    if current_job().attempt <= fails:
        raise ValueError("not yet")
    note("effect")
    return n


@forge.job(queue="naps", max_attempts=100, retry=SOON)
async def nap(n: int, seconds: float) -> None:
    note("start")
    await asyncio.sleep(seconds)
    note("effect")


@forge.job(queue="quiet", max_attempts=2, retry=SOON)
async def doomed(n: int) -> None:
    note("start")
    raise ValueError("never")


@forge.job(queue="quiet", max_attempts=100, retry=SOON)
async def hold(n: int, path: str) -> None:
    """Runs until the file is there."""
    note("start")
    while not os.path.exists(path):  # noqa: ASYNC110 - the other side is another process
        await asyncio.sleep(0.02)
    note("effect")
