"""Runs handlers in processes of their own, which are killed when their job's time is up and replaced when they die."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable

import structlog

from taskforge.worker.child import HEADER, Assignment, Word, decode_answer, encode
from taskforge.worker.conclusions import Broke, Conclusion

log = structlog.get_logger("taskforge.worker")


class Processes:
    """As many processes as run at once; they are kept for reuse until `close`."""

    def __init__(self) -> None:
        self._idle: list[_Child] = []
        self._dying: set[asyncio.Task[int]] = set()
        self._closed = False

    async def run(
        self, assignment: Assignment, on_word: Callable[[float, str], None] = lambda fraction, message: None
    ) -> Conclusion:
        """How the job ended; `on_word` hears meanwhile how far it is.

        Cancelling this kills the process. A crash is a failed attempt `ProcessCrashed`.
        """
        child = self._idle.pop() if self._idle else await _spawn()
        try:
            conclusion = await child.ask(assignment, on_word)
        except (OSError, asyncio.IncompleteReadError):
            code = await child.end()
            log.warning("worker.process_crashed", job_id=assignment.job_id, exit_code=code)
            return Broke("ProcessCrashed", _how_it_died(code))
        except BaseException:
            self._let_die(child)
            raise
        if self._closed:
            self._let_die(child)
        else:
            self._idle.append(child)
        return conclusion

    async def close(self) -> None:
        """Afterwards no idle process is left; busy ones end with their job."""
        self._closed = True
        for child in self._idle:
            self._let_die(child)
        self._idle.clear()
        if self._dying:
            await asyncio.wait(self._dying)

    def _let_die(self, child: _Child) -> None:
        child.kill()
        reaper = asyncio.ensure_future(child.wait())
        self._dying.add(reaper)
        reaper.add_done_callback(self._dying.discard)


class _Child:
    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer

    async def ask(self, assignment: Assignment, on_word: Callable[[float, str], None]) -> Conclusion:
        body = encode(assignment)
        self._writer.write(HEADER.pack(len(body)) + body)
        await self._writer.drain()
        while True:
            header = await self._reader.readexactly(HEADER.size)
            answer = decode_answer(await self._reader.readexactly(HEADER.unpack(header)[0]))
            if not isinstance(answer, Word):
                return answer
            on_word(answer.fraction, answer.message)

    def kill(self) -> None:
        self._writer.close()
        try:
            self._process.kill()
        except ProcessLookupError:
            pass

    async def wait(self) -> int:
        return await self._process.wait()

    async def end(self) -> int:
        """The exit code of a process that hung up, negative for a signal; one that lingers is killed."""
        try:
            async with asyncio.timeout(1):
                return await self._process.wait()
        except TimeoutError:
            self.kill()
            return await self._process.wait()
        finally:
            self._writer.close()


async def _spawn() -> _Child:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    try:
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "taskforge.worker.child",
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                # Signals from the terminal are for the worker, which decides what becomes of its jobs.
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            )
        reader, writer = await asyncio.open_connection(sock=ours)
    except BaseException:
        ours.close()  # which also ends a process that was started already
        raise
    return _Child(process, reader, writer)


def _how_it_died(code: int) -> str:
    return f"the process was killed by signal {-code}" if code < 0 else f"the process exited with code {code}"
