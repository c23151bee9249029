"""The HTTP application: routes, one renderer of errors, and what every answer has in common."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from litestar import Litestar, Request
from litestar.enums import ScopeType
from litestar.types import LifeSpanReceive, LifeSpanScope, LifeSpanSend, Message, Receive, Scope, Send

from taskforge.domain.tenants import Context
from taskforge.rest.bodies import ClientGone
from taskforge.rest.metrics import QueueStats
from taskforge.rest.problems import problem_reply
from taskforge.rest.replies import Reply
from taskforge.rest.routes import (
    batches,
    bulk,
    control,
    dead_letters,
    docs,
    health,
    jobs,
    limits,
    queues,
    schedules,
    webhooks,
    workflows,
)
from taskforge.rest.state import RestState, state_of
from taskforge.rest.tracing import request_id_of
from taskforge.services.core import Core
from taskforge.settings import Settings

HANDLERS = (
    *jobs.HANDLERS,
    *control.HANDLERS,
    *queues.HANDLERS,
    *limits.HANDLERS,
    *schedules.HANDLERS,
    *dead_letters.HANDLERS,
    *bulk.HANDLERS,
    *batches.HANDLERS,
    *workflows.HANDLERS,
    *webhooks.HANDLERS,
    *health.HANDLERS,
    *docs.HANDLERS,
)


class RestApp(Litestar):
    """Litestar, with common headers and metrics put around everything, errors of the routing included."""

    async def __call__(
        self,
        scope: Scope | LifeSpanScope,
        receive: Receive | LifeSpanReceive,
        send: Send | LifeSpanSend,
    ) -> None:
        if scope["type"] != ScopeType.HTTP:
            await super().__call__(scope, receive, send)
            return
        try:
            await super().__call__(scope, receive, _completed(self, scope, send))
        except ClientGone:
            return


def create_app(
    core: Core,
    settings: Settings,
    *,
    check_ready: Callable[[], Awaitable[None]] | None = None,
    queue_stats: QueueStats | None = None,
    acts_as: Context | None = None,
) -> RestApp:
    """The application on an open core. Raises ConfigurationError when JWT_SECRET cannot be used.

    `check_ready` raises when requests cannot be served; by default, when the database does not answer.
    `queue_stats` gives /metrics the gauges of the queues. With `acts_as` no request needs a token: for in-process use.
    """
    app = RestApp(
        route_handlers=HANDLERS,
        exception_handlers={Exception: _render},
        openapi_config=None,
        logging_config=None,
    )
    RestState(core, settings, check_ready=check_ready, queue_stats=queue_stats, acts_as=acts_as).attach(app)
    return app


def _render(request: Request[Any, Any, Any], error: Exception) -> Any:
    if isinstance(error, ClientGone):
        raise error
    return _Rendered(problem_reply(error, request.scope))


class _Rendered:
    """What Litestar asks an exception handler for: something that turns into an ASGI application."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    def to_asgi_response(self, **_: Any) -> Reply:
        return self._reply


def _completed(app: Litestar, scope: Any, send: Any) -> Send:
    """`send` that adds the headers every answer has, and counts the answer."""
    started = time.perf_counter()
    metrics = state_of(app).metrics

    async def complete(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers: Any = message["headers"]
            headers.append((b"x-content-type-options", b"nosniff"))
            if scope["path"].startswith("/api/"):
                headers.append((b"cache-control", b"no-store"))
            if (request_id := request_id_of(scope)) is not None:
                headers.append((b"x-request-id", request_id))
            metrics.answered(
                scope["method"],
                scope.get("path_template") or "unmatched",
                message["status"],
                time.perf_counter() - started,
            )
        await send(message)

    return complete
