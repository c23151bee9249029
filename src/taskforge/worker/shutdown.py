"""What signals mean to a worker: the first drains, the second cuts the drain short."""

from __future__ import annotations

import asyncio
import signal


class Shutdown:
    """`requested` and `hurried` are set by `notice`, which signal handlers call. `number` is the first signal."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.hurried = asyncio.Event()
        self.number = signal.SIGTERM

    def notice(self, number: signal.Signals) -> None:
        if self.requested.is_set():
            self.hurried.set()
        else:
            self.number = number
            self.requested.set()

    def install(self) -> None:
        """Take over SIGTERM and SIGINT of this process. Only in its main thread."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.notice, number)

    def uninstall(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
