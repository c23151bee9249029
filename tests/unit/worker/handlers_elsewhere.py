"""Handlers that a process of its own imports by file."""

from __future__ import annotations

import asyncio
import os
import signal
import time

from taskforge.worker.answers import Snooze
from taskforge.worker.context import current_job


def double(n: int) -> int:
    return 2 * n


async def double_async(n: int) -> int:
    await asyncio.sleep(0)
    return 2 * n


def who() -> list[object]:
    context = current_job()
    return [os.getpid(), context.job_id, context.attempt, context.remaining > 0]


def chatty() -> str:
    print("this must not disturb anything")
    return "fine"


def fail() -> None:
    raise ValueError("over there")


def snooze() -> None:
    raise Snooze(5)


def hang() -> None:
    time.sleep(600)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    os._exit(9)
