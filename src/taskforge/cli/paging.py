"""All pages of a list, up to a number of items."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from taskforge.services.pages import Page

T = TypeVar("T")

PAGE = 500


async def collect(
    fetch: Callable[[int, str | None], Awaitable[Page[T]]], *, limit: int
) -> AsyncIterator[list[T]]:
    """Page after page, also past empty ones, until `limit` items or the end."""
    left = limit
    cursor: str | None = None
    while left > 0:
        page = await fetch(min(PAGE, left), cursor)
        left -= len(page.data)
        yield page.data
        cursor = page.next_cursor
        if cursor is None:
            return
