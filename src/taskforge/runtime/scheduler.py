"""The duties of schedules: slots that are due, and slots that wait for the job before them.

The elected process does them; two at once do no harm. While nobody does, slots are missed, and their schedules'
policies say what becomes of them afterwards.
"""

from __future__ import annotations

import time

from taskforge.services import slots
from taskforge.services.core import Core

_BATCHES_PER_RUN = 50
_LOOK_SECONDS = 1.0


class DueSlots:
    """Decides what is due, a bounded number of schedules at a time."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def run_once(self) -> None:
        decided = 0
        for _ in range(_BATCHES_PER_RUN):
            before = decided
            decided += await slots.decide_due(self._core)
            if decided == before:
                break
        if decided:
            # The maintenance loop looks again, for the time at which the next slot is due.
            self._core.wakeups.look_again()


class WaitingSlots:
    """Fires what waited, looking once a second while anything waits."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._looked_at = -_LOOK_SECONDS

    async def run_once(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = now
        while await slots.fire_waiting(self._core):
            pass
