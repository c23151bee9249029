"""Callbacks and webhooks as Python says them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from taskforge import TaskForge, callback
from taskforge.domain.batches import Callback, CallbackHook
from taskforge.domain.webhooks import secret_text, sign
from taskforge.webhooks import SignatureInvalid, verify

KEY = bytes(range(32))
SECRET = secret_text(KEY)
BODY = b'{"type":"job.failed"}'


def payload(made: Callback) -> Any:
    assert made.job is not None
    return msgspec.json.decode(made.job.payload)


def test_a_callback_is_a_job_with_its_arguments_bound(forge: TaskForge) -> None:
    @forge.job(queue="reports")
    async def report(year: int, month: int = 1) -> None: ...

    made = callback(report, 2026)
    assert made.job is not None and made.batch_as is None
    assert (made.job.queue_name, made.job.job_type, payload(made)) == ("reports", "report", {"year": 2026})
    urgent = callback(report.options(priority=9, tags=("t",)), year=2026)
    assert urgent.job is not None and (urgent.job.priority, urgent.job.tags) == (9, ("t",))
    with pytest.raises(TypeError):
        callback(report)
    with pytest.raises(ValueError, match="a callback takes"):
        callback(report.options(idempotency_key="k"), 2026)


def test_a_callback_whose_function_takes_the_batch_is_passed_it(forge: TaskForge) -> None:
    @forge.job
    async def report(batch: dict[str, Any], year: int) -> None: ...

    made = callback(report, year=2026)
    assert (made.batch_as, payload(made)) == ("batch", {"year": 2026})
    given = callback(report, {"mine": 1}, year=2026)
    assert (given.batch_as, payload(given)) == (None, {"batch": {"mine": 1}, "year": 2026})


async def test_a_batch_that_was_not_opened_says_so(forge: TaskForge) -> None:
    @forge.job
    async def job() -> None: ...

    batch = forge.batch(on_complete="https://example.com/", on_failure=job)
    assert batch._draft.callbacks.on_complete == Callback(webhook=CallbackHook("https://example.com/"))
    with pytest.raises(RuntimeError, match="has not been opened"):
        await batch.progress()


def headers(at: int = 1_000, message: str = "msg_1") -> dict[str, str]:
    signature = sign(KEY, message=message, timestamp=at, body=BODY)
    return {"Webhook-Id": message, "WEBHOOK-TIMESTAMP": str(at), "webhook-signature": f"v1,AAAA {signature}"}


def test_a_good_message_is_read_and_headers_may_be_in_any_case() -> None:
    assert verify(headers(), BODY, [secret_text(bytes(32)), SECRET], now=1_200) == {"type": "job.failed"}


@pytest.mark.parametrize("now", [1_301, 699])
def test_a_message_that_is_too_old_or_from_the_future_is_refused(now: float) -> None:
    with pytest.raises(SignatureInvalid, match="300 seconds"):
        verify(headers(), BODY, [SECRET], now=now)


@pytest.mark.parametrize(
    "change",
    [
        {"Webhook-Id": "msg_2"},
        {"Webhook-Id": ""},
        {"WEBHOOK-TIMESTAMP": "1001"},
        {"WEBHOOK-TIMESTAMP": "1e3"},
        {"WEBHOOK-TIMESTAMP": "-1"},
        {"WEBHOOK-TIMESTAMP": "\u0661000"},
        {"webhook-signature": "v1,"},
        {"webhook-signature": ""},
    ],
)
def test_a_message_that_was_changed_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(SignatureInvalid):
        verify(headers() | change, BODY, [SECRET], now=1_000)
    with pytest.raises(SignatureInvalid):
        verify(headers(), BODY + b" ", [SECRET], now=1_000)
    with pytest.raises(SignatureInvalid):
        verify(headers(), BODY, [], now=1_000)
