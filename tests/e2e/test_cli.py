"""The command line against a real database, directly and through a real server: data, messages, exit codes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen
from uuid import uuid4

import asyncpg
import pytest

from tests.support.processes import Cli, Running, cli, wait_for

pytestmark = pytest.mark.timeout(180)

AWAY = "postgresql://127.0.0.1:1/nothing"
SECRET = "3f0c5b7e9a1d4286b0c2e4f6a8d1b3c5"


@pytest.fixture
def tool(database_url: str) -> Iterator[Cli]:
    with cli(DATABASE_URL=database_url, TASKFORGE_WORKER_TTL="4") as made:
        yield made


@pytest.fixture
def bare() -> Iterator[Cli]:
    """Without a database."""
    with cli() as made:
        yield made


def serve(tool: Cli) -> dict[str, str]:
    """A running server, and the environment that leads to it."""
    running = tool.start("server", "--port", "0", TASKFORGE_LOG_FORMAT="json")
    running.said("server.started")
    [started] = [
        line for line in map(json.loads, running.err.splitlines()) if line["event"] == "server.started"
    ]
    [made] = tool.data("token")
    return {
        "TASKFORGE_URL": f"http://127.0.0.1:{started['port']}",
        "TASKFORGE_TOKEN": made["token"],
        # Whoever goes around the server finds nothing.
        "DATABASE_URL": AWAY,
    }


@pytest.fixture(params=["direct", "through a server"])
def way(tool: Cli, request: pytest.FixtureRequest) -> dict[str, str]:
    return {} if request.param == "direct" else serve(tool)


def work_off(tool: Cli) -> None:
    done = tool.run("worker", "taskforge.samples:forge", "--drain")
    assert done.code == 0, done.err


def test_a_queue_is_made_changed_paused_resumed_and_deleted(tool: Cli, way: dict[str, str]) -> None:
    [made] = tool.data(
        "queues", "create", "mail", "--max-attempts", "8", "--timeout", "30s", "--retry", "linear", **way
    )
    assert (made["name"], made["max_attempts"], made["timeout_seconds"]) == ("mail", 8, 30.0)
    assert made["retry"]["kind"] == "linear"
    [changed] = tool.data("queues", "update", "mail", "--timeout", "2m", "--priority", "7", **way)
    assert (changed["timeout_seconds"], changed["priority"], changed["max_attempts"]) == (120.0, 7, 8)
    assert tool.data("queues", "pause", "mail", **way)[0]["paused"] is True
    assert tool.data("queues", "health", "mail", **way)[0]["paused"] is True
    assert tool.data("queues", "resume", "mail", **way)[0]["paused"] is False
    assert [queue["name"] for queue in tool.data("queues", "list", **way)] == ["default", "mail"]
    assert tool.data("queues", "show", "mail", **way)[0]["max_attempts"] == 8
    assert tool.run("queues", "create", "mail", **way).code == 1
    assert tool.run("queues", "delete", "mail", **way).code == 2
    assert tool.ok("queues", "delete", "mail", "--yes", **way).out == ""
    gone = tool.run("queues", "show", "mail", **way)
    assert gone.code == 1
    assert "[queue.not_found]" in gone.err


def test_a_job_is_submitted_listed_cancelled_retried_and_shown_at_its_end(
    tool: Cli, way: dict[str, str]
) -> None:
    options = (
        "--tag",
        "blue",
        "--priority",
        "7",
        "--delay",
        "1h",
        "--idempotency-key",
        "k1",
        "--max-attempts",
        "3",
    )
    [job] = tool.data("jobs", "submit", "sleep", '{"seconds": 0}', *options, **way)
    assert (job["state"], job["priority"], job["tags"], job["max_attempts"]) == ("scheduled", 7, ["blue"], 3)
    job_id = job["id"]
    again = tool.ok("jobs", "submit", "sleep", '{"seconds": 0}', *options, **way)
    assert again.out.strip() == job_id
    assert "submitted before" in again.err

    assert [j["id"] for j in tool.data("jobs", "list", "--tag", "blue", "--since", "1h", **way)] == [job_id]
    assert tool.data("jobs", "list", "--state", "succeeded", **way) == []
    assert tool.data("jobs", "cancel", job_id, **way)[0]["state"] == "cancelled"
    refused = tool.run("jobs", "cancel", job_id, "--json", **way)
    assert refused.code == 1
    assert json.loads(refused.err)["code"] == "job.already_ended"
    assert tool.data("jobs", "retry", job_id, **way)[0]["state"] == "pending"
    assert tool.run("jobs", "show", job_id, "--wait", "0.1", **way).code == 75

    work_off(tool)
    ended = tool.run("jobs", "show", job_id, "--wait", "5", "--json", **way)
    assert ended.code == 0
    assert ended.lines[0]["state"] == "succeeded"
    assert [j["id"] for j in tool.data("jobs", "list", "--state", "succeeded", **way)] == [job_id]
    for_people = tool.ok("jobs", "show", job_id, **way).out
    assert re.search(r"^state +succeeded$", for_people, re.MULTILINE)


def test_dead_letters_are_listed_redriven_and_purged(tool: Cli, way: dict[str, str]) -> None:
    for _ in range(2):
        tool.ok("jobs", "submit", "flaky", '{"failure_rate": 1}', "--max-attempts", "1", **way)
    work_off(tool)
    dead = tool.data("queues", "dead-letters", "default", **way)
    assert [job["state"] for job in dead] == ["failed", "failed"]
    assert dead[0]["error"]["message"] == "flaky failed, as it does"
    assert tool.run("jobs", "show", dead[0]["id"], "--wait", "5", **way).code == 1
    assert tool.data("queues", "redrive", "default", dead[0]["id"], **way) == [{"redriven": 1}]
    assert len(tool.data("queues", "dead-letters", "default", **way)) == 1
    work_off(tool)
    assert tool.run("queues", "purge", "default", **way).code == 2
    assert tool.data("queues", "purge", "default", "--yes", **way) == [{"purged": 2}]
    assert tool.data("queues", "dead-letters", "default", **way) == []


def line(**fields: Any) -> str:
    return (
        json.dumps({"queue_name": "default", "job_type": "sleep", "payload": {"seconds": 0}, **fields}) + "\n"
    )


def test_a_file_of_jobs_is_stored_with_a_verdict_for_each_line(tool: Cli, way: dict[str, str]) -> None:
    (tool.folder / "jobs.ndjson").write_text(line() * 2500)
    verdicts = tool.data("jobs", "submit", "-f", "jobs.ndjson", **way)
    assert [verdict["line"] for verdict in verdicts] == list(range(1, 2501))
    assert len({verdict["id"] for verdict in verdicts}) == 2500
    assert tool.data("queues", "health", "default", **way)[0]["pending"] == 2500


def test_a_wrong_line_ends_a_file_and_the_message_says_what_is_stored(tool: Cli, way: dict[str, str]) -> None:
    done = tool.run("jobs", "submit", "-f", "-", text=line() * 1500 + line(prio=1) + line(), **way)
    assert done.code == 1
    assert "1500 jobs of lines 1 to 1500 are stored" in done.err
    assert "line 1501" in done.err
    assert tool.data("queues", "health", "default", **way)[0]["pending"] == 1500


def test_wrong_lines_can_be_left_out(tool: Cli, way: dict[str, str]) -> None:
    text = line() + line(queue_name="nowhere") + "no json\n" + line()
    done = tool.run("jobs", "submit", "-f", "-", "--skip-invalid", "--json", text=text, **way)
    assert done.code == 1
    verdicts = {verdict["line"]: verdict for verdict in done.lines}
    assert verdicts.keys() == {1, 2, 3, 4}
    assert "error" in verdicts[2] and "error" in verdicts[3]
    assert verdicts[1]["id"] != verdicts[4]["id"]


def test_tail_shows_a_job_and_what_becomes_of_it_until_ctrl_c(tool: Cli, way: dict[str, str]) -> None:
    tool.ok("jobs", "submit", "sleep", **way)
    running = tool.start("jobs", "tail", "--json", "--interval", "0.05", **way)
    running.said('"pending"')
    [second] = tool.data("jobs", "submit", "sleep", '{"seconds": 0}', **way)
    running.said(second["id"])
    work_off(tool)

    def last() -> str:
        told = [view for view in map(json.loads, running.out.splitlines()) if view["id"] == second["id"]]
        return str(told[-1]["state"])

    wait_for(lambda: last() == "succeeded", told=lambda: running.out + running.err)
    running.interrupt()
    assert running.ended() == 130
    assert "Traceback" not in running.err


def stop(running: Running) -> int:
    running.process.terminate()
    return running.ended()


def test_server_and_worker_end_with_0_after_a_drain(tool: Cli) -> None:
    way = serve(tool)
    with urlopen(f"{way['TASKFORGE_URL']}/metrics", timeout=10) as metrics:
        assert b'taskforge_queue_jobs{queue="default",state="pending"} 0.0' in metrics.read()
    worker = tool.start("worker", "taskforge.samples:forge", "--name", "anna", TASKFORGE_LOG_FORMAT="json")
    worker.said("worker.started")
    [job] = tool.data("jobs", "submit", "sleep", '{"seconds": 6}', **way)
    wait_for(lambda: tool.data("jobs", "show", job["id"], **way)[0]["state"] == "processing")
    assert stop(worker) == 0
    assert tool.data("jobs", "show", job["id"], **way)[0]["state"] == "succeeded"
    [server] = [running for running in tool._running if running is not worker]
    assert stop(server) == 0
    gone = tool.run("jobs", "list", **way)
    assert gone.code == 69
    assert "[server.unavailable]" in gone.err


def test_watch_starts_the_worker_again_when_a_file_changes(tool: Cli) -> None:
    handlers = (
        "from taskforge import TaskForge\nforge = TaskForge()\n@forge.job\nasync def {name}() -> None: ...\n"
    )
    module = tool.folder / "handlers.py"
    module.write_text(handlers.format(name="first"))
    running = tool.start("worker", "handlers:forge", "--watch")
    running.said("worker.started")
    module.write_text(handlers.format(name="second"))
    wait_for(lambda: running.err.count("worker.started") == 2, told=lambda: running.err)
    tool.ok("jobs", "submit", "second", "--wait", "20")
    assert stop(running) == 0


async def test_migrate_says_what_is_missing_applies_it_once_and_makes_a_login(
    empty_database_url: str,
) -> None:
    login = f"login_{uuid4().hex}"
    with cli(DATABASE_URL=empty_database_url) as tool:
        before = tool.run("migrate", "--status", "--json")
        assert before.code == 1
        assert before.lines[0]["pending"]
        assert tool.run("jobs", "list").code == 78
        together = [tool.start("migrate", "--json") for _ in range(3)]
        assert [running.ended() for running in together] == [0, 0, 0]
        applied = [json.loads(running.out)["applied"] for running in together]
        assert sorted(map(bool, applied)) == [False, False, True]
        assert tool.data("migrate", "--status") == [{"applied": [], "pending": []}]
        tool.ok("migrate", "--login", login)
        try:
            await _check_login(tool, empty_database_url, login)
        finally:
            connection = await asyncpg.connect(empty_database_url)
            await connection.execute(f'drop owned by "{login}"; drop role "{login}"')
            await connection.close()


async def _check_login(tool: Cli, url: str, login: str) -> None:
    production = {"TASKFORGE_ENV": "production", "JWT_SECRET": SECRET}
    refused = tool.run("server", "--port", "0", **production)
    assert refused.code == 78
    assert "[database.login_too_mighty]" in refused.err
    assert "taskforge migrate --login" in refused.err

    plain = re.sub(r"//[^/@]*@", f"//{login}@", url)
    assert tool.ok("jobs", "submit", "sleep", DATABASE_URL=plain).out
    server = tool.start("server", "--port", "0", DATABASE_URL=plain, **production)
    server.said("server.started")
    assert stop(server) == 0


async def test_the_printed_sql_makes_the_same_schema(empty_database_url: str) -> None:
    with cli(DATABASE_URL=empty_database_url) as tool:
        connection = await asyncpg.connect(empty_database_url)
        try:
            await connection.execute(tool.ok("migrate", "--sql").out)
        finally:
            await connection.close()
        assert tool.data("migrate") == [{"applied": [], "pending": []}]
        assert tool.ok("jobs", "submit", "sleep").out


def test_doctor_finds_nothing_wrong_with_a_fresh_database_and_says_why_one_is_away(tool: Cli) -> None:
    findings = {finding["check"]: finding for finding in tool.run("doctor", "--json").lines}
    assert {"server", "durability", "schema", "floors", "workers", "clock", "login"} <= findings.keys()
    assert findings["schema"]["verdict"] == findings["floors"]["verdict"] == "ok"
    # The test's cluster runs without fsync, which must not pass unnoticed.
    assert findings["durability"]["verdict"] == "fail"
    assert findings["durability"]["next_step"]
    away = tool.run("doctor", DATABASE_URL=AWAY)
    assert away.code == 1
    assert "does not answer" in away.out


def test_without_database_url_a_command_starts_the_embedded_one_and_leaves_nothing_running(bare: Cli) -> None:
    assert bare.ok("jobs", "submit", "sleep").out.strip().isdigit()
    assert len(bare.data("jobs", "list")) == 1
    wait_for(lambda: not bare.alive(), told=lambda: str(bare.alive()))


@pytest.mark.parametrize(
    ("arguments", "env", "code", "said"),
    [
        (("jobs", "list"), {"DATABASE_URL": AWAY}, 69, "[database.unavailable]"),
        (("worker", "taskforge.samples:forge"), {"DATABASE_URL": AWAY}, 69, "[database.unavailable]"),
        (("migrate",), {"DATABASE_URL": AWAY}, 69, "[database.unavailable]"),
        (("jobs", "list"), {"TASKFORGE_URL": "http://127.0.0.1:1"}, 69, "[server.unavailable]"),
        (("jobs", "list"), {"DATABASE_URL": "mysql://x"}, 78, "DATABASE_URL"),
        (("config", "show"), {"TASKFORGE_PORT": "many"}, 78, "TASKFORGE_PORT"),
        (("config", "show", "--config", "nowhere.toml"), {}, 78, "nowhere.toml"),
        (("server",), {"TASKFORGE_ENV": "production"}, 78, "JWT_SECRET"),
        (
            ("server",),
            {"TASKFORGE_ENV": "production", "JWT_SECRET": "your-jwt-secret-key"},
            78,
            "placeholder",
        ),
        (("dev",), {"TASKFORGE_ENV": "production"}, 78, "taskforge server"),
        (("worker", "nowhere:forge"), {}, 78, 'no module "nowhere"'),
        (("worker", "taskforge.samples:x"), {}, 78, "it has forge"),
        (("worker", "taskforge.samples"), {}, 78, "module:forge"),
        (("jobs", "sbmit"), {}, 2, "submit"),
        (("jobs", "submit"), {}, 2, "JOB_TYPE"),
        (("jobs", "submit", "a", "{"), {}, 2, "PAYLOAD is not JSON"),
        (("jobs", "submit", "a", "--delay", "soon"), {}, 2, "1h30m"),
        (("jobs", "list", "--since", "yesterday"), {}, 2, "15m"),
        (("queues", "update", "default"), {}, 2, "nothing to change"),
        (("token", "--expires", "2000d"), {}, 2, "366 days"),
        (("jobs", "show", "abc"), {"DATABASE_URL": AWAY}, 1, "[job.not_found]"),
    ],
)
def test_every_failure_is_one_clear_message_and_the_code_for_scripts(
    bare: Cli, arguments: tuple[str, ...], env: dict[str, str], code: int, said: str
) -> None:
    done = bare.run(*arguments, **env)
    assert done.code == code, done.err
    assert said in done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    assert len(done.err.splitlines()) <= 5


def test_tokens_of_one_data_folder_are_made_with_one_secret_that_others_cannot_read(bare: Cli) -> None:
    assert bare.ok("token").out.count(".") == 2
    secret = bare.data_dir / "jwt-secret"
    kept = secret.read_text()
    assert secret.stat().st_mode & 0o777 == 0o600
    [made] = bare.data("token", "--tenant", "00000000-0000-7000-8000-0000000000aa", "--subject", "eva")
    assert (made["tenant_id"], made["subject"]) == ("00000000-0000-7000-8000-0000000000aa", "eva")
    assert secret.read_text() == kept


def test_config_show_names_the_origin_and_hides_secrets(bare: Cli) -> None:
    (bare.folder / "taskforge.toml").write_text("concurrency = 7\nprefetch = 3\n")
    env = {"DATABASE_URL": "postgresql://me:hidden@db/app", "JWT_SECRET": SECRET}
    done = bare.ok("config", "show", "--json", "--log-level", "debug", **env)
    shown = {row["name"]: row for row in done.lines}
    assert (shown["concurrency"]["value"], shown["concurrency"]["origin"]) == ("7", "taskforge.toml")
    assert shown["log_level"]["origin"] == "--log-level"
    assert shown["database_url"]["origin"] == "DATABASE_URL"
    assert "warning: prefetch 3" in done.err
    assert "hidden" not in done.out + done.err
    assert SECRET not in done.out + done.err


def test_no_color_where_nobody_sees_it(tool: Cli) -> None:
    tool.ok("jobs", "submit", "sleep")
    done = tool.ok("jobs", "list")
    assert "\x1b" not in done.out + done.err
