from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from msgspec import Raw

from taskforge import TaskForge
from taskforge.domain.schedules import Missed, Overlap
from taskforge.errors import ConfigurationError
from taskforge.job_type import JobType


def test_a_schedule_above_a_job_takes_over_what_the_job_says(forge: TaskForge) -> None:
    @forge.schedule(
        "*/5 * * * *",
        tz="Asia/Jakarta",
        overlap="skip",
        jitter=timedelta(seconds=20),
        arguments={"kind": "daily"},
    )
    @forge.job(queue="reports", priority=7, max_attempts=2, timeout=30)
    async def report(kind: str) -> int:
        return len(kind)

    assert isinstance(report, JobType)
    [declared] = forge.schedules.declared
    assert (declared.name, declared.job_type, declared.queue_name, declared.priority) == (
        "report",
        "report",
        "reports",
        7,
    )
    assert (declared.expression, declared.timezone, declared.jitter_seconds) == (
        "*/5 * * * *",
        "Asia/Jakarta",
        20,
    )
    assert (declared.overlap, declared.missed) == (Overlap.SKIP, Missed.RUN_ONCE)
    assert (declared.max_attempts, declared.timeout_seconds) == (2, 30)
    assert declared.payload == Raw(b'{"kind":"daily"}')


async def test_on_a_bare_function_it_declares_the_job_as_well(forge: TaskForge) -> None:
    @forge.schedule("@hourly")
    async def tidy() -> str:
        return "done"

    assert forge.jobs["tidy"] is tidy
    assert await tidy() == "done"


def test_a_job_has_several_schedules_if_they_have_names(forge: TaskForge) -> None:
    @forge.schedule("0 8 * * *", name="morning", arguments={"greeting": "good morning"})
    @forge.schedule("0 20 * * *", name="evening", arguments={"greeting": "good evening"})
    @forge.job
    def greet(greeting: str) -> None: ...

    assert [draft.name for draft in forge.schedules.declared] == ["evening", "morning"]
    with pytest.raises(ConfigurationError, match='"morning" is declared twice'):
        forge.schedule("0 9 * * *", name="morning")(greet)


@pytest.mark.parametrize(
    ("expression", "fields", "words"),
    [
        ("0 0 30 2 *", {}, "day 30 does not exist in FEB"),
        ("61 * * * *", {}, "minute 61 is out of 0-59"),
        ("* * * * *", {"tz": "Mars/Olympus"}, "no time zone"),
        ("* * * * *", {"jitter": 60}, "less than the 60 seconds"),
        ("* * * * *", {"name": "Not A Name"}, "1 to 128"),
    ],
)
def test_what_no_server_would_take_is_refused_where_it_is_written(
    forge: TaskForge, expression: str, fields: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):

        @forge.schedule(expression, **fields)  # type: ignore[arg-type]
        def job() -> None: ...


def test_arguments_that_the_function_does_not_take_are_refused_when_a_worker_asks(forge: TaskForge) -> None:
    @forge.schedule("@daily", arguments={"wrong": 1})
    def job(right: int) -> None: ...

    with pytest.raises(ConfigurationError, match="cannot call its job"):
        _ = forge.schedules.declared


def test_a_schedule_whose_time_is_over_does_not_break_the_code_it_stands_in(forge: TaskForge) -> None:
    @forge.schedule("@daily", end_at=datetime(2020, 1, 1, tzinfo=UTC))
    def job() -> None: ...

    assert len(forge.schedules.declared) == 1
