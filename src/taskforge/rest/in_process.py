"""The REST application called without a network: the same contract for those who are on the database already."""

from __future__ import annotations

import secrets
from typing import Any

import httpx2
from msgspec import structs

from taskforge.domain.tenants import Context
from taskforge.http_client import raise_problem
from taskforge.rest.app import create_app
from taskforge.services.core import Core
from taskforge.settings import Settings


class InProcess:
    """An `api.Transport` on an open core. Whoever holds it acts as `ctx`; no token is asked for."""

    def __init__(self, core: Core, ctx: Context, settings: Settings) -> None:
        # Nobody outside can present a token to this application; the secret only binds cursors.
        own = structs.replace(settings, jwt_secret=secrets.token_urlsafe(48))
        app: Any = create_app(core, own, acts_as=ctx)
        self._http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://in-process")

    async def request(self, method: str, path: str, body: bytes | None, content_type: str) -> bytes:
        headers = {} if body is None else {"Content-Type": content_type}
        response = await self._http.request(method, path, content=body, headers=headers)
        if response.status_code >= 400:
            raise_problem(response)
        return response.content
