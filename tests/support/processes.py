"""Real `taskforge` processes: run one to its end, or start one and watch it. What was started is ended by id."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOOL = (sys.executable, "-m", "taskforge.cli")
_KEPT = ("PATH", "LANG", "LC_ALL", "TASKFORGE_PG_BIN", "COVERAGE_PROCESS_START")


def wait_for(predicate: Callable[[], Any], *, timeout: float = 20.0, told: Callable[[], str] = str) -> Any:
    """The predicate's first true answer; fails at the deadline, with what `told` says."""
    deadline = time.monotonic() + timeout
    while not (answer := predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {timeout} s\n{told()}")
        time.sleep(0.01)
    return answer


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


class Running:
    """A process in a session of its own, with its output in files."""

    def __init__(
        self, arguments: tuple[str, ...], *, env: Mapping[str, str], folder: Path, cwd: Path
    ) -> None:
        self._out = Path(tempfile.mkstemp(dir=folder, suffix=".out")[1])
        self._err = Path(tempfile.mkstemp(dir=folder, suffix=".err")[1])
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [*TOOL, *arguments],
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def out(self) -> str:
        return self._out.read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        return self._err.read_text(encoding="utf-8")

    def interrupt(self) -> None:
        """Ctrl-C: the terminal tells the whole group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def said(self, text: str, *, timeout: float = 20.0) -> None:
        wait_for(lambda: text in self.out + self.err, timeout=timeout, told=self._told)

    def ended(self, *, timeout: float = 30.0) -> int:
        wait_for(lambda: self.process.poll() is not None, timeout=timeout, told=self._told)
        return self.process.returncode

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=15)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def _told(self) -> str:
        return f"stdout:\n{self.out}\nstderr:\n{self.err}"


class Cli:
    """The command line with nothing in its environment but what is given."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self.folder = folder
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        self.env = {**kept, "HOME": str(folder), "TASKFORGE_DATA_DIR": str(folder / "data"), **env}
        self._running: list[Running] = []

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    def run(self, *arguments: str, text: str = "", timeout: float = 60.0, **env: str) -> Ended:
        done = subprocess.run(
            [*TOOL, *arguments],
            env={**self.env, **env},
            cwd=self.folder,
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def ok(self, *arguments: str, text: str = "", **env: str) -> Ended:
        done = self.run(*arguments, text=text, **env)
        assert done.code == 0, f"{arguments} ended with {done.code}\n{done.out}\n{done.err}"
        return done

    def data(self, *arguments: str, text: str = "", **env: str) -> list[Any]:
        return self.ok(*arguments, "--json", text=text, **env).lines

    def start(self, *arguments: str, **env: str) -> Running:
        running = Running(arguments, env={**self.env, **env}, folder=self.folder, cwd=self.folder)
        self._running.append(running)
        return running

    def alive(self) -> dict[int, str]:
        """Every process that works in our data folder, whoever started it, with its command line."""
        mark = os.fsencode(self.data_dir)
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    command = (entry / "cmdline").read_bytes()
                    if command and (mark in command or mark in (entry / "environ").read_bytes()):
                        found[int(entry.name)] = command.replace(b"\0", b" ").decode("utf-8", "replace")
        return found

    def find(self, *texts: str) -> int:
        """The id of the one process whose command line has all the texts."""
        found = [pid for pid, command in self.alive().items() if all(text in command for text in texts)]
        assert len(found) == 1, f"{texts}: {found} of {self.alive()}"
        return found[0]

    def close(self) -> None:
        for running in reversed(self._running):
            running.end()
        wait_for(lambda: not self.alive(), told=lambda: str(self.alive()))


@contextmanager
def cli(**env: str) -> Iterator[Cli]:
    """A command line with a folder of its own, gone afterwards with every process in it."""
    folder = Path(tempfile.mkdtemp(prefix="taskforge-e2e-", dir="/tmp"))
    # As root, the account that runs the embedded server must be able to pass.
    folder.chmod(0o711)
    tool = Cli(folder, env)
    try:
        try:
            yield tool
        finally:
            tool.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
