"""Rate windows open by themselves, so somebody has to say so to the workers that wait."""

from __future__ import annotations

from taskforge.postgres import limits
from taskforge.services.core import Core


class Windows:
    def __init__(self, core: Core) -> None:
        self._core = core

    async def run_once(self) -> None:
        """Keys and queues whose window has opened are claimable again, and their workers know."""
        if queue_ids := await limits.open_windows(self._core.database):
            self._core.wakeups.jobs_ready(queue_ids)
