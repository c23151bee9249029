"""Who wakes whom: in this process at once, other processes by a coalesced hint.

A lost hint costs at most one poll interval of whoever waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from taskforge.errors import TaskForgeError
from taskforge.postgres.listen import listen
from taskforge.postgres.pool import Database
from taskforge.postgres.sql import queries

_log = structlog.get_logger(__name__)
_HINT = queries("wakeups")["hint"]
_HINT_INTERVAL_SECONDS = 0.005

PARKED = 0
CANCEL = -1


class Wakeups:
    """Listeners are called with the numbers of a hint: queue ids, PARKED, CANCEL; an empty set means look at all.

    Sending is coalesced: the first hint leaves at once, then at most one per 5 ms carries all that gathered.
    """

    def __init__(self, database: Database, *, direct_dsn: str | None = None, sends: bool = True) -> None:
        self._database = database
        self._direct_dsn = direct_dsn
        self._sends = sends
        self._listeners: list[Callable[[frozenset[int]], None]] = []
        self._to_send: set[int] = set()
        self._is_due = False
        self._sender: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None

    def subscribe(self, listener: Callable[[frozenset[int]], None]) -> Callable[[], None]:
        """Returns what ends the subscription."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def start_listening(self) -> None:
        """Hear other processes too; needs a direct URL, without one polling alone must do."""
        if self._listening is None and self._direct_dsn is not None:
            self._listening = asyncio.create_task(listen(self._direct_dsn, self._heard), name="listen")

    def jobs_ready(self, queue_ids: Iterable[int]) -> None:
        self.tell(queue_ids)

    def jobs_parked(self) -> None:
        self.tell((PARKED,))

    def look_again(self) -> None:
        """The loops of this process look for what is due next."""
        self._call(frozenset((PARKED,)))

    def cancel_asked(self) -> None:
        self.tell((CANCEL,))

    def everything(self) -> None:
        self.tell(())

    def tell(self, numbers: Iterable[int]) -> None:
        told = frozenset(numbers)
        self._call(told)
        if self._sends:
            self._to_send |= told
            self._is_due = True
            if self._sender is None or self._sender.done():
                self._sender = asyncio.create_task(self._send(), name="hint")

    async def close(self) -> None:
        for task in (self._sender, self._listening):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def _heard(self, numbers: list[int]) -> None:
        self._call(frozenset(numbers))

    def _call(self, numbers: frozenset[int]) -> None:
        for listener in self._listeners:
            listener(numbers)

    async def _send(self) -> None:
        while self._is_due:
            self._is_due = False
            numbers, self._to_send = sorted(self._to_send), set()
            try:
                await self._database.call(_HINT, numbers)
            except TaskForgeError as error:
                _log.debug("hint.lost", error=error.code)
            await asyncio.sleep(_HINT_INTERVAL_SECONDS)
