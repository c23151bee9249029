"""What a schedule makes of the slots that are due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from taskforge.domain.schedules import (
    Missed,
    Overlap,
    Plan,
    Schedule,
    ScheduleDraft,
    Source,
    plan,
)

T0 = datetime(2026, 3, 28, 12, tzinfo=UTC)
EXPRESSIONS = (
    "* * * * * *",
    "* * * * *",
    "*/7 * * * *",
    "0 3 * * *",
    "30 2 * * *",
    "@every 90s",
    "0 0 1 * *",
)


def schedule(slot: datetime, **fields: Any) -> Schedule:
    draft = ScheduleDraft(**{"name": "s", "expression": "* * * * *", "job_type": "noop", **fields})
    return Schedule(
        schedule_id=7,
        tenant_id=uuid4(),
        definition=draft,
        version=1,
        source=Source.API,
        edited=False,
        next_slot=slot,
        due_at=slot,
        waiting_slot=None,
        last_slot=None,
        last_job_id=None,
        created_at=T0,
        updated_at=T0,
    )


def test_a_slot_that_is_handled_in_time_fires_and_nothing_is_skipped() -> None:
    for policy in Missed:
        assert plan(schedule(T0, missed=policy), T0 + timedelta(seconds=2)) == Plan(
            None, (T0,), False, T0 + timedelta(minutes=1)
        )


def test_a_slot_more_than_a_minute_late_is_missed_even_if_no_other_is_due() -> None:
    daily = schedule(T0, expression="0 12 * * *", missed=Missed.SKIP)
    made = plan(daily, T0 + timedelta(seconds=61))
    assert made.skipped is not None and made.fires == ()
    assert plan(daily, T0 + timedelta(seconds=60)).fires == (T0,)


@given(
    st.sampled_from(EXPRESSIONS),
    st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe"]),
    st.sampled_from(list(Missed)),
    st.integers(1, 100),
    st.integers(0, 3_000_000),
    st.sampled_from([0.0, 0.9]),
)
def test_every_slot_up_to_now_is_fired_or_skipped_and_the_next_one_is_still_to_come(
    expression: str, zone: str, policy: Missed, limit: int, ago: int, jitter: float
) -> None:
    made = schedule(
        T0, expression=expression, timezone=zone, missed=policy, missed_limit=limit, jitter_seconds=jitter
    )
    timing = made.definition.timing
    now = T0 + timedelta(days=40)
    slot = timing.slot_after(now - timedelta(seconds=ago + 1))
    assert slot is not None
    if timing.due(7, slot) > now:
        return
    decided = plan(schedule(slot, **_fields(made.definition)), now)

    due = []
    current: datetime | None = slot
    # Walk in full only what is near; of a long absence the ends are enough.
    while current is not None and timing.due(7, current) <= now and len(due) < 1_000:
        due.append(current)
        current = timing.slot_after(current)
    fires = decided.fires
    assert list(fires) == sorted(set(fires))
    assert all(timing.due(7, fire) <= now for fire in fires)
    assert decided.next_slot is not None and timing.due(7, decided.next_slot) > now
    first = decided.skipped.first if decided.skipped else fires[0]
    assert first == slot
    if decided.skipped and fires:
        assert timing.slot_after(decided.skipped.last) == fires[0]
    last = fires[-1] if fires else decided.skipped.last if decided.skipped else None
    assert last is not None and timing.slot_after(last) == decided.next_slot
    if len(due) < 1_000:
        count = len(due) - len(fires)
        if decided.skipped is None:
            assert count == 0
        else:
            assert decided.skipped.count == (count if count <= 100 else None)
    assert len(fires) <= (limit + 1 if policy is Missed.RUN_ALL else 1)


def _fields(draft: ScheduleDraft) -> dict[str, Any]:
    return {name: getattr(draft, name) for name in draft.__struct_fields__}


def test_run_all_that_cancels_fires_one_slot_at_a_time() -> None:
    made = schedule(T0, missed=Missed.RUN_ALL, overlap=Overlap.CANCEL_RUNNING)
    decided = plan(made, T0 + timedelta(minutes=3))
    assert (decided.fires, decided.next_slot) == ((T0,), T0 + timedelta(minutes=1))


def test_jitter_is_the_same_for_everybody_and_spread_over_its_range() -> None:
    timing = schedule(T0, jitter_seconds=30.0).definition.timing
    delays = [(timing.due(7, T0 + timedelta(minutes=n)) - T0).total_seconds() - 60 * n for n in range(200)]
    assert delays == [
        (timing.due(7, T0 + timedelta(minutes=n)) - T0).total_seconds() - 60 * n for n in range(200)
    ]
    assert 0 <= min(delays) < 3 and 27 < max(delays) <= 30
    assert timing.due(8, T0) != timing.due(7, T0)


def test_start_and_end_bound_the_slots_both_included() -> None:
    made = schedule(T0, start_at=T0, end_at=T0 + timedelta(minutes=1))
    timing = made.definition.timing
    assert timing.slot_after(T0 - timedelta(days=9)) == T0
    assert timing.slot_after(T0) == T0 + timedelta(minutes=1)
    assert timing.slot_after(T0 + timedelta(minutes=1)) is None


def test_an_interval_counts_from_its_start() -> None:
    made = schedule(T0, expression="@every 7s", start_at=T0 + timedelta(seconds=3))
    timing = made.definition.timing
    assert timing.slot_after(T0) == T0 + timedelta(seconds=3)
    assert timing.slot_after(T0 + timedelta(seconds=3)) == T0 + timedelta(seconds=10)
