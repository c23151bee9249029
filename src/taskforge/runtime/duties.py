"""Work of the elected process beside maintenance. Each duty has a name in `taskforge.agenda()`, which says when.

A duty runs in a task of its own, so that a slow one holds up nobody; it is not started again while it runs. Whatever
two processes do at once must do no harm: an election is a hint, not a lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

import structlog

from taskforge.errors import TaskForgeError
from taskforge.runtime.batch_canceller import BatchCanceller
from taskforge.runtime.bulk_runner import BulkRunner, DeadLetterRetention
from taskforge.runtime.expiry import Expiry, QueueExpiry, UniqueKeys
from taskforge.runtime.scheduler import DueSlots, WaitingSlots
from taskforge.runtime.webhook_sender import WebhookSender
from taskforge.runtime.windows import Windows
from taskforge.services.core import Core

_log = structlog.get_logger(__name__)

_PAUSE_AFTER_FAILURE_SECONDS = 1.0


class Duty(Protocol):
    async def run_once(self) -> None:
        """Do what is due, in bounded steps; agenda() asks for more if there is."""


def all_duties(core: Core) -> dict[str, Duty]:
    """By their names in agenda()."""
    return {
        "batches": BatchCanceller(core),
        "webhooks": WebhookSender(core),
        "expiry": Expiry(core),
        "queue_expiry": QueueExpiry(core),
        "unique_keys": UniqueKeys(core),
        "schedules": DueSlots(core),
        "waiting_slots": WaitingSlots(core),
        "bulk": BulkRunner(core),
        "dead_letter_retention": DeadLetterRetention(core),
        "windows": Windows(core),
    }


class Duties:
    """Starts the duties that are due; owned by the maintenance loop."""

    def __init__(self, duties: Mapping[str, Duty]) -> None:
        self._duties = duties
        self._running: dict[str, asyncio.Task[None]] = {}

    def start_due(self, due_in: Mapping[str, float]) -> float | None:
        """Start what is due and not running already; in how many seconds the next one will be."""
        soonest: float | None = None
        for name, seconds in due_in.items():
            task = self._running.get(name)
            if name not in self._duties or (task is not None and not task.done()):
                continue
            if seconds <= 0:
                self._running[name] = asyncio.create_task(self._run(name), name=f"duty-{name}")
            elif soonest is None or seconds < soonest:
                soonest = seconds
        return soonest

    async def stop(self) -> None:
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        self._running.clear()

    async def _run(self, name: str) -> None:
        try:
            await self._duties[name].run_once()
        except TaskForgeError as error:
            _log.warning("duty.interrupted", duty=name, error=error.code, detail=error.detail)
            await asyncio.sleep(_PAUSE_AFTER_FAILURE_SECONDS)
        except Exception:
            _log.exception("duty.failed", duty=name)
            await asyncio.sleep(_PAUSE_AFTER_FAILURE_SECONDS)
