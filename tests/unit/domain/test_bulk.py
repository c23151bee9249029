from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from taskforge.domain.bulk import BulkRequest, Canary, canary_verdict, check_request, states_of
from taskforge.errors import Invalid

NOW = datetime(2030, 1, 1, tzinfo=UTC)
QUEUE = {"queue_name": "email"}


def request(**fields: Any) -> BulkRequest:
    return msgspec.convert({"filter": QUEUE} | fields, BulkRequest)


def wrong(**fields: Any) -> set[str]:
    try:
        check_request(request(**fields), now=NOW)
    except Invalid as error:
        return {field.pointer for field in error.fields}
    return set()


@pytest.mark.parametrize(
    ("fields", "pointers"),
    [
        ({"verb": "cancel", "filter": {}}, {"/filter"}),
        ({"verb": "cancel", "filter": {"state": "succeeded"}}, {"/filter/state"}),
        ({"verb": "purge", "filter": {"state": "pending"}}, {"/filter/state"}),
        ({"verb": "cancel", "filter": {"queue_name": "%"}}, {"/filter/queue_name"}),
        ({"verb": "cancel", "filter": {"tag": "a' or 1=1"}}, {"/filter/tag"}),
        ({"verb": "cancel", "filter": {"job_ids": []}}, {"/filter/job_ids"}),
        ({"verb": "cancel", "filter": {"job_ids": ["x"]}}, {"/filter/job_ids"}),
        ({"verb": "cancel", "filter": {"job_ids": ["9" * 19]}}, {"/filter/job_ids"}),
        (
            {"verb": "cancel", "filter": {"submitted_after": "2030-01-01T00:00:00"}},
            {"/filter/submitted_after"},
        ),
        ({"verb": "cancel", "filter": QUEUE | {"error_text": "boom"}}, {"/filter/state"}),
        ({"verb": "redrive", "filter": QUEUE | {"fingerprint": "xyz"}}, {"/filter/fingerprint"}),
        ({"verb": "redrive", "filter": QUEUE | {"error_text": ""}}, {"/filter/error_text"}),
        ({"verb": "redrive", "filter": QUEUE | {"error_text": "x" * 201}}, {"/filter/error_text"}),
        ({"verb": "move"}, {"/arguments/queue_name"}),
        ({"verb": "move", "arguments": {"queue_name": "x", "priority": 1}}, {"/arguments/priority"}),
        ({"verb": "cancel", "arguments": {"priority": 1}}, {"/arguments/priority"}),
        ({"verb": "change_priority", "arguments": {"priority": 10}}, {"/arguments/priority"}),
        ({"verb": "reschedule"}, {"/arguments/run_at"}),
        ({"verb": "reschedule", "arguments": {"delay_seconds": -1}}, {"/arguments/delay_seconds"}),
        ({"verb": "reschedule", "arguments": {"run_at": "2930-01-01T00:00:00Z"}}, {"/arguments/run_at"}),
        ({"verb": "cancel", "rate_per_second": 0}, {"/rate_per_second"}),
        ({"verb": "cancel", "canary": {}}, {"/canary"}),
        ({"verb": "redrive", "canary": {"count": 0}}, {"/canary/count"}),
        ({"verb": "redrive", "canary": {"min_success_ratio": 1.5}}, {"/canary/min_success_ratio"}),
        ({"verb": "redrive", "canary": {"watch_seconds": -1}}, {"/canary/watch_seconds"}),
        ({"verb": "redrive", "canary": {}, "filter": QUEUE | {"error_text": "100%_"}}, set()),
        ({"verb": "reschedule", "arguments": {"delay_seconds": 0}}, set()),
    ],
)
def test_what_cannot_be_asked_is_refused_at_its_place(fields: dict[str, Any], pointers: set[str]) -> None:
    assert wrong(**fields) == pointers


def test_a_filter_without_a_state_means_the_states_the_verb_is_for() -> None:
    assert set(states_of(request(verb="cancel"))) == {
        "pending",
        "scheduled",
        "retrying",
        "blocked",
        "processing",
    }
    assert states_of(request(verb="retry")) == ("failed",)
    assert states_of(request(verb="retry", filter=QUEUE | {"state": "cancelled"})) == ("cancelled",)


@pytest.mark.parametrize(
    ("ratio", "succeeded", "ended", "is_over", "verdict"),
    [
        (1.0, 0, 0, False, "wait"),
        (1.0, 9, 9, False, "wait"),
        (1.0, 10, 10, False, "go"),
        (1.0, 9, 10, False, "stop"),
        (1.0, 0, 1, False, "stop"),
        (1.0, 9, 9, True, "stop"),
        (0.8, 8, 10, False, "go"),
        (0.8, 8, 8, False, "wait"),
        (0.8, 8, 8, True, "go"),
        (0.8, 5, 7, False, "wait"),
        (0.8, 5, 8, False, "stop"),
        (0.0, 0, 10, False, "go"),
        (0.0, 0, 0, True, "go"),
    ],
)
def test_a_canary_goes_on_only_when_enough_have_succeeded(
    ratio: float, succeeded: int, ended: int, is_over: bool, verdict: str
) -> None:
    canary = Canary(10, 60.0, ratio)
    assert canary_verdict(canary, count=10, succeeded=succeeded, ended=ended, is_over=is_over) == verdict


def test_a_canary_that_found_nothing_lets_the_operation_end() -> None:
    assert canary_verdict(Canary(), count=0, succeeded=0, ended=0, is_over=False) == "go"
