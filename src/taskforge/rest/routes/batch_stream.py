"""POST /api/v1/batches/{id}/jobs: any number of jobs, stored while they arrive."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from typing import Literal, NoReturn

from litestar.types import Receive, Scope, Send
from msgspec import Struct

from taskforge.domain.batches import BatchState, Piece
from taskforge.domain.jobs import JobDraft, Verdict
from taskforge.domain.tenants import Context
from taskforge.errors import Conflict, FieldError, Invalid, Malformed, TaskForgeError, UnsupportedMedia
from taskforge.rest.bodies import check_content_type
from taskforge.rest.lines import read_pieces
from taskforge.rest.parameters import read_query
from taskforge.rest.replies import NDJSON, Reply, encode, json_reply
from taskforge.rest.schemas import BatchStreamed, ItemError, StreamVerdict
from taskforge.rest.state import RestState, enter
from taskforge.rest.submission import Reader
from taskforge.services import batches

MAX_ERRORS = 1_000
_INDEX = re.compile(r"/(\d+)(/.*|)", re.DOTALL)


class StreamQuery(Struct, frozen=True):
    first: int | None = None
    seal: bool = False
    skip_invalid: bool = False
    verdicts: Literal["summary", "all"] = "summary"


async def add_jobs(scope: Scope, receive: Receive, batch_id: int) -> Reply:
    """The answer, once all is stored; or one that stores while it answers, if every verdict is wanted."""
    rest, ctx = enter(scope)
    rest.refuse_if_draining()
    query = read_query(scope, StreamQuery)
    if not check_content_type(scope, allow_ndjson=True):
        raise UnsupportedMedia("request.content_type", "send application/x-ndjson, one job a line")
    batch = await batches.get(rest.core, ctx, batch_id)
    if query.first is not None and not 1 <= query.first <= batch.received + 1:
        raise Conflict(
            "batch.out_of_order",
            f"batch {batch_id} has received {batch.received} items; go on with item {batch.received + 1}",
        )
    if batch.state is not BatchState.OPEN:
        raise Conflict("batch.sealed", f"batch {batch_id} is sealed; no job can join it any more")
    intake = _Intake(rest, ctx, batch_id, query, rest.reader(scope), batch.received)
    if query.verdicts == "all":
        return _Streamed(intake)
    async for _ in intake.run(receive):
        pass
    return json_reply(await intake.end())


class _Intake:
    """Counts what became of the items. `_at` is the number of the last one that was read."""

    def __init__(
        self,
        rest: RestState,
        ctx: Context,
        batch_id: int,
        query: StreamQuery,
        reader: Reader,
        received: int,
    ) -> None:
        self._rest = rest
        self._ctx = ctx
        self._batch_id = batch_id
        self._query = query
        self._reader = reader
        self._received = received
        self._at = 0 if query.first is None else query.first - 1
        self._stored = 0
        self._replayed = 0
        self._refused = 0
        self._skipped = 0
        self._errors: list[StreamVerdict] = []

    async def run(self, receive: Receive) -> AsyncIterator[list[StreamVerdict]]:
        """Store what arrives, piece by piece; the verdicts of each."""
        async for piece in read_pieces(receive, longest=self._rest.max_body_bytes):
            self._rest.refuse_if_draining()
            yield await self._take(piece)
        if self._query.seal:
            await batches.seal(self._rest.core, self._ctx, self._batch_id)

    async def end(self) -> BatchStreamed:
        batch = await batches.get(self._rest.core, self._ctx, self._batch_id)
        return BatchStreamed(self._stored, self._replayed, self._refused, self._skipped, self._errors, batch)

    async def _take(self, lines: list[bytes]) -> list[StreamVerdict]:
        """Store a piece; the verdicts of those of its items that were not settled before."""
        before = self._at
        if self._query.first is not None and before < self._received:
            known = min(len(lines), self._received - before)
            self._skipped += known
            self._at = before = before + known
            lines = lines[known:]
        if not lines:
            return []
        items = [self._read(line) for line in lines]
        bad = next((i for i, item in enumerate(items) if isinstance(item, TaskForgeError)), None)
        if bad is not None and not self._query.skip_invalid:
            await self._store_all(items[:bad], before)
            self._stop(items[bad], before + bad + 1)
        verdicts = await (self._store_each if self._query.skip_invalid else self._store_all)(items, before)
        self._at = before + len(items)
        return [self._count(verdict, before + number) for number, verdict in enumerate(verdicts, start=1)]

    def _read(self, line: bytes) -> JobDraft | TaskForgeError:
        try:
            return self._reader.read_job(line)
        except (Invalid, Malformed) as error:
            return error

    async def _store_each(self, items: list[JobDraft | TaskForgeError], before: int) -> list[Verdict]:
        drafts = [item for item in items if isinstance(item, JobDraft)]
        stored = iter(await self._add(drafts, self._piece(before, len(items))))
        return [
            Verdict(None, created=False, error=item) if isinstance(item, TaskForgeError) else next(stored)
            for item in items
        ]

    async def _store_all(self, items: list[JobDraft | TaskForgeError], before: int) -> list[Verdict]:
        """All of them; or those before the first that cannot be stored, and then it ends with that one's error."""
        drafts = [item for item in items if isinstance(item, JobDraft)]
        if not drafts:
            return []
        try:
            return await self._add(drafts, self._piece(before, len(drafts)), atomic=True)
        except Invalid as error:
            place = _place(error, len(drafts))
            if place is None:
                raise
            if place > 0:
                await self._store_all(items[:place], before)
            self._stop(error, before + place + 1)

    async def _add(
        self, drafts: list[JobDraft], piece: Piece | None, *, atomic: bool = False
    ) -> list[Verdict]:
        if not drafts and piece is None:
            return []
        return await batches.add(
            self._rest.core, self._ctx, self._batch_id, drafts, piece=piece, atomic=atomic
        )

    def _piece(self, before: int, count: int) -> Piece | None:
        return None if self._query.first is None else Piece(self._batch_id, before, before + count)

    def _stop(self, error: JobDraft | TaskForgeError, number: int) -> NoReturn:
        """End with the error of one item, which says how far the rest has come."""
        assert isinstance(error, TaskForgeError)
        fields = tuple(
            FieldError(f"/{number - 1}{_below(field.pointer)}", field.code, field.detail)
            for field in error.fields[:100]
        )
        detail = f"item {number}: {error.detail}; the items before it are stored, nothing after it"
        raise Invalid(
            error.code, detail, fields=fields or (FieldError(f"/{number - 1}", error.code, detail),)
        )

    def _count(self, verdict: Verdict, number: int) -> StreamVerdict:
        error = verdict.error
        if error is not None:
            self._refused += 1
            told = StreamVerdict(number, created=False, error=ItemError.of(error))
            if len(self._errors) < MAX_ERRORS:
                self._errors.append(told)
            return told
        self._stored += verdict.created
        self._replayed += not verdict.created
        self._rest.metrics.submitted(verdict.created)
        return StreamVerdict(number, str(verdict.job_id), verdict.state, verdict.created)


class _Streamed(Reply):
    """One verdict a line, begun with the first piece; a summary, or why it ended early, is the last line."""

    def __init__(self, intake: _Intake) -> None:
        super().__init__(200, b"", media=NDJSON)
        self._intake = intake

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False
        last: BatchStreamed | StreamVerdict

        async def tell(values: Sequence[StreamVerdict | BatchStreamed], *, more: bool) -> None:
            nonlocal has_begun
            if not has_begun:
                has_begun = True
                headers = [(b"content-type", NDJSON)]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
            body = b"".join(encode(value) + b"\n" for value in values)
            await send({"type": "http.response.body", "body": body, "more_body": more})

        try:
            async for verdicts in self._intake.run(receive):
                await tell(verdicts, more=True)
            last = await self._intake.end()
        except TaskForgeError as error:
            if not has_begun:
                raise
            # The status has been sent: only the last line can say that it went wrong.
            last = StreamVerdict(created=False, error=ItemError.of(error))
        await tell([last], more=False)


def _place(error: TaskForgeError, count: int) -> int | None:
    """Which of the drafts is the first that is wrong."""
    if count == 1:
        return 0
    found = [int(match[1]) for field in error.fields if (match := _INDEX.fullmatch(field.pointer))]
    return min(found, default=None)


def _below(pointer: str) -> str:
    match = _INDEX.fullmatch(pointer)
    return match[2] if match else pointer
