"""`--watch`: the same command in a child process, started again whenever a Python file changes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from taskforge.cli.children import Child
from taskforge.cli.output import say
from taskforge.cli.process import end_with_stdin
from taskforge.worker.shutdown import Shutdown

INTERVAL_SECONDS = 0.5
_LEFT_OUT = {"__pycache__", "node_modules"}


async def watch(arguments: Sequence[str], *, until_eof: bool, patience: float) -> int:
    """Until a signal; the exit code of the last child."""
    shutdown = Shutdown()
    shutdown.install()
    if until_eof:
        end_with_stdin()
    kept = [argument for argument in arguments if argument not in ("--watch", "--until-eof")]
    while True:
        child = Child("worker", kept, env=os.environ, write=lambda _, line: say(line))
        before = await asyncio.to_thread(snapshot, Path.cwd())
        running = asyncio.create_task(child.run(), name="watched")
        changed = asyncio.create_task(_until_changed(before), name="watch-files")
        told = asyncio.create_task(shutdown.requested.wait(), name="watch-signal")
        try:
            await asyncio.wait({changed, told}, return_when=asyncio.FIRST_COMPLETED)
            child.stop()
            hurried = asyncio.create_task(shutdown.hurried.wait(), name="watch-hurried")
            await asyncio.wait({running, hurried}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                child.stop()
            await asyncio.wait({running}, timeout=patience)
            if not running.done():
                child.kill()
            code = await running
            hurried.cancel()
            if shutdown.requested.is_set():
                return code if code >= 0 else 128 - code
            say("a file has changed; starting again")
        finally:
            for task in (running, changed, told):
                task.cancel()


async def _until_changed(before: dict[str, int]) -> None:
    while await asyncio.to_thread(snapshot, Path.cwd()) == before:  # noqa: ASYNC110 - files tell nobody
        await asyncio.sleep(INTERVAL_SECONDS)


def snapshot(folder: Path) -> dict[str, int]:
    """When each Python file below the folder was changed; hidden folders and environments are left out."""
    found: dict[str, int] = {}
    for place, folders, files in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if name[0] != "." and name not in _LEFT_OUT and not os.path.exists(f"{place}/{name}/pyvenv.cfg")
        ]
        for name in files:
            if name.endswith(".py"):
                try:
                    found[f"{place}/{name}"] = os.stat(f"{place}/{name}").st_mtime_ns
                except FileNotFoundError:
                    pass
    return found
