"""How one run of a handler ended, before anything is known of attempts, leases and time.

These cross the pipe from a handler's own process, so they are plain values. Everything in them can be stored:
text is bounded, and what UTF-8 or PostgreSQL cannot hold is escaped.
"""

from __future__ import annotations

import traceback
from types import TracebackType

import msgspec
from msgspec import Struct

from taskforge.domain.retry import MAX_DELAY_SECONDS
from taskforge.worker.answers import Answer, Cancel, Discard, Retry, Snooze

MAX_MESSAGE = 2_000
MAX_TRACEBACK = 16_000
MAX_RESULT_BYTES = 1024 * 1024
_FRAMES = 40


class Returned(Struct, frozen=True, tag="returned"):
    """The handler returned; `result` is JSON, or None for no result."""

    result: bytes | None = None


class Broke(Struct, frozen=True, tag="broke"):
    """The attempt failed. `after` overrides the retry policy's delay; not `retryable` is a dead letter at once."""

    error_class: str
    message: str = ""
    traceback: str = ""
    retryable: bool = True
    after: float | None = None


class Paused(Struct, frozen=True, tag="paused"):
    """The handler snoozed."""

    delay: float


class Stopped(Struct, frozen=True, tag="stopped"):
    """The job is over without success or failure."""

    reason: str = ""


class GivenBack(Struct, frozen=True, tag="given_back"):
    """The run was broken off by the worker; it counts for nothing."""


Conclusion = Returned | Broke | Paused | Stopped | GivenBack


def conclude_value(value: object) -> Conclusion:
    """The conclusion for what a handler returned."""
    if value is None:
        return Returned()
    if isinstance(value, Answer):
        return _conclude_answer(value)
    try:
        result = msgspec.json.encode(value, enc_hook=encode_model)
    except Exception as error:  # whatever a value's own encoding raises is the handler's mistake
        return Broke(
            "result.invalid", storable(f"the result is not JSON: {error}", MAX_MESSAGE), retryable=False
        )
    if len(result) > MAX_RESULT_BYTES:
        detail = f"the result has {len(result)} bytes, the limit is {MAX_RESULT_BYTES}"
        return Broke("result.invalid", detail, retryable=False)
    return Returned(result)


def conclude_error(error: BaseException) -> Conclusion:
    """The conclusion for what a handler raised."""
    if isinstance(error, Answer):
        return _conclude_answer(error)
    return Broke(type(error).__name__, _message(error), _traceback(error))


def invalid_payload(error: Exception) -> Broke:
    return Broke("payload.invalid", storable(str(error), MAX_MESSAGE), retryable=False)


def encode_model(value: object) -> object:
    """Let results and arguments hold pydantic models without depending on pydantic."""
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump(mode="json")
    raise NotImplementedError(f"objects of type {type(value).__name__} cannot be written as JSON")


def storable(text: str, limit: int) -> str:
    """`text` cut to `limit` characters in the middle, with lone surrogates and NUL escaped."""
    if len(text) > limit:
        half = limit // 2
        text = f"{text[:half]}\n[... {len(text) - limit} characters left out ...]\n{text[-half:]}"
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\x00", "\\x00")


def _conclude_answer(answer: Answer) -> Conclusion:
    reason = storable(str(answer), MAX_MESSAGE)
    if isinstance(answer, Retry):
        return Broke("Retry", reason, after=None if answer.after is None else _bounded(answer.after))
    if isinstance(answer, Snooze):
        return Paused(_bounded(answer.delay))
    if isinstance(answer, Cancel):
        return Stopped(reason)
    if isinstance(answer, Discard):
        return Broke("Discard", reason, retryable=False)
    return Broke(type(answer).__name__, reason)


def _bounded(delay: float) -> float:
    # Written so that NaN ends up at the lower bound.
    return min(delay, MAX_DELAY_SECONDS) if delay > 0 else 0.0


def _message(error: BaseException) -> str:
    try:
        return storable(str(error), MAX_MESSAGE)
    except Exception as second:  # an exception's own __str__ may fail
        return f"<{type(error).__name__}, whose text cannot be read: {type(second).__name__}>"


def _traceback(error: BaseException) -> str:
    try:
        shown = traceback.TracebackException(
            type(error), error, _without_own_frames(error.__traceback__), limit=-_FRAMES, compact=True
        )
        return storable("".join(shown.format()), MAX_TRACEBACK)
    except Exception:  # as above: formatting calls the exception's own code
        return ""


def _without_own_frames(tb: TracebackType | None) -> TracebackType | None:
    """Drop the leading frames of the worker itself; a handler's author wants to see the handler."""
    while (
        tb is not None and tb.tb_next is not None and tb.tb_frame.f_globals.get("__package__") == __package__
    ):
        tb = tb.tb_next
    return tb
