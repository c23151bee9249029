"""Submitting a file of jobs, piece by piece."""

from __future__ import annotations

import asyncio
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import BinaryIO
from uuid import UUID

import click
from msgspec import Struct

from taskforge.cli import failures
from taskforge.cli.access import Access, open_access
from taskforge.cli.command import Common
from taskforge.cli.output import emit, plain, progress, say
from taskforge.domain.jobs import JobDraft
from taskforge.errors import FieldError, Invalid, Malformed, TaskForgeError
from taskforge.rest.submission import Reader

PIECE_JOBS = 1_000
PIECE_BYTES = 4 * 1024 * 1024

_PLACE = re.compile(r"/(\d+)(.*)", re.DOTALL)


class _Wrong(Struct, frozen=True):
    code: str
    detail: str


class _LineVerdict(Struct, frozen=True, omit_defaults=True):
    """What `--json` prints for a line."""

    line: int
    id: str | None = None
    state: str | None = None
    created: bool = True
    error: _Wrong | None = None


class _Line(Struct, frozen=True):
    number: int
    draft: JobDraft


def submit_file(common: Common, name: str, tenant: UUID | None, *, skip_invalid: bool) -> int:
    """Submit the jobs of a file (`-`: stdin); the exit code.

    The file is read between two runs of the event loop, so that Ctrl-C ends a read that waits for more.
    """
    try:
        stream: BinaryIO = sys.stdin.buffer if name == "-" else open(name, "rb")  # noqa: SIM115
    except OSError as error:
        raise click.UsageError(f"{name} cannot be read: {error.strerror}") from None
    upload = _Upload(common, skip_invalid=skip_invalid)
    with stream, asyncio.Runner() as runner, progress() as bar:
        stack = AsyncExitStack()
        task = bar.add_task("submitting", total=None)
        try:
            access = runner.run(stack.enter_async_context(open_access(common, tenant_id=tenant)))
            size = _size(stream)
            for piece in upload.pieces(stream):
                runner.run(upload.store(access, piece))
                share = upload.bytes_read / size if size else 0
                bar.update(task, completed=upload.lines, total=round(upload.lines / share) if share else None)
        except BaseException:
            say(f"stopped: {upload.stored} jobs of lines 1 to {upload.lines} are stored, nothing after them")
            raise
        finally:
            runner.run(stack.aclose())
    replayed = f", {upload.replayed} were there before" if upload.replayed else ""
    wrong = f", {upload.wrong} wrong lines were left out" if upload.wrong else ""
    say(f"{upload.stored} jobs are stored{replayed}{wrong}")
    return failures.FAILURE if upload.wrong else 0


class _Upload:
    """`lines` counts what is settled: stored, or reported as wrong."""

    def __init__(self, common: Common, *, skip_invalid: bool) -> None:
        settings = common.settings()
        self._reader = Reader(settings.max_payload_bytes)
        self._longest = settings.max_body_bytes
        self._is_json = common.is_json
        self._skips = skip_invalid
        self._read = 0
        self.bytes_read = 0
        self.lines = 0
        self.stored = 0
        self.replayed = 0
        self.wrong = 0

    def pieces(self, stream: BinaryIO) -> Iterator[list[_Line]]:
        """Never more than one piece is in memory."""
        piece: list[_Line] = []
        size = 0
        while text := stream.readline(self._longest + 1):
            self._read += 1
            self.bytes_read += len(text)
            if text.isspace():
                continue
            try:
                if len(text) > self._longest:
                    raise Malformed("request.too_large", f"a line has at most {self._longest} bytes")
                draft = self._reader.read_job(text)
            except (Invalid, Malformed) as error:
                if not self._skips or len(text) > self._longest:
                    if piece:
                        yield piece
                    raise _at(error, self._read) from None
                self._refuse(self._read, error)
                continue
            piece.append(_Line(self._read, draft))
            size += len(text)
            if len(piece) >= PIECE_JOBS or size >= PIECE_BYTES:
                yield piece
                piece, size = [], 0
        if piece:
            yield piece

    async def store(self, access: Access, piece: list[_Line]) -> None:
        try:
            verdicts = await access.submit_all([line.draft for line in piece], atomic=not self._skips)
        except (Invalid, Malformed) as error:
            raise _placed(error, piece) from None
        for line, verdict in zip(piece, verdicts, strict=True):
            if verdict.error is not None:
                self._refuse(line.number, verdict.error)
                continue
            self.stored += verdict.created
            self.replayed += not verdict.created
            if self._is_json:
                state = None if verdict.state is None else verdict.state.value
                emit(_LineVerdict(line.number, str(verdict.job_id), state, verdict.created))
        self.lines = piece[-1].number

    def _refuse(self, number: int, error: TaskForgeError) -> None:
        self.wrong += 1
        if self._is_json:
            emit(_LineVerdict(number, created=False, error=_Wrong(error.code, _said(error))))
        else:
            say(f"line {number}: {plain(_said(error))} [{error.code}]")


def _said(error: TaskForgeError) -> str:
    told = "; ".join(f"{field.pointer}: {field.detail}" for field in error.fields)
    return told or error.detail


def _at(error: TaskForgeError, number: int) -> TaskForgeError:
    return type(error)(error.code, f"line {number}: {_said(error)}", job_id=error.job_id)


def _placed(error: TaskForgeError, piece: list[_Line]) -> TaskForgeError:
    """The error of a whole piece, with lines of the file in place of indexes into the piece."""
    fields = []
    for field in error.fields:
        number, rest = piece[0].number, field.pointer
        match = _PLACE.fullmatch(field.pointer) if len(piece) > 1 else None
        if match is not None and int(match[1]) < len(piece):
            number, rest = piece[int(match[1])].number, match[2]
        fields.append(FieldError(f"line {number}", field.code, f"{rest}: {field.detail}"))
    return type(error)(error.code, error.detail, fields=tuple(fields), job_id=error.job_id)


def _size(stream: BinaryIO) -> int | None:
    status = os.fstat(stream.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None
