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
from datetime import datetime
from queue import SimpleQueue
from typing import Any
from uuid import UUID

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
PAUSE_BETWEEN_WORDS = 0.1


class Assignment(Struct, frozen=True):
    """One job to run. Times do not travel: `seconds` is what is left of the job's time."""

    reference: str
    payload: bytes
    job_id: str
    job_type: str
    queue_name: str
    attempt: int
    fence: int
    tenant_id: UUID
    acts_for_tenant: bool
    seconds: float
    job_deadline: datetime | None = None


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

    def send(answer: Conclusion | Word) -> None:
        body = encode(answer)
        connection.sendall(HEADER.pack(len(body)) + body)

    while True:
        job = inbox.get()
        words = Words(send)
        words.conclude(run(job, known, words))


class Words:
    """What one job says. The newest word travels, in a thread that starts with the first: a handler that says much
    neither waits for the socket nor floods its worker. Nothing travels after the conclusion."""

    def __init__(self, send: Callable[[Conclusion | Word], None]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._arrived = threading.Event()
        self._newest: Word | None = None
        self._started = False
        self._over = False

    def note(self, context: JobContext) -> None:
        with self._lock:
            if self._over:  # a thread of the handler's own outlived it
                return
            self._newest = Word(context.fraction, context.message)
            if not self._started:
                self._started = True
                threading.Thread(target=self._run, name="taskforge-progress", daemon=True).start()
        self._arrived.set()

    def conclude(self, conclusion: Conclusion) -> None:
        with self._lock:
            self._over = True
            self._send_newest()
            self._send(conclusion)
        self._arrived.set()

    def _run(self) -> None:
        while True:
            self._arrived.wait()
            self._arrived.clear()
            with self._lock:
                if self._over:
                    return
                self._send_newest()
            time.sleep(PAUSE_BETWEEN_WORDS)

    def _send_newest(self) -> None:
        word, self._newest = self._newest, None
        if word is not None:
            self._send(word)


def run(job: Assignment, known: dict[str, tuple[Callable[..., Any], Binding]], words: Words) -> Conclusion:
    """The conclusion of running one job; `known` remembers what was imported before, `words` hears of progress."""
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
        tenant_id=job.tenant_id,
        acts_for_tenant=job.acts_for_tenant,
        deadline=time.monotonic() + job.seconds,
        job_deadline=job.job_deadline,
        on_progress=words.note,
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
