"""Waiting for a condition, never for a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from inspect import isawaitable


async def until(predicate: Callable[[], object | Awaitable[object]], *, timeout: float = 10.0) -> object:
    """The predicate's first true answer; fails at the deadline."""
    deadline = time.monotonic() + timeout
    while True:
        answer = predicate()
        if isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"{predicate} was not true within {timeout} s")
        await asyncio.sleep(0.01)
