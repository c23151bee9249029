"""Jobs that have waited too long end, and unique keys that nobody holds are forgotten.

Who starts a job looks at its times as well, so nothing starts too late because one of these is late.
"""

from __future__ import annotations

from datetime import timedelta

import structlog

from taskforge.postgres import expiry
from taskforge.postgres.bulk import set_duty_time
from taskforge.services.core import Core

_log = structlog.get_logger(__name__)

_AT_ONCE = 500
_KEYS_AT_ONCE = 2_000
_STEPS = 20
_EXTENTS = 50
_PAUSE = timedelta(seconds=2)


class Expiry:
    """Ends jobs whose own time to start, or deadline, has passed."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def run_once(self) -> None:
        for _ in range(_STEPS):
            looked, queues = await expiry.expire_due(self._core.database, limit=_AT_ONCE)
            if queues:
                self._core.wakeups.tell(queues)
            if looked < _AT_ONCE:
                return


class QueueExpiry:
    """Ends jobs that have waited longer than their queue says they may."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def run_once(self) -> None:
        for _ in range(_STEPS):
            ended, queues = await expiry.expire_queues(self._core.database, extents=_EXTENTS)
            if queues:
                self._core.wakeups.tell(queues)
            if ended:
                _log.info("queue.jobs_expired", count=ended)
            else:
                break
        await set_duty_time(self._core.database, "queue_expiry", _PAUSE)


class UniqueKeys:
    """Forgets unique keys that nobody holds any longer."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def run_once(self) -> None:
        for _ in range(_STEPS):
            if await expiry.sweep_uniques(self._core.database, limit=_KEYS_AT_ONCE) < _KEYS_AT_ONCE:
                return
