"""The process that runs one handler at a time for a worker (`mode="process"`).

It talks to its worker over one socket: a length and a msgpack document, in turns. A thread reads, so that the
death of the worker, which closes the socket, ends this process also while a handler runs.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import msgspec
from msgspec import Struct

from taskforge.worker.binding import Binding
from taskforge.worker.conclusions import (
    Broke,
    Conclusion,
    conclude_error,
    conclude_value,
    invalid_payload,
)
from taskforge.worker.context import JobContext, current
from taskforge.worker.handlers import resolve

HEADER = struct.Struct("!I")


class Assignment(Struct, frozen=True):
    """One job to run. Times do not travel: `seconds` is what is left of the job's time."""

    reference: str
    payload: bytes
    job_id: str
    job_type: str
    queue_name: str
    attempt: int
    fence: int
    seconds: float


class Word(Struct, frozen=True, tag="word"):
    """How far the job says it is; any number of these come before its conclusion."""

    fraction: float
    message: str


encode = msgspec.msgpack.Encoder().encode
decode_assignment = msgspec.msgpack.Decoder(Assignment).decode
decode_answer: Callable[[bytes], Conclusion | Word] = msgspec.msgpack.Decoder(Conclusion | Word).decode


def main(fd: int) -> None:
    """Serve the worker at the other end of socket `fd` until it is gone."""
    connection = socket.socket(fileno=fd)
    inbox: SimpleQueue[Assignment] = SimpleQueue()
    threading.Thread(target=_listen, args=(connection, inbox), name="taskforge-child", daemon=True).start()
    known: dict[str, tuple[Callable[..., Any], Binding]] = {}

    def say(answer: Conclusion | Word) -> None:
        body = encode(answer)
        connection.sendall(HEADER.pack(len(body)) + body)

    while True:
        say(run(inbox.get(), known, say))


def run(
    job: Assignment,
    known: dict[str, tuple[Callable[..., Any], Binding]],
    say: Callable[[Word], None] = lambda word: None,
) -> Conclusion:
    """The conclusion of running one job; `known` remembers what was imported before, `say` hears of progress."""
    try:
        if job.reference not in known:
            fn = resolve(job.reference)
            known[job.reference] = fn, Binding(fn)
        fn, binding = known[job.reference]
    except BaseException as error:
        broke = conclude_error(error)
        return Broke("handler.unavailable", getattr(broke, "message", ""), getattr(broke, "traceback", ""))
    try:
        args, kwargs = binding.read(job.payload)
    except Exception as error:
        return invalid_payload(error)
    context = JobContext(
        job_id=job.job_id,
        job_type=job.job_type,
        queue_name=job.queue_name,
        attempt=job.attempt,
        fence=job.fence,
        deadline=time.monotonic() + job.seconds,
        on_progress=lambda context: say(Word(context.fraction, context.message)),
    )
    token = current.set(lambda: context)
    try:
        value = fn(*args, **kwargs)
        if inspect.iscoroutine(value):
            value = asyncio.run(value)
        return conclude_value(value)
    except BaseException as error:
        return conclude_error(error)
    finally:
        current.reset(token)


def _listen(connection: socket.socket, inbox: SimpleQueue[Assignment]) -> None:
    stream = connection.makefile("rb")
    while True:
        header = stream.read(HEADER.size)
        if len(header) < HEADER.size:
            os._exit(0)
        body = stream.read(HEADER.unpack(header)[0])
        inbox.put(decode_assignment(body))


if __name__ == "__main__":
    main(int(sys.argv[1]))
