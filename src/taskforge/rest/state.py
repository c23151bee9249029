"""What the handlers of one application share, and how a handler gets at it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from litestar import Litestar
from litestar.types import Scope

from taskforge.domain.tenants import Context
from taskforge.errors import Unavailable
from taskforge.rest.auth import authenticate
from taskforge.rest.cursors import Cursors
from taskforge.rest.metrics import Metrics, QueueStats
from taskforge.rest.submission import Reader
from taskforge.rest.tracing import traceparent_of
from taskforge.services import queues
from taskforge.services.core import Core
from taskforge.settings import Settings
from taskforge.tokens import Tokens

_KEY = "taskforge.rest"


class RestState:
    """`draining` is set when the process is about to stop: no new job is accepted then, and waits end at once."""

    def __init__(
        self,
        core: Core,
        settings: Settings,
        *,
        check_ready: Callable[[], Awaitable[None]] | None = None,
        queue_stats: QueueStats | None = None,
        acts_as: Context | None = None,
    ) -> None:
        self.core = core
        self.acts_as = acts_as
        self.is_development = settings.is_development
        self.max_body_bytes = settings.max_body_bytes
        self.max_payload_bytes = settings.max_payload_bytes
        self.tokens = Tokens(settings.jwt_secret, is_development=settings.is_development, clock=core.clock)
        self.cursors = Cursors(self.tokens.derive_key("cursor"))
        self.metrics = Metrics(core.clock, queue_stats)
        self.check_ready = check_ready or self._ask_database
        self.draining = asyncio.Event()
        self._plain_reader = Reader(settings.max_payload_bytes)

    def reader(self, scope: Scope) -> Reader:
        trace = traceparent_of(scope)
        return Reader(self.max_payload_bytes, trace) if trace is not None else self._plain_reader

    def refuse_if_draining(self) -> None:
        if self.draining.is_set():
            raise Unavailable("server.draining", "this server is stopping; try again", retry_after=2.0)

    async def _ask_database(self) -> None:
        """Raises Unavailable unless the database answers a query on the migrated schema."""
        await queues.list_queues(self.core, Context(), limit=1)

    def attach(self, app: Litestar) -> None:
        app.state[_KEY] = self


def state_of(app: Litestar) -> RestState:
    state: RestState = app.state[_KEY]
    return state


def enter(scope: Scope) -> tuple[RestState, Context]:
    """The shared state, and who asks. Raises Unauthorized. Every handler below /api/v1 starts with this."""
    app: Any = scope["litestar_app"]
    rest = state_of(app)
    return rest, rest.acts_as or authenticate(scope, rest.tokens)
