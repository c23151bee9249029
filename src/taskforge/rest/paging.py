"""Pages of lists: the cursor opened on the way in, sealed on the way out, and the Link to the next page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode

from litestar.types import Scope
from msgspec import Struct

from taskforge.domain.tenants import Context
from taskforge.rest.parameters import DEFAULT_LIMIT, check_limit
from taskforge.rest.replies import Header
from taskforge.rest.state import RestState
from taskforge.services.pages import Page

T = TypeVar("T")

Fetch = Callable[[int, str | None], Awaitable[Page[T]]]


class PageQuery(Struct, frozen=True):
    limit: int = DEFAULT_LIMIT
    cursor: str | None = None


async def fetch_page(
    rest: RestState, ctx: Context, fetch: Fetch[T], *, limit: int, cursor: str | None, bound_to: Any
) -> Page[T]:
    """What `fetch(limit, position)` gives, its cursor fit to leave the house. `bound_to` is the list and its filter."""
    check_limit(limit)
    position = None
    if cursor is not None:
        position = rest.cursors.open(cursor, tenant_id=ctx.tenant_id, query=bound_to)
    page = await fetch(limit, position)
    if page.next_cursor is None:
        return page
    return Page(page.data, rest.cursors.seal(page.next_cursor, tenant_id=ctx.tenant_id, query=bound_to))


def next_link(scope: Scope, cursor: str | None) -> tuple[Header, ...]:
    """RFC 8288: the same list, further on."""
    if cursor is None:
        return ()
    kept = [pair for pair in parse_qsl(scope["query_string"].decode("ascii")) if pair[0] != "cursor"]
    target = f"{scope['path']}?{urlencode([*kept, ('cursor', cursor)])}"
    return ((b"link", f'<{target}>; rel="next"'.encode("ascii")),)
