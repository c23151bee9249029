from __future__ import annotations

import msgspec
import pytest

from taskforge import TaskForge, transactions
from taskforge.domain.jobs import JobDraft
from taskforge.domain.retry import RetryKind, RetryPolicy
from taskforge.domain.terms import Dependency, JobTerms, Unique, Webhook


def test_what_is_no_connection_is_refused_at_once(forge: TaskForge) -> None:
    @forge.job
    async def job() -> None: ...

    with pytest.raises(TypeError, match="asyncpg, psycopg or SQLAlchemy"):
        job.options(connection=object())


def test_an_idempotency_key_has_no_place_in_a_transaction() -> None:
    draft = JobDraft("default", "send", b"", idempotency_key="key")
    with pytest.raises(ValueError, match="idempotency key"):
        transactions._drafts(draft, [b"{}"])


def test_payloads_travel_as_text() -> None:
    draft = JobDraft("default", "send", b"", retry=RetryPolicy(RetryKind.FIXED, 5.0), tags=("a",))
    [item] = msgspec.json.decode(transactions._drafts(draft, [b'{"n":1.0}']))
    assert item["payload_text"] == '{"n":1.0}'
    assert item["options"] == {"retry": {"kind": "fixed", "base_seconds": 5.0}, "tags": ["a"]}
    assert "max_attempts" not in item


def test_a_batch_cannot_be_joined_inside_a_transaction_but_a_webhook_can_be_named() -> None:
    draft = JobDraft("default", "send", b"", terms=JobTerms(batch_id="1"))
    with pytest.raises(ValueError, match="cannot join a batch"):
        transactions._drafts(draft, [b"{}"])
    told = JobDraft("default", "send", b"", terms=JobTerms(webhook=Webhook("https://example.com/")))
    [item] = msgspec.json.decode(transactions._drafts(told, [b"{}"]))
    assert item["options"]["terms"]["webhook"]["url"] == "https://example.com/"


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (JobTerms(unique=Unique("k")), "a unique key cannot be used"),
        (JobTerms(depends_on=(Dependency("1"),)), "cannot depend on others"),
    ],
)
def test_what_others_would_wait_for_is_refused_inside_a_transaction(terms: JobTerms, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transactions._drafts(JobDraft("default", "send", b"", terms=terms), [b"{}"])
