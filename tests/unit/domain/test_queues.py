from __future__ import annotations

import pytest
from msgspec import structs

from taskforge.domain.queues import QueueChange, QueueDraft, check_change, check_draft
from taskforge.domain.retry import RetryPolicy
from taskforge.errors import Invalid


@pytest.mark.parametrize("name", ["a", "0", "a.b_c-d", "a" * 128])
def test_a_good_name_passes(name: str) -> None:
    check_draft(QueueDraft(name=name))


@pytest.mark.parametrize("name", ["", "A", "-a", ".a", "a b", "a/b", "ä", "a\n", "a\x00", "a" * 129])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(Invalid) as refused:
        check_draft(QueueDraft(name=name))
    assert refused.value.code == "queue.invalid_name"
    assert [field.pointer for field in refused.value.fields] == ["/name"]


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"priority": -1001}, "/priority"),
        ({"priority": 1001}, "/priority"),
        ({"max_attempts": 0}, "/max_attempts"),
        ({"max_attempts": 101}, "/max_attempts"),
        ({"timeout_seconds": 0.0}, "/timeout_seconds"),
        ({"timeout_seconds": float("nan")}, "/timeout_seconds"),
        ({"timeout_seconds": 604_801.0}, "/timeout_seconds"),
        ({"retry": RetryPolicy(factor=0)}, "/retry/factor"),
    ],
)
def test_what_is_out_of_range_is_refused_in_drafts_and_changes(
    change: dict[str, object], pointer: str
) -> None:
    for check in (
        lambda: check_draft(structs.replace(QueueDraft(name="q"), **change)),
        lambda: check_change(QueueChange(**change)),
    ):
        with pytest.raises(Invalid) as refused:
            check()
        assert [field.pointer for field in refused.value.fields] == [pointer]


def test_a_change_of_nothing_is_allowed() -> None:
    check_change(QueueChange())
