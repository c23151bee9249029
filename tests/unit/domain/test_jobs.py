from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from taskforge.domain import jobs as rules
from taskforge.domain.jobs import FINAL_STATES, JobDraft, JobState
from taskforge.domain.retry import RetryPolicy
from taskforge.errors import Invalid

NOW = datetime(2030, 1, 1, tzinfo=UTC)
PLAIN = JobDraft("default", "send_email", b"{}")


def fields_of(draft: JobDraft) -> list[tuple[str, str]]:
    try:
        rules.check_draft(draft, now=NOW, max_payload_bytes=100, pointer="/3")
    except Invalid as error:
        return [(field.pointer, field.code) for field in error.fields]
    return []


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"queue_name": "a" * 128},
        {"queue_name": "0.a_b-c"},
        {"job_type": "Module.sub:Fn-1"},
        {"payload": b"x" * 100},
        {"priority": 0},
        {"priority": 9},
        {"max_attempts": 1},
        {"max_attempts": 100},
        {"timeout_seconds": 0.001},
        {"timeout_seconds": 604_800.0},
        {"delay_seconds": 0.0},
        {"delay_seconds": 10 * 365 * 86_400.0},
        {"run_at": NOW - timedelta(days=365)},
        {"run_at": NOW + timedelta(days=3_650)},
        {"idempotency_key": "!" * 255},
        {"tags": ("A", "b.c:d")},
        {"retry": RetryPolicy()},
    ],
)
def test_what_is_allowed_passes(change: dict[str, object]) -> None:
    assert fields_of(structs.replace(PLAIN, **change)) == []


@pytest.mark.parametrize(
    ("change", "field", "code"),
    [
        ({"queue_name": ""}, "queue_name", "pattern"),
        ({"queue_name": "a" * 129}, "queue_name", "pattern"),
        ({"queue_name": "Upper"}, "queue_name", "pattern"),
        ({"queue_name": "line\n"}, "queue_name", "pattern"),
        ({"queue_name": "../etc"}, "queue_name", "pattern"),
        ({"job_type": "with space"}, "job_type", "pattern"),
        ({"job_type": "ünicode"}, "job_type", "pattern"),
        ({"job_type": "a" * 129}, "job_type", "pattern"),
        ({"payload": b"x" * 101}, "payload", "too_large"),
        ({"priority": -1}, "priority", "out_of_range"),
        ({"priority": 10}, "priority", "out_of_range"),
        ({"max_attempts": 0}, "max_attempts", "out_of_range"),
        ({"max_attempts": 101}, "max_attempts", "out_of_range"),
        ({"timeout_seconds": 0.0}, "timeout_seconds", "out_of_range"),
        ({"timeout_seconds": float("nan")}, "timeout_seconds", "out_of_range"),
        ({"timeout_seconds": float("inf")}, "timeout_seconds", "out_of_range"),
        ({"delay_seconds": -1.0}, "delay_seconds", "out_of_range"),
        ({"delay_seconds": float("nan")}, "delay_seconds", "out_of_range"),
        ({"delay_seconds": 1.0, "run_at": NOW}, "delay_seconds", "exclusive"),
        ({"run_at": NOW.replace(tzinfo=None)}, "run_at", "no_time_zone"),
        ({"run_at": NOW + timedelta(days=3_651)}, "run_at", "out_of_range"),
        ({"run_at": datetime(1969, 12, 31, tzinfo=UTC)}, "run_at", "out_of_range"),
        ({"idempotency_key": ""}, "idempotency_key", "pattern"),
        ({"idempotency_key": "a b"}, "idempotency_key", "pattern"),
        ({"idempotency_key": "a\x00"}, "idempotency_key", "pattern"),
        ({"idempotency_key": "!" * 256}, "idempotency_key", "pattern"),
        ({"tags": ("a",) * 21}, "tags", "too_many"),
        ({"tags": ("",)}, "tags", "pattern"),
        ({"tags": ("a", "b c")}, "tags", "pattern"),
        ({"retry": RetryPolicy(jitter=2)}, "retry/jitter", "out_of_range"),
    ],
)
def test_what_is_not_allowed_is_refused_at_its_field(
    change: dict[str, object], field: str, code: str
) -> None:
    assert fields_of(structs.replace(PLAIN, **change)) == [(f"/3/{field}", code)]


def test_every_wrong_field_is_named_at_once() -> None:
    draft = structs.replace(PLAIN, queue_name="", job_type="", priority=77, tags=("",), max_attempts=0)
    pointers = [pointer for pointer, _ in fields_of(draft)]
    assert pointers == ["/3/queue_name", "/3/job_type", "/3/priority", "/3/max_attempts", "/3/tags"]


def test_three_states_are_final() -> None:
    assert {"succeeded", "failed", "cancelled"} == FINAL_STATES
    assert [state for state in JobState if state.is_final] == [
        JobState.SUCCEEDED,
        JobState.FAILED,
        JobState.CANCELLED,
    ]


drafts = st.builds(
    JobDraft,
    queue_name=st.sampled_from(["a", "b"]),
    job_type=st.sampled_from(["x", "y"]),
    payload=st.binary(max_size=3),
    priority=st.sampled_from([5, 9]),
    max_attempts=st.sampled_from([None, 3]),
    delay_seconds=st.sampled_from([None, 1.0]),
    idempotency_key=st.sampled_from([None, "k"]),
    tags=st.sampled_from([(), ("t",)]),
)


@given(st.lists(drafts, max_size=20))
def test_groups_put_end_to_end_are_the_drafts_again(given_drafts: list[JobDraft]) -> None:
    groups = rules.group(given_drafts)
    again = [rules.with_payload(group.draft, payload) for group in groups for payload in group.payloads]
    assert again == given_drafts


@given(st.lists(drafts, max_size=20))
def test_a_keyed_draft_has_a_group_of_its_own(given_drafts: list[JobDraft]) -> None:
    for group in rules.group(given_drafts):
        assert group.draft.idempotency_key is None or len(group.payloads) == 1


def test_neighbours_that_differ_in_their_payload_alone_are_one_group() -> None:
    many = [structs.replace(PLAIN, payload=b"%d" % n) for n in range(100)]
    [group] = rules.group(many)
    assert list(group.payloads) == [draft.payload for draft in many]


@given(drafts)
def test_a_plain_draft_uses_no_option(draft: JobDraft) -> None:
    bare = JobDraft(draft.queue_name, draft.job_type, draft.payload, draft.priority)
    assert rules.is_plain(draft) == (draft == bare)
