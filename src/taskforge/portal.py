"""A background event loop for callers that have none: the one mechanism behind every synchronous call."""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

CLOSE_SECONDS = 10.0


class Portal:
    """The loop runs in a daemon thread from the first `call` on, until `close` or the end of the process.

    `closing` runs in it last, to let go of what was opened there.
    """

    def __init__(self, closing: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._closing = closing
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in the background loop and return what it returns."""
        loop = self._started()
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("this is the background loop itself; await the async twin instead")
        future = asyncio.run_coroutine_threadsafe(work, loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            atexit.unregister(self.close)
            try:
                asyncio.run_coroutine_threadsafe(self._wind_up(), loop).result(CLOSE_SECONDS)
            finally:
                loop.call_soon_threadsafe(loop.stop)
                thread.join()
                loop.close()

    async def _wind_up(self) -> None:
        await self._closing()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="taskforge-portal", daemon=True
                )
                self._thread.start()
                atexit.register(self.close)
            return self._loop
