"""`taskforge dev` as a person meets it: one command, one pasted curl, Ctrl-C; and what remains after a kill -9."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import Cli, Running, cli, wait_for

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def tool() -> Iterator[Cli]:
    with cli() as made:
        yield made


def start(tool: Cli) -> tuple[Running, dict[str, Any]]:
    """A running `taskforge dev --json` and what it said when it was ready."""
    running = tool.start("dev", "--port", "0", "--json")
    running.said('"token"')
    return running, json.loads(running.out)


def remote(ready: dict[str, Any]) -> dict[str, str]:
    return {"TASKFORGE_URL": ready["url"], "TASKFORGE_TOKEN": ready["token"]}


def works(tool: Cli, ready: dict[str, Any]) -> bool:
    done = tool.run("jobs", "submit", "sleep", '{"seconds": 0}', "--wait", "10", **remote(ready))
    return done.code == 0


def test_the_printed_curl_makes_a_mail_and_ctrl_c_leaves_nothing_behind_but_the_data(tool: Cli) -> None:
    began = time.monotonic()
    running = tool.start("dev", "--port", "0")
    wait_for(lambda: running.err, timeout=10)
    assert time.monotonic() - began < 10
    running.said("Ctrl-C stops everything")
    export = re.search(r"^export TOKEN=\S+$", running.out, re.MULTILINE)
    curl = re.search(r"^curl .*?\\\n.*?$", running.out, re.MULTILINE)
    assert export and curl
    assert '"priority": 5' in curl[0]

    pasted = f"{export[0]}\n{curl[0]} -sS -D headers.txt\n"
    done = subprocess.run(
        ["bash", "-euc", pasted], cwd=tool.folder, env=tool.env, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    job_id = json.loads(done.stdout)["id"]
    headers = (tool.folder / "headers.txt").read_text().lower()
    assert " 201 " in headers.splitlines()[0]
    assert f"location: /api/v1/jobs/{job_id}" in headers
    mail = tool.data_dir / "outbox" / f"{job_id}.eml"
    wait_for(mail.exists, told=lambda: running.err)
    assert "Subject: Hello" in mail.read_text()

    running.interrupt()
    assert running.ended() == 0
    assert tool.alive() == {}
    [job] = tool.data("jobs", "list")
    assert (job["id"], job["state"]) == (job_id, "succeeded")


def test_after_kill_9_of_the_parent_everything_ends_and_the_next_start_has_the_data(tool: Cli) -> None:
    running, ready = start(tool)
    [job] = tool.data("jobs", "submit", "sleep", '{"seconds": 0}', "--wait", "10", **remote(ready))
    os.kill(running.process.pid, signal.SIGKILL)
    running.process.wait()
    wait_for(lambda: not tool.alive(), told=lambda: str(tool.alive()))

    again, ready = start(tool)
    [found] = tool.data("jobs", "show", job["id"], **remote(ready))
    assert found["state"] == "succeeded"
    assert works(tool, ready)
    again.process.terminate()
    assert again.ended() == 0
    assert tool.alive() == {}


@pytest.mark.parametrize(
    "victim",
    [
        ("taskforge.cli server",),
        ("taskforge.cli worker",),
        ("taskforge.worker.pulse",),
        ("supervisor.py",),
        ("postgres -D",),
    ],
    ids=["server", "worker", "heartbeat", "supervisor", "postgres"],
)
def test_after_kill_9_of_any_other_process_work_goes_on_and_ctrl_c_still_ends_all(
    tool: Cli, victim: tuple[str, ...]
) -> None:
    running, ready = start(tool)
    assert works(tool, ready)
    pid = tool.find(*victim)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{pid}").exists() or pid not in tool.alive())
    wait_for(lambda: works(tool, ready), timeout=40, told=lambda: running.err)
    running.interrupt()
    assert running.ended() == 0, running.err
    wait_for(lambda: not tool.alive(), told=lambda: str(tool.alive()))


async def test_a_database_of_ones_own_is_migrated_and_used_in_place_of_the_embedded_one(
    empty_database_url: str,
) -> None:
    with cli(DATABASE_URL=empty_database_url) as tool:
        running, ready = start(tool)
        assert ready["database"] == "external"
        assert works(tool, ready)
        running.interrupt()
        assert running.ended() == 0
        assert [job["state"] for job in tool.data("jobs", "list")] == ["succeeded"]
        assert not (tool.data_dir / "postgres").exists()


def test_a_taken_port_is_named_together_with_the_way_out(tool: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = tool.run("dev", "--port", str(port))
    assert done.code == 78
    assert str(port) in done.err
    assert "--port" in done.err
    assert tool.alive() == {}


def test_a_second_ctrl_c_interrupts_running_jobs_which_keep_their_attempt(tool: Cli) -> None:
    running, ready = start(tool)
    [job] = tool.data("jobs", "submit", "sleep", '{"seconds": 3600}', **remote(ready))

    def state() -> str:
        [view] = tool.data("jobs", "show", job["id"], **remote(ready))
        return str(view["state"])

    wait_for(lambda: state() == "processing")
    running.interrupt()
    running.said("worker.draining")
    began = time.monotonic()
    running.interrupt()
    assert running.ended(timeout=15) == 130
    assert time.monotonic() - began < 12
    wait_for(lambda: not tool.alive(), told=lambda: str(tool.alive()))
    [view] = tool.data("jobs", "show", job["id"])
    assert (view["state"], view["attempt"]) == ("pending", 0)


def test_ctrl_c_before_it_is_up_ends_it_as_well(tool: Cli) -> None:
    running = tool.start("dev", "--port", "0")
    running.said("is starting")
    running.interrupt()
    assert running.ended() in (0, 130)
    wait_for(lambda: not tool.alive(), told=lambda: str(tool.alive()))


def test_handlers_that_cannot_be_found_end_it_with_the_reason(tool: Cli) -> None:
    done = tool.run("dev", "--port", "0", "--app", "nowhere:forge")
    assert done.code == 78
    assert 'no module "nowhere"' in done.err
    assert tool.alive() == {}
