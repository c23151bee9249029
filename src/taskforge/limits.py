"""Keys and the tenant's own limit from the SDK: `await forge.limits.set_key("mail", "customer-7", weight=2)`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from taskforge.api import path_of
from taskforge.domain.limits import KeyPolicy, KeyView, TenantView
from taskforge.rest.schemas import KeyPage

if TYPE_CHECKING:
    from taskforge.forge import TaskForge

_PAGE = 500


class Limits:
    """Limits of a queue itself are settings of the queue."""

    def __init__(self, forge: TaskForge) -> None:
        self._forge = forge

    async def keys(self, queue: str) -> AsyncIterator[KeyView]:
        """The concurrency keys of a queue, in order, with what runs and waits of each."""
        api = await self._forge.api()
        cursor: str | None = None
        while True:
            query = {"limit": _PAGE, "cursor": cursor}
            page = await api.call("GET", path_of("queues", queue, "keys", query=query), reads=KeyPage)
            for key in page.data:
                yield key
            cursor = page.next_cursor
            if cursor is None:
                return

    async def key(self, queue: str, key: str) -> KeyView:
        """Raises NotFound for a key that no job has used and nobody has set apart."""
        api = await self._forge.api()
        return await api.call("GET", path_of("queues", queue, "keys", key), reads=KeyView)

    async def set_key(
        self, queue: str, key: str, *, weight: float = 1.0, max_concurrency: int | None = None
    ) -> KeyView:
        """A share when keys take turns, and a limit of its own in place of the queue's; 0 holds the key."""
        api = await self._forge.api()
        policy = KeyPolicy(weight=weight, max_concurrency=max_concurrency)
        return await api.call("PUT", path_of("queues", queue, "keys", key), policy, reads=KeyView)

    async def tenant(self) -> TenantView:
        """The tenant's own limit, and its share of workers that serve several."""
        return await (await self._forge.api()).call("GET", path_of("tenant"), reads=TenantView)

    async def limit_tenant(self, max_concurrency: int | None) -> TenantView:
        """How many jobs of the tenant run at the same time, over all queues; None for no limit."""
        body = {"max_concurrency": max_concurrency}
        return await (await self._forge.api()).call("PATCH", path_of("tenant"), body, reads=TenantView)
