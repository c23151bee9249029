"""Runs plain functions in threads that can be walked away from.

A thread cannot be stopped. When a job's time is up its thread is abandoned: it is not used again, its result is
dropped, and being a daemon it does not keep the process alive. `ThreadPoolExecutor` would do the opposite in each.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import Context
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class Threads:
    """As many threads as run at once; they are kept for reuse until `close`."""

    def __init__(self) -> None:
        self._idle: list[_Thread] = []
        self._abandoned = 0
        self._closed = False

    @property
    def abandoned(self) -> int:
        """How many threads were left to themselves since the start."""
        return self._abandoned

    async def run(self, call: Callable[[], T], variables: Context) -> T:
        """What `call` returns or raises, run with these context variables. Cancelling this abandons the thread."""
        loop = asyncio.get_running_loop()
        thread = self._idle.pop() if self._idle else _Thread()
        answer: asyncio.Future[T] = loop.create_future()
        thread.inbox.put(_Errand(call, variables, loop, answer))
        try:
            result = await answer
        except asyncio.CancelledError:
            if answer.cancelled():
                self._abandoned += 1
                thread.inbox.put(None)
                raise
            self._give_back(thread)
            raise
        except BaseException:
            self._give_back(thread)
            raise
        self._give_back(thread)
        return result

    def close(self) -> None:
        self._closed = True
        for thread in self._idle:
            thread.inbox.put(None)
        self._idle.clear()

    def _give_back(self, thread: _Thread) -> None:
        if self._closed:
            thread.inbox.put(None)
        else:
            self._idle.append(thread)


class _Errand:
    __slots__ = ("answer", "call", "context", "loop")

    def __init__(
        self,
        call: Callable[[], object],
        context: Context,
        loop: asyncio.AbstractEventLoop,
        answer: asyncio.Future[Any],
    ) -> None:
        self.call = call
        self.context = context
        self.loop = loop
        self.answer = answer

    def run(self) -> None:
        try:
            result = self.context.run(self.call)
        except (
            BaseException
        ) as error:  # also SystemExit: it must end the attempt, not a thread nobody watches
            self._tell(self._fail, error)
        else:
            self._tell(self._succeed, result)

    def _tell(self, deliver: Callable[[object], None], value: object) -> None:
        try:
            self.loop.call_soon_threadsafe(deliver, value)
        except RuntimeError:
            pass  # the loop is closed; nobody waits any more

    def _succeed(self, value: object) -> None:
        if not self.answer.done():
            self.answer.set_result(value)

    def _fail(self, error: object) -> None:
        assert isinstance(error, BaseException)
        if not self.answer.done():
            self.answer.set_exception(error)


class _Thread:
    def __init__(self) -> None:
        self.inbox: SimpleQueue[_Errand | None] = SimpleQueue()
        threading.Thread(target=self._work, name="taskforge-handler", daemon=True).start()

    def _work(self) -> None:
        while (errand := self.inbox.get()) is not None:
            errand.run()
            del errand
