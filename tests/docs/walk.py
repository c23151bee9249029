"""Does what a page tells its reader to do, from top to bottom, in an empty folder beside a real server.

python           run here, with `await`; one that begins with `# name.py` is saved as that file and imported
bash             run by bash; anything but exit code 0 is an error
bash running     commands that go on until they are told to stop; they run to the end of the page, then get SIGTERM
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import os
import re
import shlex
import signal
import sys
import textwrap
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from taskforge import TaskForge
from tests.docs.pages import ROOT, Example

_READY = re.compile(rb"(worker|server)\.started")
_TARGETS = re.compile(r"^([a-z0-9-]+):", re.MULTILINE)


class Walk:
    """`folder` is the reader's working folder; `env` what he has set."""

    def __init__(self, folder: Path, env: dict[str, str], *, port: int) -> None:
        self._folder = folder
        self._env = {**os.environ, **env}
        self._port = port
        self._variables: dict[str, Any] = {"__name__": "page"}
        self._running: list[asyncio.subprocess.Process] = []
        self._imported: list[str] = []

    async def run(self, example: Example) -> None:
        match example.kind, example.words:
            case "python", ():
                await self._python(example)
            case "bash", ():
                await self._bash(example)
            case "bash", ("running",):
                await self._start(example)
            case kind, words:
                raise AssertionError(f"{example.name}: nobody runs a block marked {kind} {' '.join(words)}")

    async def close(self) -> None:
        """Everything stopped. Raises AssertionError for a command that did not stop well."""
        for name in self._imported:
            found = sys.modules.pop(name)
            self._variables.update({k: v for k, v in vars(found).items() if isinstance(v, TaskForge)})
        for value in list(self._variables.values()):
            if isinstance(value, TaskForge):
                await value.close()
                value.close_sync()
        codes = []
        for process in self._running:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(20):
                codes.append(await process.wait())
        assert not any(codes), f"commands ended with {codes}"

    async def _python(self, example: Example) -> None:
        source = example.body
        if example.file is not None:
            (self._folder / example.file).write_text(source)
            name = example.file.removesuffix(".py")
            importlib.invalidate_caches()
            module = importlib.import_module(name)
            self._imported.append(name)
            public = {key: value for key, value in vars(module).items() if not key.startswith("_")}
            self._variables.update(public)
            return
        padded = "\n" * example.line + source  # so that tracebacks name the line of the page
        code = compile(padded, example.page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        answer = eval(code, self._variables)
        if inspect.iscoroutine(answer):
            await _in_time(answer)

    async def _bash(self, example: Example) -> None:
        process = await self._spawn(example, "set -euo pipefail\n" + example.body)
        output, _ = await _in_time(process.communicate())
        assert process.returncode == 0, f"{example.name} ended with {process.returncode}:\n{output.decode()}"

    async def _start(self, example: Example) -> None:
        process = await self._spawn(example, "exec " + example.body.strip())
        self._running.append(process)
        assert process.stdout is not None
        said = b""
        while not _READY.search(said):
            line = await _in_time(process.stdout.readline())
            assert line, f"{example.name} ended:\n{said.decode()}"
            said += line
        drain = asyncio.create_task(process.stdout.read())
        drain.add_done_callback(lambda _: None)

    async def _spawn(self, example: Example, script: str) -> asyncio.subprocess.Process:
        script = script.replace("localhost:8000", f"localhost:{self._port}")
        return await asyncio.create_subprocess_exec(
            "bash", "-c", _MAKE + script,
            cwd=self._folder, env=self._env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip


async def _in_time(work: Awaitable[Any]) -> Any:
    async with asyncio.timeout(30):
        return await work


def tools(folder: Path) -> Path:
    """A folder for PATH: this environment's `taskforge` and `python`, and a `curl` where the machine has none."""
    folder.mkdir()
    for name, arguments in (("taskforge", "-m taskforge.cli"), ("python", "")):
        command = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments} "$@"\n'
        (folder / name).write_text(command)
        (folder / name).chmod(0o755)
    if not any(Path(part, "curl").exists() for part in os.environ.get("PATH", "").split(os.pathsep)):
        script = textwrap.dedent(f"""\
            #!/bin/sh
            exec {shlex.quote(sys.executable)} {shlex.quote(str(Path(__file__).with_name("curl.py")))} "$@"
            """)
        (folder / "curl").write_text(script)
        (folder / "curl").chmod(0o755)
    return folder


_MAKE = f"""
make() {{  # what the targets do is proved elsewhere; here only that they exist
    case "$1" in {"|".join(_TARGETS.findall((ROOT / "Makefile").read_text(encoding="utf-8")))}) ;;
    *) echo "there is no target $1"; return 2 ;; esac
}}
"""
