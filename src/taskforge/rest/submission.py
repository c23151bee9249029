"""Bodies of the two submit routes, read into drafts.

The usual batch is decoded twice by msgspec (as jobs, and as bare objects to count their keys) and proved free of
duplicate keys by one count over the whole body. A batch that msgspec refuses is read again item by item, so that
each bad item gets its own verdict.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import msgspec
from msgspec import Raw, Struct

from taskforge.domain.jobs import BATCH_LIMIT, DEFAULT_PRIORITY, JobDraft
from taskforge.domain.retry import RetryPolicy
from taskforge.domain.terms import NO_TERMS, TERM_NAMES, Dependency, JobTerms, Unique, Webhook
from taskforge.errors import FieldError, Invalid, Malformed, TaskForgeError
from taskforge.rest.strict_json import (
    MAX_ERRORS,
    check_distinct,
    check_value,
    count_keys,
    count_members,
    decode,
    decode_outline,
    proves_distinct,
    relocate,
)


class SubmitJob(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One job as it is submitted. Bounds are checked by the domain."""

    queue_name: str
    job_type: str
    payload: Raw = msgspec.field(default_factory=lambda: Raw(b"{}"))
    priority: int = DEFAULT_PRIORITY
    max_attempts: int | None = None
    timeout_seconds: float | None = None
    run_at: datetime | None = None
    delay_seconds: float | None = None
    retry: RetryPolicy | None = None
    idempotency_key: str | None = None
    tags: tuple[str, ...] = ()
    concurrency_key: str | None = None
    dependency_key: str | None = None
    expires_at: datetime | None = None
    expires_in_seconds: float | None = None
    deadline_at: datetime | None = None
    deadline_in_seconds: float | None = None
    unique: Unique | None = None
    depends_on: tuple[Dependency, ...] = ()
    batch_id: str | None = None
    webhook: Webhook | None = None
    result_retention_seconds: float | None = None
    schema_version: int | None = None
    parent_id: str | None = None

    def terms(self) -> JobTerms | None:
        """The rarely used part; None when everything in it is left at its default."""
        terms = JobTerms(**{name: getattr(self, name) for name in TERM_NAMES})
        return None if terms == NO_TERMS else terms


class _Wrapped(Struct, frozen=True, forbid_unknown_fields=True):
    jobs: list[SubmitJob]


class _WrappedRaw(Struct, frozen=True, forbid_unknown_fields=True):
    jobs: list[Raw]


class _WrappedBare(Struct, frozen=True, forbid_unknown_fields=True):
    jobs: list[dict[str, Raw]]


Item = JobDraft | TaskForgeError

# Fields that may hold objects of their own, whose keys count as well.
_NESTED = frozenset({"retry", "unique", "depends_on", "webhook"})


class Batch(Struct, frozen=True):
    """Jobs in their order; an item that cannot be read is its error. `base` points at the list in the document."""

    items: list[Item]
    base: str = ""

    def place(self, index: int) -> str:
        return f"{self.base}/{index}"


_job: Callable[[bytes], SubmitJob] = msgspec.json.Decoder(SubmitJob).decode
_jobs: Callable[[bytes], list[SubmitJob]] = msgspec.json.Decoder(list[SubmitJob]).decode
_wrapped = msgspec.json.Decoder(_Wrapped).decode
_outline: Callable[[bytes], Raw] = msgspec.json.Decoder(Raw).decode
_raws: Callable[[bytes], list[Raw]] = msgspec.json.Decoder(list[Raw]).decode
_wrapped_raws = msgspec.json.Decoder(_WrappedRaw).decode
_bare: Callable[[bytes], dict[str, Raw]] = msgspec.json.Decoder(dict[str, Raw]).decode
_bares: Callable[[bytes], list[dict[str, Raw]]] = msgspec.json.Decoder(list[dict[str, Raw]]).decode
_wrapped_bares = msgspec.json.Decoder(_WrappedBare).decode

# An object for each of the shortest items a body of this size can hold is 100 MB; above it they are counted first.
_COUNT_FIRST_ABOVE = 4 * 1024 * 1024


class Reader(Struct, frozen=True):
    """How bodies are read: the payload limit, and the trace context that every job of the request gets."""

    max_payload_bytes: int
    trace: str | None = None

    def read_job(self, body: bytes) -> JobDraft:
        """The one job in `body`. Raises Malformed or Invalid."""
        draft, keys = self._to_draft(decode(body, _job), _bare(body))
        if not proves_distinct(body, keys):
            check_distinct(body)
        return draft

    def read_batch(self, body: bytes) -> Batch:
        """The jobs of a JSON array, or of {"jobs": [...]}.

        Raises Malformed or Invalid when the document as a whole cannot be read, is empty or has too many jobs.
        Cost: about 1 us a job.
        """
        is_wrapped = body.lstrip()[:1] == b"{"
        try:
            jobs = decode(body, _wrapped).jobs if is_wrapped else decode(body, _jobs)
        except (Invalid, Malformed):
            return self._read_apart(body, is_wrapped=is_wrapped)
        _check_size(len(jobs))
        bares = _wrapped_bares(body).jobs if is_wrapped else _bares(body)
        items: list[Item] = []
        keys: list[int] = []
        batch = Batch(items, "/jobs" if is_wrapped else "")
        for job, bare in zip(jobs, bares, strict=True):
            try:
                draft, count = self._to_draft(job, bare)
            except (Invalid, Malformed) as error:
                items.append(relocate(error, batch.place(len(items))))
                keys.append(0)
            else:
                items.append(draft)
                keys.append(count)
        if not proves_distinct(body, sum(keys) + is_wrapped):
            if is_wrapped:
                _check_wrapper(body)
            raws = _wrapped_raws(body).jobs if is_wrapped else _raws(body)
            _check_each_distinct(raws, batch, keys)
        return batch

    def read_lines(self, body: bytes) -> Batch:
        """The jobs of a text with one JSON object a line.

        Empty lines are skipped. Pointers count the jobs, not the lines.
        """
        if not body:
            raise Malformed("request.empty_body", "the request has no body")
        lines = [line for line in body.split(b"\n", _most_line_ends(body)) if line and not line.isspace()]
        _check_size(len(lines))
        return Batch([self._read_item(line, f"/{index}") for index, line in enumerate(lines)])

    def _read_apart(self, body: bytes, *, is_wrapped: bool) -> Batch:
        """Each item by itself. Raises when even the list cannot be read."""
        if len(body) > _COUNT_FIRST_ABOVE:
            decode_outline(body, _outline)
            _check_size(count_members(body, level=2 if is_wrapped else 1, enough=BATCH_LIMIT))
        raws = decode_outline(body, _wrapped_raws).jobs if is_wrapped else decode_outline(body, _raws)
        if is_wrapped:
            _check_wrapper(body)
        _check_size(len(raws))
        base = "/jobs" if is_wrapped else ""
        return Batch([self._read_item(bytes(raw), f"{base}/{index}") for index, raw in enumerate(raws)], base)

    def _read_item(self, raw: bytes, place: str) -> Item:
        try:
            return self.read_job(raw)
        except (Invalid, Malformed) as error:
            return relocate(error, place)

    def _to_draft(self, job: SubmitJob, bare: dict[str, Raw]) -> tuple[JobDraft, int]:
        """The draft, and how many distinct keys the text of the job has."""
        payload = bytes(job.payload)
        if len(payload) > self.max_payload_bytes:
            detail = f"has {len(payload)} bytes, the limit is {self.max_payload_bytes}"
            raise Invalid(
                "job.payload_too_large",
                f"the payload {detail}",
                fields=(FieldError("/payload", "too_large", detail),),
            )
        try:
            keys = len(bare) + count_keys(check_value(payload))
        except (Invalid, Malformed) as error:
            raise relocate(error, "/payload") from None
        for name in _NESTED & bare.keys():
            keys += count_keys(check_value(bytes(bare[name])))
        draft = JobDraft(
            job.queue_name,
            job.job_type,
            payload,
            job.priority,
            job.max_attempts,
            job.timeout_seconds,
            job.run_at,
            job.delay_seconds,
            job.retry,
            job.idempotency_key,
            job.tags,
            self.trace,
            None if TERM_NAMES.isdisjoint(bare) else job.terms(),
        )
        return draft, keys


def refuse_if_any(batch: Batch) -> list[JobDraft]:
    """The drafts, or Invalid with what is wrong with all the bad items together."""
    bad = [(index, item) for index, item in enumerate(batch.items) if isinstance(item, TaskForgeError)]
    if bad:
        fields = [
            field
            for index, error in bad
            for field in error.fields or (FieldError(batch.place(index), error.code, error.detail),)
        ]
        raise Invalid(
            "batch.invalid",
            f"{len(bad)} of {len(batch.items)} jobs cannot be accepted, so none was stored",
            fields=tuple(fields[:MAX_ERRORS]),
        )
    return [item for item in batch.items if isinstance(item, JobDraft)]


def _check_wrapper(body: bytes) -> None:
    """Raise Invalid when {"jobs": ...} gives `jobs` twice: there is no telling which list is meant."""
    if count_members(body, level=1, enough=1) > 1:
        detail = "this key is given more than once"
        raise Invalid("request.duplicate_key", detail, fields=(FieldError("/jobs", "duplicate_key", detail),))


def _check_each_distinct(raws: list[Raw], batch: Batch, keys: list[int]) -> None:
    """Put an error in the place of each item that has a key twice."""
    for index, raw in enumerate(raws):
        text = bytes(raw)
        if isinstance(batch.items[index], JobDraft) and not proves_distinct(text, keys[index]):
            try:
                check_distinct(text)
            except Invalid as error:
                batch.items[index] = relocate(error, batch.place(index))


def _most_line_ends(body: bytes) -> int:
    # Nothing is split further than what is refused anyway, so a body of nothing but line ends stays cheap.
    return -1 if body.count(b"\n") <= 2 * BATCH_LIMIT else 2 * BATCH_LIMIT


def _check_size(count: int) -> None:
    if count > BATCH_LIMIT:
        detail = f"a batch has at most {BATCH_LIMIT} jobs"
        raise Invalid("batch.too_many", detail, fields=(FieldError("", "too_many", detail),))
    if count == 0:
        detail = "a batch has at least one job"
        raise Invalid("batch.empty", detail, fields=(FieldError("", "empty", detail),))
