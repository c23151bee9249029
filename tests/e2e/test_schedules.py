"""Schedules from one end to the other: the command line, a server and workers that are real processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.test_cli import serve
from tests.support.processes import Cli, cli, wait_for

pytestmark = pytest.mark.timeout(180)

APP = """
from taskforge import TaskForge

forge = TaskForge()


@forge.schedule("* * * * * *", missed="run_all", missed_limit=100)
@forge.job
async def beat() -> None: ...
"""


@pytest.fixture
def tool(database_url: str) -> Iterator[Cli]:
    with cli(DATABASE_URL=database_url, TASKFORGE_WORKER_TTL="2") as made:
        yield made


@pytest.fixture(params=["direct", "through a server"])
def way(tool: Cli, request: pytest.FixtureRequest) -> dict[str, str]:
    return {} if request.param == "direct" else serve(tool)


def test_the_life_of_a_schedule(tool: Cli, way: dict[str, str]) -> None:
    [made] = tool.data(
        *("schedules", "create", "nightly", "30 2 * * MON-FRI", "noop", "--tz", "Asia/Jakarta"),
        *("--overlap", "skip", "--jitter", "5m", "--payload", '{"kind": "daily"}', "--tag", "a"),
        **way,
    )
    assert (made["timezone"], made["overlap"], made["jitter_seconds"]) == ("Asia/Jakarta", "skip", 300)
    assert (made["payload"], made["tags"], made["source"]) == ({"kind": "daily"}, ["a"], "api")
    [changed] = tool.data(
        "schedules", "update", "nightly", "--expression", "0 3 * * *", "--priority", "7", **way
    )
    assert (changed["expression"], changed["priority"], changed["overlap"]) == ("0 3 * * *", 7, "skip")
    assert tool.data("schedules", "pause", "nightly", **way)[0]["next_at"] is None
    assert tool.data("schedules", "resume", "nightly", **way)[0]["next_at"] is not None
    [ran] = tool.data("schedules", "run", "nightly", **way)
    [tick] = tool.data("schedules", "ticks", "nightly", **way)
    assert (tick["job_id"], tick["reason"]) == (ran["job_id"], "run_now")
    assert len(tool.data("schedules", "preview", "nightly", "-n", "3", **way)) == 3
    assert "nightly" in tool.ok("schedules", "list", **way).out
    assert "0 3 * * *" in tool.ok("schedules", "show", "nightly", **way).out
    tool.ok("schedules", "delete", "nightly", "--yes", **way)
    gone = tool.run("schedules", "show", "nightly", **way)
    assert gone.code == 1 and 'schedule "nightly" does not exist' in gone.err


def test_an_expression_is_previewed_or_refused_with_its_reason(tool: Cli) -> None:
    shown = tool.data(
        *("schedules", "preview", "30 2 * * *", "--tz", "Europe/Berlin"),
        *("--after", "2026-10-24T12:00:00Z", "-n", "2"),
    )
    assert [firing["at"] for firing in shown] == ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
    never = tool.run("schedules", "create", "never", "0 0 30 2 *", "noop")
    assert never.code == 1 and "day 30 does not exist in FEB" in never.err


def test_every_slot_fires_once_while_workers_are_killed_one_after_another(tool: Cli) -> None:
    """E9: what was missed while nobody was elected is made up for, and nothing fires twice."""
    (tool.folder / "app.py").write_text(APP)

    def ticks() -> list[dict[str, Any]]:
        found = tool.run("schedules", "ticks", "beat", "--limit", "1000", "--json")
        return found.lines if found.code == 0 else []

    for goal in (2, 4, 6):
        workers = [tool.start("worker", "app:forge") for _ in range(2)]
        before = len(ticks())
        wait_for(lambda before=before, goal=goal: len(ticks()) >= before + goal, timeout=60)
        for worker in workers:
            os.kill(worker.process.pid, signal.SIGKILL)
    [schedule] = tool.data("schedules", "list")
    assert (schedule["source"], schedule["version"]) == ("code", 1)
    tool.ok("schedules", "pause", "beat")

    found = ticks()
    fired = [tick for tick in found if tick["verdict"] == "fired"]
    assert len({tick["slot"] for tick in found}) == len(found)
    assert len({tick["job_id"] for tick in fired}) == len(fired)
    jobs = tool.data("jobs", "list", "--limit", "1000")
    assert {tick["job_id"] for tick in fired} == {job["id"] for job in jobs}
