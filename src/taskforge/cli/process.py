"""What the long-running commands share: their logs, their name, and their end when their parent is gone."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from importlib.metadata import version
from typing import TypeVar

import click

T = TypeVar("T")

# For `taskforge dev` and `--watch`, whose children must not outlive them: the pipe ends however the parent ends.
until_eof = click.option("--until-eof", is_flag=True, hidden=True)


def run(work: Coroutine[object, object, T]) -> T:
    """In the fast event loop."""
    import uvloop

    return uvloop.run(work)


def installed_version() -> str:
    return version("taskforge")


def end_with_stdin() -> None:
    """When stdin ends, this process is told to stop as by SIGTERM."""
    loop = asyncio.get_running_loop()
    descriptor = sys.stdin.fileno()

    def look() -> None:
        if not os.read(descriptor, 4096):
            loop.remove_reader(descriptor)
            signal.raise_signal(signal.SIGTERM)

    loop.add_reader(descriptor, look)
