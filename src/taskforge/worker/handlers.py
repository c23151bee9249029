"""The registry of a worker: which function runs a job type, how, and with which limits of its own."""

from __future__ import annotations

import importlib
import inspect
import runpy
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

from msgspec import Struct

from taskforge.domain.retry import RetryPolicy
from taskforge.errors import ConfigurationError
from taskforge.worker.binding import Args, Binding


class Mode(StrEnum):
    """Where a handler runs: in the event loop, in a thread, or in a process of its own."""

    ASYNC = "async"
    THREAD = "thread"
    PROCESS = "process"


class Handler(Struct, frozen=True):
    """`read` turns a payload into arguments; `reference` is how another process finds `fn` (mode process)."""

    job_type: str
    fn: Callable[..., Any]
    mode: Mode
    read: Callable[[bytes], Args]
    timeout: float | None = None
    max_attempts: int | None = None
    retry: RetryPolicy | None = None
    reference: str = ""


def make_handler(
    fn: Callable[..., Any],
    *,
    job_type: str,
    binding: Binding | None = None,
    mode: Mode | None = None,
    timeout: float | None = None,
    max_attempts: int | None = None,
    retry: RetryPolicy | None = None,
) -> Handler:
    """A handler for `fn`. Without `mode`, coroutine functions run in the event loop and others in threads."""
    mode = check_mode(fn, mode)
    return Handler(
        job_type=job_type,
        fn=fn,
        mode=mode,
        read=(binding or Binding(fn)).read,
        timeout=timeout,
        max_attempts=max_attempts,
        retry=retry,
        reference=reference_of(fn) if mode is Mode.PROCESS else "",
    )


def check_mode(fn: Callable[..., Any], mode: Mode | None) -> Mode:
    """The mode to run `fn` in. Raises ConfigurationError for one that cannot work."""
    is_coroutine = inspect.iscoroutinefunction(fn)
    if inspect.isasyncgenfunction(fn) or inspect.isgeneratorfunction(fn):
        raise ConfigurationError(
            "handler.invalid", f"{fn.__qualname__}() is a generator; a handler returns once"
        )
    if mode is None:
        return Mode.ASYNC if is_coroutine else Mode.THREAD
    if (mode is Mode.ASYNC and not is_coroutine) or (mode is Mode.THREAD and is_coroutine):
        wanted = "an async function" if mode is Mode.ASYNC else "a plain function"
        raise ConfigurationError(
            "handler.invalid", f"{fn.__qualname__}(): mode {mode.value!r} needs {wanted}"
        )
    return mode


def reference_of(fn: Callable[..., Any]) -> str:
    """`module:qualified.name` that another process can import; for a script, its path in place of the module."""
    if "<" in fn.__qualname__:
        raise ConfigurationError(
            "handler.invalid",
            f"{fn.__qualname__}() cannot run in a process of its own: define it at module level, "
            "where that process can import it",
        )
    module = fn.__module__
    if module == "__main__":
        main = sys.modules["__main__"]
        spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
        if spec is not None:
            module = spec.name
        elif file is not None:
            module = str(Path(file).resolve())
    return f"{module}:{fn.__qualname__}"


def resolve(reference: str) -> Callable[..., Any]:
    """The function behind a reference, undecorated."""
    module, _, name = reference.rpartition(":")
    found: Any
    if module.endswith(".py"):
        # Not "__main__": the script's own main block must not run a second time.
        found = runpy.run_path(module, run_name="__taskforge_main__")[name.split(".")[0]]
    else:
        found = getattr(importlib.import_module(module), name.split(".")[0])
    for part in name.split(".")[1:]:
        found = getattr(found, part)
    fn: Callable[..., Any] = getattr(found, "fn", found)
    return fn
