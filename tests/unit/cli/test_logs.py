from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from taskforge.logs import configure
from taskforge.settings import load

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJtZSJ9.c2lnbmF0dXJl"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before, handlers, level = structlog.get_config(), logging.root.handlers[:], logging.root.level
    yield
    structlog.configure(**before)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def logged(**environ: str) -> io.StringIO:
    stream = io.StringIO()
    configure(load(environ={"HOME": "/home/me", **environ}), stream=stream)
    return stream


def test_a_line_is_one_json_object_where_there_is_no_terminal() -> None:
    stream = logged()
    with structlog.contextvars.bound_contextvars(job_id="7"):
        structlog.get_logger().info("job.claimed", wait=0.5)
    line = json.loads(stream.getvalue())
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "job.claimed", "wait": 0.5, "job_id": "7", "level": "info"}


def test_the_console_format_can_be_chosen_and_has_no_colours_without_a_terminal() -> None:
    stream = logged(TASKFORGE_LOG_FORMAT="console")
    structlog.get_logger().info("job.claimed", wait=0.5)
    assert "job.claimed" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
    assert not stream.getvalue().startswith("{")


def test_secrets_never_reach_the_log() -> None:
    stream = logged()
    try:
        raise RuntimeError("cannot connect to postgresql://me:hidden@db/app")
    except RuntimeError:
        structlog.get_logger().exception(
            f"failed for {JWT}",
            url="postgresql://me:hidden@db/app",
            jwt_secret="hidden",
            headers={"Authorization": "Bearer hidden", "accept": "*/*"},
            tried=["postgresql://me:hidden@db/app"],
        )
    said = stream.getvalue()
    assert "hidden" not in said
    assert JWT not in said
    assert "RuntimeError" in said and "*/*" in said and "postgresql://me:***@db/app" in said


def test_lines_below_the_level_are_dropped_and_libraries_are_heard() -> None:
    stream = logged(TASKFORGE_LOG_LEVEL="warning")
    structlog.get_logger().info("quiet")
    logging.getLogger("asyncpg").warning("loud %s", "library")
    line = json.loads(stream.getvalue())
    assert (line["event"], line["logger"], line["level"]) == ("loud library", "asyncpg", "warning")


def test_a_reader_that_is_gone_does_not_break_the_work() -> None:
    stream = logged()
    stream.close()
    structlog.get_logger().info("nobody listens")
