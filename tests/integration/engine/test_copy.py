"""Rows encoded by hand come back from PostgreSQL as they went in."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge.domain.jobs import JobDraft, JobOptions
from taskforge.domain.leases import Succeeded
from taskforge.domain.retry import RetryKind, RetryPolicy
from taskforge.postgres.copy import instant, microseconds
from taskforge.postgres.finish import runs_of
from taskforge.services import jobs
from tests.support.engine import Engine, report

FULL = JobDraft(
    "default",
    "Module.sub:fn",
    b'{"n": 1.10, "s": "\\u0000\\ud800"}',
    priority=9,
    max_attempts=7,
    timeout_seconds=0.1,
    retry=RetryPolicy(kind=RetryKind.CUSTOM, delays=(1.5, 2.5)),
    idempotency_key="key!",
    tags=("a", "B:c"),
    trace="00-trace-span-01",
)


async def test_every_column_of_a_job_survives_the_way_in(engine: Engine) -> None:
    [verdict] = await jobs.submit(engine.core, engine.ctx, [FULL])
    row = await engine.admin.fetchrow("select * from jobs where id = $1", verdict.job_id)
    assert row["tenant_id"] == engine.ctx.tenant_id
    assert (row["priority"], row["job_type"], row["payload"]) == (9, "Module.sub:fn", FULL.payload)
    assert (row["max_attempts"], row["timeout_seconds"]) == (7, 0.1)
    options = msgspec.json.decode(row["options"], type=JobOptions)
    assert options == JobOptions(FULL.retry, "key!", ("a", "B:c"), "00-trace-span-01")
    assert abs(row["submitted_at"] - datetime.now(UTC)) < timedelta(minutes=1)


async def test_plain_and_full_jobs_of_one_batch_keep_their_columns_apart(engine: Engine) -> None:
    plain = JobDraft("default", "plain", b"{}")
    verdicts = await jobs.submit(engine.core, engine.ctx, [plain, FULL, plain])
    rows = await engine.admin.fetch("select * from jobs where id = any ($1)", [v.job_id for v in verdicts])
    by_id = {row["id"]: row for row in rows}
    found = [by_id[v.job_id] for v in verdicts]
    assert [row["job_type"] for row in found] == ["plain", "Module.sub:fn", "plain"]
    assert [row["max_attempts"] for row in found] == [None, 7, None]
    assert [row["options"] is None for row in found] == [True, False, True]


@pytest.mark.parametrize(
    "payload", [b"", b"\x00", b"\xff\xff", b"PGCOPY\n\xff\r\n\x00", b"x" * 1_000_000, "ü☃".encode()]
)
async def test_payloads_are_kept_byte_for_byte(engine: Engine, payload: bytes) -> None:
    [job_id] = await engine.submit(payload=payload)
    assert await engine.admin.fetchval("select payload from jobs where id = $1", job_id) == payload


async def test_outcomes_keep_results_and_times_to_the_microsecond(engine: Engine) -> None:
    ids = await engine.submit(3)
    worker = await engine.register()
    [lease] = await engine.claim(worker, 3)
    results: dict[int, bytes | None] = {ids[0]: None, ids[1]: b"", ids[2]: b'{"a": "\\u0000"}'}
    await engine.finish(worker, report(lease, lambda i: Succeeded(i, i, 1_000_000 + i, results[i])))
    for row in await engine.admin.fetch("select * from outcomes order by id"):
        job_id = row["id"]
        assert row["result"] == results[job_id]
        assert row["started_at"] == lease.claimed_at + timedelta(microseconds=job_id)
        assert row["finished_at"] == lease.claimed_at + timedelta(seconds=1, microseconds=job_id)
        assert (row["state"], row["attempt"], row["fence"]) == (1, 1, lease.fence)
        assert (row["worker_id"], row["tenant_id"]) == (worker[0], engine.ctx.tenant_id)


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 1, 1), timezones=st.just(UTC)))
def test_instants_survive_the_way_through_microseconds(moment: datetime) -> None:
    assert instant(microseconds(moment)) == moment


@given(st.sets(st.integers(1, 60), min_size=1))
def test_runs_cover_exactly_the_ids_given_and_never_touch(ids: set[int]) -> None:
    runs = runs_of(list(ids))
    assert {i for lo, hi in runs for i in range(lo, hi + 1)} == ids
    assert all(hi + 1 < lo for (_, hi), (lo, _) in itertools.pairwise(runs))
