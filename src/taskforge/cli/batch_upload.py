"""Sending a file of jobs into a batch: numbered pieces, each stored exactly once, in constant memory."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import BinaryIO
from uuid import UUID

import click

from taskforge.api import Api, path_of
from taskforge.cli.access import open_access
from taskforge.cli.command import Common
from taskforge.cli.output import emit, plain, progress, say
from taskforge.domain.batches import BatchDraft, BatchView
from taskforge.errors import TaskForgeError, Unavailable
from taskforge.rest.schemas import BatchStreamed

PIECE_LINES = 5_000
PIECE_BYTES = 4 * 1024 * 1024
ATTEMPTS = 6
_NDJSON = "application/x-ndjson"


class Upload:
    """`at` counts the items that are settled; `refused` those of them that were wrong."""

    def __init__(self, draft: BatchDraft, batch_id: str | None, *, seals: bool, skips: bool) -> None:
        self._draft = draft
        self._seals = seals
        self._skips = skips
        self.batch_id = batch_id
        self.at = 0
        self.bytes_read = 0
        self.refused = 0

    async def open(self, api: Api) -> int:
        """How many items the batch has received before."""
        if self.batch_id is None:
            self.batch_id = (await api.call("POST", path_of("batches"), self._draft, reads=BatchView)).id
            return 0
        return (await api.call("GET", path_of("batches", self.batch_id), reads=BatchView)).received

    def pieces(self, stream: BinaryIO, longest: int) -> Iterator[list[bytes]]:
        """Lines that are not empty; never more than one piece is in memory."""
        piece: list[bytes] = []
        size = 0
        while line := stream.readline(longest + 1):
            self.bytes_read += len(line)
            if line.isspace():
                continue
            if len(line) > longest:
                raise click.ClickException(f"a line has at most {longest} bytes")
            piece.append(line if line.endswith(b"\n") else line + b"\n")
            size += len(line)
            if len(piece) >= PIECE_LINES or size >= PIECE_BYTES:
                yield piece
                piece, size = [], 0
        if piece:
            yield piece

    async def store(self, api: Api, piece: list[bytes], *, is_json: bool) -> None:
        """Sent again until its answer arrives: what was stored by then is skipped."""
        assert self.batch_id is not None
        query = {"first": self.at + 1, "skip_invalid": self._skips}
        path = path_of("batches", self.batch_id, "jobs", query=query)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                done = await api.send("POST", path, b"".join(piece), _NDJSON, reads=BatchStreamed)
                break
            except Unavailable as error:
                if attempt == ATTEMPTS:
                    raise
                await asyncio.sleep(max(error.retry_after or 0.0, 0.2 * 2**attempt))
        self.at += len(piece)
        self.refused += done.refused
        for wrong in done.errors:
            if is_json:
                emit(wrong)
            elif wrong.error is not None:
                say(f"item {wrong.item}: {plain(_said(wrong.error))} [{wrong.error.code}]")

    async def close(self, api: Api) -> BatchView:
        assert self.batch_id is not None
        if self._seals:
            return await api.call("POST", path_of("batches", self.batch_id, "seal"), reads=BatchView)
        return await api.call("GET", path_of("batches", self.batch_id), reads=BatchView)


def upload_file(common: Common, name: str, tenant: UUID | None, upload: Upload) -> BatchView:
    """Send the file (`-`: stdin), with a bar on a terminal; the batch afterwards.

    The file is read between two runs of the event loop, so that Ctrl-C ends a read that waits for more.
    """
    try:
        stream: BinaryIO = sys.stdin.buffer if name == "-" else open(name, "rb")  # noqa: SIM115
    except OSError as error:
        raise click.UsageError(f"{name} cannot be read: {error.strerror}") from None
    with stream, asyncio.Runner() as runner, progress() as bar:
        stack = AsyncExitStack()
        task = bar.add_task("submitting", total=None)
        try:
            access = runner.run(stack.enter_async_context(open_access(common, tenant_id=tenant)))
            size = _size(stream)
            received = runner.run(upload.open(access.api))
            for piece in upload.pieces(stream, common.settings().max_body_bytes):
                if upload.at + len(piece) > received:
                    runner.run(upload.store(access.api, piece, is_json=common.is_json))
                else:
                    upload.at += len(piece)
                share = upload.bytes_read / size if size else 0
                bar.update(task, completed=upload.at, total=round(upload.at / share) if share else None)
            return runner.run(upload.close(access.api))
        except BaseException:
            if upload.batch_id is not None:
                say(
                    f"stopped: batch {upload.batch_id} is open and holds what is stored; "
                    f"go on with the same file and --batch {upload.batch_id}"
                )
            raise
        finally:
            runner.run(stack.aclose())


def _said(error: object) -> str:
    fields = getattr(error, "errors", ())
    told = "; ".join(f"{field.pointer}: {field.detail}" for field in fields)
    return told or str(error.detail if isinstance(error, TaskForgeError) else getattr(error, "detail", ""))


def _size(stream: BinaryIO) -> int | None:
    status = os.fstat(stream.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None
