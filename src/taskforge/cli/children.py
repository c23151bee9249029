"""Child processes that are started again when they die, and whose output is told apart."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from taskforge.cli.failures import BAD_CONFIGURATION, USAGE

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 10.0
SOUND_AFTER = 20.0
_LONGEST_LINE = 1024 * 1024
_LAST_LINES_SECONDS = 0.5


class Child:
    """One `taskforge` command in a process of its own, with `run` as its supervisor.

    The child has its own process group, so that Ctrl-C of the terminal reaches it only through us, and a pipe as stdin
    that ends when we do, however we end.
    """

    def __init__(
        self,
        label: str,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        write: Callable[[str, str], None],
        descriptors: Sequence[int] = (),
    ) -> None:
        self.label = label
        self._arguments = (*arguments, "--until-eof")
        self._env = env
        self._write = write
        self._descriptors = tuple(descriptors)
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()

    @property
    def pid(self) -> int | None:
        return None if self._process is None or self._process.returncode is not None else self._process.pid

    async def run(self) -> int:
        """Until `stop`, or until it says that its configuration is at fault. Its last exit code."""
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            started_at = time.monotonic()
            code = await self._run_once()
            if self._stopping.is_set() or code in (USAGE, BAD_CONFIGURATION):
                return code
            if time.monotonic() - started_at > SOUND_AFTER:
                pause = FIRST_PAUSE
            self._write(self.label, f"{_ending(code)}; starting it again in {pause:g} s")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            pause = min(2 * pause, LONGEST_PAUSE)
        return 0

    def stop(self) -> None:
        """The first call asks it to drain, the second to hurry up."""
        self._stopping.set()
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._stopping.set()
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _run_once(self) -> int:
        self._process = process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "taskforge.cli", *self._arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(self._env),
            pass_fds=self._descriptors,
            start_new_session=True,
            limit=_LONGEST_LINE,
        )
        if self._stopping.is_set():
            self._signal(signal.SIGTERM)
        reading = asyncio.create_task(self._read(process), name=f"output of {self.label}")
        try:
            code = await process.wait()
            # Its own children may keep the pipe open.
            await asyncio.wait({reading}, timeout=_LAST_LINES_SECONDS)
            return code
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:
                continue  # longer than the limit; dropped
            if not line:
                return
            self._write(self.label, line.decode("utf-8", "replace").rstrip("\n"))


def _ending(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
