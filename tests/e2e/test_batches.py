"""Batches from the command line and from Python, worked off by a worker, their webhooks received by a web server."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from taskforge import TaskForge, callback
from taskforge.webhooks import verify
from tests.e2e.test_cli import serve
from tests.support.processes import Cli, cli, wait_for

pytestmark = pytest.mark.timeout(240)

APP = """
from taskforge import TaskForge

forge = TaskForge()


@forge.job
async def step(n: int = 0) -> int:
    if n < 0:
        from taskforge import Discard
        raise Discard("below zero")
    return n


@forge.job
async def report(title: str, batch: dict) -> str:
    return f"{title}: {batch['succeeded']} of {batch['total']}"
"""


@pytest.fixture
def tool(database_url: str, tmp_path: Path) -> Iterator[Cli]:
    with cli(DATABASE_URL=database_url, TASKFORGE_WORKER_TTL="4", TASKFORGE_EGRESS_ALLOW="127.0.0.1") as made:
        (made.folder / "app.py").write_text(APP)
        yield made


@pytest.fixture(params=["direct", "through a server"])
def way(tool: Cli, request: pytest.FixtureRequest) -> dict[str, str]:
    remote = serve(tool)  # it does the maintenance, too
    tool.run("queues", "create", "default")
    return {} if request.param == "direct" else remote


class Inbox:
    """What a web server of ours was sent."""

    def __init__(self) -> None:
        self.messages: list[tuple[dict[str, str], bytes]] = []
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                inbox.messages.append((dict(self.headers.items()), body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/done"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    made = Inbox()
    yield made
    made.close()


def lines(count: int, **fields: Any) -> str:
    return "".join(
        json.dumps({"queue_name": "default", "job_type": "step", "payload": {"n": n}} | fields) + "\n"
        for n in range(count)
    )


def work_off(tool: Cli) -> None:
    done = tool.run("worker", "app:forge", "--drain")
    assert done.code == 0, done.err


def test_a_file_becomes_a_batch_that_tells_a_signed_webhook_how_it_went(
    tool: Cli, way: dict[str, str], inbox: Inbox
) -> None:
    [secret] = tool.data("webhooks", "secrets", "create", **way)
    (tool.folder / "jobs.ndjson").write_text(lines(30))
    [made] = tool.data(
        "batches", "submit", "jobs.ndjson", "--name", "mail", "--on-complete", inbox.url, **way
    )
    assert (made["state"], made["total"], made["received"]) == ("running", 30, 30)
    work_off(tool)
    wait_for(lambda: inbox.messages, timeout=30)
    headers, body = inbox.messages[0]
    said = verify(headers, body, [secret["secret"]])
    assert (said["type"], said["data"]["id"], said["data"]["state"]) == (
        "batch.complete",
        made["id"],
        "succeeded",
    )
    [shown] = tool.data("batches", "show", made["id"], **way)
    assert (shown["state"], shown["succeeded"]) == ("succeeded", 30)
    assert "succeeded" in tool.ok("batches", "show", made["id"], **way).out
    [listed] = tool.data("batches", "list", "--state", "succeeded", **way)
    assert listed == shown
    wait_for(lambda: tool.data("webhooks", "deliveries", "--state", "delivered", **way))
    [delivery] = tool.data("webhooks", "deliveries", **way)
    tool.ok("webhooks", "redeliver", delivery["id"], **way)
    wait_for(lambda: len(inbox.messages) == 2, timeout=30)
    assert inbox.messages[0][0]["webhook-id"] == inbox.messages[1][0]["webhook-id"]


def test_a_job_joins_a_batch_from_the_command_line_and_from_a_file_with_its_webhook(
    tool: Cli, way: dict[str, str]
) -> None:
    done = tool.run("batches", "submit", "-", "--no-seal", "--json", text=lines(1), **way)
    [batch] = done.lines
    tool.ok("jobs", "submit", "step", "--batch", batch["id"], "--webhook", "https://example.com/", **way)
    text = lines(2, batch_id=batch["id"], webhook={"url": "https://example.com/"})
    tool.ok("jobs", "submit", "--file", "-", text=text, **way)
    work_off(tool)
    [shown] = tool.data("batches", "show", batch["id"], **way)
    assert (shown["state"], shown["total"], shown["succeeded"]) == ("open", 4, 4)
    found = tool.data("webhooks", "deliveries", **way)
    assert [delivery["event"] for delivery in found] == ["job.succeeded"] * 3


def test_an_upload_that_was_interrupted_goes_on_with_the_same_file(tool: Cli, way: dict[str, str]) -> None:
    whole = lines(6_000)
    broken = whole.replace('"n": 5500', '"n": 5500, "n": 1')
    stopped = tool.run("batches", "submit", "-", text=broken, **way)
    assert stopped.code == 1 and "item 5501" in stopped.err
    [batch] = tool.data("batches", "list", **way)
    assert f"--batch {batch['id']}" in stopped.err
    assert (batch["state"], batch["total"], batch["received"]) == ("open", 5_500, 5_500)
    [done] = tool.data("batches", "submit", "-", "--batch", batch["id"], text=whole, **way)
    assert (done["state"], done["total"], done["received"]) == ("running", 6_000, 6_000)
    [cancelled] = tool.data("batches", "cancel", batch["id"], "--yes", **way)
    assert (cancelled["state"], cancelled["cancelled"]) == ("cancelled", 6_000)


def test_wrong_lines_are_left_out_when_that_is_wanted(tool: Cli, way: dict[str, str]) -> None:
    text = lines(2) + "{}\n" + lines(1, queue_name="nowhere") + "\n" + lines(1)
    done = tool.run("batches", "submit", "-", "--skip-invalid", "--no-seal", text=text, **way)
    assert done.code == 1
    assert "item 3" in done.err and "item 4" in done.err
    [batch] = tool.data("batches", "list", **way)
    assert (batch["state"], batch["total"], batch["received"]) == ("open", 3, 5)
    tool.ok("batches", "seal", batch["id"], **way)
    assert tool.run("batches", "show", "999", **way).code == 1


MEASURED = """
import resource, sys
from taskforge.cli.root import run

code = run(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr)
sys.exit(code)
"""


def peak(pid: int) -> int:
    """The most memory the process ever had, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) // 1024


def test_neither_side_takes_more_memory_for_a_long_stream_than_for_a_short_one(tool: Cli) -> None:
    remote = serve(tool)
    server = tool.find("taskforge.cli server")
    tool.run("queues", "create", "default")
    found = []
    for count in (6_000, 50_000):
        (tool.folder / "jobs.ndjson").write_text(lines(count))
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, "batches", "submit", "jobs.ndjson", "--json"],
            env={**tool.env, **remote},
            cwd=tool.folder,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[0])["total"] == count
        found.append((peak(server), int(done.stderr.rpartition("peak ")[2])))
    (server_short, client_short), (server_long, client_long) = found
    assert server_long - server_short < 24, found
    assert client_long - client_short < 12, found


async def test_a_batch_in_python(tool: Cli, way: dict[str, str], database_url: str) -> None:
    options = (
        {"url": way["TASKFORGE_URL"], "token": way["TASKFORGE_TOKEN"]}
        if way
        else {"database_url": database_url}
    )
    forge = TaskForge(**options)  # type: ignore[arg-type]

    @forge.job
    async def step(n: int = 0) -> int:
        return n

    @forge.job
    async def report(title: str, batch: dict[str, Any]) -> str:
        return ""

    async with forge:
        async with forge.batch("numbers", on_complete=callback(report, "done"), tags=("t",)) as batch:
            first = await batch.add(step, 1)
            await batch.add(step.options(priority=9), n=-1)
            assert await batch.add_many(step, ({"n": n} for n in range(2_500))) == 2_500
            assert (await batch.progress()).state.value == "open"
        work_off(tool)
        ended = await batch.wait(timeout=60)
        assert (ended.state.value, ended.total, ended.failed) == ("failed", 2_502, 1)
        assert await first.result(timeout=10) == 1
        made = ended.fired["on_complete"].job_id
        assert made is not None
        work_off(tool)
        assert await forge.handle(made).result(timeout=30) == "done: 2501 of 2502"
        with pytest.raises(ValueError, match="half"):
            async with forge.batch() as batch:
                await batch.add(step, 1)
                raise ValueError("half of it")
        assert (await batch.wait(timeout=10)).state.value == "cancelled"
        assert (await forge.batch_of(batch.id).progress()).id == batch.id
