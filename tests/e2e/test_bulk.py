"""Changes by hand and bulk operations through the command line, directly and through a server, and from the SDK."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta

import pytest

from taskforge import Canary, TaskForge
from taskforge.errors import Conflict
from tests.e2e.test_cli import serve
from tests.support.processes import Cli, cli

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def tool(database_url: str) -> Iterator[Cli]:
    with cli(DATABASE_URL=database_url, TASKFORGE_WORKER_TTL="4") as made:
        yield made


@pytest.fixture(params=["direct", "through a server"])
def way(tool: Cli, request: pytest.FixtureRequest) -> dict[str, str]:
    remote = serve(tool)  # it does the maintenance, too
    return {} if request.param == "direct" else remote


def submit(tool: Cli, count: int = 1, *options: str) -> list[str]:
    body = '{"to": "a@b.c", "subject": "x", "body": "y"}'
    return [tool.data("jobs", "submit", "send_email", body, *options)[0]["id"] for _ in range(count)]


def test_a_job_is_changed_and_shows_who_did_it(tool: Cli, way: dict[str, str]) -> None:
    tool.ok("queues", "create", "urgent")
    [job_id] = submit(tool)
    [changed] = tool.data(
        "jobs", "change", job_id, "-q", "urgent", "--priority", "9", "--delay", "1h",
        "--patch", '{"cc": "d@e.f"}', **way,
    )  # fmt: skip
    assert (changed["queue_name"], changed["priority"], changed["state"]) == ("urgent", 9, "scheduled")
    assert changed["payload"]["cc"] == "d@e.f"
    [made] = tool.data("jobs", "changes", job_id, **way)
    assert (made["verb"], made["before"]["priority"], made["after"]["priority"]) == ("change", 5, 9)
    assert "urgent" in tool.ok("jobs", "changes", job_id, **way).out
    assert tool.run("jobs", "change", job_id, **way).code == 2
    assert tool.run("jobs", "change", job_id, "--patch", "{", **way).code == 2
    refused = tool.run("jobs", "change", job_id, "--priority", "99", **way)
    assert refused.code == 1
    assert "[job.invalid_change]" in refused.err


def test_jobs_are_cancelled_by_a_filter_after_a_preview(tool: Cli, way: dict[str, str]) -> None:
    ids = submit(tool, 2, "--tag", "old")
    [kept] = submit(tool)
    [looked] = tool.data("jobs", "cancel", "--tag", "old", "--preview", **way)
    assert looked == {"count": 2, "is_exact": True, "sample": ids}
    assert tool.run("jobs", "cancel", "--tag", "old", **way).code == 2, "nobody said yes"
    assert tool.run("jobs", "cancel", **way).code == 2
    assert tool.run("jobs", "cancel", kept, "--tag", "old", **way).code == 2
    [ended] = tool.data("jobs", "cancel", "--tag", "old", "--yes", **way)
    assert (ended["state"], ended["done"], ended["total"]) == ("completed", 2, 2)
    assert [tool.data("jobs", "show", i, **way)[0]["state"] for i in (*ids, kept)] == [
        "cancelled",
        "cancelled",
        "pending",
    ]
    [listed] = tool.data("bulk", "list", **way)
    assert listed["id"] == ended["id"]
    assert "completed" in tool.ok("bulk", "show", ended["id"], **way).out
    assert tool.run("bulk", "show", "4711", **way).code == 1
    again = tool.run("bulk", "stop", ended["id"], **way)
    assert again.code == 1
    assert "[bulk.already_ended]" in again.err


def test_an_operation_goes_on_without_its_caller_until_it_is_stopped(tool: Cli, way: dict[str, str]) -> None:
    submit(tool, 3)
    tool.ok("queues", "create", "urgent")
    [begun] = tool.data(
        "bulk", "move", "-q", "default", "--to", "urgent", "--rate", "0.1", "--no-wait", "--yes", **way
    )
    assert begun["state"] == "running"
    [stopped] = tool.data("bulk", "stop", begun["id"], **way)
    assert (stopped["state"], stopped["reason"]) == ("stopped", "asked")
    assert tool.run("bulk", "show", begun["id"], "--follow", **way).code == 1


def test_dead_letters_are_grouped_patched_and_redriven(tool: Cli, way: dict[str, str]) -> None:
    ids = [tool.data("jobs", "submit", "send_email", "{}", "--max-attempts", "1")[0]["id"] for _ in range(3)]
    tool.run("worker", "taskforge.samples:forge", "--drain")
    [group] = tool.data("dead-letters", "groups", "default", **way)
    assert (group["count"], group["job_types"]) == (3, ["send_email"])
    listed = tool.data("dead-letters", "list", "default", "--fingerprint", group["fingerprint"], **way)
    assert [job["id"] for job in listed] == ids[::-1]
    assert tool.data("dead-letters", "list", "default", "--error", "100%", **way) == []
    tool.ok("jobs", "change", ids[0], "--patch", '{"to": "a@b.c", "subject": "x", "body": "y"}', **way)
    [looked] = tool.data("dead-letters", "redrive", "default", "--preview", **way)
    assert looked["count"] == 3
    worker = tool.start("worker", "taskforge.samples:forge")
    [ended] = tool.data(
        "dead-letters",
        "redrive",
        "default",
        "--canary",
        "1",
        "--watch",
        "30s",
        "--rate",
        "50",
        "--yes",
        **way,
    )
    assert (ended["state"], ended["canary_job_ids"], ended["done"]) == ("completed", ids[:1], 3)
    assert tool.data("jobs", "show", ids[0], "--wait", "10", **way)[0]["state"] == "succeeded"
    for job_id in ids[1:]:
        assert tool.run("jobs", "show", job_id, "--wait", "10", **way).code == 1
    [purged] = tool.data("dead-letters", "purge", "default", "--yes", **way)
    assert (purged["state"], purged["done"]) == ("completed", 2)
    worker.process.terminate()


async def test_the_sdk_does_the_same_typed(tool: Cli, database_url: str) -> None:
    remote = await asyncio.to_thread(serve, tool)
    for options in (
        {"database_url": database_url},
        {"url": remote["TASKFORGE_URL"], "token": remote["TASKFORGE_TOKEN"]},
    ):
        forge = TaskForge(**options)  # type: ignore[arg-type]

        @forge.job(queue="default")
        async def send(to: str) -> None: ...

        async with forge:
            first, second = await send.submit_many([("a",), ("b",)])
            view = await first.reschedule(delay=timedelta(hours=1))
            assert view.state == "scheduled"
            assert (await first.change(priority=8, patch={"to": "c"})).priority == 8
            assert [change.verb for change in await first.changes()] == ["change", "change"]
            assert (await first.retry()).state == "pending"
            with pytest.raises(Conflict):
                await second.retry()
            looked = await forge.bulk.preview("cancel", queue_name="default", state="pending")
            assert looked.count == 2
            operation = await forge.bulk.cancel(queue_name="default", state="pending", job_type="send")
            ended = await operation.wait(timeout=20)
            assert (ended.state, ended.done) == ("completed", 2)
            slow = await forge.bulk.retry(queue_name="default", state="cancelled", rate=0.1, canary=Canary(1))
            assert (await slow.stop()).state == "stopped"
            groups = await forge.bulk.dead_letter_groups("default")
            assert groups.data == []
