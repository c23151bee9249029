from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from taskforge.domain.idempotency import body_hash
from taskforge.domain.jobs import JobDraft

PLAIN = JobDraft("default", "noop", b"")

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda v: st.lists(v) | st.dictionaries(st.text(), v),
)


@given(values)
def test_spacing_and_key_order_do_not_count(value: object) -> None:
    compact = json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
    spacious = json.dumps(value, indent=3).encode()
    assert body_hash(PLAIN, compact) == body_hash(PLAIN, spacious)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"1", b"2"),
        (b"1", b'"1"'),
        (b"1", b"1.0"),
        (b"1.0", b"1.00"),
        (b"1e400", b"1e401"),
        (b"[1,2]", b"[2,1]"),
        (b"null", b"{}"),
        (b'"a"', b'"A"'),
        (b"not json", b"not json either"),
        (b'"\\ud800"', b'"\\ud801"'),
    ],
)
def test_payloads_that_mean_something_else_differ(one: bytes, other: bytes) -> None:
    assert body_hash(PLAIN, one) != body_hash(PLAIN, other)


@pytest.mark.parametrize(
    "change",
    [
        {"queue_name": "other"},
        {"job_type": "other"},
        {"priority": 6},
        {"max_attempts": 3},
        {"delay_seconds": 1.0},
        {"tags": ("t",)},
    ],
)
def test_every_other_field_counts(change: dict[str, object]) -> None:
    assert body_hash(PLAIN, b"{}") != body_hash(structs.replace(PLAIN, **change), b"{}")


def test_the_trace_does_not_count() -> None:
    assert body_hash(PLAIN, b"{}") == body_hash(structs.replace(PLAIN, trace="00-1-2-01"), b"{}")


def test_a_payload_nested_beyond_all_measure_has_a_hash_all_the_same() -> None:
    assert len(body_hash(PLAIN, b"[" * 100_000 + b"]" * 100_000)) == 32
